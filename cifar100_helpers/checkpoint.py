"""Checkpoints of a training run: the last whole epoch, on disk, whatever happens."""

import contextlib
import json
import math
import os
from pathlib import Path

import keras
import numpy as np

from .errors import RunError
from .npz import load_arrays

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

STATE_FILE = "checkpoint.json"


@contextlib.contextmanager
def alone(file, work):
    """Hold the lock `file` meanwhile, in a folder that is made where it is missing.

    Raises RunError where another process holds it, `work` says what that one does, and where the
    folder cannot be written. The system takes the lock back from a process that dies, however it
    dies.
    """
    folder = Path(file).parent
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(open(file, "w"))
            _lock(lock)
        except BlockingIOError:
            raise RunError(
                f"Another process {work} {folder} at this moment: wait until it is done, "
                "or choose another run_name or results_dir."
            ) from None
        except OSError as error:
            raise not_written(folder, error) from error
        yield


def _lock(stream):
    if fcntl:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # some network file systems know no locks
            pass


@contextlib.contextmanager
def written_whole(file):
    """Give a stream of bytes for `file`, which gets its name when all of them are on the disk.

    Until then it is the old file, also after a power cut. Raises RunError where there is no room or
    no right to write; nothing unfinished is left then.
    """
    unfinished = file.with_name(f"unfinished_{file.name}")
    try:
        with open(unfinished, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
        _sync_folder(file.parent)
    except OSError as error:
        raise not_written(file.parent, error) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_json(file, content):
    """Write `content` to `file` as JSON, in one step: the file is the old one or the new one."""
    with written_whole(file) as stream:
        stream.write((json.dumps(content, indent=1) + "\n").encode())


def not_written(folder, error):
    """The `RunError` that says that `folder` cannot be written, because of the OSError `error`."""
    return RunError(
        f"{folder} cannot be written ({error.strerror or error}): make room or get the right to "
        "write there, or choose another results_dir."
    )


def _sync_folder(folder):
    """Bring the names in `folder` to the disk, before others are deleted for them."""
    if os.name == "posix":  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_checkpoint(run_dir, model, state):
    """Write weights and optimizer of `model` and the JSON-able `state` into `run_dir`.

    The weights get a new name, then the state that names them replaces the old state in one step:
    a run killed anywhere in between goes on from the checkpoint before.
    """
    run_dir = Path(run_dir)
    weights_file = f"epoch_{state['epochs_done']:03d}.npz"
    # Not by Keras: HDF5 takes the process down when the disk is full.
    with written_whole(run_dir / weights_file) as stream:
        np.savez(stream, *map(keras.ops.convert_to_numpy, _variables(model)))
    write_json(run_dir / STATE_FILE, state | {"weights_file": weights_file})
    for pattern in ("epoch_[0-9]*.npz", "unfinished_epoch_[0-9]*.npz"):
        for other in run_dir.glob(pattern):
            if other.name != weights_file:
                other.unlink()


def _variables(model):
    return model.weights + model.optimizer.variables


def load_state(run_dir, parameters):
    """Return the state of the run in `run_dir`, or None where none has been saved.

    Raises RunError where it belongs to other `parameters`, naming those that differ, and where a
    finished run's record is there without its checkpoint.
    """
    state_file = Path(run_dir) / STATE_FILE
    if not state_file.exists():
        if (state_file.parent / "run.json").exists():
            raise RunError(
                f"{run_dir} holds the record of a finished run: choose another run_name."
            )
        return None
    try:
        state = json.loads(state_file.read_text())
        theirs = dict(state["parameters"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(state_file) from None
    differing = [
        f"{key} is {json.dumps(theirs.get(key))} there and {json.dumps(parameters.get(key))} here"
        for key in sorted(theirs | parameters)
        if theirs.get(key) != parameters.get(key)
    ]
    if differing:
        raise RunError(
            f"{run_dir} holds a run with other parameters ({'; '.join(differing)}): "
            "choose another run_name, or delete that folder."
        )
    return state


def load_weights(run_dir, model, state):
    """Load weights and optimizer variables that `state` names into the compiled `model`.

    Raises RunError where their file is missing, damaged, or of another network.
    """
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    file = Path(run_dir) / state["weights_file"]
    expected = [(variable.shape, variable.dtype) for variable in variables]
    most_bytes = sum(8 * math.prod(shape) + 1_000 for shape, _ in expected)
    try:
        values = load_arrays(file, most_bytes=most_bytes).values()
    except (OSError, ValueError):
        raise _damaged(file) from None
    if [(value.shape, value.dtype.name) for value in values] != expected:
        raise _damaged(file)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _damaged(file):
    return RunError(f"{file} is missing or damaged: delete its folder to start the run anew.")
