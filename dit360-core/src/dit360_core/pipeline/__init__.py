"""A loaded model at work: load, encode, sample, decode."""
