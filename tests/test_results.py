import json
import shutil
from pathlib import Path

import keras
import numpy as np
import papermill
import pytest

from cifar100_helpers import results
from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import evaluate
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
    published_runs,
    runs_table,
    save_run,
    seed_table,
)
from cifar100_helpers.storage import project_path

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
    save_run(tmp_path / "tiny", network, STATE, synthetic, predicted, validation)
    return tmp_path / "tiny"


def test_record_says_what_ran_and_comes_back(synthetic, run_dir):
    run = load_run(run_dir)
    for name in ("parameters", "phases", "history"):
        assert run.record[name] == STATE[name]
    assert (run.record["name"], run.record["dataset"]) == ("tiny", "synthetic")
    assert (run.record["model"], run.record["parameter_count"]) == ("resnet", 470)
    assert (run.record["phase_seconds"], run.record["petaflops"]) == ([12.3], 0.1235)
    assert {"device", "gpus", "cores", "backend", "versions"} == run.record["machine"].keys()
    assert run.probabilities.shape == (500, 100) and run.probabilities.dtype == np.float32
    np.testing.assert_array_equal(run.labels, synthetic.y_test)
    np.testing.assert_array_equal(run.near_duplicate, MARKED)
    np.testing.assert_array_equal(run.validation_labels, np.arange(30))
    assert run.validation_probabilities.shape == (30, 100)
    of_the_stored = evaluate(run.probabilities, run.labels, synthetic.coarse_of_fine, MARKED)
    assert run.record["metrics"] == of_the_stored


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
def test_file_that_is_missing_or_damaged_is_one_sentence(run_dir, file):
    content = (run_dir / file).read_bytes()
    middle = len(content) // 2
    zeros = content[:middle] + bytes(64) + content[middle + 64 :]
    for damaged in (b"", b"[]", content[:middle], content[:-20], zeros):
        (run_dir / file).write_bytes(damaged)
        with pytest.raises(RunError, match=r"tiny is damaged: delete that folder\.$"):
            load_run(run_dir)
    (run_dir / file).unlink()
    with pytest.raises(RunError, match=f"tiny holds no finished run: {file} is missing"):
        load_run(run_dir)


def test_record_of_another_version_is_one_sentence(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(record | {"schema": 2}))
    with pytest.raises(RunError, match="tiny is of another version: make it again"):
        load_run(run_dir)


def test_all_records_of_a_folder_are_read(run_dir):
    (run_dir.parent / "no_run").mkdir()
    assert [run.name for run in load_runs(run_dir.parent)] == ["tiny"]
    with pytest.raises(RunError, match=r"no_run holds no record of a run: run 03_resnet"):
        load_runs(run_dir.parent / "no_run")


def test_folder_that_was_copied_and_renamed_gives_its_run_the_name(run_dir):
    shutil.copytree(run_dir, run_dir.parent / "copied")
    run_dir.rename(run_dir.parent / "renamed")
    runs = load_runs(run_dir.parent)
    assert [run.name for run in runs] == ["copied", "renamed"]
    table = runs_table([run.record for run in runs], ("top-1",))
    assert "| copied |" in table and "| renamed |" in table
    assert seed_table([run.record for run in runs]) == ""  # a copy is no other seed


def test_relative_folders_start_at_the_project_root(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == tmp_path / "runs"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_path("~/runs") == project_path(str(tmp_path / "runs")) == tmp_path / "runs"


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
        "machine": {"device": "AMD EPYC", "gpus": 0, "cores": 2},
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
        "data set": "cifar100",
    }


def test_graphics_cards_are_counted_and_stand_without_cores():
    machine = {"device": "NVIDIA H100", "gpus": 1, "cores": 16}
    assert describe_run(record(machine=machine))["device"] == "NVIDIA H100"
    assert describe_run(record(machine=machine | {"gpus": 4}))["device"] == "4 × NVIDIA H100"


def test_published_figures_stand_beside_real_runs_alone():
    columns = ("top-1", "epochs", "parameters", "PFLOPs", "loss")
    table = runs_table([record("mine")], columns)
    assert [list(row.values()) for row in rows_of(table)] == [
        ["resnet, published", "65.49 %", "26", "46,203,236", "53.9", "–"],
        ["xception, published", "72.93 %", "45", "21,961,868", "13.1", "–"],
        ["mine", "70.38 % ± 0.9", "3", "2,918,564", "12.3", "1.097"],
    ]
    (row,) = rows_of(runs_table([record("drawn", dataset="synthetic")], ("data set",)))
    assert row == {"run": "drawn", "data set": "synthetic, seed 0"}


def seeded(name, seed, top1, **changes):
    settings = {"seed": seed, "width": 32}
    return record(name, parameters=settings, metrics=METRICS | {"top1": top1}, **changes)


def test_seeds_are_summarised_by_mean_and_spread():
    top1 = [0.70, 0.71, 0.74]
    runs = [seeded(f"run{seed}", seed, value) for seed, value in enumerate(top1)]
    (row,) = rows_of(seed_table([*runs, record("other", parameters={"seed": 0, "width": 8})]))
    assert row["runs"] == "run0, run1, run2" and row["seeds"] == "3"
    assert row["top-1, mean"] == f"{100 * np.mean(top1):.2f} %"
    assert row["spread"] == f"{100 * np.std(top1, ddof=1):.2f}"


def test_runs_that_differ_otherwise_are_no_seeds_of_each_other():
    other_model = seeded("b", 1, 0.7, model="xception")
    other_width = record("c", parameters={"seed": 1, "width": 8})
    same_seed = seeded("d", 0, 0.7)
    assert seed_table([seeded("a", 0, 0.7), other_model, other_width, same_seed]) == ""


def test_seeds_of_synthetic_data_are_no_seeds_of_each_other():
    """Each draws other images, so their spread would be over data sets."""
    runs = [seeded(f"s{seed}", seed, 0.5, dataset="synthetic") for seed in (0, 1)]
    assert seed_table(runs) == ""


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


def test_best_pair_of_about_equal_cost_is_compared():
    runs = [
        recorded("dear", "resnet", 0.9, 50),
        recorded("weak", "resnet", 0.4, 0.7),
        recorded("fit", "resnet", 0.5, 0.75),
        recorded("cheap", "xception", 0.6, 0.8),
        recorded("mid", "xception", 0.7, 4),
    ]
    assert names_of(choose_runs(runs)) == ["fit", "cheap"]
    assert names_of(choose_runs(runs, "weak")) == ["weak", "cheap"]
    assert names_of(choose_runs(runs, second="mid")) == ["fit", "mid"]  # the nearest cost
    assert names_of(choose_runs(runs, "dear", "weak")) == ["dear", "weak"]
    assert names_of(choose_runs(runs[:3])) == ["weak", "fit"]  # no Xception: two of one kind
    large = [recorded("big", "resnet", 0.8, 10), recorded("large", "xception", 0.9, 11)]
    assert names_of(choose_runs(runs + large)) == ["big", "large"]
    pairs = [names_of(pair) for pair in equal_cost_pairs(runs + large)]
    assert pairs == [["fit", "cheap"], ["big", "large"]]
    unvalidated = [recorded(run.name, run.record["model"], 0.9, 10, validation=0) for run in large]
    assert names_of(choose_runs(runs + unvalidated)) == ["fit", "cheap"]


def test_synthetic_runs_of_other_seeds_are_not_compared():
    drawn = {"dataset": "synthetic"}
    runs = [
        recorded("r0", seed=0, **drawn),
        recorded("r1", seed=1, **drawn),
        recorded("x1", "xception", petaflops=9.0, seed=1, **drawn),
    ]
    assert names_of(choose_runs(runs)) == ["r1", "x1"]
    assert equal_cost_pairs([runs[0], recorded("x2", "xception", seed=2, **drawn)]) == []
    with pytest.raises(RunError, match="r0 and x1 did not predict the same images"):
        choose_runs(runs, "r0", "x1")


def test_pair_that_cannot_be_compared_is_one_sentence():
    runs = [recorded("a"), recorded("b", dataset="synthetic")]
    with pytest.raises(RunError, match="There is no run other among the records: there are a, b"):
        choose_runs(runs, second="other")
    for first, second, among in (("a", "a", runs), ("", "", runs[:1])):
        with pytest.raises(RunError, match="a cannot be compared with itself"):
            choose_runs(among, first, second)
    with pytest.raises(RunError, match="Any run and another did not predict the same images"):
        choose_runs(runs)


def test_comparison_names_its_cost():
    equal = compare_runs(recorded("a", top1=0.5), recorded("b", top1=0.6, petaflops=1.2))
    assert equal.startswith("b is better than a by 10.00 points of top-1 (7.")
    assert equal.endswith("for 1.2 against 1 PFLOP of training.")
    unequal = compare_runs(recorded("a", top1=0.6, petaflops=50.0), recorded("b", petaflops=4.0))
    assert unequal.startswith("a is better than b")
    assert unequal.endswith("for 50 against 4 PFLOP of training: one cost 12 times the other.")
    chance = compare_runs(recorded("a"), recorded("b", top1=0.5025))
    assert "no difference is shown: 0.25 points of top-1 may be chance" in chance
    assert chance.endswith("for 1 against 1 PFLOP of training.")


def test_published_pair_is_found_by_its_names():
    runs = [recorded("resnet_laptop"), recorded("resnet_published")]
    assert {model: run.name for model, run in published_runs(runs).items()} == {
        "resnet": "resnet_published"
    }
    pair = published_runs([*runs, recorded("xception_published", "xception")])
    assert list(pair) == ["resnet", "xception"]


def test_notebook_compares_runs_that_agree_on_nothing_and_find_nothing(synthetic, tmp_path):
    """Empty groups are sentences there: no NaN, and no warning."""
    for shift, name in enumerate(("resnet", "xception"), start=1):
        wrong = np.eye(100)[(synthetic.y_test + shift) % 100]
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name=name)
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
