"""``python -m dit360_comfy``: the command, for a Python whose scripts are on no path."""

from dit360_comfy.cli import main

main()
