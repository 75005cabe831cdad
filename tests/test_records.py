"""The committed records: sound, of real data, their numbers those of their predictions."""

import functools
import importlib
import json
import math
import re
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest

from cifar100_helpers.data import COARSE_OF_FINE, FINE_NAMES, near_duplicates
from cifar100_helpers.evaluation import evaluate
from cifar100_helpers.explain import load_pictures
from cifar100_helpers.parameters import load_profile
from cifar100_helpers.recipes import Phase, resnet_phases, xception_phases
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import (
    PUBLISHED,
    load_run,
    mean_and_spread,
    seed_groups,
)

ROOT = Path(__file__).parent.parent
RECORDS = sorted(file.parent for file in (ROOT / "results").glob("*/run.json"))
ALL = RECORDS + sorted(file.parent for file in (ROOT / "results/variants").glob("*/run.json"))
VARIANTS = {  # a record that no profile makes: the nearest profile, and what differs
    "xception_frozen_statistics": ("published", {"freeze_statistics": True, "batch_size": 128}),
    "xception_half_hour_scratch": ("half_hour", {"freeze_statistics": False, "weights": "none"}),
}
MODELS = sorted((ROOT / "results").glob("*/model.keras"))


def test_there_are_records_and_a_small_trained_model():
    assert RECORDS and MODELS
    assert all(file.stat().st_size < 12_500_000 for file in MODELS)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.parent.name)
def test_trained_model_knows_a_motorcycle(file):
    _, motorcycle = load_pictures()["motorcycle"]
    likeliest = keras.saving.load_model(file).predict(motorcycle[None], verbose=0)[0].argmax()
    assert FINE_NAMES[likeliest] == "motorcycle"


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.parent.name)
def test_trained_model_predicts_what_its_record_holds(file, real_data):
    run = load_run(file.parent)
    np.testing.assert_array_equal(run.labels, real_data.y_test)
    # Every fifth image; as stored, in float16. Processors differ in the last digits.
    probabilities = keras.saving.load_model(file).predict(real_data.x_test[::5], verbose=0)
    np.testing.assert_allclose(probabilities, run.probabilities[::5], atol=2e-3)


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_record_is_of_real_data_and_its_metrics_follow_from_its_predictions(folder):
    run = load_run(folder)
    assert run.record["dataset"] == "cifar100"
    assert len(run.validation_labels) == run.record["parameters"]["validation_size"]
    assert not re.search(r'"/\w+/', (folder / "run.json").read_text())  # no machine path
    np.testing.assert_array_equal(np.bincount(run.labels), np.full(100, 100))
    metrics = evaluate(run.probabilities, run.labels, COARSE_OF_FINE, run.near_duplicate)
    assert metrics.keys() == run.record["metrics"].keys()
    for name, value in metrics.items():  # machines differ in the last digit of a sum
        assert run.record["metrics"][name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_record_is_of_todays_profile_and_recipe(folder):
    record = load_run(folder).record
    parameters = record["parameters"]
    phases_of, *counts = {
        "resnet": (resnet_phases, "epochs"),
        "xception": (xception_phases, "frozen_epochs", "finetune_epochs"),
    }[record["model"]]
    epochs = [parameters[count] for count in counts]
    phases = phases_of(parameters["recipe"], *epochs, changes=parameters["recipe_changes"])
    assert [Phase(**phase) for phase in record["phases"]] == list(phases)
    notebook = {"resnet": "03_resnet", "xception": "04_xception"}[record["model"]]
    run = folder.name.partition("_seed")[0]
    profile, changes = VARIANTS.get(run, (run.removeprefix(f"{record['model']}_"), {}))
    settings = load_profile(profile, notebook) | changes
    for name in parameters.keys() - {"precision", "seed"}:  # the machine decides what is "auto"
        assert parameters[name] == settings[name], name
    if record["model"] == "resnet":
        counted = resnet_parameters(*parameters["num_blocks"], width=parameters["width"])
        assert counted == record["parameter_count"]


@functools.cache
def resnet_parameters(*num_blocks, width):
    return build_resnet(num_blocks, width).count_params()


def test_accuracies_in_words_are_those_of_records():
    runs = [load_run(folder) for folder in ALL]
    groups = seed_groups([run.record for run in runs])
    known = [*(run.top1 for run in runs), *(mean_and_spread(group)[0] for group in groups)]
    known = [100 * top1 for top1 in [*known, *(run["top1"] for run in PUBLISHED)]]
    known = {f"{top1:.{digits}f}" for top1 in known for digits in (1, 2)}
    profiles = (ROOT / "notebooks/profiles").glob("*.yaml")
    texts = [file.read_text() for file in (ROOT / "README.md", *profiles)]
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(file, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    said = re.findall(r"(\d\d\.\d+) %", "\n".join(texts))
    assert len(said) > 20 and set(said) <= known


def test_published_figures_stand_beside_the_arithmetic_of_their_recipes_here():
    for figures in PUBLISHED:
        record = load_run(ROOT / "results" / f"{figures['model']}_published").record
        assert f"{record['petaflops']:.3g}" == f"{figures['PFLOPs']}"


def minutes(*names):
    return sum(sum(load_run(ROOT / "results" / n).record["phase_seconds"]) for n in names) / 60


def points_by_variants(more, fewer):
    accuracies = json.loads((ROOT / "results/copies.json").read_text())["accuracies"]
    return 100 * np.subtract(*(np.mean(list(accuracies[n].values())) for n in (more, fewer)))


def times(dearer, cheaper):
    costs = [load_run(ROOT / "results" / n).record["petaflops"] for n in (dearer, cheaper)]
    return costs[0] / costs[1]


@pytest.mark.parametrize(
    ("file", "words", "number", "of_records"),
    [
        ("README.md", "79.73 % in three minutes", 3, lambda: minutes("resnet_modern")),
        ("README.md", "87.32 % in five", 5, lambda: minutes("xception_large")),
        (
            "README.md",
            "both published figures within the hour",
            1,
            lambda: math.ceil(minutes("resnet_half_hour", "xception_half_hour") / 60),
        ),
        ("02_augment", "already gains ten points", 10, lambda: points_by_variants("2", "1")),
        ("02_augment", "recognises ten points more", 10, lambda: points_by_variants("2", "1")),
        ("03_resnet", "for a fifth", 5, lambda: times("resnet_published", "resnet_modern")),
        ("03_resnet", "4 minutes on an H200", 4, lambda: minutes("resnet_published")),
        ("04_xception", "20 minutes on an H200", 20, lambda: minutes("xception_published")),
        ("04_xception", "a nineteenth", 19, lambda: times("xception_published", "xception_laptop")),
        ("04_xception", "in five minutes", 5, lambda: minutes("xception_large")),
    ],
)
def test_minutes_and_ratios_in_words_are_those_of_records(file, words, number, of_records):
    path = ROOT / file if file == "README.md" else ROOT / "notebooks" / f"{file}.ipynb"
    assert words in path.read_text() and round(of_records()) == number


def test_records_agree_on_the_test_images():
    first, *others = map(load_run, ALL)
    listed = np.unique(near_duplicates()["test_index"])
    np.testing.assert_array_equal(np.flatnonzero(first.near_duplicate), listed)
    for other in others:
        np.testing.assert_array_equal(other.labels, first.labels)
        np.testing.assert_array_equal(other.near_duplicate, first.near_duplicate)


@pytest.mark.parametrize("name", ["03_resnet", "04_xception"])
def test_notebook_shows_what_its_record_says(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    shown = "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))
    record = load_run(ROOT / "results" / re.search(r"run_name +(\w+)", shown).group(1)).record
    for name in ("top1", "top5", "superclass_top1"):
        assert f" {100 * record['metrics'][name]:.2f} %" in shown
    for accuracy in record["history"]["accuracy"]:
        assert f"accuracy {accuracy:.4f}" in shown


@pytest.mark.parametrize("name", ["ablation", "copies"])
def test_table_of_a_benchmark_is_that_of_its_record(monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = importlib.import_module(name).table
    accuracies = json.loads((ROOT / f"results/{name}.json").read_text())["accuracies"]
    assert table(accuracies) == (ROOT / f"results/{name}.md").read_text()
