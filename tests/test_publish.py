import runpy
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from cifar100_helpers.results import load_run

ROOT = Path(__file__).parent.parent
PUBLISH = runpy.run_path(str(ROOT / "scripts" / "publish.py"))
TINY = {"train_limit": 200, "batch_size": 40, "epochs": 2, "num_blocks": [1], "width": 2, "seed": 1}


@pytest.fixture
def project(tmp_path):
    """A copy of what the script reads and writes."""
    for name in ("notebooks", "scripts", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.keras"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*.*") if file.suffix != ".png"}


def test_run_leaves_record_and_notebook_and_changes_nothing_committed(project, monkeypatch):
    """It is a rehearsal, and not the run of the parameters cell."""
    before = contents(project)
    changes = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    monkeypatch.setattr(sys, "argv", ["publish.py", "03_resnet", "quick", *changes])
    runpy.run_path(str(project / "scripts" / "publish.py"), run_name="__main__")
    after = contents(project)
    assert {file: after[file] for file in before} == before
    record = load_run(project / "build/published/resnet_quick").record
    assert len(record["history"]["epoch"]) == 2 and record["dataset"] == "synthetic"
    assert TINY.items() <= record["parameters"].items()

    executed = (project / "build/published/resnet_quick.ipynb").read_text()
    assert "epoch 2/2" in executed
    for trace in (str(project), '"name": "stderr"', "papermill", "injected-parameters"):
        assert trace not in executed
    stored = nbformat.reads((project / "notebooks/03_resnet.ipynb").read_text(), as_version=4)
    executed = nbformat.reads(executed, as_version=4)
    assert executed.metadata.keys() == stored.metadata.keys()
    for ours, theirs in zip(executed.cells, stored.cells, strict=True):
        for part in ("source", "metadata", "execution_count"):
            assert ours.get(part) == theirs.get(part)
        for out in ours.get("outputs", ()):
            assert out.get("execution_count", ours.execution_count) == ours.execution_count


@pytest.mark.parametrize("with_model", [True, False])
def test_published_record_is_whole_and_has_its_model_if_asked(tmp_path, with_model):
    source = sorted((ROOT / "results").glob("*/run.json"))[0].parent
    run_dir, published = tmp_path / source.name, tmp_path / "results" / source.name
    shutil.copytree(source, run_dir)
    (run_dir / "model.keras").write_bytes(b"of this run")
    published.mkdir(parents=True)
    (published / "model.keras").write_bytes(b"of an earlier run")

    PUBLISH["publish_record"](run_dir, published, with_model=with_model)
    assert load_run(published).record == load_run(run_dir).record
    copies = [file.read_bytes() for file in published.glob("*.keras")]
    assert copies == [b"of this run"] * with_model

    (run_dir / "model.keras").unlink()
    if with_model:
        with pytest.raises(PUBLISH["RunError"], match=r"no model\.keras: publish it without"):
            PUBLISH["publish_record"](run_dir, published, with_model=True)
        assert (published / "model.keras").exists()


def test_readme_shows_the_table_of_the_committed_records():
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- results -->\n")[2].partition("\n<!-- end of results -->")[0]
    assert shown == PUBLISH["readme_table"]()
