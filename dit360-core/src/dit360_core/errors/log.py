"""The program's log: plain for whoever listens, with marks for the command line, which words them itself."""

from __future__ import annotations

import logging

from dit360_core.errors.sentences import Sentence, marked, plain


def _told(record: logging.LogRecord) -> str:
    # What was kept as data is put in with its marks.
    if not isinstance(record.args, tuple) or not any(isinstance(one, Sentence) for one in record.args):
        return record.getMessage()
    return str(record.msg) % tuple(marked(one) if isinstance(one, str) else one for one in record.args)


class _Plain(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = _told(record)
        except Exception:  # noqa: BLE001 - of a line that cannot be put together, which each handler tells as it does
            return True
        if (told := plain(message)) != message:
            record.marked = message
            record.msg, record.args = told, None
        return True


def marked_message(record: logging.LogRecord) -> str:
    """What a record says, with its marks.

    record: of the logger ``dit360``.
    """
    said: str = getattr(record, "marked", None) or record.getMessage()
    return said


logging.getLogger("dit360").addFilter(_Plain())
