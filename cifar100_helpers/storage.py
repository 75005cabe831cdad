"""Where files lie, files that are whole or not there, and folders that one process works in."""

import contextlib
import io
import json
import os
import socket
from pathlib import Path

import filelock
import numpy as np

from .errors import RunError

TIMEOUT_SECONDS = 60  # of a download
PROJECT = Path(__file__).resolve().parent.parent  # with the notebooks and the committed records


def project_path(path):
    """Return `path` as an absolute `Path`; a relative one starts at the project's root.

    The root is the nearest folder with a pyproject.toml at or above the working directory, which is
    the notebook's folder in JupyterLab and the caller's under papermill; where there is none, the
    root of the project that this package lies in.
    """
    here = Path.cwd()
    roots = (folder for folder in (here, *here.parents) if (folder / "pyproject.toml").exists())
    return next(roots, PROJECT) / os.path.expanduser(path)


def places(path):
    """Return the paths at which a file or folder that a user names as `path` may lie.

    A relative one may start at the working directory or at the project's root.
    """
    return list(dict.fromkeys([Path.cwd() / os.path.expanduser(path), project_path(path)]))


@contextlib.contextmanager
def quiet_download():
    """Let `keras.utils.get_file` download without a progress bar, and give up on a silent server.

    Its bar fills a notebook with control codes, and by itself it would wait for ever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def exclusive_lock(file, work):
    """Hold the lock `file`, in a folder that is made if it is missing.

    Raises RunError if another process holds it (`work` says what that one does) or if the folder
    cannot be written. The system releases the lock of a process that dies.
    """
    folder, lock = Path(file).parent, filelock.FileLock(file, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"Another process {work} {folder} right now: wait until it is done, "
            "or choose another results_dir."
        ) from None
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_path(file):
    """Give the path of an unfinished file, which replaces `file` when it is whole and on the disk.

    Until then `file` is the old one. Raises RunError if it cannot be written; nothing unfinished is
    left behind.
    """
    file = Path(file)
    unfinished = file.with_name(f"unfinished_{file.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    except OSError as error:
        raise _not_written(file.parent, error) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_json(file, content):
    """Write `content` to `file` as JSON in one step: the file is the old one or the new one."""
    with atomic_path(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_arrays(file, *names):
    """Return the arrays of the .npz `file`, or those of the given `names` alone: a dict by name.

    Raises OSError if it cannot be read, MemoryError if it does not fit, and ValueError if it is
    damaged or holds Python objects, which are never unpickled.
    """
    try:
        with np.load(file) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise what they find
        raise ValueError(f"{file} is damaged") from error


def _not_written(folder, error):
    return RunError(
        f"{folder} cannot be written ({error.strerror or error}): make room or get the right to "
        "write there, or choose another results_dir."
    )
