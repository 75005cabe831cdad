"""Tables of runs in Markdown: what each run reached, and what it cost."""

import json
import statistics

README_COLUMNS = (
    "top-1",
    "without near-duplicates",
    "top-5",
    "parameters",
    "epochs",
    "minutes",
    "device",
)
UNKNOWN = "–"

PUBLISHED = (
    {"model": "resnet", "top1": 0.6549, "parameter_count": 46_203_236, "epochs": 26},
    {"model": "xception", "top1": 0.7293, "parameter_count": 21_961_868, "epochs": 45},
)


def runs_table(records, columns):
    """Return a Markdown table with a row for each of `records` (as in `run.json`).

    `columns` are names out of those that `describe_run` knows. The published figures come first,
    unless the runs are on synthetic data. Raises ValueError where real and synthetic runs mix.
    """
    datasets = {record["dataset"] for record in records}
    if len(datasets) > 1:
        raise ValueError("Runs on real and on synthetic data do not belong into one table.")
    published = () if datasets == {"synthetic"} else PUBLISHED
    rows = {f"{figures['model']}, published": _describe_published(figures) for figures in published}
    rows |= {record["name"]: describe_run(record) for record in records}
    cells = [
        [name, *(row.get(column, UNKNOWN) for column in columns)] for name, row in rows.items()
    ]
    lines = [["run", *columns], ["---"] * (1 + len(columns)), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        "device": several + machine["device"] + cores,
        "data set": record["dataset"],
    }


def _describe_published(figures):
    return {
        "top-1": _percent(figures["top1"]),
        "parameters": f"{figures['parameter_count']:,}",
        "epochs": str(figures["epochs"]),
        "data set": "cifar100",
    }


def _percent(fraction):
    return UNKNOWN if fraction is None else f"{100 * fraction:.2f} %"


def seed_table(records):
    """Return a Markdown table of the runs that differ in their seed alone; "" where none do.

    The spread is the standard deviation of one run's top-1.
    """
    groups = {}
    for record in records:
        settings = {key: value for key, value in record["parameters"].items() if key != "seed"}
        groups.setdefault(json.dumps([record["model"], settings], sort_keys=True), []).append(
            record
        )
    rows = [_seed_row(group) for group in groups.values() if len(_seeds(group)) > 1]
    lines = ["| runs | seeds | top-1, mean | spread |", "| --- | --- | --- | --- |", *rows]
    return "\n".join(lines) if rows else ""


def _seeds(group):
    return {record["parameters"].get("seed") for record in group}


def _seed_row(group):
    top1 = [record["metrics"]["top1"] for record in group]
    names = ", ".join(record["name"] for record in group)
    spread = f"{100 * statistics.stdev(top1):.2f}"
    return f"| {names} | {len(_seeds(group))} | {_percent(statistics.mean(top1))} | {spread} |"
