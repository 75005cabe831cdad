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


# As published, with what is known of each run.
PUBLISHED = (
    ("resnet, published", "65.49 %", "–", 46_203_236, "26", "–", "–"),
    ("xception, published", "72.93 %", "–", 21_961_868, "45", "–", "–"),
)


def results_table(results_dir):
    """Return a Markdown table of the published figures and every real-data run in `results_dir`."""
    columns = ("run", "top-1", "top-5", "parameters", "epochs", "minutes", "device")
    runs = [load_run(file.parent).record for file in sorted(Path(results_dir).glob("*/run.json"))]
    rows = [*PUBLISHED, *(_table_row(run) for run in runs if run["dataset"] == "cifar100")]
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _table_row(run):
    metrics, machine = run["metrics"], run["machine"]
    cores = "" if machine["gpus"] else f", {machine['cores']} cores"
    low, high = metrics["top1_interval"]
    return (
        run["name"],
        f"{100 * metrics['top1']:.2f} % ± {50 * (high - low):.1f}",
        f"{100 * metrics['top5']:.2f} %",
        run["parameter_count"],
        str(len(run["history"]["epoch"])),
        f"{sum(run['phase_seconds']) / 60:.0f}",
        machine["device"] + cores,
    )


def _cell(value):
    return f"{value:,}" if isinstance(value, int) else value
