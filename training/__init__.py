"""Renders the training data and trains the embedded model. Not shipped in a wheel."""
