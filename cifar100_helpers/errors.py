"""Errors that the user can mend: each message is one sentence, what is wrong and what to do."""

from contextlib import contextmanager


class UserError(Exception):
    """Base of the errors below; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self):
        # IPython asks an exception for this before it formats a traceback of its own.
        return [f"{type(self).__name__}: {self}"]


class DatasetError(UserError):
    """CIFAR-100 cannot be found, fetched, verified or read."""


class WeightsError(UserError):
    """Pretrained weights cannot be found, fetched or read."""


class ParameterError(UserError, ValueError):
    """A notebook parameter is unknown, of the wrong type or out of range."""


class RunError(UserError):
    """A run's folder holds something else than what is asked of it, or cannot be written."""


def in_one_line(error):
    """What `error` says, on one line of 200 characters at most; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class Stopped(KeyboardInterrupt):
    """Someone pressed the stop button; the sentence alone is shown, as of a `UserError`."""

    _render_traceback_ = UserError._render_traceback_


@contextmanager
def stoppable(sequel):
    """Turn an interrupt of long work into `Stopped` with the sentence `sequel`: how to go on.

    As a decorator or in a `with` statement. An interrupt's own traceback would lead the reader
    through some 600 lines of Keras and its backend.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(sequel) from None
