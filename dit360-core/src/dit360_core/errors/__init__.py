"""What can go wrong, told in one sentence: what, why, what to do.

Every error of ours is a :class:`Dit360Error`; the command line prints its text and exits with code 2. A sentence marks
the options that it names (:mod:`dit360_core.errors.sentences`), and every surface calls them as it does.
"""

from dit360_core.errors import log as _log  # noqa: F401 - whoever may mark a sentence has a log that is plain
from dit360_core.errors.foreign import LONGEST, first_line, is_callers, mark_as_callers, one_line
from dit360_core.errors.kinds import BackendUnavailable, Dit360Error, InputError, ModelError, UnknownName
from dit360_core.errors.reasons import REASON_CODES, Reason
from dit360_core.errors.sentences import Sentence, marked, named, plain, remedy, setting

__all__ = [
    "LONGEST",
    "REASON_CODES",
    "BackendUnavailable",
    "Dit360Error",
    "InputError",
    "ModelError",
    "Reason",
    "Sentence",
    "UnknownName",
    "first_line",
    "is_callers",
    "mark_as_callers",
    "marked",
    "named",
    "one_line",
    "plain",
    "remedy",
    "setting",
]
