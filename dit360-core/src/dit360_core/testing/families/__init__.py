"""The parts of :class:`~dit360_core.testing.architecture.ArchitectureConformance`, a subject each."""
