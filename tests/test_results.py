import json
from pathlib import Path

import numpy as np
import pytest

from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import evaluate
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import load_run, project_path, results_table, save_run

COARSE = np.arange(100) // 5
STATE = {
    "parameters": {"dataset": "synthetic", "seed": 0},
    "history": {"epoch": [1, 2], "loss": [4.5, 4.25]},
    "phase_seconds": [12.345],
}


@pytest.fixture
def run_dir(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_run(
        folder,
        model=build_resnet((1,), width=2),
        state=STATE,
        phases=(Phase(2, 1e-3),),
        probabilities=rng.dirichlet(np.full(100, 0.1), 200).astype("float32"),
        labels=rng.integers(0, 100, 200),
        coarse_of_fine=COARSE,
    )
    return folder


def test_record_says_what_ran_and_comes_back(run_dir):
    run = load_run(run_dir)
    assert run.record["name"] == "tiny"
    assert run.record["dataset"] == "synthetic"
    assert run.record["model"] == "resnet"
    assert run.record["parameter_count"] == build_resnet((1,), width=2).count_params()
    assert run.record["history"] == STATE["history"]
    assert run.record["phases"][0]["learning_rate"] == 1e-3
    assert run.record["phase_seconds"] == [12.3]
    assert {"device", "backend", "versions"} <= run.record["machine"].keys()
    assert run.probabilities.shape == (200, 100) and run.labels.shape == (200,)


def test_metrics_are_those_of_the_stored_predictions(run_dir):
    run = load_run(run_dir)
    assert evaluate(run.probabilities, run.labels, COARSE) == run.record["metrics"]


def test_nothing_unfinished_is_left(run_dir):
    assert sorted(file.name for file in run_dir.iterdir()) == ["predictions.npz", "run.json"]


def test_record_holds_no_path(run_dir):
    assert str(run_dir.parent) not in (run_dir / "run.json").read_text()


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
def test_missing_file_is_named(run_dir, file):
    (run_dir / file).unlink()
    with pytest.raises(RunError, match=file):
        load_run(run_dir)


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_truncated_file_is_one_sentence(run_dir, file, kept):
    content = (run_dir / file).read_bytes()
    (run_dir / file).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(RunError, match="tiny"):
        load_run(run_dir)


def test_pickled_predictions_are_not_loaded(run_dir):
    np.savez(run_dir / "predictions.npz", probabilities=np.array([{}]), labels=np.arange(1))
    with pytest.raises(RunError, match="tiny"):
        load_run(run_dir)


def rewrite(run_dir, **changes):
    record = json.loads((run_dir / "run.json").read_text())
    record |= changes
    record = {key: value for key, value in record.items() if value is not None}
    (run_dir / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 2}, "schema"),
        ({"metrics": None}, "metrics"),
        ({"phase_seconds": "long"}, "phase_seconds"),
        ({"name": "other"}, "other"),
    ],
)
def test_unsound_record_is_one_sentence(run_dir, changes, problem):
    rewrite(run_dir, **changes)
    with pytest.raises(RunError, match=problem):
        load_run(run_dir)


def repack(run_dir, **changes):
    with np.load(run_dir / "predictions.npz") as arrays:
        np.savez(run_dir / "predictions.npz", **{**arrays, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": np.arange(7)}, "differ in number"),
        ({"probabilities": np.full((200, 100), np.nan)}, "finite"),
        ({"probabilities": np.full((200, 100), 0.5)}, "sum to 1"),
        ({"probabilities": np.ones(200)}, "table"),
    ],
)
def test_unsound_predictions_are_one_sentence(run_dir, changes, problem):
    repack(run_dir, **changes)
    with pytest.raises(RunError, match=problem):
        load_run(run_dir)


def test_relative_folders_start_at_the_project_root(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == tmp_path / "runs"
    assert project_path(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def test_readme_shows_the_table_of_the_committed_records():
    root = Path(__file__).parent.parent
    readme = (root / "README.md").read_text()
    shown = readme.partition("<!-- results -->\n")[2].partition("\n<!-- end of results -->")[0]
    assert shown == results_table(root / "results")


def test_table_leaves_synthetic_runs_out(run_dir):
    without = results_table(run_dir.parent)
    assert "tiny" not in without and "65.49 %" in without
    rewrite(run_dir, dataset="cifar100")
    top1 = load_run(run_dir).record["metrics"]["top1"]
    assert f"| tiny | {100 * top1:.2f} % ± " in results_table(run_dir.parent)
