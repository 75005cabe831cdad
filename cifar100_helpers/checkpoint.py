"""Checkpoints of a training run: the last whole epoch, on disk, whatever happens."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from .errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

STATE_FILE = "checkpoint.json"


@contextmanager
def alone(file, work):
    """Hold the lock `file` meanwhile; raises RunError where another process holds it.

    `work` says what the other process does. The system takes the lock back from a process that
    dies, however it dies.
    """
    with open(file, "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"Another process {work} {file.parent} at this moment: wait until it is done, "
                    "or choose another run_name."
                ) from None
        yield


def save_checkpoint(run_dir, model, state):
    """Write weights and optimizer of `model` and the JSON-able `state` into `run_dir`.

    The weights get a new name, then the state that names them replaces the old state in one step:
    a run killed anywhere in between goes on from the checkpoint before.
    """
    run_dir = Path(run_dir)
    weights_file = f"epoch_{state['epochs_done']:03d}.weights.h5"
    unfinished = run_dir / f"unfinished_{weights_file}"
    model.save_weights(unfinished, overwrite=True)
    os.replace(unfinished, run_dir / weights_file)
    write_json(run_dir / STATE_FILE, state | {"weights_file": weights_file})
    for other in run_dir.glob("*epoch_*.weights.h5"):
        if other.name != weights_file:
            other.unlink()


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
        theirs = state["parameters"]
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{state_file} is damaged: delete its folder to start the run anew."
        ) from None
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
    """Load weights and optimizer variables that `state` names into the compiled `model`."""
    model.optimizer.build(model.trainable_variables)
    model.load_weights(Path(run_dir) / state["weights_file"])


def write_json(file, content):
    """Write `content` to `file` as JSON, in one step: the file is the old one or the new one."""
    unfinished = file.with_name(f"unfinished_{file.name}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, file)
