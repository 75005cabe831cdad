import runpy
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parent.parent
PUBLISH = runpy.run_path(str(ROOT / "scripts" / "publish.py"))


def test_stored_notebook_has_outputs_but_no_traces_of_the_run(tmp_path):
    value = new_output("execute_result", {"text/plain": "7"}, execution_count=3)
    noisy = {"tags": ["nbval-ignore-output"], "papermill": {"duration": 1.0}}
    executed = new_notebook(
        cells=[
            new_markdown_cell("# title", metadata={"papermill": {}}),
            new_code_cell("width = 128", execution_count=1, metadata={"tags": ["parameters"]}),
            new_code_cell("width = 8", metadata={"tags": ["injected-parameters"]}),
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


def test_run_name_of_a_notebook_without_a_profile_is_its_own():
    names = {
        name: PUBLISH["default_run_name"](ROOT / "notebooks" / f"{name}.ipynb")
        for name in ("01_data", "03_resnet", "04_xception", "05_compare")
    }
    assert names == {
        "01_data": "",
        "03_resnet": "resnet_published",
        "04_xception": "xception_published",
        "05_compare": "",
    }
