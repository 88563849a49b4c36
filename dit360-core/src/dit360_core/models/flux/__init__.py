"""FLUX.1: its folders and files, the engine that runs it, its attention processor, and the names of its layers."""
