"""What a plugin may offer, how plugins are found, and which offer is chosen."""
