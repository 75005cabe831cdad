"""Near-duplicates in CIFAR-100, ours beside a perceptual hash, in one run.

    python benchmarks/near_duplicates.py [--train]    # also within the training set: minutes more

Prints seconds, peak memory, pairs, and the share of pairs whose labels agree, which neither method
sees: pictures of one shot nearly always have one label. The peer is the difference hash of 64 bits
(each pixel of a 9 × 8 grey picture brighter than its right neighbour or not; pairs that differ in
at most 4 bits), compared by brute force. Needs CIFAR-100 (`CIFAR100_DIR`, or it is fetched).
"""

import argparse
import resource
import sys
import time

import cv2
import numpy as np

from cifar100_helpers import duplicates_within, load_cifar100, near_duplicates

MOST_SECONDS, MOST_BYTES = 120, 4e9
MOST_BITS = 4


def difference_hashes(images):
    """(n, 64) float32 of -1 and 1."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    small = np.stack([cv2.resize(g, (9, 8), interpolation=cv2.INTER_AREA) for g in grey])
    brighter = small[:, :, :-1] > small[:, :, 1:]
    return np.where(brighter.reshape(len(images), 64), 1, -1).astype(np.float32)


def hash_pairs(queries, references):
    ours, theirs = difference_hashes(queries), difference_hashes(references)
    found = []
    for start in range(0, len(ours), 500):
        products = ours[start : start + 500] @ theirs.T  # 64 less twice the bits that differ
        rows, columns = np.nonzero(products >= 64 - 2 * MOST_BITS)
        found.append(np.column_stack([rows + start, columns]))
    return np.concatenate(found)


def timed(name, find, query_labels, reference_labels):
    start = time.perf_counter()
    found = find()
    seconds = time.perf_counter() - start
    if isinstance(found, np.ndarray):
        query, reference, exact = *found.T, "–"
    else:
        query, reference, exact = found.query, found.reference, np.sum(found.kind == "exact")
    agree = np.mean(query_labels[query] == reference_labels[reference])
    images = len(np.unique(query))
    print(
        f"{name:<30}{seconds:>7.0f} s{len(query):>9,}{images:>9,}{exact!s:>7}{agree:>9.1%}",
        flush=True,
    )
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="within the training set as well")
    within_train = parser.parse_args().train
    data = load_cifar100()
    test, train, y_test, y_train = data.x_test, data.x_train, data.y_test, data.y_train
    print(f"{'':<30}{'time':>9}{'pairs':>9}{'images':>9}{'exact':>7}{'labels':>9}")
    seconds = timed("test in train, ours", lambda: near_duplicates(test, train), y_test, y_train)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    theirs = timed("test in train, hash", lambda: hash_pairs(test, train), y_test, y_train)
    timed("within test, ours", lambda: duplicates_within(test), y_test, y_test)
    if within_train:
        timed("within train, ours", lambda: duplicates_within(train), y_train, y_train)
    print(f"ratio of times {seconds / theirs:.1f}, peak memory of ours {peak / 1e9:.1f} GB")
    claims = {
        f"at most {MOST_SECONDS} s": seconds <= MOST_SECONDS,
        f"at most {MOST_BYTES / 1e9:.0f} GB": peak <= MOST_BYTES,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    sys.exit(not all(claims.values()))


if __name__ == "__main__":
    main()
