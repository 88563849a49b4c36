"""A module that cannot be imported, as when the library it needs is built for another version of PyTorch."""

raise ImportError("libkernels.so: undefined symbol")
