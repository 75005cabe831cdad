"""What the fuzz tests share: how many cases, damage to bytes, and a limit of memory.

FUZZ_CASES sets how many of each kind: 100,000 for a long run by hand.
"""

import contextlib
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cifar100_helpers import unpickling

CASES = int(os.environ.get("FUZZ_CASES", 500))
fuzzed = settings(
    max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
PLACES = st.integers(0, 1_000)


@contextlib.contextmanager
def frugal(most_bytes):
    """Fail where the work takes more memory than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


class CountedOperations(dict):
    count = 0

    def get(self, opcode):
        self.count += 1
        return super().get(opcode)


@contextlib.contextmanager
def few_operations(raw):
    """Fail where reading the pickle `raw` takes more operations than its size explains."""
    operations = CountedOperations(unpickling._OPERATIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpickling, "_OPERATIONS", operations)
        yield
    assert operations.count <= 2_000 + len(raw) // 256


def change_bytes(raw, changes):
    raw = bytearray(raw)
    for kind, place, byte in changes:
        place %= len(raw) + 1
        if kind == "cut":
            del raw[place:]
        elif kind == "insert":
            raw.insert(place, byte)
        elif place < len(raw):
            raw[place] = byte if kind == "set" else raw[place] ^ (1 << byte % 8)
    return bytes(raw)


def byte_changes(size):
    return st.lists(
        st.tuples(
            st.sampled_from(["cut", "insert", "set", "flip", "flip", "flip"]),
            st.integers(0, size),
            st.integers(0, 255),
        ),
        min_size=1,
        max_size=4,
    )
