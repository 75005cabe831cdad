"""The committed records: sound, of real data, their numbers those of their predictions."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from cifar100_helpers import evaluate, load_run
from cifar100_helpers.synthetic import COARSE_OF_FINE

ROOT = Path(__file__).parent.parent
RECORDS = sorted(file.parent for file in (ROOT / "results").glob("*/run.json"))


def test_there_are_records():
    assert RECORDS


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_record_is_of_real_data_and_its_metrics_follow_from_its_predictions(folder):
    run = load_run(folder)
    assert run.record["dataset"] == "cifar100"
    np.testing.assert_array_equal(np.bincount(run.labels), np.full(100, 100))
    assert evaluate(run.probabilities, run.labels, COARSE_OF_FINE) == run.record["metrics"]


def test_record_holds_no_machine_path():
    for folder in RECORDS:
        assert not re.search(r'"/\w+/', (folder / "run.json").read_text())


def test_resnet_notebook_shows_what_its_record_says():
    notebook = nbformat.read(ROOT / "notebooks" / "03_resnet.ipynb", as_version=4)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    shown = "".join(out.get("text", "") for out in outputs)
    record = load_run(ROOT / "results" / re.search(r"run +(\w+)", shown).group(1)).record
    assert f"top-1 {record['metrics']['top1']:.2%}" in shown
    assert f"top-5 {record['metrics']['top5']:.2%}" in shown
    for accuracy in record["history"]["accuracy"]:
        assert f"accuracy {accuracy:.4f}" in shown


def test_labels_are_the_test_sets(real_data):
    for folder in RECORDS:
        np.testing.assert_array_equal(load_run(folder).labels, real_data.y_test)
