"""The process in which one configuration is measured: it loads once, and makes a picture whenever it is asked to.

``python -m dit360_core.cli.benching.worker`` reads requests from its standard input, one JSON object a line, and
answers each with one line: ``{"done": …}`` or ``{"failed": sentence}``. Requests are the methods of
:class:`dit360_core.cli.benching.measuring.Bench`, in their order; :mod:`dit360_core.cli.benching.comparing` asks them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import IO, Any

from dit360_core.errors import Dit360Error, first_line

log = logging.getLogger("dit360")


def main() -> None:
    """Serves one configuration until its standard input ends."""
    asked, told = _private_streams()
    # Ctrl-C in a terminal reaches every process of it; whoever started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench: Any = None
    for line in asked:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if bench is None:
                # Not before: torch and others may print, read and raise, which is an answer like any other.
                from dit360_core.cli.benching.measuring import Bench

                bench = Bench()
            answer = {"done": getattr(bench, request.pop("do"))(**request)}
        except (Exception, SystemExit) as error:
            # Whatever a library raises is a result of this configuration; where it came from is for stderr.
            log.exception("failed")
            foreign = f"{type(error).__name__}: {first_line(error)}"
            answer = {"failed": error.sentence if isinstance(error, Dit360Error) else foreign}
        told.write(json.dumps(answer).encode() + b"\n")
        told.flush()


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output under numbers that no library knows: what one prints goes to stderr instead."""
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return asked, told


if __name__ == "__main__":
    main()
