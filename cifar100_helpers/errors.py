"""Errors that the user can mend: each message is one sentence, what is wrong and what to do."""


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
