"""Run a notebook on real data and store its outputs, its record and the README's table.

    python scripts/publish.py 03_resnet laptop    # with notebooks/laptop/03_resnet.yaml
    python scripts/publish.py 01_data             # with its own parameters

The notebook is executed into build/, and replaces the stored one only when it ended without an
error. A run that has its checkpoint goes on from there, so publishing again trains nothing anew.
"""

import argparse
import ast
import os
from pathlib import Path

import nbformat
import papermill
import yaml

from cifar100_helpers.checkpoint import alone, written_whole
from cifar100_helpers.results import load_run, results_table

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="such as 03_resnet")
    parser.add_argument("profile", nargs="?", help="a folder of notebooks/, such as laptop")
    arguments = parser.parse_args()

    source = ROOT / "notebooks" / f"{arguments.notebook}.ipynb"
    parameters = {}
    if arguments.profile:
        profile = source.parent / arguments.profile / f"{arguments.notebook}.yaml"
        parameters = yaml.safe_load(profile.read_text())
    if parameters.get("dataset") == "synthetic":
        parser.error(f"{arguments.profile} is on synthetic data: only real runs are published")
    executed = execute(source, parameters)
    if run_name := parameters.get("run_name", default_run_name(source)):
        publish_record(ROOT / "runs" / run_name)
    store(executed, source)
    write_readme_table()


def default_run_name(source):
    """The run's name in the parameters of the notebook `source`; "" where it makes no record."""
    inferred = papermill.inspect_notebook(str(source)).get("run_name")
    return ast.literal_eval(inferred["default"]) if inferred else ""


def execute(source, parameters):
    executed = ROOT / "build" / "published" / source.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    return papermill.execute_notebook(
        source,
        executed,
        parameters,
        cwd=source.parent,
        kernel_name="python3",
        progress_bar=False,
        log_output=True,
    )


def store(notebook, target):
    """Write `notebook` to `target` without the traces of the run that made it."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    count = 0
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    unfinished = target.with_suffix(".unfinished")
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, target)


def publish_record(run_dir):
    target = ROOT / "results" / run_dir.name
    target.mkdir(parents=True, exist_ok=True)
    with alone(run_dir / "lock", "works in"):
        load_run(run_dir)  # raises where it is not sound
        (target / "run.json").unlink(missing_ok=True)  # last, as in a run's own folder
        for name in ("predictions.npz", "run.json"):
            with written_whole(target / name) as stream:
                stream.write((run_dir / name).read_bytes())


def write_readme_table():
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition("<!-- results -->\n")
    _, _, after = rest.partition("<!-- end of results -->")
    table = results_table(ROOT / "results")
    readme.write_text(f"{before}<!-- results -->\n{table}\n<!-- end of results -->{after}")


if __name__ == "__main__":
    main()
