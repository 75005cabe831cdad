"""Run records: one run is one folder with `run.json`, `predictions.npz` and `model.keras`."""

import json
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from .data import mark_near_duplicates
from .errors import RunError
from .evaluation import difference_interval, evaluate, is_correct
from .inference import predict
from .runtime import describe
from .storage import atomic_path, exclusive_lock, load_arrays, write_json

SCHEMA = 3
UNKNOWN = "–"
# What a saved layer can do without: it says how to train, and older Keras refuses keys of newer.
TRAINING_SETTINGS = ("initializer", "regularizer", "constraint", "renorm", "quantization")
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
    `near_duplicate`, bool (n,), true if the training set has an image like it. For the images held
    out from training: `validation_probabilities` and `validation_labels`, empty if there were none.
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
    """Save the trained `model`, predict the test set of `cifar` with what was saved, and record it.

    `run`: the `training.Run` that trained it; `validation`: a pair of images and labels, or None. A
    run that is recorded already is read: the test set is evaluated once. Returns a `RecordedRun`.
    """
    if run.recorded:
        return load_run(run.run_dir)
    saved = save_model(model, run.run_dir)
    of_validation = validation and (predict(saved, validation[0]), validation[1])
    of_test = predict(saved, cifar.x_test)
    return save_run(run.run_dir, saved, run.state, cifar, of_test, of_validation)


def save_model(model, run_dir):
    """Write the trained `model` to `run_dir`/model.keras and return what was written.

    That is a model of Keras's own layers, in float32, without random transforms: uint8 images in,
    probabilities out. `keras.saving.load_model` opens it without this package. Raises RunError if
    `run_dir` cannot be written.
    """
    untrained = keras.Model(model.input, model.output, name=model.name)  # without an optimizer
    stock = keras.models.clone_model(
        untrained, clone_function=_stock_layer, call_function=_call_in_inference
    )
    stock.set_weights(model.get_weights())
    file = Path(run_dir) / "model.keras"
    with atomic_path(file) as unfinished:
        stock.save(unfinished)
    print(f"the trained model: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    return stock


def _stock_layer(layer):
    """A new layer like `layer`, one of Keras's own, which computes in float32."""
    if getattr(layer, "training_only", False):
        return layer  # it is not called
    inner = getattr(layer, "layer", layer)  # without its wrapper
    if isinstance(inner, keras.Model):
        base = keras.models.clone_model(inner, clone_function=_stock_layer)
        base.name = layer.name
        return base
    kind = getattr(layer, "stock_class", type(layer))
    return _portable(kind.from_config(layer.get_config() | {"dtype": "float32"}))


def _portable(layer):
    """`layer`, which from now on leaves `TRAINING_SETTINGS` out of what is saved of it."""
    config = {
        name: value
        for name, value in layer.get_config().items()
        if not any(setting in name for setting in TRAINING_SETTINGS)
    }
    layer.get_config = lambda: config
    return layer


def _call_in_inference(layer, *inputs, **options):
    return inputs[0] if getattr(layer, "training_only", False) else layer(*inputs, **options)


def save_run(run_dir, model, state, cifar, probabilities, validation=None):
    """Write the record of a finished run into `run_dir` and return it as a `RecordedRun`.

    `model`: see `save_model`; `state`: that of the `training.Run`; `probabilities`, float (n,
    classes), are of the test set of `cifar`; `validation`: a pair of probabilities and labels of
    the validation images, or None. Metrics are computed from the probabilities as stored, in
    float16. `run.json` is written last: with it, the record is whole. Raises RunError if another
    process works in `run_dir`, or if it cannot be written.
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
    with exclusive_lock(run_dir / "lock", "works in"):
        with atomic_path(run_dir / "predictions.npz") as unfinished:
            np.savez_compressed(
                unfinished,
                probabilities=stored,
                labels=labels,
                near_duplicate=near_duplicate,
                validation_probabilities=np.asarray(validation_probabilities, np.float16),
                validation_labels=validation_labels,
            )
        (run_dir / "run.json").unlink(missing_ok=True)  # it may be of other predictions
        write_json(run_dir / "run.json", record)
    return load_run(run_dir)


def load_run(run_dir):
    """Read the record in `run_dir`, whose name is the run's, also of a copied or renamed folder.

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
        raise RunError(f"{run_dir} holds no finished run: {missing} is missing.") from None
    except (ValueError, OSError, KeyError, TypeError):
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

    An empty name leaves the choice to a rule. The best pair is a ResNet and an Xception, of about
    equal cost, both with validation images, the highest in mean top-1; what cannot be had is left
    out, and without equal cost the nearest counts. Raises RunError if there is no such run, if both
    are the same one, or if they did not predict the same images.
    """
    pairs = [(a, b) for a in _named(runs, first) for b in _named(runs, second) if a is not b]
    comparable = [pair for pair in pairs if _test_set(pair[0]) == _test_set(pair[1])]
    if comparable:
        return max(comparable, key=_preference)
    if not pairs:
        raise RunError(f"{first or runs[0].name} cannot be compared with itself: name two runs.")
    raise RunError(
        f"{first or 'Any run'} and {second or 'another'} did not predict the same images: "
        "compare two runs on the same test set."
    )


def _named(runs, name):
    found = [run for run in runs if name in ("", run.name)]
    if not found:
        there = ", ".join(run.name for run in runs)
        raise RunError(f"There is no run {name} among the records: there are {there}.")
    return found


def _test_set(run):
    return _data_set(run.record), run.labels.tobytes()


def _data_set(record):
    name, seed = record["dataset"], record["parameters"]["seed"]
    return f"{name}, seed {seed}" if name == "synthetic" else name  # each seed draws other images


def _preference(pair):
    ratio, models = cost_ratio(*pair), [run.record["model"] for run in pair]
    validated = all(len(run.validation_labels) for run in pair)
    closeness = (True, validated, pair[0].top1 + pair[1].top1)
    closeness = closeness if ratio < ABOUT_EQUAL else (False, False, -ratio)
    return models == ["resnet", "xception"], models[0] != models[1], closeness


def cost_ratio(first, second):
    """Return how many times the training of the dearer of two runs cost that of the other."""
    low, high = sorted(run.record["petaflops"] for run in (first, second))
    return high / low


def equal_cost_pairs(runs):
    """Return for each Xception, if any, the best ResNet of about its cost: pairs, the best last."""
    pairs = [
        (a, b)
        for a in sorted(runs, key=lambda run: run.top1)
        for b in runs
        if [a.record["model"], b.record["model"]] == ["resnet", "xception"]
        and cost_ratio(a, b) < ABOUT_EQUAL
        and _test_set(a) == _test_set(b)
    ]
    best = {b.name: (a, b) for a, b in pairs}
    return sorted(best.values(), key=lambda pair: pair[1].top1)


def compare_runs(first, second):
    """Say in one sentence which of two runs is better, by how much, and for what cost."""
    difference, low, high = difference_interval(is_correct(first), is_correct(second))
    better, other = (second, first) if difference > 0 else (first, second)
    a, b = (f"{run.record['petaflops']:.3g}" for run in (better, other))
    ratio = cost_ratio(first, second)
    apart = "" if ratio < ABOUT_EQUAL else f": one cost {ratio:.2g} times the other"
    cost = f"for {a} against {b} PFLOP of training{apart}."
    if low <= 0 <= high:
        return (
            f"Between {better.name} and {other.name} no difference is shown: "
            f"{100 * abs(difference):.2f} points of top-1 may be chance,\n  {cost}"
        )
    least, most = sorted((100 * abs(low), 100 * abs(high)))
    return (
        f"{better.name} is better than {other.name} by {100 * abs(difference):.2f} points of top-1 "
        f"({least:.2f} to {most:.2f}),\n  {cost}"
    )


def published_runs(runs):
    """Return those of `runs` that repeat the published pair: a dict from the model to its run."""
    names = {f"{figures['model']}_published": figures["model"] for figures in PUBLISHED}
    return {names[run.name]: run for run in runs if run.name in names}


# Tables of runs in Markdown: what each run reached, and what it cost


def runs_table(records, columns):
    """Return a Markdown table with a row for each of `records` (as in `run.json`).

    `columns` are names that `describe_run` knows. The published figures come first, unless the runs
    are on synthetic data.
    """
    rows = []
    if all(record["dataset"] == "cifar100" for record in records):
        rows = [(f"{figures['model']}, published", _published(figures)) for figures in PUBLISHED]
    rows += [(record["name"], describe_run(record)) for record in records]
    cells = [[name, *(row.get(column, UNKNOWN) for column in columns)] for name, row in rows]
    return _markdown([["run", *columns], *cells])


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
        "data set": _data_set(record),
    }


def _published(figures):
    described = {name: f"{figures[name]:,}" for name in ("parameters", "epochs", "PFLOPs")}
    return described | {"top-1": _percent(figures["top1"])}


def _percent(fraction):
    return f"{100 * fraction:.2f} %"


def seed_table(records):
    """Return a Markdown table of the runs that differ in their seed alone; "" if none do.

    The spread is the standard deviation of top-1 over the seeds, in points.
    """
    rows = [_seed_row(group) for group in seed_groups(records) if len(group) > 1]
    return _markdown([["runs", "seeds", "top-1, mean", "spread"], *rows]) if rows else ""


def _seed_row(group):
    mean, spread = mean_and_spread(group)
    names = ", ".join(record["name"] for record in group)
    return [names, str(len(group)), _percent(mean), f"{100 * spread:.2f}"]


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
