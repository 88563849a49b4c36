"""``python -m dit360_core.cli`` is ``dit360``."""

from dit360_core.cli import main

main()
