"""What parts of a model weigh and what running them takes, from their configurations alone."""
