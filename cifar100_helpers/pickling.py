"""The official file format, written: the opcodes that Python 2 put into train, test and meta.

Python 3 cannot write these files with `pickle`: its strings are not the byte strings of Python 2,
and NumPy 2 names its parts otherwise. The content of an official file comes out byte for byte.
"""

import itertools
import pickle
import struct

import numpy as np


def batch_opcodes(*, filenames, batch_label, fine_labels, coarse_labels, data):
    """The blocks of bytes of a file train or test.

    `filenames`: N strings of at most 255 ASCII characters. `batch_label`: a string. `fine_labels`,
    `coarse_labels`: N whole numbers from 0 to 255. `data`: (N, 3072) uint8, planes of red, green
    and blue.
    """
    put = _Puts()
    yield pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + put() + pickle.MARK
    yield _string("filenames", put)
    yield from _list((_string(name, put) for name in filenames), put)
    yield _string("batch_label", put) + _string(batch_label, put)
    for key, labels in (("fine_labels", fine_labels), ("coarse_labels", coarse_labels)):
        yield _string(key, put)
        yield from _list((_integer(label) for label in labels), put)
    yield _string("data", put)
    yield from _array(data, put)
    yield pickle.SETITEMS + pickle.STOP


def meta_opcodes(fine_names, coarse_names):
    """The blocks of bytes of a file meta; names are strings of at most 255 ASCII characters."""
    put = _Puts()
    yield pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + put() + pickle.MARK
    for key, names in (("fine_label_names", fine_names), ("coarse_label_names", coarse_names)):
        yield _string(key, put)
        yield from _list((_string(name, put) for name in names), put)
    yield pickle.SETITEMS + pickle.STOP


class _Puts:
    """Opcodes that store object after object in the memo; Python 2 counts from one."""

    def __init__(self):
        self.numbers = itertools.count(1)

    def __call__(self):
        number = next(self.numbers)
        if number < 256:
            return pickle.BINPUT + bytes([number])
        return pickle.LONG_BINPUT + struct.pack("<I", number)


def _string(text, put):
    content = text.encode("ascii")
    return pickle.SHORT_BINSTRING + bytes([len(content)]) + content + put()


def _integer(number):
    if number < 256:
        return pickle.BININT1 + bytes([number])
    if number < 65_536:
        return pickle.BININT2 + struct.pack("<H", number)
    return pickle.BININT + struct.pack("<i", number)


def _list(values, put):
    """A list of the values, given as opcodes, appended a thousand at a time."""
    yield pickle.EMPTY_LIST + put()
    while batch := b"".join(itertools.islice(values, 1_000)):
        yield pickle.MARK + batch + pickle.APPENDS


def _array(data, put):
    yield b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
    yield b"K\x00\x85U\x01b\x87R" + put()  # _reconstruct(ndarray, (0,), "b")
    yield b"(K\x01" + _integer(data.shape[0]) + _integer(data.shape[1]) + b"\x86"
    yield b"cnumpy\ndtype\n" + put() + b"U\x02u1K\x00K\x01\x87R" + put()  # dtype("u1", 0, 1)
    minus_one = b"J\xff\xff\xff\xff"
    yield b"(K\x03U\x01|NNN" + 2 * minus_one + b"K\x00tb"  # no byte order, no fields
    content = np.ascontiguousarray(data)
    yield b"\x89T" + struct.pack("<i", content.size)
    yield content.data
    yield b"tb"
