"""Weights in the form in which a file has them: which it is, what its tensors are called here, layers that compute."""
