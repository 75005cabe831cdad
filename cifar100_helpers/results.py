"""Run records: one run is one folder with `run.json`, `predictions.npz` and `model.keras`."""

import json
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import mark_near_duplicates
from .errors import RunError
from .evaluation import difference_interval, evaluate, is_correct
from .inference import predict, save_model
from .runtime import describe
from .storage import atomic_path, exclusive_lock, load_arrays, write_json

SCHEMA = 3
UNKNOWN = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"

# The PFLOPs are those of the same recipes here.
PUBLISHED = (
    {"model": "resnet", "top1": 0.6549, "parameters": 46_203_236, "epochs": 26, "PFLOPs": 53.9},
    {"model": "xception", "top1": 0.7293, "parameters": 21_961_868, "epochs": 45, "PFLOPs": 13.1},
)
ABOUT_EQUAL = 1.25  # two costs that differ by less than this factor


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A recorded run: `record` as in `run.json`, and what it predicted.

    For the test set: `probabilities`, float32 (n, classes), `labels`, int (n,), and
    `near_duplicate`, bool (n,), true if the training set has an image like it. For validation
    images: `validation_probabilities` and `validation_labels`, empty if there were none.
    """

    record: dict
    probabilities: np.ndarray
    labels: np.ndarray
    near_duplicate: np.ndarray
    validation_probabilities: np.ndarray
    validation_labels: np.ndarray

    @property
    def name(self):
        """The name of the run's folder."""
        return self.record["name"]

    @property
    def top1(self):
        """The fraction of the test images that it recognises."""
        return self.record["metrics"]["top1"]


def finish_run(run, model, cifar, validation=None):
    """Save the trained `model`, predict the test set of `cifar` with it, and record both, once.

    `run`: a `training.Run`; `validation`: a pair of images and labels, or None. Returns a
    `RecordedRun`. Raises RunError if `run` has not trained `model` to its end, if another process
    works in its folder, or if that cannot be written.
    """
    with exclusive_lock(run.run_dir / "lock", "works in"):
        if run.recorded:
            return load_run(run.run_dir)
        if not run.has_trained(model):
            raise RunError(
                "This model is not trained to its end: run the cells that train it first."
            )
        saved = save_model(model, run.run_dir)
        validation = validation and (predict(saved, validation[0]), validation[1])
        predicted = predict(saved, cifar.x_test)
        return save_run(run.run_dir, saved, run.state, cifar, predicted, validation)


def save_run(run_dir, model, state, cifar, probabilities, validation=None):
    """Write the record of a finished run into `run_dir` and return it as a `RecordedRun`.

    `state`: that of the `training.Run`; `probabilities`: float (n, classes), of the test set of
    `cifar`; `validation`: a pair of probabilities and labels, or None. Raises RunError if `run_dir`
    cannot be written.
    """
    run_dir, labels = Path(run_dir), cifar.y_test
    stored, near_duplicate = np.asarray(probabilities, np.float16), mark_near_duplicates(cifar)
    validation_probabilities, validation_labels = validation or (stored[:0], labels[:0])
    record = {
        "schema": SCHEMA,
        "name": run_dir.name,
        "dataset": state["parameters"]["dataset"],
        "model": model.name,
        "parameter_count": model.count_params(),
        "parameters": state["parameters"],
        "phases": state["phases"],
        "history": state["history"],
        "metrics": evaluate(stored, labels, cifar.coarse_of_fine, near_duplicate),
        "phase_seconds": [round(seconds, 1) for seconds in state["phase_seconds"]],
        "petaflops": float(f"{state['petaflops']:.4g}"),
        "machine": describe(),
    }
    with atomic_path(run_dir / "predictions.npz") as unfinished:
        np.savez_compressed(
            unfinished,
            probabilities=stored,
            labels=labels,
            near_duplicate=near_duplicate,
            validation_probabilities=np.asarray(validation_probabilities, np.float16),
            validation_labels=validation_labels,
        )
    write_json(run_dir / "run.json", record)  # last: with it, the record is whole
    return load_run(run_dir)


def load_run(run_dir):
    """Read the record in `run_dir`; the folder's name is the run's, also if it was renamed.

    Raises RunError if the record is missing, damaged or outdated.
    """
    run_dir = Path(run_dir).absolute()
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise RunError(f"The record in {run_dir} is of another version: make it again.")
        arrays = load_arrays(run_dir / "predictions.npz")
        for name in ("probabilities", "validation_probabilities"):
            arrays[name] = arrays[name].astype(np.float32)
        return RecordedRun(record | {"name": run_dir.name}, **arrays)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RunError(
            f"{run_dir} holds no finished run ({missing} is missing): train it to its end first, "
            "or name another folder."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"The record in {run_dir} is damaged: delete that folder.") from None


def load_runs(results_dir):
    """Read every record in `results_dir`: a list of `RecordedRun`, in the order of their names.

    Raises RunError if there is none, or if one is damaged or outdated.
    """
    folders = sorted(file.parent for file in Path(results_dir).glob("*/run.json"))
    if not folders:
        raise RunError(
            f"{results_dir} holds no record of a run: run 03_resnet or 04_xception, and name the "
            "folder that they write to (runs, unless you chose another)."
        )
    return [load_run(folder) for folder in folders]


def choose_runs(runs, first="", second=""):
    """Return the two `runs` named `first` and `second`, as a pair of `RecordedRun`.

    An empty name leaves the choice to a rule: of all pairs on the same test images, it prefers a
    ResNet and an Xception, then about equal cost or the nearest to it, then validation images, then
    the first of several seeds, then the most arithmetic. Raises RunError if there is no run of that
    name, or no such pair.
    """
    pairs = _comparable(_named(runs, first), _named(runs, second))
    if not pairs:
        names = f"{first or 'A run'} and {second or 'another'}"
        raise RunError(f"{names} cannot be compared: it takes two runs on the same test images.")
    return max(pairs, key=_preference(runs))


def equal_cost_pairs(runs):
    """Return for each Xception the ResNet of about its cost, if any, that `choose_runs` prefers.

    A list of pairs, the one with the best Xception last.
    """
    last_is_best = sorted(reversed(_comparable(runs, runs)), key=_preference(runs))
    equal = [
        pair
        for pair in last_is_best
        if _models(pair) == ["resnet", "xception"] and cost_ratio(*pair) < ABOUT_EQUAL
    ]
    return sorted({pair[1].name: pair for pair in equal}.values(), key=lambda pair: pair[1].top1)


def _named(runs, name):
    found = [run for run in runs if name in ("", run.name)]
    if not found:
        there = ", ".join(run.name for run in runs)
        raise RunError(f"There is no run {name} among the records: there are {there}.")
    return found


def _comparable(firsts, seconds):
    pairs = [(a, b) for a in firsts for b in seconds if a is not b]
    return [(a, b) for a, b in pairs if _data_set(a.record) == _data_set(b.record)]


def _data_set(record):
    name, seed = record["dataset"], record["parameters"]["seed"]
    return f"{name}, seed {seed}" if name == "synthetic" else name  # each seed draws other images


def _preference(runs):
    groups = seed_groups([run.record for run in runs])
    places = {record["name"]: place for group in groups for place, record in enumerate(group)}
    return lambda pair: (
        len(set(_models(pair))),
        -max(cost_ratio(*pair), ABOUT_EQUAL),
        all(len(run.validation_labels) for run in pair),
        -sum(places[run.name] for run in pair),  # not the best of several seeds: that is luck
        sum(run.record["petaflops"] for run in pair),  # not by accuracy: the test set picks nothing
        _models(pair) == ["resnet", "xception"],
    )


def _models(pair):
    return [run.record["model"] for run in pair]


def compare_runs(first, second):
    """Say in one sentence which of two runs is better, by how much, and for what cost."""
    difference, low, high = difference_interval(is_correct(first), is_correct(second))
    better, other = (second, first) if difference > 0 else (first, second)
    points = f"{100 * abs(difference):.2f} points of top-1"
    if low <= 0 <= high:
        found = f"Between {better.name} and {other.name} no difference is shown: "
        found += f"{points} may be chance"
    else:
        least, most = sorted((100 * abs(low), 100 * abs(high)))
        found = f"{better.name} is better than {other.name} by {points} ({least:.2f} to {most:.2f})"
    a, b = (f"{run.record['petaflops']:.3g}" for run in (better, other))
    ratio = cost_ratio(first, second)
    dearer = max(first, second, key=lambda run: run.record["petaflops"])
    times = f"{ratio:.{1 if ratio < 10 else 0}f}"
    apart = "" if ratio < ABOUT_EQUAL else f": {dearer.name} took {times} times the operations"
    return f"{found},\n  for {a} against {b} PFLOP of training{apart}."


def cost_ratio(first, second):
    """Return how many times the training of the dearer of two runs cost that of the other."""
    low, high = sorted(run.record["petaflops"] for run in (first, second))
    return high / low


# Tables of runs in Markdown: what each run reached, and what it cost


def runs_table(records, columns):
    """Return a Markdown table with a row for each of `records` (as in `run.json`).

    `columns` are names that `describe_run` knows. On real data, the published figures come first.
    """
    rows = [
        (f"{figures['model']}, published figure", _describe(figures))
        for figures in published_beside(records)
    ]
    rows += [(record["name"], describe_run(record)) for record in records]
    cells = [[name, *(row.get(column, UNKNOWN) for column in columns)] for name, row in rows]
    return _markdown([["run", *columns], *cells])


def published_beside(records):
    """Return the published figures that stand beside `records`: none beside synthetic data."""
    return PUBLISHED if records[0]["dataset"] == "cifar100" else ()


def describe_run(record):
    """Return what `record` says, rounded for readers: a dict from a column's name to its text."""
    metrics, machine = record["metrics"], record["machine"]
    cores = "" if machine["gpus"] else f", {machine['cores']} cores"
    several = f"{machine['gpus']} × " if machine["gpus"] > 1 else ""
    low, high = metrics["top1_interval"]
    return {
        "top-1": f"{_percent(metrics['top1'])} ± {50 * (high - low):.1f}",
        "without near-duplicates": _percent(metrics["top1_without_duplicates"]),
        "top-5": _percent(metrics["top5"]),
        "superclass": _percent(metrics["superclass_top1"]),
        "loss": f"{metrics['loss']:.3f}",
        "calibration error": _percent(metrics["calibration_error"]),
        "parameters": f"{record['parameter_count']:,}",
        "epochs": str(len(record["history"]["epoch"])),
        "minutes": f"{sum(record['phase_seconds']) / 60:.0f}",
        "PFLOPs": f"{record['petaflops']:.3g}",
        "device": several + machine["device"] + cores,
        "backend": machine["backend"],
        "data set": _data_set(record),
    }


def _describe(figures):
    described = {name: f"{figures[name]:,}" for name in ("parameters", "epochs", "PFLOPs")}
    return described | {"top-1": _percent(figures["top1"])}


def _percent(fraction):
    return f"{100 * fraction:.2f} %"


def seed_table(records):
    """Return a Markdown table of the runs that differ in their seed alone; "" if none do.

    The spread is the standard deviation of top-1 over the seeds, in points.
    """
    rows = []
    for group in seed_groups(records):
        if len(group) > 1:
            mean, spread = mean_and_spread(group)
            names = ", ".join(record["name"] for record in group)
            rows.append([names, str(len(group)), _percent(mean), f"{100 * spread:.2f}"])
    return _markdown([["runs", "seeds", "top-1, mean", "spread"], *rows]) if rows else ""


def mean_and_spread(group):
    """Return the mean top-1 of the records in `group` and its standard deviation; 0 for one."""
    top1 = [record["metrics"]["top1"] for record in group]
    return statistics.mean(top1), statistics.stdev(top1) if len(top1) > 1 else 0.0


def seed_groups(records):
    """Return `records` as lists of those that differ in their seed alone."""
    groups, copies = {}, Counter()
    for record in records:
        parameters = record["parameters"]
        run = json.dumps([record["model"], parameters], sort_keys=True)
        copies[run] += 1
        settings = {name: value for name, value in parameters.items() if name != "seed"}
        # A copy of a run is no other seed.
        key = [record["model"], _data_set(record), settings, copies[run]]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(record)
    return list(groups.values())


def _markdown(rows):
    """A table whose first column is text; numbers stay in one line and on the right."""
    head, *body = rows
    lines = [[name, *(cell.replace(" ", NO_BREAK) for cell in cells)] for name, *cells in body]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])
