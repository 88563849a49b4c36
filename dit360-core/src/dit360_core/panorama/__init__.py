"""The picture: its pixels, what its metadata say, how well it closes, and a viewer."""
