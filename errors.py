"""What can go wrong, in words: every message says what was found, what was expected, and what to do.

Each class is also the standard-library type that a caller would catch.
"""


class ActlakeError(Exception):
    """The root of all errors raised on purpose. The command line prints its message, without a traceback."""


class SpecError(ActlakeError, ValueError):
    """The spec asks for something that does not exist or does not fit together."""


class DataError(ActlakeError, ValueError):
    """The texts, labels or landmarks are not what the spec says they are."""


class ModelError(ActlakeError, ValueError):
    """The model cannot be found or loaded, or has no such site."""


class RunError(ActlakeError, RuntimeError):
    """The run on disk is not in the state that the request needs."""


class StorageError(ActlakeError, OSError):
    """Bytes could not be written, or what was read is not what was written."""


class Interrupted(ActlakeError):  # noqa: N818 - it is an event, not an error
    """The user or the scheduler asked to stop; what was committed stays."""
