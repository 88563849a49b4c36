"""What the commands do: each module has all that its command needs, and is imported when that is run."""
