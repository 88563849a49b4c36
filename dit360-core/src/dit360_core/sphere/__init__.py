"""Geometry: tokens and rows on the sphere, and autoencoders that wrap in longitude."""
