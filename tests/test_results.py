import shutil
from pathlib import Path

import keras
import numpy as np
import papermill
import pytest

from cifar100_helpers import results
from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import difference_interval, evaluate, is_correct
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import (
    NO_BREAK,
    RecordedRun,
    choose_runs,
    compare_runs,
    describe_run,
    equal_cost_pairs,
    load_run,
    load_runs,
    runs_table,
    save_run,
    seed_table,
)
from cifar100_helpers.storage import places, project_path

pytestmark = pytest.mark.usefixtures("fresh_keras")

# Records

STATE = {
    "parameters": {"dataset": "synthetic", "seed": 0},
    "phases": [vars(Phase(2, 1e-3))],
    "history": {"epoch": [1, 2], "loss": [4.5, 4.25]},
    "phase_seconds": [12.345],
    "petaflops": 0.123456,
}
MARKED = np.arange(500) % 10 == 0


@pytest.fixture
def run_dir(synthetic, tmp_path, monkeypatch):
    """The folder of a record whose every tenth test image has a near-duplicate."""
    monkeypatch.setattr(results, "mark_near_duplicates", lambda cifar: MARKED)
    draw = np.random.default_rng(0).dirichlet
    validation = draw(np.ones(100), 30), np.arange(30)
    network, predicted = build_resnet((1,), width=2), draw(np.full(100, 0.1), 500)
    (tmp_path / "tiny").mkdir()
    save_run(tmp_path / "tiny", network, STATE, synthetic, predicted, validation)
    return tmp_path / "tiny"


def test_record_says_what_ran_and_comes_back(synthetic, run_dir):
    run = load_run(run_dir)
    expected = {name: STATE[name] for name in ("parameters", "phases", "history")}
    expected |= {"name": "tiny", "dataset": "synthetic", "model": "resnet", "parameter_count": 470}
    expected |= {"phase_seconds": [12.3], "petaflops": 0.1235}
    assert run.record | expected == run.record
    machine = run.record["machine"]
    assert machine["versions"]["keras"] == keras.__version__ and machine["device"]
    assert run.probabilities.shape == (500, 100) and run.probabilities.dtype == np.float32
    np.testing.assert_array_equal(run.labels, synthetic.y_test)
    np.testing.assert_array_equal(run.near_duplicate, MARKED)
    np.testing.assert_array_equal(run.validation_labels, np.arange(30))
    assert run.validation_probabilities.shape == (30, 100)
    of_the_stored = evaluate(run.probabilities, run.labels, synthetic.coarse_of_fine, MARKED)
    assert run.record["metrics"] == of_the_stored


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
def test_record_that_is_damaged_missing_or_outdated_is_one_sentence(run_dir, file):
    content = (run_dir / file).read_bytes()
    for damaged in (b"", b"[]", content[:-20], content.replace(content[100:164], bytes(64))):
        (run_dir / file).write_bytes(damaged)
        with pytest.raises(RunError, match=r"tiny is damaged: delete that folder\.$"):
            load_run(run_dir)
    (run_dir / file).unlink()
    with pytest.raises(RunError, match=rf"tiny holds no finished run \({file} is missing\): train"):
        load_run(run_dir)
    (run_dir / "run.json").write_text('{"schema": 2}')
    with pytest.raises(RunError, match="tiny is of another version: make it again"):
        load_run(run_dir)


def test_records_of_a_folder_have_the_names_of_their_folders(run_dir):
    shutil.copytree(run_dir, run_dir.parent / "copied")
    run_dir.rename(run_dir.parent / "renamed")
    (run_dir.parent / "no_run").mkdir()
    runs = load_runs(run_dir.parent)
    assert [run.name for run in runs] == ["copied", "renamed"]
    assert seed_table([run.record for run in runs]) == ""  # a copy is no other seed
    with pytest.raises(RunError, match=r"no_run holds no record of a run: run 03_resnet"):
        load_runs(run_dir.parent / "no_run")


def test_relative_folders_start_at_the_project_root(tmp_path, monkeypatch):
    """Outside of any project, at that of the package."""
    monkeypatch.chdir(tmp_path)
    assert project_path("runs") == Path(results.__file__).parents[1] / "runs"
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == tmp_path / "runs"
    assert places("runs") == [tmp_path / "notebooks" / "runs", tmp_path / "runs"]  # here first
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_path("~/runs") == tmp_path / "runs"


# Tables

METRICS = {
    "top1": 0.7038,
    "top1_interval": [0.6948, 0.7127],
    "top1_without_duplicates": 0.6899,
    "top5": 0.9218,
    "superclass_top1": 0.8119,
    "loss": 1.0971,
    "calibration_error": 0.0736,
}


def record(name="a", **changes):
    return {
        "name": name,
        "dataset": "cifar100",
        "model": "resnet",
        "parameter_count": 2_918_564,
        "parameters": {"seed": 0, "width": 32},
        "history": {"epoch": [1, 2, 3]},
        "metrics": METRICS,
        "phase_seconds": [3000.0, 540.0],
        "petaflops": 12.34,
        "machine": {"device": "AMD EPYC", "gpus": 0, "cores": 2, "backend": "tensorflow"},
    } | changes


def rows_of(table):
    heading, rule, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert rule == ["---", *["---:"] * (len(heading) - 1)]  # numbers on the right
    assert not any(" " in cell for row in rows for cell in row[1:])  # and in one line
    return [{h: c.replace(NO_BREAK, " ") for h, c in zip(heading, r, strict=True)} for r in rows]


def test_run_is_described_in_words_for_readers():
    assert describe_run(record()) == {
        "top-1": "70.38 % ± 0.9",
        "without near-duplicates": "68.99 %",
        "top-5": "92.18 %",
        "superclass": "81.19 %",
        "loss": "1.097",
        "calibration error": "7.36 %",
        "parameters": "2,918,564",
        "epochs": "3",
        "minutes": "59",
        "PFLOPs": "12.3",
        "device": "AMD EPYC, 2 cores",
        "backend": "tensorflow",
        "data set": "cifar100",
    }
    machine = {"device": "NVIDIA H100", "gpus": 4, "cores": 16, "backend": "jax"}
    assert describe_run(record(machine=machine))["device"] == "4 × NVIDIA H100"


def test_published_figures_stand_beside_real_runs_alone():
    columns = ("top-1", "epochs", "parameters", "PFLOPs", "loss")
    table = runs_table([record("mine")], columns)
    assert [list(row.values()) for row in rows_of(table)] == [
        ["resnet, published figure", "65.49 %", "26", "46,203,236", "53.9", "–"],
        ["xception, published figure", "72.93 %", "45", "21,961,868", "13.1", "–"],
        ["mine", "70.38 % ± 0.9", "3", "2,918,564", "12.3", "1.097"],
    ]
    (row,) = rows_of(runs_table([record("drawn", dataset="synthetic")], ("data set",)))
    assert row == {"run": "drawn", "data set": "synthetic, seed 0"}


def seeded(name, seed, top1, **changes):
    settings = {"seed": seed, "width": 32}
    return record(name, parameters=settings, metrics=METRICS | {"top1": top1}, **changes)


def test_runs_that_differ_in_their_seed_alone_are_summarised():
    top1 = [0.70, 0.71, 0.74]
    runs = [seeded(f"run{seed}", seed, value) for seed, value in enumerate(top1)]
    others = [
        seeded("xception", 3, 0.7, model="xception"),
        record("narrow", parameters={"seed": 4, "width": 8}),
        # Each seed draws other images, so their spread would be over data sets.
        *(seeded(f"drawn{seed}", seed, 0.5, dataset="synthetic") for seed in (0, 1)),
    ]
    (row,) = rows_of(seed_table([*runs, *others]))
    assert row["runs"] == "run0, run1, run2" and row["seeds"] == "3"
    assert row["top-1, mean"] == f"{100 * np.mean(top1):.2f} %"
    assert row["spread"] == f"{100 * np.std(top1, ddof=1):.2f}"
    assert seed_table(others) == ""


# Which runs are compared, and in what words

LABELS = np.tile(np.arange(10), 40)


def recorded(name, model="resnet", top1=0.5, petaflops=1.0, *, validation=1, seed=0, **changes):
    wrong = np.arange(400) >= 400 * top1
    probabilities = np.eye(10)[(LABELS + wrong) % 10]
    kept = {"metrics": METRICS | {"top1": top1}, "parameters": {"seed": seed}}
    described = record(name, model=model, petaflops=petaflops, **kept) | changes
    arrays = probabilities, LABELS, LABELS < 0, probabilities[:validation], LABELS[:validation]
    return RecordedRun(described, *arrays)


def names_of(pair):
    return [run.name for run in pair]


def test_longest_trained_pair_of_about_equal_cost_is_compared():
    """Accuracy picks nothing."""
    runs = [
        recorded("dear", "resnet", 0.9, 50),
        recorded("short", "resnet", 0.8, 0.7),
        recorded("fit", "resnet", 0.5, 0.75),
        recorded("cheap", "xception", 0.6, 0.8),
        recorded("mid", "xception", 0.7, 4),
    ]
    large = [recorded("big", "resnet", 0.8, 10), recorded("large", "xception", 0.9, 11)]
    unvalidated = [recorded(run.name, run.record["model"], 0.9, 10, validation=0) for run in large]
    for among, first, second, chosen in (
        (runs, "", "", ["fit", "cheap"]),
        (runs, "short", "", ["short", "cheap"]),
        (runs, "", "mid", ["fit", "mid"]),  # the nearest cost
        (runs, "dear", "short", ["dear", "short"]),
        (runs[:3], "", "", ["short", "fit"]),  # no Xception: two of one kind
        (runs + large, "", "", ["big", "large"]),
        (runs + unvalidated, "", "", ["fit", "cheap"]),
    ):
        assert names_of(choose_runs(among, first, second)) == chosen
    pairs = [names_of(pair) for pair in equal_cost_pairs(runs + large)]
    assert pairs == [["fit", "cheap"], ["big", "large"]]


def test_of_two_that_suit_equally_all_of_the_comparison_takes_the_same():
    """Two ResNets that differ in their optimizer alone."""
    runs = [recorded("muon"), recorded("sgd"), recorded("x", "xception")]
    runs[1].record["parameters"] = {**runs[1].record["parameters"], "optimizer": "sgd"}
    assert names_of(choose_runs(runs)) == names_of(*equal_cost_pairs(runs)) == ["muon", "x"]


def test_first_of_several_seeds_is_compared_not_the_best():
    seeds = [recorded(f"r{seed}", top1=0.5 + seed / 10, seed=seed) for seed in (0, 1, 2)]
    xception = recorded("x", "xception", 0.9)
    assert names_of(choose_runs([*seeds, xception])) == ["r0", "x"]
    assert names_of(choose_runs([*seeds, xception], first="r2")) == ["r2", "x"]
    assert [names_of(pair) for pair in equal_cost_pairs([*seeds, xception])] == [["r0", "x"]]
    assert names_of(choose_runs(seeds)) == ["r0", "r1"]


def test_pair_that_cannot_be_compared_is_one_sentence():
    drawn = {"dataset": "synthetic"}  # each seed draws other images
    runs = [
        recorded("r0", seed=0, **drawn),
        recorded("r1", seed=1, **drawn),
        recorded("x1", "xception", petaflops=9.0, seed=1, **drawn),
    ]
    assert names_of(choose_runs(runs)) == ["r1", "x1"]
    for first, second in (("r0", "x1"), ("r1", "r1"), ("r0", "")):
        with pytest.raises(RunError, match=f"{first} and {second or 'another'} cannot be compared"):
            choose_runs(runs, first, second)
    with pytest.raises(RunError, match="no run other among the records: there are r0, r1, x1"):
        choose_runs(runs, second="other")
    assert equal_cost_pairs(runs) == []


def test_comparison_names_its_cost():
    pair = recorded("a", top1=0.5), recorded("b", top1=0.6, petaflops=1.2)
    equal, (_, low, high) = compare_runs(*pair), difference_interval(*map(is_correct, pair))
    interval = f"({100 * low:.2f} to {100 * high:.2f})"
    assert equal.startswith(f"b is better than a by 10.00 points of top-1 {interval},")
    assert equal.endswith("for 1.2 against 1 PFLOP of training.")
    unequal = compare_runs(recorded("a", top1=0.5025, petaflops=50.0), recorded("b", petaflops=4.0))
    assert "no difference is shown: 0.25 points of top-1 may be chance" in unequal
    assert unequal.endswith("for 50 against 4 PFLOP of training: a took 12 times the operations.")


def test_notebook_compares_runs_that_agree_on_nothing_and_find_nothing(synthetic, tmp_path):
    """Empty groups are sentences there: no NaN, and no warning."""
    for shift, name in enumerate(("resnet", "xception"), start=1):
        wrong = np.eye(100)[(synthetic.y_test + shift) % 100]
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name=name)
        (tmp_path / f"{name}_quick").mkdir()
        save_run(tmp_path / f"{name}_quick", model, STATE, synthetic, wrong)
    notebook = Path(__file__).parent.parent / "notebooks" / "05_compare.ipynb"
    parameters = {"results_dir": str(tmp_path), "galleries": False}
    options = {"cwd": notebook.parent, "progress_bar": False, "kernel_name": "python3"}
    executed = papermill.execute_notebook(notebook, tmp_path / "out.ipynb", parameters, **options)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert not [out.text for out in outputs if out.get("name") == "stderr"]
    shown = "".join(out.get("text", "") + str(out.get("data", "")) for out in outputs)
    assert " nan" not in shown and "for none" in shown
    assert "no difference is shown" in shown and "no validation images" in shown
