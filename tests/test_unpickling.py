"""The reader of official pickles: what it admits, and that nothing else gets anywhere."""

import os
import pickle

import numpy as np
import pytest
from fuzzing import few_operations, frugal

from cifar100_helpers.pickling import batch_opcodes
from cifar100_helpers.unpickling import unpickle

CONTENT = {
    "filenames": ["apple_s_000000.png", "pear_s_000001.png"],
    "batch_label": "training batch 1 of 1",
    "fine_labels": [0, 57],
    "coarse_labels": [4, 4],
}
DATA = np.arange(2 * 3072, dtype=np.uint64).reshape(2, 3072).astype(np.uint8)
VALID = b"".join(batch_opcodes(**CONTENT, data=DATA))
HEAD = b"\x80\x02"
DTYPE = (
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def array(shape, pixels=b"U\x01x", dtype=DTYPE, empty=EMPTY):
    return HEAD + empty + b"(K\x01" + shape + dtype + b"\x89" + pixels + b"tb."


def test_reads_what_python_reads():
    ours, theirs = unpickle(VALID), pickle.loads(VALID, encoding="bytes")
    np.testing.assert_array_equal(ours.pop(b"data"), theirs.pop(b"data"))
    assert ours == theirs


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_admits_exactly_the_opcodes_of_the_official_files(real_data_dir, name):
    from cifar100_helpers.download import locate

    raw = (locate(real_data_dir) / name).read_bytes()
    ours, theirs = unpickle(raw), pickle.loads(raw, encoding="bytes")
    np.testing.assert_array_equal(ours.pop(b"data", 0), theirs.pop(b"data", 0))
    assert ours == theirs


def test_pixels_are_a_read_only_view():
    data = unpickle(VALID)[b"data"]
    assert not data.flags.owndata and not data.flags.writeable


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", [lambda evil: evil, lambda evil: {"data": [(evil,)]}])
def test_no_call_is_made(protocol, shape, tmp_path):
    marker = tmp_path / "ran"
    for evil in (
        Evil(os.system, f"touch {marker}"),
        Evil(eval, f"open({str(marker)!r}, 'w')"),
        Evil(open, str(marker), "w"),
        Evil(os.mkdir, str(marker)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            unpickle(pickle.dumps(shape(evil), protocol=protocol))
    assert not marker.exists()


HOSTILE = {
    "empty": b"",
    "only a protocol": HEAD,
    "other protocol": b"\x80\x04N.",
    "no stop": HEAD + b"}",
    "stop with nothing": HEAD + b".",
    "two values": HEAD + b"}}.",
    "something after the end": HEAD + b"}.}",
    "global os.system": HEAD + b"cos\nsystem\n.",
    "global of another numpy name": HEAD + b"cnumpy\nload\n.",
    "global with a dotted name": HEAD + b"cnumpy\ndtype.__class__\n.",
    "global split elsewhere": HEAD + b"cnumpy.core\nmultiarray _reconstruct\n.",
    "global without an end": HEAD + b"c" + b"a" * 1_000_000,
    "global not in ASCII": HEAD + b"cnump\xff\ndtype\n.",
    "stack global": HEAD + b"\x8c\x05posix\x8c\x06system\x93.",
    "stack global, dotted": HEAD + b"\x8c\x05numpy\x8c\x12core.multiarray.sys\x93.",
    "inst": HEAD + b"(ios\nsystem\n.",
    "obj": HEAD + b"(cnumpy\nndarray\no.",
    "newobj": HEAD + b"cnumpy\nndarray\nK\x01\x85\x81.",
    "extension": HEAD + b"\x82\x01.",
    "persistent id": HEAD + b"Pname\n.",
    "reduce without a function": HEAD + b"U\x06systemU\x01x\x85R.",
    "reduce of a name in a string": HEAD + b"U\x0bnumpy dtypeU\x02u1K\x00K\x01\x87R.",
    "reduce of ndarray": HEAD + b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "reconstruct of another type": array(
        b"K\x01K\x01\x86", empty=EMPTY.replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n")
    ),
    "reconstruct of a huge shape": array(
        b"K\x01K\x01\x86", empty=EMPTY.replace(b"K\x00\x85", b"J\xff\xff\xff\x7f\x85")
    ),
    "object dtype": array(b"K\x01K\x01\x86", dtype=DTYPE.replace(b"u1", b"O8")),
    "other dtype": array(b"K\x01K\x01\x86", dtype=DTYPE.replace(b"u1", b"f8")),
    "dtype of false": array(
        b"K\x01K\x01\x86", b"T\1\0\0\0x", dtype=DTYPE.replace(b"K\x00K\x01\x87", b"\x89K\x01\x87")
    ),
    "state of false": array(
        b"K\x01K\x01\x86", b"T\1\0\0\0x", dtype=DTYPE.replace(b"K\x00tb", b"\x89tb")
    ),
    "dtype with fields": array(b"K\x01K\x01\x86", dtype=DTYPE.replace(b"NNN", b"N}}")),
    "dtype without a state": array(b"K\x01K\x01\x86", pixels=b"T\1\0\0\0x", dtype=b"N"),
    "no dtype": array(b"K\x01K\x01\x86", pixels=b"T\1\0\0\0x", dtype=b"U\x05uint8"),
    "huge shape": array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", pixels=b"T\1\0\0\0x"),
    "negative shape": array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", pixels=b"T\1\0\0\0x"),
    "shape of strings": array(b"U\x01aU\x01b\x86", pixels=b"T\1\0\0\0x"),
    "three dimensions": array(b"K\x01K\x01K\x01\x87", pixels=b"T\1\0\0\0x"),
    "pixels in a list": array(b"K\x01K\x01\x86", pixels=b"]"),
    "build on a dict": HEAD + b"}}b.",
    "build on a name": HEAD + b"cnumpy\nndarray\n}U\x08__code__Nsb.",
    "string longer than the file": HEAD + b"T\xff\xff\xff\x7fabc.",
    "string of negative length": HEAD + b"T\xff\xff\xff\xffabc.",
    "list as a key": HEAD + b"}(]Nu.",
    "deep tuple as a key": HEAD + b"}(K\x01" + b"\x85" * 1_000_000 + b"Nu.",
    "view as a key": HEAD + b"}(T\1\0\0\0xNu.",
    "key without a value": HEAD + b"}(U\x01au.",
    "items for a list": HEAD + b"](U\x01aNu.",
    "appended to a dict": HEAD + b"}(Ne.",
    "appended to nothing": HEAD + b"(Ne.",
    "no mark": HEAD + b"]e.",
    "mark left over": HEAD + b"(}.",
    "values taken across a mark": HEAD + b"N(N\x86.",
    "nothing put into the memo": HEAD + b"q\x01}.",
    "nothing put far into the memo": HEAD + b"r\x01\0\0\0}.",
    "tuple of too few": HEAD + b"N\x87.",
    "memo bomb": HEAD + b"]r\xff\xff\xff\xff" + b"h\x01" * 3 + b".",
    "memo get": HEAD + b"]q\x01h\x01\x86.",
    "frame bomb": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "long integer": HEAD + b"\x8b\xff\xff\xff\x7f\x01.",
    "bytearray": HEAD + b"\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
    "decimal integer": HEAD + b"I" + b"9" * 100_000 + b"\n.",
    "a million lists": HEAD + b"]" * 1_000_000 + b".",
    "a million marks": HEAD + b"(" * 1_000_000 + b".",
    "doubling": HEAD + b"N" + b"2\x86" * 1_000 + b".",
    "a tuple nested deep": HEAD + b"N" + b"\x85" * 1_000_000 + b".",
    "two states": HEAD + EMPTY + b"(K\x01K\x01K\x01\x86" + DTYPE + b"\x89T\1\0\0\0xtb}b.",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_refuses_anything_else_in_few_operations_and_little_memory(raw):
    with frugal(5_000_000), few_operations(raw), pytest.raises(pickle.UnpicklingError):
        unpickle(raw)


def test_the_valid_array_of_these_tests_is_read():
    assert unpickle(array(b"K\x01K\x01\x86", pixels=b"T\1\0\0\0x")).tolist() == [[ord("x")]]
