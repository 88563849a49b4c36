"""How many tokens FLUX's text encoders read."""

LONGEST_PROMPT = 512
"""Of T5."""
TOKENS_OF_CLIP = 77
