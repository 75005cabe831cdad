import numpy as np
import pytest

from cifar100_helpers.tables import README_COLUMNS, describe_run, runs_table, seed_table

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
        "device": "AMD EPYC, 2 cores",
        "data set": "cifar100",
    }


def test_a_graphics_card_stands_without_cores():
    machine = {"device": "NVIDIA H100", "gpus": 1, "cores": 16}
    assert describe_run(record(machine=machine))["device"] == "NVIDIA H100"
    assert describe_run(record(machine=machine | {"gpus": 4}))["device"] == "4 × NVIDIA H100"


def test_published_figures_stand_beside_the_runs():
    columns = ("top-1", "epochs", "parameters", "loss")
    rows = rows_of(runs_table([record("mine")], columns))
    assert [row["run"] for row in rows] == ["resnet, published", "xception, published", "mine"]
    assert list(rows[0].values())[1:] == ["65.49 %", "26", "46,203,236", "–"]
    assert list(rows[1].values())[1:] == ["72.93 %", "45", "21,961,868", "–"]
    assert list(rows[2].values())[1:] == ["70.38 % ± 0.9", "3", "2,918,564", "1.097"]


def test_every_column_of_the_readme_is_known():
    row = rows_of(runs_table([record()], README_COLUMNS))[-1]
    assert "–" not in row.values()


def test_synthetic_runs_stand_alone():
    synthetic = record("made_up", dataset="synthetic")
    table = runs_table([synthetic], ("top-1", "data set"))
    assert [row["data set"] for row in rows_of(table)] == ["synthetic"]
    with pytest.raises(ValueError, match="do not belong"):
        runs_table([record(), synthetic], ("top-1",))


def test_what_was_not_measured_is_a_dash():
    unmeasured = METRICS | {"top1_without_duplicates": None}
    assert describe_run(record(metrics=unmeasured))["without near-duplicates"] == "–"


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
