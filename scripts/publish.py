"""Run a notebook on real data; store the record of the run, the README's table and its figure.

    python scripts/publish.py 03_resnet           # with the profile that its parameters cell names
    python scripts/publish.py 03_resnet laptop --model
    python scripts/publish.py 03_resnet half_hour -p seed 1 -p run_name resnet_half_hour_seed1

A run that is killed goes on after its last whole epoch when this is called again, so
`timeout 540 python scripts/publish.py ...` does a piece of it. A finished run is not trained again.
Executed notebooks lie in build/published/; one that ran as its own parameters cell says replaces
the stored one. A run on synthetic data is a rehearsal: its record stays in build/published/ too.
"""

import argparse
import ast
import shutil
import statistics
import sys
from operator import itemgetter
from pathlib import Path

import matplotlib as mpl
import nbformat
import papermill
import yaml

from cifar100_helpers.comparison_plots import plot_cost
from cifar100_helpers.errors import RunError, UserError
from cifar100_helpers.parameters import resolve
from cifar100_helpers.results import PUBLISHED, load_run, load_runs, mean_and_spread, seed_groups
from cifar100_helpers.storage import atomic_path

ROOT = Path(__file__).resolve().parent.parent
RESULTS, BUILD = ROOT / "results", ROOT / "build" / "published"
NOTEBOOKS = {file.stem: file for file in sorted((ROOT / "notebooks").glob("0*.ipynb"))}
MODELS = {"resnet": "ResNet", "xception": "Xception"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", choices=NOTEBOOKS)
    parser.add_argument("profile", nargs="?", help="by default the one that the notebook names")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--model", action="store_true", help="store model.keras as well")
    arguments = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in arguments.p}
    try:
        publish(arguments.notebook, arguments.profile, changes, with_model=arguments.model)
        write_readme()
    except UserError as error:
        sys.exit(str(error))


def publish(name, profile, changes, *, with_model=False):
    """Execute the notebook `name` with `profile` and `changes`, then store what it made."""
    source = NOTEBOOKS[name]
    own = ast.literal_eval(papermill.inspect_notebook(str(source))["profile"]["default"])
    parameters = {"profile": profile or own} | changes
    settings = resolve(parameters, name)
    rehearsal = getattr(settings, "dataset", "cifar100") == "synthetic"
    run_name = getattr(settings, "run_name", None)
    if run_name:
        run_dir = ROOT / settings.results_dir / run_name
        published = (BUILD if rehearsal else RESULTS) / run_name
        if (published / "run.json").exists() and not run_dir.exists():
            shutil.copytree(published, run_dir)  # trained elsewhere
    executed = BUILD / f"{run_name or name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    notebook = papermill.execute_notebook(
        source,
        executed,
        parameters,
        cwd=source.parent,
        progress_bar=False,
        stdout_file=sys.stdout,
        coalesce_streams=True,  # epochs printed one by one are one output
    )
    if run_name:
        publish_record(run_dir, published, with_model=with_model)
    store(notebook, executed)
    if parameters == {"profile": own} and not rehearsal:
        store(notebook, source)


def publish_record(run_dir, published, *, with_model=False):
    """Copy the record in `run_dir` to the folder `published`, and its trained model if asked."""
    load_run(run_dir)  # raises RunError if it is damaged
    if with_model and not (run_dir / "model.keras").exists():
        raise RunError(f"{run_dir} has no model.keras: publish it without --model.")
    published.mkdir(parents=True, exist_ok=True)
    (published / "model.keras").unlink(missing_ok=True)  # it may be another training's
    for name in ("predictions.npz", *["model.keras"] * with_model, "run.json"):
        shutil.copyfile(run_dir / name, published / name)  # run.json last: the record is whole


def store(notebook, target):
    """Write `notebook` to `target` without the traces of the run that made it."""
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
    injected = {"tags": ["injected-parameters"]}
    notebook.cells = [cell for cell in notebook.cells if cell.metadata != injected]
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, 1):
        results = [out for out in cell.outputs if out.output_type == "execute_result"]
        for counted in (cell, *results):
            counted.execution_count = count
    own = ("kernelspec", "language_info")  # what JupyterLab writes too
    notebook.metadata = {name: notebook.metadata[name] for name in own}
    with atomic_path(target) as unfinished:
        nbformat.write(notebook, unfinished)


def write_readme():
    """Draw the README's figure and write its table, both of the committed records."""
    mpl.use("Agg")
    figure = plot_cost(load_runs(RESULTS)).figure
    figure.savefig(RESULTS / "cost.png", dpi=150, bbox_inches="tight")
    readme, start, end = ROOT / "README.md", "<!-- results -->\n", "<!-- end of results -->"
    before, rest = readme.read_text(encoding="utf-8").split(start)
    text = f"{before}{start}{readme_table()}\n{end}{rest.split(end)[1]}"
    readme.write_text(text, encoding="utf-8")


def readme_table():
    """Return the README's table in Markdown: the published figures, then the records by time.

    Runs that differ in their seed alone are one row, with their means.
    """
    rows = []
    for model, top1, size in map(itemgetter("model", "top1", "parameters"), PUBLISHED):
        name = f"{MODELS[model]}, published figure"
        rows.append((name, "", "", f"{100 * top1:.2f} %", describe_model(model, size)))
    groups = seed_groups([run.record for run in load_runs(RESULTS)])
    rows += [describe_group(group) for group in sorted(groups, key=mean_minutes)]
    head = ("run", "measured on", "time", "accuracy", "model")
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return "\n".join([lines[0], "| --- | --- | ---: | ---: | --- |", *lines[1:]])


def describe_group(group):
    """Return the cells of a row for a `group` of records that differ in their seed alone."""
    record = min(group, key=lambda record: record["parameters"]["seed"])
    machine, (low, high) = record["machine"], record["metrics"]["top1_interval"]
    device = machine["device"] if machine["gpus"] else f"{machine['cores']} cores"
    top1, _ = mean_and_spread(group)
    seeds = f", mean of {len(group)} seeds" if len(group) > 1 else ""
    return (
        record["name"],
        f"{machine['gpus']} × {device}" if machine["gpus"] > 1 else device,
        f"{mean_minutes(group):.0f} min",
        f"{100 * top1:.2f} % ± {50 * (high - low):.1f}{seeds}",
        describe_model(record["model"], record["parameter_count"]),
    )


def describe_model(name, parameters):
    return f"{MODELS[name]}, {parameters / 1e6:.1f} M parameters"


def mean_minutes(group):
    return statistics.mean(sum(record["phase_seconds"]) for record in group) / 60


if __name__ == "__main__":
    main()
