"""Thousands of broken and hostile records: each is refused in one sentence, or sound."""

import io
import json
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from fuzzing import PLACES, byte_changes, change_bytes, frugal, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from cifar100_helpers.errors import RunError
from cifar100_helpers.recipes import Phase
from cifar100_helpers.results import load_run, save_run
from cifar100_helpers.tables import README_COLUMNS, runs_table


@pytest.fixture(scope="module")
def record_files(tmp_path_factory):
    """A small record's folder, its JSON and the bytes of its predictions."""
    folder = tmp_path_factory.mktemp("records") / "tiny"
    save_run(
        folder,
        model=SimpleNamespace(name="resnet", count_params=lambda: 7),
        state={"parameters": {"dataset": "cifar100"}, "history": {"epoch": [1]}}
        | {"phase_seconds": [1.0]},
        phases=(Phase(1, 1e-3),),
        probabilities=np.eye(5, dtype="float32"),
        labels=np.arange(5),
        near_duplicate=np.zeros(5, bool),
        coarse_of_fine=np.arange(5) // 2,
    )
    record, predictions = folder / "run.json", folder / "predictions.npz"
    return folder, json.loads(record.read_text()), predictions.read_bytes()


def check_record(folder):
    """It is refused in one short sentence, or it can be worked with."""
    with frugal(3_000_000):
        try:
            run = load_run(folder)
        except RunError as error:
            assert len(str(error)) < 600 and "\n" not in str(error)
            return
    assert "| tiny |" in runs_table([run.record], README_COLUMNS)
    n, classes = run.probabilities.shape
    assert run.labels.shape == run.near_duplicate.shape == (n,)
    assert run.labels.dtype.kind in "iu" and run.near_duplicate.dtype == bool
    assert 0 <= run.labels.min() <= run.labels.max() < classes
    assert run.probabilities.min() >= 0 and np.allclose(run.probabilities.sum(axis=1), 1, atol=0.01)


def paths_in(value, path=()):
    if not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from paths_in(part, (*path, key))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), 1e308, 2.5, 3]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts),
)


@fuzzed
@given(place=PLACES, value=JSON_VALUES, delete=st.booleans())
def test_other_values_anywhere_in_a_record(record_files, place, value, delete):
    folder, record, predictions = record_files
    (folder / "predictions.npz").write_bytes(predictions)
    record = json.loads(json.dumps(record))
    paths = list(paths_in(record))
    *parents, last = paths[place % len(paths)]
    target = record
    for key in parents:
        target = target[key]
    if delete:
        del target[last]
    else:
        target[last] = value
    (folder / "run.json").write_text(json.dumps(record))
    check_record(folder)


@fuzzed
@given(data=st.data(), in_record=st.booleans())
def test_damaged_records_and_predictions(record_files, data, in_record):
    folder, record, predictions = record_files
    text = json.dumps(record).encode()
    size = len(text if in_record else predictions)
    changes = data.draw(byte_changes(size))
    (folder / "run.json").write_bytes(change_bytes(text, changes) if in_record else text)
    if not in_record:
        predictions = change_bytes(predictions, changes)
    (folder / "predictions.npz").write_bytes(predictions)
    check_record(folder)


DESCRIPTIONS = st.sampled_from(
    ["<f2", "<f8", ">f4", "<i8", "|u1", "|b1", "|O", "|V0", "|S0", "<U1", "<c8", "<M8[s]", "x"]
) | st.sampled_from([[("a", "<f2")], [("a", "|O")], ("<f2", (100,)), 5, None])
SIDES = st.sampled_from([0, 1, 2, 5, 5, 5, 25, 1 << 31, 1 << 62, 10**30, -1, 2.5, None])
SHAPES = st.lists(SIDES, max_size=3).map(tuple) | SIDES
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])


@fuzzed
@given(
    name=st.sampled_from(["probabilities", "labels", "near_duplicate", "validation_labels"]),
    description=DESCRIPTIONS,
    shape=SHAPES,
    content=st.sampled_from([b"", bytes(5), bytes(40), bytes([1] * 40), bytes(200_000)]),
    method=METHODS,
)
def test_other_headers_of_arrays(record_files, name, description, shape, content, method):
    folder, record, predictions = record_files
    (folder / "run.json").write_text(json.dumps(record))
    header = repr({"descr": description, "fortran_order": False, "shape": shape}) + "\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content
    with (
        zipfile.ZipFile(io.BytesIO(predictions)) as good,
        zipfile.ZipFile(folder / "predictions.npz", "w", method) as changed,
    ):
        for other in good.namelist():
            changed.writestr(other, member if other == f"{name}.npy" else good.read(other))
    check_record(folder)
