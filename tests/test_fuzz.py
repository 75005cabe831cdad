"""Thousands of broken and hostile data files: each ends in the error or in correct data."""

import contextlib
import copyreg
import gzip
import io
import os
import pickle
import pickletools
import struct
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import PLACES, byte_changes, change_bytes, few_operations, frugal, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from cifar100_helpers.errors import DatasetError
from cifar100_helpers.pickling import batch_opcodes
from cifar100_helpers.reading import read_batch
from cifar100_helpers.unpacking import FILES, FOLDER, extract
from cifar100_helpers.unpickling import unpickle

BATCH = {
    "filenames": ["apple_s_000000.png", "pear_s_000001.png"],
    "batch_label": "training batch 1 of 1",
    "fine_labels": [0, 57],
    "coarse_labels": [4, 4],
}
SMALL = b"".join(batch_opcodes(**BATCH, data=np.arange(6, dtype=np.uint8).reshape(2, 3)))
WHOLE = b"".join(batch_opcodes(**BATCH, data=np.arange(6144).reshape(2, 3072).astype(np.uint8)))


def opcodes(raw):
    """The pickle `raw` as a list of single opcodes with their arguments."""
    starts = [position for _, _, position in pickletools.genops(raw)]
    return [raw[start:end] for start, end in zip(starts, [*starts[1:], len(raw)], strict=True)]


# Payloads that run code


fired = []


def fire(*_):
    fired.append(True)


class Firing:
    def __new__(cls, *_, **__):
        fire()
        return object.__new__(cls)

    def __setstate__(self, _):
        fire()


firing = Firing()
FIRE = f"c{__name__}\nfire\n".encode()
FIRING = f"c{__name__}\nFiring\n".encode()
CALL = b"X\x1e\0\0\0__import__('test_fuzz').fire()"
INNER = FIRE + b")R."
STATE = b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R\x89]" + FIRE + b")Ratb"
ROADS = {
    "reduce": FIRE + b")R",
    "reduce from the memo": FIRE + b"q\xc80h\xc8)R",
    "reduce with the function twice": FIRE + b"2)R0)R",
    "stack global": f"\x8c\x09{__name__}\x8c\x04fire\x93)R".encode("latin-1"),
    "stack global of long strings": b"X\x09\0\0\0test_fuzzX\x04\0\0\0fire\x93)R",
    "inst": f"(i{__name__}\nfire\n".encode(),
    "obj": b"(" + FIRE + b"o",
    "newobj": FIRING + b")\x81",
    "newobj with keywords": FIRING + b")}\x92",
    "build": f"c{__name__}\nfiring\nNb".encode(),
    "extension 1": b"\x82\xf1)R",
    "extension 2": b"\x83\xf2\xf0)R",
    "extension 4": b"\x84\xf3\xf0\xf0\x70)R",
    "persistent id in text": b"Pfire\n",
    "persistent id": b"U\x04fireQ",
    "eval": b"cbuiltins\neval\n" + CALL + b"\x85R",
    "eval of a Python 2 name": b"c__builtin__\neval\n" + CALL + b"\x85R",
    "a pickle in a pickle": b"c_pickle\nloads\nC" + bytes([len(INNER)]) + INNER + b"\x85R",
    "in a dict": b"}K\x01" + FIRE + b")Rs",
    "in a tuple in a list": b"](" + FIRE + b")RK\x01\x86e",
    "in an array of objects": (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + STATE
    ),
    "by an attribute": b"cbuiltins\ngetattr\n" + f"c{__name__}\n".encode() + b"firing\n"
    b"X\x0c\0\0\0__setstate__\x86RN\x85R",
    "in a frame": b"\x95" + struct.pack("<Q", len(INNER) - 1) + INNER[:-1],
}


@pytest.fixture
def extensions():
    codes = {0xF1: "fire", 0xF0F2: "fire", 0x70F0F0F3: "fire"}
    # A code has one name, but a name may have one code only: hence the shortcut.
    before = dict(copyreg._inverted_registry)
    copyreg._inverted_registry.update({code: (__name__, name) for code, name in codes.items()})
    yield
    copyreg._inverted_registry.clear()
    copyreg._inverted_registry.update(before)


def load_by_python(raw):
    unpickler = pickle.Unpickler(io.BytesIO(raw), encoding="bytes")
    unpickler.persistent_load = fire
    return unpickler.load()


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("payload", ROADS.values(), ids=ROADS)
def test_code_that_python_would_run_is_run_nowhere(extensions, payload):
    """Neither alone nor between any two opcodes of a valid file, in any protocol."""
    fired.clear()
    load_by_python(b"\x80\x02" + payload + b".")
    assert fired, "the payload itself does not work"
    fired.clear()
    valid = opcodes(SMALL)
    hostile = [head + payload + b"." for head in (b"", *(b"\x80%c" % n for n in range(6)))]
    for place in range(1, len(valid)):
        hostile.append(b"".join((*valid[:place], payload, *valid[place:])))
        hostile.append(b"".join((*valid[:place], payload, b"0", *valid[place:])))
    for raw in hostile:
        with pytest.raises(pickle.UnpicklingError):
            unpickle(raw)
    assert not fired


# Damaged pickles


WATCHED = ("import", "exec", "compile", "open", "pickle.", "os.", "subprocess.", "socket.")


class Watch:
    """What the process imports, runs and opens meanwhile."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self)  # for good, so that there is only one

    def __call__(self, event, arguments):
        if self.seen is not None and event.startswith(WATCHED):
            self.seen.append((event, arguments))

    @contextlib.contextmanager
    def over(self):
        self.seen = []
        try:
            yield self.seen
        finally:
            self.seen = None


@pytest.fixture(scope="session")
def watch():
    return Watch()


class Trusted(pickle._Unpickler):
    """Python's own unpickler, for the three names in official files."""

    def find_class(self, module, name):
        assert (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
        return super().find_class(module, name)


def assert_same(ours, theirs):
    if isinstance(theirs, np.ndarray) or isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert_same(list(ours.values()), list(theirs.values()))
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        ours = bytes(ours) if isinstance(ours, memoryview) else ours
        assert ours == theirs and type(ours) is type(theirs)


def check_unpickling(raw, watch):
    """It ends soon, in little memory, in the error or in what Python would read."""
    with watch.over() as seen, frugal(500_000), few_operations(raw):
        try:
            value = unpickle(raw)
        except pickle.UnpicklingError:
            value = None
    assert not seen
    if value is not None:
        assert_same(value, Trusted(io.BytesIO(raw), encoding="bytes").load())


SIZES = {-1: b"1\n", -2: b"\x01x", -3: b"\x01\0\0\0x", -4: b"\x01\0\0\0x", -5: b"\x01" + bytes(7)}
FOREIGN = [
    op.code.encode("latin-1")
    + (b"" if op.arg is None else SIZES[op.arg.n] if op.arg.n < 0 else b"\x01" * op.arg.n)
    for op in pickletools.opcodes
] + list(ROADS.values())
ARGUMENTS = st.one_of(
    st.binary(max_size=9),
    st.sampled_from([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\0\0"]),
)
CHANGES = st.one_of(
    st.tuples(st.just("delete"), PLACES, st.integers(1, 5)),
    st.tuples(st.just("double"), PLACES, st.sampled_from([1, 2, 3, 300])),
    st.tuples(st.just("swap"), PLACES, PLACES),
    st.tuples(st.just("insert"), PLACES, st.sampled_from(FOREIGN)),
    st.tuples(st.just("argue"), PLACES, ARGUMENTS),
)


def change_opcodes(valid, changes):
    valid = list(valid)
    for kind, place, more in changes:
        place %= len(valid)
        if kind == "delete":
            del valid[place : place + more]
            valid = valid or [b"."]
        elif kind == "double":
            valid[place:place] = valid[place : place + 1] * more
        elif kind == "swap":
            other = more % len(valid)
            valid[place], valid[other] = valid[other], valid[place]
        elif kind == "insert":
            valid.insert(place, more)
        else:
            valid[place] = valid[place][:1] + more
    return b"".join(valid)


SMALL_OPCODES = opcodes(SMALL)


@fuzzed
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_deleted_doubled_swapped_inserted_and_changed_opcodes(watch, changes):
    check_unpickling(change_opcodes(SMALL_OPCODES, changes), watch)


@fuzzed
@given(changes=byte_changes(len(SMALL)))
def test_flipped_bits_and_cuts(watch, changes):
    check_unpickling(change_bytes(SMALL, changes), watch)


@fuzzed
@given(raw=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(FOREIGN)).map(b"".join)))
def test_other_bytes_behind_the_head_of_a_file(watch, raw):
    check_unpickling(SMALL[:7] + raw, watch)
    check_unpickling(raw, watch)


# Files train and test


def pickled(value):
    """The opcodes of `value`, as official files have them."""
    if isinstance(value, np.ndarray):
        start = SMALL.index(b"cnumpy.core")
        rows, columns = (b"M" + struct.pack("<H", side) for side in value.shape)
        array = SMALL[start:-2].replace(b"K\x02K\x03\x86", rows + columns + b"\x86")
        return (
            array[: array.index(b"\x89T")]
            + b"\x89T"
            + struct.pack("<i", value.size)
            + (value.tobytes() + b"tb")
        )
    if isinstance(value, dict):
        return b"}(" + b"".join(pickled(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list | tuple):
        parts = b"".join(map(pickled, value))
        return b"](" + parts + b"e" if isinstance(value, list) else b"(" + parts + b"t"
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value
    if value is None or value is False:
        return b"N" if value is None else b"\x89"
    return b"J" + struct.pack("<i", value)


GOOD = unpickle(WHOLE)
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-300, 300), st.sampled_from(list(GOOD)))
    | st.sampled_from([np.zeros((2, 3072), np.uint8), np.zeros((2, 3), np.uint8)])
    | st.sampled_from([np.zeros(shape, np.uint8) for shape in ((0, 3072), (3072, 0), (1, 6144))]),
    lambda parts: st.lists(parts, max_size=3) | st.lists(parts, max_size=3).map(tuple),
)
LABELS = st.lists(
    st.integers(-1, 300) | st.sampled_from([None, False]) | st.binary(max_size=2), max_size=3
)


def is_batch(values):
    """What the format asks, said in another way than in the package."""
    if type(values) is not dict or set(values) != set(GOOD):
        return False
    data = values[b"data"]
    return (
        isinstance(data, np.ndarray)
        and data.shape[1] == 3072
        and len(data) > 0
        and all(
            type(values[key]) is list
            and len(values[key]) == len(data)
            and all(type(label) is int and 0 <= label < most for label in values[key])
            for key, most in ((b"fine_labels", 100), (b"coarse_labels", 20))
        )
    )


@pytest.fixture(scope="module")
def batch_file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "train"


def check_batch(file, values):
    try:
        images, fine, coarse = read_batch(file, verify=False)
    except DatasetError as error:
        assert str(error).startswith(f"{file} is no CIFAR-100 file, ")
        assert not is_batch(values)
    else:
        assert is_batch(values)
        planes = images.transpose(0, 3, 1, 2).reshape(len(fine), 3072)
        np.testing.assert_array_equal(planes, values[b"data"])
        assert (fine.tolist(), coarse.tolist()) == (
            values[b"fine_labels"],
            values[b"coarse_labels"],
        )


@fuzzed
@given(key=st.sampled_from(list(GOOD)), value=LABELS | VALUES, renamed=st.booleans())
def test_other_types_lengths_labels_and_keys(batch_file, key, value, renamed):
    values = {**GOOD, key: value}
    if renamed and type(value) is bytes:
        values[value] = values.pop(key)
    raw = b"\x80\x02" + pickled(values) + b"."
    assert_same(unpickle(raw), values)
    batch_file.write_bytes(raw)
    check_batch(batch_file, values)


@fuzzed
@given(changes=byte_changes(len(WHOLE)))
def test_damaged_batches(batch_file, changes):
    raw = change_bytes(WHOLE, changes)
    batch_file.write_bytes(raw)
    try:
        values = unpickle(raw)
    except pickle.UnpicklingError:
        values = None
    check_batch(batch_file, values)


# Archives


def tar(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content, headers in members:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), headers
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()[:10_240]


ARCHIVE = tar(
    (f"{FOLDER}/file.txt~", b"", {"comment": "a header more", "size": "0"}),
    *((f"{FOLDER}/{name}", name.encode() * 100, {}) for name in FILES),
)
KINDS = st.sampled_from([bytes([kind]) for kind in range(128)])
NUMBERS = st.sampled_from([b"0", b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"x"])


@fuzzed
@given(
    block=st.integers(0, len(ARCHIVE) // 512 - 1),
    kind=KINDS,
    number=NUMBERS | st.none(),
    changes=st.lists(st.nothing()) | byte_changes(len(ARCHIVE)),
)
def test_damaged_archives(block, kind, number, changes):
    """Their headers, too, with checksums that are right."""
    raw = bytearray(change_bytes(ARCHIVE, changes).ljust(len(ARCHIVE), b"\0"))
    start = 512 * block
    raw[start + 156 : start + 157] = kind
    if number:
        raw[start + 124 : start + 136] = number.ljust(12, b"\0")
    raw[start + 148 : start + 156] = b" " * 8
    raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    with tempfile.TemporaryDirectory() as folder:
        archive, target = Path(folder, "archive"), Path(folder, "target")
        target.mkdir()
        archive.write_bytes(gzip.compress(bytes(raw), 1))
        try:
            with frugal(2_000_000):
                extract(archive, target)
        except DatasetError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)
        else:
            assert sorted(os.listdir(target)) == sorted(FILES)
        assert sorted(os.listdir(folder)) == ["archive", "target"]
        assert set(os.listdir(target)) <= set(FILES)
        assert all(file.is_file() and not file.is_symlink() for file in target.iterdir())
