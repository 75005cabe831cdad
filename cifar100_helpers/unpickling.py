"""A reader for the pickles that hold CIFAR-100, and for nothing else.

The official files were written by Python 2: dictionaries of strings, lists of small integers and
one uint8 array, in 23 of pickle's opcodes. Only those are understood here. Nothing named in a file
is ever imported or called: the three NumPy names that an array needs are matched as text. A
`pickle.Unpickler` with a strict `find_class` would not do, because a file of twenty bytes can make
it reserve gigabytes for its memo, and a tuple nested a million deep as a key overflows its stack.
"""

import pickle

import numpy as np

_RECONSTRUCT = "numpy.core.multiarray _reconstruct"
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
# Strings in a file are read as bytes, so none of them can pass for one of these markers.
_UINT8 = "uint8"
_EMPTY_ARRAY = "empty array"

_REDUCED = (
    (_RECONSTRUCT, (_NDARRAY, (0,), b"b"), _EMPTY_ARRAY),
    (_DTYPE, (b"u1", 0, 1), _UINT8),
)
_UINT8_STATE = (3, b"|", None, None, None, -1, -1, 0)


def unpickle(raw):
    """The value pickled in the bytes `raw`: dict, list, tuple, bytes, int, None or uint8 array.

    A long string is a memoryview, not bytes. An array, (N, M) uint8, is a read-only view of `raw`.
    Raises `pickle.UnpicklingError` for anything that the official files do not contain; takes
    memory in proportion to `len(raw)`.
    """
    try:
        return _Machine(raw).run()
    except (IndexError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError(f"broken pickle ({error})") from None


class _Machine:
    """The stack machine that a pickle is a program for, with the memo left out.

    The official files store into the memo after almost every object and never read from it.
    """

    def __init__(self, raw):
        self.raw = raw
        self.position = 0
        self.stack = []  # what was pushed since the last mark
        self.below_marks = []

    def run(self):
        # The official files hold an opcode per 775 bytes or, `meta`, 259 in all: a file of
        # nothing but opcodes would make fifty times its own size of empty lists.
        for _ in range(2_000 + len(self.raw) // 256):
            opcode = self.raw[self.position]
            self.position += 1
            if opcode == _STOP:
                return self.result()
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise pickle.UnpicklingError(f"opcode {opcode:#x} is not among the official ones")
            operation(self)
        raise pickle.UnpicklingError("more opcodes than its size explains")

    def result(self):
        if len(self.stack) != 1 or self.below_marks or self.position != len(self.raw):
            raise pickle.UnpicklingError("more than one value")
        return self.stack[0]

    def span(self, size):
        start = self.position
        if not 0 <= size <= len(self.raw) - start:
            raise pickle.UnpicklingError("it ends too early")
        self.position += size
        return slice(start, self.position)

    def take(self, size):
        return self.raw[self.span(size)]

    def integer(self, size, signed=False):
        return int.from_bytes(self.take(size), "little", signed=signed)

    def pop_to_mark(self):
        values, self.stack = self.stack, self.below_marks.pop()
        return values

    def protocol(self):
        if self.take(1) != b"\x02":
            raise pickle.UnpicklingError("not written in protocol 2")

    def skip_put(self, size):
        if not self.stack:
            raise pickle.UnpicklingError("it stores no value")
        self.position += size

    def mark(self):
        self.below_marks.append(self.stack)
        self.stack = []

    def empty_dict(self):
        self.stack.append({})

    def empty_list(self):
        self.stack.append([])

    def none(self):
        self.stack.append(None)

    def false(self):
        self.stack.append(False)

    def integer1(self):
        self.stack.append(self.raw[self.position])
        self.position += 1

    def integer2(self):
        self.stack.append(self.integer(2))

    def integer4(self):
        self.stack.append(self.integer(4, signed=True))

    def short_string(self):
        self.stack.append(self.take(self.integer(1)))

    def long_string(self):
        # The pixels: a view, because a copy would double the memory.
        span = self.span(self.integer(4, signed=True))
        self.stack.append(memoryview(self.raw)[span])

    def tuple_of(self, count):
        if len(self.stack) < count:
            raise pickle.UnpicklingError("a tuple of too few values")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def tuple_to_mark(self):
        values = self.pop_to_mark()
        self.stack.append(tuple(values))

    def appends(self):
        values = self.pop_to_mark()
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("values appended to something else than a list")
        self.stack[-1].extend(values)

    def set_items(self):
        values = self.pop_to_mark()
        keys = values[::2]
        if type(self.stack[-1]) is not dict or any(type(key) is not bytes for key in keys):
            raise pickle.UnpicklingError("keys other than strings")
        self.stack[-1].update(zip(keys, values[1::2], strict=True))

    def name(self):
        names = []
        for _ in range(2):
            end = self.raw.index(b"\n", self.position, self.position + 64)
            names.append(self.take(end - self.position).decode("ascii"))
            self.position += 1
        if " ".join(names) not in (_RECONSTRUCT, _NDARRAY, _DTYPE):
            raise pickle.UnpicklingError(f"it asks for {'.'.join(names)!r}")
        self.stack.append(" ".join(names))

    def reduce(self):
        arguments = self.stack.pop()
        function = self.stack.pop()
        for expected_function, expected_arguments, result in _REDUCED:
            if function == expected_function and _equal(arguments, expected_arguments):
                self.stack.append(result)
                return
        raise pickle.UnpicklingError("a call that no uint8 array needs")

    def build(self):
        state = self.stack.pop()
        target = self.stack.pop()
        if target is _EMPTY_ARRAY:
            self.stack.append(_array(*state))
        elif target is _UINT8 and _equal(state, _UINT8_STATE):
            self.stack.append(_UINT8)
        else:
            raise pickle.UnpicklingError("a state that no uint8 array has")


def _equal(values, expected):
    """Whether two tuples are equal, in their types as well: False is no 0."""
    return values == expected and [*map(type, values)] == [*map(type, expected)]


def _array(version, shape, dtype, is_fortran, pixels):
    if (version, dtype, is_fortran) != (1, _UINT8, False) or type(pixels) is not memoryview:
        raise pickle.UnpicklingError("an array of another kind than uint8")
    rows, columns = shape
    if type(rows) is not int or type(columns) is not int or min(rows, columns) < 0:
        raise pickle.UnpicklingError("an array without a shape")
    if rows * columns != len(pixels):
        raise pickle.UnpicklingError("an array whose shape does not fit its bytes")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(rows, columns)


_STOP = pickle.STOP[0]
_OPERATIONS = {
    opcode[0]: operation
    for opcode, operation in {
        pickle.PROTO: _Machine.protocol,
        pickle.BINPUT: lambda machine: machine.skip_put(1),
        pickle.LONG_BINPUT: lambda machine: machine.skip_put(4),
        pickle.MARK: _Machine.mark,
        pickle.EMPTY_DICT: _Machine.empty_dict,
        pickle.EMPTY_LIST: _Machine.empty_list,
        pickle.NONE: _Machine.none,
        pickle.NEWFALSE: _Machine.false,
        pickle.BININT1: _Machine.integer1,
        pickle.BININT2: _Machine.integer2,
        pickle.BININT: _Machine.integer4,
        pickle.SHORT_BINSTRING: _Machine.short_string,
        pickle.BINSTRING: _Machine.long_string,
        pickle.TUPLE1: lambda machine: machine.tuple_of(1),
        pickle.TUPLE2: lambda machine: machine.tuple_of(2),
        pickle.TUPLE3: lambda machine: machine.tuple_of(3),
        pickle.TUPLE: _Machine.tuple_to_mark,
        pickle.APPENDS: _Machine.appends,
        pickle.SETITEMS: _Machine.set_items,
        pickle.GLOBAL: _Machine.name,
        pickle.REDUCE: _Machine.reduce,
        pickle.BUILD: _Machine.build,
    }.items()
}
