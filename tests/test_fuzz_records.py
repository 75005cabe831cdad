"""Thousands of broken and hostile records: each is refused in one sentence, or sound."""

import contextlib
import io
import json
import struct
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from fuzzing import PLACES, byte_changes, change_bytes, frugal, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from cifar100_helpers.checkpoint import load_state, load_weights, save_checkpoint
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


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a checkpoint, its network and state, and the bytes of its weights."""
    folder, network = tmp_path_factory.mktemp("checkpoint"), compiled(4)
    save_checkpoint(folder, network, {"parameters": {}, "epochs_done": 1})
    return folder, network, load_state(folder, {}), (folder / "epoch_001.npz").read_bytes()


def compiled(width):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(width)])
    network.compile("adam", "mse")
    network.optimizer.build(network.trainable_variables)
    return network


@contextlib.contextmanager
def refused_or_the_same(network):
    """What is loaded meanwhile is what was there, or it is refused and changes nothing."""
    before = [variable.numpy() for variable in network.variables]
    try:
        with frugal(3_000_000):
            yield
    except RunError as error:
        assert "epoch_001.npz is missing or damaged: delete" in str(error)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@fuzzed
@given(data=st.data())
def test_damaged_checkpoints(checkpoint, data):
    folder, network, state, content = checkpoint
    content = change_bytes(content, data.draw(byte_changes(len(content))))
    (folder / "epoch_001.npz").write_bytes(content)
    with refused_or_the_same(network):
        load_weights(folder, network, state)


OTHERS = {
    "another network": lambda arrays: [np.zeros((3, 5)), *arrays[1:]],
    "one array less": lambda arrays: arrays[:-1],
    "one array more": lambda arrays: [*arrays, arrays[-1]],
    "text": lambda arrays: [array.astype("U") for array in arrays],
    "numbers of another type": lambda arrays: [array.astype("f8") for array in arrays],
    "objects": lambda arrays: [array.astype(object) for array in arrays],
    "gigabytes": lambda arrays: [*arrays, np.zeros(1 << 24)],
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_checkpoint_of_another_network_is_refused(checkpoint, change):
    folder, network, state, content = checkpoint
    with np.load(io.BytesIO(content)) as arrays:
        arrays = change([arrays[name] for name in arrays.files])
    np.savez_compressed(folder / "epoch_001.npz", *arrays)
    with frugal(10_000_000), pytest.raises(RunError, match=r"epoch_001\.npz is missing"):
        load_weights(folder, network, state)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5", '{"parameters": 5}', "{}", "\udcff"])
def test_state_that_is_none_is_refused(checkpoint, tmp_path, text):
    (tmp_path / "checkpoint.json").write_text(text, errors="surrogateescape")
    with pytest.raises(RunError, match=r"checkpoint\.json is missing or damaged"):
        load_state(tmp_path, {})
