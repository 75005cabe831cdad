"""Errors the user can fix: each message is one sentence that says what is wrong and what to do."""

from contextlib import contextmanager


class UserError(Exception):
    """Base of the errors below; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self):
        # IPython calls this method, if there is one, instead of formatting a traceback.
        return [f"{type(self).__name__}: {self}"]


class DatasetError(UserError):
    """CIFAR-100 cannot be found, downloaded, verified or read."""


class WeightsError(UserError):
    """Pretrained weights cannot be found, downloaded or read."""


class ParameterError(UserError, ValueError):
    """A notebook parameter is unknown, of the wrong type or out of range."""


class RunError(UserError):
    """A run's folder holds something else than expected, or cannot be written."""


def in_one_line(error):
    """Return the message of `error` in at most 200 characters, or its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class Stopped(KeyboardInterrupt):
    """Someone pressed the stop button; a notebook shows the sentence alone, without a traceback."""

    _render_traceback_ = UserError._render_traceback_


@contextmanager
def explain_interrupt(advice):
    """Turn an interrupt into `Stopped` with the sentence `advice`, which says how to continue.

    A decorator or a `with` block. A traceback would show 600 lines of Keras and its backend.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(advice) from None
