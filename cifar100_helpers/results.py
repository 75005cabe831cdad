"""Run records: one run is one folder with `run.json` and `predictions.npz`."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checkpoint import alone, write_json, written_whole
from .errors import RunError, in_one_line
from .evaluation import evaluate
from .npz import load_arrays
from .runtime import describe
from .tables import README_COLUMNS, runs_table

SCHEMA = 2
FIELDS = {
    "schema": int,
    "name": str,
    "dataset": str,
    "model": str,
    "parameter_count": int,
    "parameters": dict,
    "phases": [dict],
    "history": {"epoch": [int]},
    "metrics": {
        "top1": float,
        "top1_interval": (float, float),
        "top1_without_duplicates": float | None,
        "top5": float,
        "superclass_top1": float,
        "loss": float,
        "calibration_error": float,
    },
    "phase_seconds": [float],
    "machine": {"device": str, "gpus": int, "cores": int},
}
LARGEST = 1 << 53  # whole numbers up to this one are numbers in every JSON
MOST_BYTES = 1 << 28  # of all predictions; those of 100,000 images take 20 MB
ARRAYS = (
    "probabilities",
    "labels",
    "near_duplicate",
    "validation_probabilities",
    "validation_labels",
)


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run: `record` as in `run.json`, and what it predicted.

    Of the test set: `probabilities`, float32 (n, classes), `labels`, int (n,), and
    `near_duplicate`, bool (n,), true where the training set has an image like it. Of the images
    held out from training: `validation_probabilities` and `validation_labels`, empty where the run
    held none out.
    """

    record: dict
    probabilities: np.ndarray
    labels: np.ndarray
    near_duplicate: np.ndarray
    validation_probabilities: np.ndarray
    validation_labels: np.ndarray


def project_path(folder):
    """Return `folder` as a path; a relative one starts at the project's root.

    The root is the nearest folder with a pyproject.toml at or above the working directory, which is
    the notebook's folder in JupyterLab and the caller's under papermill.
    """
    here = Path.cwd()
    roots = (path for path in (here, *here.parents) if (path / "pyproject.toml").exists())
    return next(roots, here) / Path(folder).expanduser()


def save_run(
    run_dir,
    *,
    model,
    state,
    phases,
    probabilities,
    labels,
    near_duplicate,
    coarse_of_fine,
    validation=None,
):
    """Write the record of a finished run into `run_dir` and return it as a `Run`.

    `model` is the trained network, `state` what `train` returned, `phases` what it was given; the
    run's parameters name its `dataset`.
    `probabilities`, float (n, classes), `labels`, int (n,), and `near_duplicate`, bool (n,), are
    those of the test set; `validation` is a pair of probabilities and labels of held-out images.
    The metrics are computed from the probabilities as stored, in float16; the seconds of the first
    phase include those of computing what frozen layers give. `run.json` is written last: with it,
    the record is whole. Raises RunError where another process works in `run_dir`, and where that
    cannot be written.
    """
    run_dir = Path(run_dir)
    stored = np.asarray(probabilities, dtype=np.float16)
    near_duplicate = np.asarray(near_duplicate, dtype=bool)
    held_out, held_out_labels = validation or (stored[:0], labels[:0])
    first_phase, *later_phases = state["phase_seconds"]
    first_phase += sum(state.get("feature_seconds", {}).values())
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
        "metrics": evaluate(stored, labels, coarse_of_fine, near_duplicate),
        "phase_seconds": [round(seconds, 1) for seconds in (first_phase, *later_phases)],
        "machine": describe(),
    }
    arrays = {
        "probabilities": stored,
        "labels": np.asarray(labels, np.int64),
        "near_duplicate": near_duplicate,
        "validation_probabilities": np.asarray(held_out, np.float16),
        "validation_labels": np.asarray(held_out_labels, np.int64),
    }
    with alone(run_dir / "lock", "works in"):
        with written_whole(run_dir / "predictions.npz") as stream:
            np.savez_compressed(stream, **arrays)
            (run_dir / "run.json").unlink(missing_ok=True)  # it may be of other predictions
        write_json(run_dir / "run.json", record)
    return load_run(run_dir)


def load_run(run_dir):
    """Read and validate the record in `run_dir`; raises RunError where it is missing or unsound."""
    run_dir = Path(run_dir)

    def require(condition, problem):
        if not condition:
            raise RunError(f"The record in {run_dir} is not sound: {problem}.")

    try:
        text = (run_dir / "run.json").read_text(encoding="utf-8")
        record = json.loads(text, object_pairs_hook=_without_repetition)
        _validate_record(record, run_dir.name, require)
        arrays = load_arrays(run_dir / "predictions.npz", ARRAYS, most_bytes=MOST_BYTES)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RunError(f"{run_dir} holds no finished run: {missing} is missing.") from None
    except (ValueError, OSError, RecursionError) as error:
        reason = in_one_line(error)
        raise RunError(f"The record in {run_dir} cannot be read ({reason}): delete it.") from None
    _validate_arrays(arrays, require)
    return Run(record, **{name: _single(array) for name, array in arrays.items()})


def _single(array):
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _without_repetition(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in one object of run.json")
    return dict(pairs)


def _validate_record(record, name, require):
    require(type(record) is dict, "run.json holds no object")
    require(record.get("schema") == SCHEMA, f"its schema is not {SCHEMA}")
    _validate_type("run.json", record, FIELDS, require)
    require(record["name"] == name, f"its name is {record['name']}, not the folder's")


def _validate_type(name, value, expected, require):
    """Require of `value`, called `name`, the types in `expected`, which is shaped as it is."""
    if type(expected) is dict:
        require(type(value) is dict, f"{name} is of another type")
        missing = ", ".join(sorted(expected.keys() - value.keys()))
        require(not missing, f"{name} has no {missing}")
        for key, kind in expected.items():
            _validate_type(key, value[key], kind, require)
    elif type(expected) in (list, tuple):
        require(type(value) is list, f"{name} is of another type")
        kinds = expected * len(value) if type(expected) is list else expected
        require(len(value) == len(kinds), f"{name} is of another length")
        for item, kind in zip(value, kinds, strict=True):
            _validate_type(name, item, kind, require)
    else:
        is_kind = isinstance(value, expected) and type(value) is not bool
        require(is_kind, f"{name} is of another type")
        is_number = type(value) in (int, float)
        require(not is_number or -LARGEST <= value <= LARGEST, f"{name} is no number")


def _validate_arrays(arrays, require):
    for part in ("", "validation_"):
        _validate_predictions(arrays[part + "probabilities"], arrays[part + "labels"], require)
    require(len(arrays["labels"]), "there are no predictions")
    near_duplicate = arrays["near_duplicate"]
    require(near_duplicate.shape == arrays["labels"].shape, "near_duplicate is of another length")
    require(near_duplicate.dtype == bool, "near_duplicate is not true or false")


def _validate_predictions(probabilities, labels, require):
    require(probabilities.dtype.kind == "f", "the probabilities are no numbers")
    require(probabilities.ndim == 2, "the probabilities are not a table")
    require(labels.shape == probabilities.shape[:1], "labels and probabilities differ in number")
    is_class = labels.dtype.kind in "iu" and (labels >= 0) & (labels < probabilities.shape[1])
    require(np.all(is_class), "some labels are no number of a class")
    require(np.isfinite(probabilities).all(), "some probabilities are not finite")
    require(
        np.all((probabilities >= 0) & (probabilities <= 1)),
        "some probabilities are below 0 or above 1",
    )
    sums = probabilities.astype(np.float64).sum(axis=1)
    require(np.allclose(sums, 1, atol=0.01), "some probabilities do not sum to 1")


def load_runs(results_dir):
    """Read every record in `results_dir`: a list of `Run`, in the order of their names.

    Raises RunError where there is none, or where one is not sound.
    """
    folders = sorted(file.parent for file in Path(results_dir).glob("*/run.json"))
    if not folders:
        raise RunError(
            f"{results_dir} holds no record of a run: run 03_resnet or 04_xception, and name the "
            "folder that they write to (runs, unless another was chosen)."
        )
    return [load_run(folder) for folder in folders]


def results_table(results_dir):
    """Return a Markdown table of the published figures and every real-data run in `results_dir`."""
    records = [run.record for run in load_runs(results_dir)]
    real = [record for record in records if record["dataset"] == "cifar100"]
    return runs_table(real, README_COLUMNS)
