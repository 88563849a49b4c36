"""An installation of which half is missing."""
