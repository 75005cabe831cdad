"""The notebooks: what their files hold, and that they run as their users run them."""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from cifar100_helpers.parameters import load_profile
from cifar100_helpers.results import load_run

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
TAGS = {"parameters", "nbval-ignore-output"}


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags_of(cell):
    return cell.metadata.get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=name_of)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


# What the files hold


def test_cells_are_counted_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_has_one_cell_of_parameters_and_known_tags(notebook):
    tags = [tag for cell in notebook.cells for tag in tags_of(cell)]
    assert tags.count("parameters") == 1
    assert set(tags) <= TAGS
    assert notebook.metadata.kernelspec.name == "python3"


def test_parameters_are_plain_and_explained(notebook):
    cell = next(cell for cell in notebook.cells if "parameters" in tags_of(cell))
    first, note, *others = cell.source.splitlines()
    assert re.fullmatch(r'profile = "\w+"  # or .*profiles/', first)
    assert note == "# None: as the profile says"
    for line in others:
        assert re.fullmatch(r"[a-z_]+ = None  # [^=]+", line), line


def test_stored_outputs_are_clean(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            data = output.get("data", {})
            images = [kind for kind in data if kind.startswith("image/")]
            text = json.dumps(output | {"data": {k: data[k] for k in data if k not in images}})
            assert "widget" not in text
            assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr|opt)/", text), text[
                :300
            ]


def test_enough_is_checked(notebook):
    cells = code_cells(notebook)
    ignored = [cell for cell in cells if "nbval-ignore-output" in tags_of(cell)]
    checked_outputs = [c for c in cells if c.outputs and "nbval-ignore-output" not in tags_of(c)]
    assert len(checked_outputs) >= 5
    assert len(ignored) <= len(cells) / 2
    assert cells[-1] not in ignored


def test_cells_are_short_and_explained(notebook):
    """The two that are lists, of parameters and of imports, may be longer."""
    cells = [cell for cell in code_cells(notebook) if "parameters" not in tags_of(cell)]
    imports = next(i for i, cell in enumerate(cells) if "import" in cell.source)
    lengths = [len(cell.source.splitlines()) for cell in cells[:imports] + cells[imports + 1 :]]
    assert max(lengths) <= 16
    assert statistics.median(lengths) <= 7
    assert not any(re.search(r";\s*$", cell.source) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_file_is_small(path):
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["03_resnet", "04_xception"])
def test_stored_outputs_are_of_the_run_that_the_parameters_cell_names(name):
    cells = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    source = next(cell.source for cell in cells if "parameters" in tags_of(cell))
    profile = re.match(r'profile = "(\w+)"', source).group(1)
    shown = "".join(out.get("text", "") for cell in cells for out in cell.outputs)
    for setting, value in {"profile": profile, **load_profile(profile, name)}.items():
        if setting != "precision":  # the machine decides what is "auto"
            assert re.search(rf"^{setting} +{re.escape(str(value))}$", shown, re.M), setting


@pytest.mark.parametrize("name", ["03_resnet", "04_xception"])
def test_the_acts_of_training_stand_in_the_cells(name):
    """Compile and fit, and in 04 freeze and unfreeze, in Keras's own words."""
    cells = code_cells(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    source = "\n".join(cell.source for cell in cells)
    for act in ("model.compile(", "optimizer=", "SparseCategoricalCrossentropy(", "run.fit(model,"):
        assert act in source
    if name == "04_xception":
        assert source.index("base.trainable = False") < source.index("base.trainable = True")


# That they run


@pytest.fixture(scope="module")
def environment():
    """The environment of a user who named no folder and no backend."""
    unset = ("CIFAR100_DIR", "MPLBACKEND", "PYTEST_CURRENT_TEST")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    # Two notebooks on two cores are a fifth faster if neither takes both.
    return kept | {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}


def run(command, *, cwd, env):
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_quick_copy_passes_nbval(path, tmp_path, environment):
    """The stored outputs are those of the published run; what is checked must not depend on it."""
    folder = ROOT / "build" / "nbval"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": "quick"}
    trains = "run_name" in papermill.inspect_notebook(str(path))
    if trains:
        parameters["results_dir"] = str(tmp_path)
    copy = folder / path.name
    papermill.execute_notebook(
        path, copy, parameters, prepare_only=True, progress_bar=False, kernel_name="python3"
    )
    flags = "--nbval --nbval-current-env --nbval-cell-timeout 300 -x -q -p no:cacheprovider"
    checked = run(
        ["pytest", *flags.split(), "--nbval-kernel-startup-timeout", "120", copy],
        cwd=ROOT,
        env=environment,
    )
    assert checked.returncode == 0, checked.stdout[-6000:]
    records = [load_run(file.parent).record for file in tmp_path.glob("*/run.json")]
    assert [record["dataset"] for record in records] == ["synthetic"] * trains


def test_wrong_parameter_is_one_clear_error(tmp_path, environment):
    """Also where papermill runs from the root."""
    output = tmp_path / "out.ipynb"
    notebook = "notebooks/03_resnet.ipynb"
    done = run(["papermill", notebook, output, "-p", "epcohs", "3"], cwd=ROOT, env=environment)
    assert done.returncode != 0
    assert "epcohs is no parameter of this notebook: did you mean epochs?" in done.stderr
    errors = [
        out
        for cell in code_cells(nbformat.read(output, as_version=4))
        for out in cell.outputs
        if out.output_type == "error"
    ]
    assert len(errors) == 1 and len(errors[0].traceback) == 1
