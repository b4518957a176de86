"""The errors a caller may meet; every message says what is wrong, why, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class NeuromeldError(Exception):
    """Base of every error raised on purpose.  `exit_code` is what the command line returns.

    `keeps_work`: the same command may succeed later, so what an unfinished job has done is kept; behind any other
    error it would only stand in the way of the corrected command.
    """

    exit_code = 1
    keeps_work = False


class UserInputError(NeuromeldError):
    """An argument, recipe or file the user gave cannot be used as it is."""

    exit_code = 2


class OccupiedError(UserInputError):
    """Another result, or another unfinished job, is where this one is to be written."""

    keeps_work = True


class UnsupportedModelError(NeuromeldError):
    """The model's architecture, or something in its config, is not covered."""

    exit_code = 3


class NumericsError(NeuromeldError):
    """NaN, infinity or a failed factorisation."""

    exit_code = 4


class CheckpointError(NeuromeldError):
    """A checkpoint cannot be read, written or verified."""

    exit_code = 5


class PausedError(CheckpointError):
    """The job cannot go on now, and can when something outside of it is mended, as a full disk."""

    keeps_work = True


class LostRankError(NeuromeldError):
    """Another process of a job of several has ended."""

    exit_code = 6
    keeps_work = True


@contextmanager
def naming_failure(message: str) -> Iterator[None]:
    """Make whatever transformers, tokenizers or torch raise over damaged or impossible input a `CheckpointError`."""
    try:
        yield
    except (NeuromeldError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each class has errors of its own; tokenizers panics with a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:500] or type(error).__name__
        raise CheckpointError(f"{message}: {said}") from error
