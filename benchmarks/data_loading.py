"""Reading CIFAR-100 with every file verified, beside Keras's reader without verification.

    python benchmarks/data_loading.py [folder of train, test and meta]

Both read the same files into contiguous (N, 32, 32, 3) arrays, in turns in one process, after one
unmeasured round each. Ours is `load_cifar100`: MD5 of all three files, fine and coarse labels,
names. Keras's is the reader behind `keras.datasets.cifar100.load_data`: fine labels, and images as
a transposed view, made contiguous here.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

from cifar100_helpers.data import load_cifar100

from keras.src.datasets.cifar import load_batch  # isort: skip  (the package loads it quietly)

REPEATS = 7


def load_with_keras(folder):
    batches = [
        load_batch(f"{folder}/{name}", label_key="fine_labels") for name in ("train", "test")
    ]
    return [(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y) for x, y in batches]


def seconds(function, folder):
    start = time.perf_counter()
    function(folder)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("CIFAR100_DIR"))
    folder = parser.parse_args().folder
    if not folder or not Path(folder, "train").is_file():
        parser.error("name the folder of the files train, test and meta, or set CIFAR100_DIR to it")
    ours, theirs = [], []
    for _ in range(1 + REPEATS):
        ours.append(seconds(load_cifar100, folder))
        theirs.append(seconds(load_with_keras, folder))
    for label, times in (("ours, verified", ours[1:]), ("Keras's, unverified", theirs[1:])):
        print(f"{label:22}{statistics.median(times):5.2f} s ({min(times):.2f} to {max(times):.2f})")
    print(f"ratio of medians {statistics.median(ours[1:]) / statistics.median(theirs[1:]):.2f}")


if __name__ == "__main__":
    main()
