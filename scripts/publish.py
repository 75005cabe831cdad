"""Run a notebook on real data, then store its outputs, its run's record and the README's table.

    python scripts/publish.py 03_resnet laptop --model  # with notebooks/laptop/03_resnet.yaml
    python scripts/publish.py 01_data                   # with the notebook's own parameters

The notebook runs in build/ and replaces the stored one only if it ends without an error. A run
that has been trained before is not trained again.
"""

import argparse
import ast
import shutil
from pathlib import Path

import nbformat
import papermill
import yaml

from cifar100_helpers.results import load_run, load_runs, runs_table
from cifar100_helpers.storage import atomic_path, exclusive_lock

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "top-1",
    "without near-duplicates",
    "top-5",
    "parameters",
    "epochs",
    "minutes",
    "PFLOPs",
    "device",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="such as 03_resnet")
    parser.add_argument("profile", nargs="?", help="a folder of notebooks/, such as laptop")
    parser.add_argument("--model", action="store_true", help="store model.keras as well")
    arguments = parser.parse_args()
    source = ROOT / "notebooks" / f"{arguments.notebook}.ipynb"
    parameters = all_parameters(source, arguments.profile)
    if parameters.get("dataset") == "synthetic":
        parser.error("only runs on real data are published")
    executed = ROOT / "build" / "published" / source.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    options = {"cwd": source.parent, "progress_bar": False, "log_output": True}
    notebook = papermill.execute_notebook(source, executed, parameters, **options)
    if "run_name" in parameters:
        publish_record(ROOT / "runs" / parameters["run_name"], with_model=arguments.model)
    store(notebook, source)
    write_readme_table()


def all_parameters(source, profile):
    """Return the parameters of the notebook `source`, some of them set by `profile`, if any."""
    inspected = papermill.inspect_notebook(str(source))
    own = {name: ast.literal_eval(inspected[name]["default"]) for name in inspected}
    file = source.parent / str(profile) / f"{source.stem}.yaml"
    return own | (yaml.safe_load(file.read_text()) if profile else {})


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
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    with atomic_path(target) as unfinished:
        nbformat.write(notebook, unfinished)


def publish_record(run_dir, results=ROOT / "results", *, with_model=False):
    """Copy the record of the run in `run_dir` into `results`, and its trained network if asked."""
    target = results / run_dir.name
    target.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(run_dir / "lock", "works in"):
        load_run(run_dir)  # raises RunError if it is damaged
        (target / "run.json").unlink(missing_ok=True)  # it comes last: then the record is whole
        (target / "model.keras").unlink(missing_ok=True)
        for name in ("predictions.npz", *["model.keras"] * with_model, "run.json"):
            with atomic_path(target / name) as unfinished:
                shutil.copyfile(run_dir / name, unfinished)


def readme_table():
    """Return the README's table: the published figures and the committed records of seed 0."""
    records = [run.record for run in load_runs(ROOT / "results")]
    return runs_table([r for r in records if r["parameters"]["seed"] == 0], COLUMNS)


def write_readme_table():
    readme = ROOT / "README.md"
    start, end = "<!-- results -->\n", "<!-- end of results -->"
    before, rest = readme.read_text().split(start)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{start}{readme_table()}\n{end}{after}")


if __name__ == "__main__":
    main()
