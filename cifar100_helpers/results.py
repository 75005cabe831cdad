"""Run records: one run is one folder with `run.json` and `predictions.npz`."""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checkpoint import write_json
from .errors import RunError
from .evaluation import evaluate
from .runtime import describe

SCHEMA = 1
FIELDS = {
    "schema": int,
    "name": str,
    "dataset": str,
    "model": str,
    "parameter_count": int,
    "parameters": dict,
    "phases": list,
    "history": dict,
    "metrics": dict,
    "phase_seconds": list,
    "machine": dict,
}


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run: `record` as in `run.json`, `probabilities` (n, classes), `labels` (n,)."""

    record: dict
    probabilities: np.ndarray
    labels: np.ndarray


def project_path(folder):
    """Return `folder` as a path; a relative one starts at the project's root.

    The root is the nearest folder with a pyproject.toml at or above the working directory, which is
    the notebook's folder in JupyterLab and the caller's under papermill.
    """
    here = Path.cwd()
    roots = (path for path in (here, *here.parents) if (path / "pyproject.toml").exists())
    return next(roots, here) / folder


def save_run(run_dir, *, model, state, phases, probabilities, labels, coarse_of_fine):
    """Write the record of a finished run into `run_dir` and return it as a `Run`.

    `model` is the trained network, `state` what `train` returned, `phases` what it was given.
    `probabilities`, float (n, classes), and `labels`, int (n,), are those of the test set; the
    metrics are computed from the probabilities as stored, in float16. `run.json` is written
    last: with it, the record is whole.
    """
    run_dir = Path(run_dir)
    stored = np.asarray(probabilities, dtype=np.float16)
    parameters = state["parameters"]
    record = {
        "schema": SCHEMA,
        "name": run_dir.name,
        "dataset": parameters["dataset"],
        "model": model.name,
        "parameter_count": model.count_params(),
        "parameters": parameters,
        "phases": [vars(phase) for phase in phases],
        "history": state["history"],
        "metrics": evaluate(stored, labels, coarse_of_fine),
        "phase_seconds": [round(seconds, 1) for seconds in state["phase_seconds"]],
        "machine": describe(),
    }
    unfinished = run_dir / "unfinished_predictions.npz"
    np.savez_compressed(unfinished, probabilities=stored, labels=np.asarray(labels, np.int64))
    os.replace(unfinished, run_dir / "predictions.npz")
    write_json(run_dir / "run.json", record)
    return load_run(run_dir)


def load_run(run_dir):
    """Read and validate the record in `run_dir`; raises RunError where it is missing or unsound."""
    run_dir = Path(run_dir)
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        with np.load(run_dir / "predictions.npz", allow_pickle=False) as arrays:
            probabilities, labels = arrays["probabilities"], arrays["labels"]
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RunError(f"{run_dir} holds no finished run: {missing} is missing.") from None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"The record in {run_dir} cannot be read ({error}): delete it.") from None
    _validate(record, probabilities, labels, run_dir)
    return Run(record, probabilities.astype(np.float32), labels)


def _validate(record, probabilities, labels, run_dir):
    def require(condition, problem):
        if not condition:
            raise RunError(f"The record in {run_dir} is not sound: {problem}.")

    require(isinstance(record, dict), "run.json holds no object")
    require(record.get("schema") == SCHEMA, f"its schema is not {SCHEMA}")
    for field, kind in FIELDS.items():
        require(isinstance(record.get(field), kind), f"{field} is missing or of another type")
    require(record["name"] == run_dir.name, f"its name is {record['name']}, not the folder's")
    require(probabilities.ndim == 2, "the probabilities are not a table")
    require(labels.shape == probabilities.shape[:1], "labels and probabilities differ in number")
    require(np.isfinite(probabilities).all(), "some probabilities are not finite")
    sums = probabilities.astype(np.float64).sum(axis=1)
    require(np.allclose(sums, 1, atol=0.01), "some probabilities do not sum to 1")
