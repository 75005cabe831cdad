import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from cifar100_helpers import results
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import evaluate
from cifar100_helpers.inference import predict
from cifar100_helpers.recipes import Phase, compile_phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import (
    describe_run,
    load_run,
    load_runs,
    project_path,
    runs_table,
    save_run,
    seed_table,
)
from cifar100_helpers.training import ShuffledBatches

pytestmark = pytest.mark.usefixtures("fresh_keras")

# The trained network

PLAIN_KERAS = """
import sys
sys.modules["cifar100_helpers"] = None  # to import it fails
import keras, numpy as np
network = keras.saving.load_model("model.keras")
np.save("plain.npy", network.predict(np.load("images.npy"), verbose=0))
"""


def probabilities_of_plain_keras(run_dir, images):
    """What a process without this package reads from `run_dir`/model.keras for `images`."""
    np.save(run_dir / "images.npy", images)
    command = [sys.executable, "-c", PLAIN_KERAS]
    done = subprocess.run(command, cwd=run_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(run_dir / "plain.npy")


@pytest.mark.every_backend
def test_plain_keras_opens_what_was_trained(synthetic, tmp_path, capsys):
    model = build_resnet((1, 1), width=2, augmentation=RandomTransforms())
    compile_phase(model, Phase(1, 0.5, optimizer="sgd"), steps_per_epoch=1)
    x, y = synthetic.x_train[:16], synthetic.y_train[:16]
    model.fit(ShuffledBatches(x, y, 16, 0, classes=100), verbose=0)
    kernel, bias = model.get_layer("probabilities").get_weights()
    model.get_layer("probabilities").set_weights([100 * kernel, bias])  # or all look the same

    run = results.finish_run(tmp_path, model, STATE, synthetic, validation=(x, y))
    size = (tmp_path / "model.keras").stat().st_size
    assert f"model.keras, {size / 1e6:.1f} MB" in capsys.readouterr().out
    plain = probabilities_of_plain_keras(tmp_path, np.concatenate([synthetic.x_test, x]))
    recorded = np.concatenate([run.probabilities, run.validation_probabilities])
    np.testing.assert_allclose(plain, recorded, rtol=2**-10, atol=1e-6)
    assert plain.std(axis=0).max() > 1e-3, "all look the same"
    np.testing.assert_allclose(plain[-16:], predict(model, x), atol=1e-6)


def test_network_of_mixed_precision_is_saved_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_resnet((1,), width=2)
    results.save_network(model, tmp_path)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in loaded.layers[1:]} == {"float32"}
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
    assert [run.record["name"] for run in load_runs(run_dir.parent)] == ["tiny"]
    with pytest.raises(RunError, match=r"no_run holds no record of a run: run 03_resnet"):
        load_runs(run_dir.parent / "no_run")


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
    assert len(rule) == len(heading) and set(rule) == {"---"}
    return [dict(zip(heading, row, strict=True)) for row in rows]


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
        "PFLOPs": "12",
        "device": "AMD EPYC, 2 cores",
        "data set": "cifar100",
    }


def test_graphics_cards_are_counted_and_stand_without_cores():
    machine = {"device": "NVIDIA H100", "gpus": 1, "cores": 16}
    assert describe_run(record(machine=machine))["device"] == "NVIDIA H100"
    assert describe_run(record(machine=machine | {"gpus": 4}))["device"] == "4 × NVIDIA H100"


def test_published_figures_stand_beside_real_runs_alone():
    columns = ("top-1", "epochs", "parameters", "loss")
    table = runs_table([record("mine")], columns)
    assert [list(row.values()) for row in rows_of(table)] == [
        ["resnet, published", "65.49 %", "26", "46,203,236", "–"],
        ["xception, published", "72.93 %", "45", "21,961,868", "–"],
        ["mine", "70.38 % ± 0.9", "3", "2,918,564", "1.097"],
    ]
    (row,) = rows_of(runs_table([record("drawn", dataset="synthetic")], ("data set",)))
    assert row == {"run": "drawn", "data set": "synthetic"}


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
