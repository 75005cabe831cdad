import runpy
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cifar100_helpers.results import load_run

ROOT = Path(__file__).parent.parent
PUBLISH = runpy.run_path(str(ROOT / "scripts" / "publish.py"))


def test_stored_notebook_has_outputs_but_no_traces_of_the_run(tmp_path):
    value = new_output("execute_result", {"text/plain": "7"}, execution_count=3)
    noisy = {"tags": ["nbval-ignore-output"], "papermill": {"duration": 1.0}}
    injected = {"tags": ["injected-parameters"], "papermill": {"duration": 1.0}}
    executed = new_notebook(
        cells=[
            new_markdown_cell("# title", metadata={"papermill": {}}),
            new_code_cell("width = 128", execution_count=1, metadata={"tags": ["parameters"]}),
            new_code_cell("width = 8", metadata=injected),
            new_code_cell("width - 1", execution_count=3, outputs=[value], metadata=noisy),
        ],
        metadata={
            "papermill": {"input_path": "/somewhere"},
            "kernelspec": {"name": "mine", "display_name": "Mine"},
        },
    )
    target = tmp_path / "stored.ipynb"
    PUBLISH["store"](executed, target)

    stored = nbformat.read(target, as_version=4)
    nbformat.validate(stored)
    assert [cell.source for cell in stored.cells] == ["# title", "width = 128", "width - 1"]
    assert [cell.get("execution_count") for cell in stored.cells] == [None, 1, 2]
    assert stored.cells[2].outputs[0].execution_count == 2
    assert stored.cells[2].metadata == {"tags": ["nbval-ignore-output"]}
    assert "papermill" not in target.read_text() and "somewhere" not in target.read_text()
    assert stored.metadata.kernelspec.name == "python3"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "profile", "run_name"),
    [
        ("01_data", None, None),
        ("03_resnet", None, "resnet_published"),
        ("03_resnet", "laptop", "resnet_laptop"),
        ("05_compare", None, None),
    ],
)
def test_run_is_the_one_of_the_profile_or_else_of_the_notebook(name, profile, run_name):
    source = ROOT / "notebooks" / f"{name}.ipynb"
    assert PUBLISH["all_parameters"](source, profile).get("run_name") == run_name


@pytest.mark.parametrize("with_model", [True, False])
def test_published_record_is_whole_and_has_its_network_if_asked(tmp_path, with_model):
    source = sorted((ROOT / "results").glob("*/run.json"))[0].parent
    run_dir, published = tmp_path / source.name, tmp_path / "results" / source.name
    shutil.copytree(source, run_dir)
    (run_dir / "model.keras").write_bytes(b"of this run")
    published.mkdir(parents=True)
    (published / "model.keras").write_bytes(b"of an earlier run")

    PUBLISH["publish_record"](run_dir, tmp_path / "results", with_model=with_model)
    assert load_run(published).record == load_run(run_dir).record
    copies = [file.read_bytes() for file in published.glob("*.keras")]
    assert copies == [b"of this run"] * with_model


def test_readme_shows_the_table_of_the_committed_records():
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- results -->\n")[2].partition("\n<!-- end of results -->")[0]
    assert shown == PUBLISH["readme_table"]()
