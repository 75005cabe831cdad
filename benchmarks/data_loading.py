"""Reading CIFAR-100 with every file verified, against Keras's own reader without verification.

    python benchmarks/data_loading.py [folder of train, test and meta]

Both read the same files from disk (warm, after one unmeasured round each) into contiguous
(N, 32, 32, 3) arrays, in turns in one process:

- ours: `load_cifar100(folder)`, MD5 of all three files, fine and coarse labels, names;
- Keras's: `keras.src.datasets.cifar.load_batch` for train and test with the fine labels, then
  the transposition from planes, which `keras.datasets.cifar100.load_data` leaves to its user as
  a view, made contiguous by `numpy.ascontiguousarray`.

Ours may take at most 1.25 times as long. Its peak memory, at most 600 MB, is that of a fresh
process that imports NumPy and the reader and not Keras. Without a folder, the data are looked
for as `load_cifar100` does.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 7
LONGEST_RATIO = 1.25
MOST_MEGABYTES = 600

# The package itself imports Keras; a bare stand-in for it leads to the same modules without.
MEASURE_PEAK = """
import resource, sys, types
package = types.ModuleType("cifar100_helpers")
package.__path__ = [sys.argv[1]]
sys.modules["cifar100_helpers"] = package
from cifar100_helpers.data import load_cifar100
load_cifar100(sys.argv[2] or None)
assert "keras" not in sys.modules
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)
"""


def peak_megabytes(package, folder):
    """Of a process started while this one is still small, because some systems count both."""
    command = [sys.executable, "-c", MEASURE_PEAK, str(package), folder]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit("the data could not be read, see above")
    return float(process.stdout)


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description="Ours beside Keras's reader of CIFAR-100.")
    parser.add_argument("folder", nargs="?", help="holds train, test and meta")
    folder = parser.parse_args().folder or os.environ.get("CIFAR100_DIR", "")
    package = Path(__file__).resolve().parent.parent / "cifar100_helpers"
    peak = peak_megabytes(package, folder)

    import numpy as np

    from cifar100_helpers.data import load_cifar100
    from cifar100_helpers.download import find_cached, locate

    from keras.src.datasets.cifar import load_batch  # isort: skip  (the package loads it quietly)

    def load_with_keras(files):
        batches = [load_batch(files / name, label_key="fine_labels") for name in ("train", "test")]
        return [(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y) for x, y in batches]

    files = locate(folder) if folder else find_cached()
    ours, theirs = [], []
    for _ in range(1 + REPEATS):
        ours.append(seconds(load_cifar100, files))
        theirs.append(seconds(load_with_keras, files))
    report(ours[1:], theirs[1:], peak)


def report(ours, theirs, peak):
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"{'':26}{'median':>9}{'fastest':>9}{'slowest':>9}   ({REPEATS} repeats)")
    for label, times in (("ours, verified", ours), ("Keras's, unverified", theirs)):
        figures = (statistics.median(times), min(times), max(times))
        print(f"{label:26}" + "".join(f"{figure:7.2f} s" for figure in figures))
    print(f"{'ratio of medians':26}{ratio:9.2f}   (at most {LONGEST_RATIO})")
    print(f"{'peak memory, ours':26}{peak:6.0f} MB   (at most {MOST_MEGABYTES} MB)")
    if ratio > LONGEST_RATIO or peak > MOST_MEGABYTES:
        sys.exit("a bound is exceeded")


if __name__ == "__main__":
    main()
