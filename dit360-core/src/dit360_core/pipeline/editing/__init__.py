"""A part of a picture is kept and the rest made anew: what is given, held while sampling, and pasted back."""
