"""Progress bars for long work, shown only where a person watches."""

import os
import sys

from tqdm import tqdm


def someone_watches():
    """True in a terminal and in JupyterLab, false under papermill, nbval and pipes."""
    return sys.stdout.isatty() or "JPY_SESSION_NAME" in os.environ


def progress_bar(total, description, unit="it", **options):
    """A `tqdm` bar on standard output that leaves nothing behind when it closes.

    `total` counts `unit`s; `options` go to `tqdm` (`unit_scale=True` for bytes). Use it as a
    context manager and call `update(n)`.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        file=sys.stdout,
        disable=not someone_watches(),
        **options,
    )
