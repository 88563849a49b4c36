"""A model that stays loaded: it answers programs and a page in the browser on this machine, and nobody else."""
