"""Find the test images of CIFAR-100 whose shot is also in the training set.

    python scripts/find_near_duplicates.py    # one to three minutes on two cores

Writes cifar100_helpers/near_duplicates.csv. Two images count as one shot if, after an affine
alignment, their fine details agree, whatever their crop, mirroring, brightness, contrast and
colour. Missed are shifts by more than two or three pixels, crops that differ by more than a fifth,
large rotations, and images with hardly any detail; copies of one product photograph in another
colour are found as well. Background: Barz and Denzler, "Do We Train on Test Data? Purging CIFAR of
Near-Duplicates", 2020. Needs CIFAR-100 (`CIFAR100_DIR`, or it is fetched).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import cv2
import numpy as np

from cifar100_helpers.data import IMAGE_SIZE, NEAR_DUPLICATES, load_cifar100

DESCRIPTOR_SIDE = 10
ZOOMS = (1.0, 1.15, 0.87)  # of the query, before its descriptor is compared
BLOCK = 500  # queries compared with all references at once
NEIGHBOURS = 6  # followed up for each query, mirroring and zoom

# Each stage passes on what is at least so similar, from 0 to 1; tuned on pictures of pairs, so that
# few pairs that pass the last are two shots.
DESCRIPTOR_SIMILARITY, COARSE_SIMILARITY, FINE_SIMILARITY = 0.65, 0.6, 0.82

TEMPLATE = 24  # pixels of the query's centre that are looked for in the reference
TEMPLATE_EDGES = (6, 4, 2)  # pixels around that centre, before it is resized
LEAST_OVERLAP = 500  # pixels
STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


def find(queries, references):
    """Return the pairs (query, reference, distance) of the same shot, the most alike first.

    Both are uint8 (n, 32, 32, 3); the pairs are float64 (pairs, 3).
    """
    candidates = find_candidates(queries, references)

    def similarity(candidate):
        query, reference, mirrored = candidate
        image = queries[query][:, ::-1] if mirrored else queries[query]
        return compare(image, references[reference])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        similarities = np.fromiter(threads.map(similarity, candidates), float, len(candidates))
    pairs = np.column_stack([candidates[:, :2], 1 - similarities])[similarities >= FINE_SIMILARITY]
    pairs = pairs[np.argsort(pairs[:, 2], kind="stable")]
    _, first = np.unique(pairs[:, :2], axis=0, return_index=True)  # the better, mirrored or not
    return pairs[np.sort(first)]


def find_candidates(queries, references):
    """Return the pairs with like descriptors as unique rows (query, reference, mirrored)."""
    found, descriptors = [], describe(references)
    for mirrored, zoom in product((False, True), ZOOMS):
        ours = describe(queries[:, :, ::-1] if mirrored else queries, zoom)
        for start in range(0, len(queries), BLOCK):
            alike = ours[start : start + BLOCK] @ descriptors.T
            nearest = np.argpartition(-alike, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            near = np.take_along_axis(alike, nearest, axis=1) >= DESCRIPTOR_SIMILARITY
            rows = np.nonzero(near)[0] + start
            found.append(np.column_stack([rows, nearest[near], np.full_like(rows, mirrored)]))
    return np.unique(np.concatenate(found), axis=0)


def describe(images, zoom=1.0):
    """Return the colourless coarse details of images, float32 (n, 100) of at most unit length.

    Images with hardly any detail get short descriptors, which are like no other.
    """
    zoomed = cv2.getRotationMatrix2D(((IMAGE_SIZE - 1) / 2, (IMAGE_SIZE - 1) / 2), 0, zoom)
    found = np.empty((len(images), DESCRIPTOR_SIDE**2), dtype=np.float32)
    for image, row in zip(images, found, strict=True):
        grey = details(warp(image, zoomed), 5).mean(axis=2)
        size, smooth = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE), cv2.GaussianBlur(grey, (0, 0), 1.5)
        row[:] = cv2.resize(smooth, size, interpolation=cv2.INTER_AREA).ravel()
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 2 * DESCRIPTOR_SIDE)


def details(image, scale):
    """Return the image less its blurred self: structure finer than about `scale` pixels."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    return image - cv2.GaussianBlur(image, (0, 0), scale)


def warp(image, matrix, flags=cv2.INTER_LINEAR, border=cv2.BORDER_REFLECT_101):
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)


def compare(query, reference):
    """Return how far the fine details of two images agree after alignment; 0 if the coarse do not.

    The alignment is that of Evangelidis and Psarakis, "Parametric Image Alignment Using Enhanced
    Correlation Coefficient Maximization", 2008.
    """
    if np.array_equal(query, reference):
        return 1.0
    if compare_coarsely(details(query, 3), details(reference, 3)) < COARSE_SIMILARITY:
        return 0.0
    query, reference = query.astype(np.float32), reference.astype(np.float32)
    grey, start = (query.mean(axis=2), reference.mean(axis=2)), np.eye(2, 3, dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(*grey, start, cv2.MOTION_AFFINE, STEPS, None, 3)
    except cv2.error:  # the alignment does not converge
        return 0.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    covered = warp(np.ones((IMAGE_SIZE, IMAGE_SIZE)), found, flags, cv2.BORDER_CONSTANT) > 0.99
    if covered.sum() < LEAST_OVERLAP:
        return 0.0
    images = (query, warp(reference, found, flags))
    a, b = (details(image, 1)[covered] for image in images)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)  # of each colour
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))  # Pearson's


def compare_coarsely(query, reference):
    """Return the best correlation of the query's centre, at three sizes, anywhere in the other."""
    centres = [query[edge:-edge, edge:-edge] for edge in TEMPLATE_EDGES]
    templates = [cv2.resize(centre, (TEMPLATE, TEMPLATE)) for centre in centres]
    return max(cv2.matchTemplate(reference, t, cv2.TM_CCOEFF_NORMED).max() for t in templates)


if __name__ == "__main__":
    cifar = load_cifar100()
    found = find(cifar.x_test, cifar.x_train)
    header = "test_index,train_index,distance"
    np.savetxt(NEAR_DUPLICATES, found, "%d,%d,%.4f", header=header, comments="")
    print(f"{len(found)} pairs, {len(np.unique(found[:, 0]))} test images: {NEAR_DUPLICATES}")
