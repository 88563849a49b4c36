"""A module that prints to stdout and ends the program when it is imported, as a script without a main guard does."""

import sys

print("usage: exits-on-import FILE")
sys.exit(0)
