"""Near-duplicates: photographs that are there twice, found from their pixels.

Two images count as one shot where, after an affine alignment, their fine details agree, whatever
their crop, mirroring, brightness, contrast and colour. Missed are shifts by more than two or three
pixels, crops that differ by more than a fifth, large rotations, and images with hardly any detail;
copies of one product photograph in another colour are found as well. Background: Barz and Denzler,
"Do We Train on Test Data? Purging CIFAR of Near-Duplicates", 2020.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from .errors import ParameterError
from .progress import progress_bar

SIDE = 32
DESCRIPTOR_SIDE = 10
ZOOMS = (1.0, 1.15, 0.87)  # of the query, before its descriptor is compared
BLOCK = 500  # queries compared with all references at once
NEIGHBOURS = 5  # followed up for each query, mirroring and zoom

# Each stage passes on what is at least so similar, from 0 to 1; tuned on pictures of pairs, so that
# few that pass the last are two shots.
DESCRIPTOR_SIMILARITY = 0.65
COARSE_SIMILARITY = 0.6
FINE_SIMILARITY = 0.82

_TEMPLATE = 24  # pixels of the query's centre that are looked for in the reference
_TEMPLATE_CROPS = (20, 24, 28)
_LEAST_OVERLAP = 500  # pixels
_ALIGNMENT_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


@dataclass(frozen=True, eq=False)
class DuplicatePairs:
    """Pairs of images of the same shot, the most alike first.

    `query`, `reference`: int (pairs,), indices into the two arrays of images. `distance`: float
    (pairs,), 0 for equal pixels and less than 0.2. `kind`: (pairs,), "exact" where all pixels are
    equal, else "near". `mask`: bool (queries,), true where a query is in any pair.
    """

    query: np.ndarray
    reference: np.ndarray
    distance: np.ndarray
    kind: np.ndarray
    mask: np.ndarray

    def __len__(self):
        return len(self.query)


def near_duplicates(queries, references):
    """Find the images in `references` that show the same shot as one of `queries`.

    Both are uint8 (n, 32, 32, 3); returns `DuplicatePairs`. For 10,000 by 50,000 images it takes
    about a minute on two cores. Raises ParameterError for other arrays.
    """
    queries, references = _check(queries, "queries"), _check(references, "references")
    return _verify(queries, references, _candidates(queries, references))


def mark_near_duplicates(data):
    """Say of each test image whether the training images of `data` show the same shot: bool (n,).

    `data` is a `Cifar100`. Of synthetic data no image is marked, without looking: all images of a
    class are variations of one picture.
    """
    if data.name == "synthetic":
        return np.zeros(len(data.x_test), dtype=bool)
    return near_duplicates(data.x_test, data.x_train).mask


def duplicates_within(images):
    """Find the pairs in `images`, uint8 (n, 32, 32, 3), that show the same shot.

    Returns `DuplicatePairs` where every pair is once, `query` before `reference`; `mask` is true
    for both.
    """
    images = _check(images, "images")
    candidates = _candidates(images, images)
    query, reference, mirrored = candidates.T
    ordered = np.column_stack([np.sort(candidates[:, :2], axis=1), mirrored])
    pairs = _verify(images, images, np.unique(ordered[query != reference], axis=0))
    pairs.mask[pairs.reference] = True
    return pairs


def _check(images, name):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise ParameterError(
            f"{name} must be uint8 images of shape (n, {SIDE}, {SIDE}, 3), not {images.dtype} of "
            f"{images.shape}."
        )
    return images


def _candidates(queries, references):
    """Pairs whose descriptors are alike, as unique rows (query, reference, mirrored)."""
    found = [np.empty((0, 3), dtype=np.int64)]
    descriptors = _describe(references)
    starts = range(0, len(queries), BLOCK)
    with progress_bar(2 * len(ZOOMS) * len(starts), "near-duplicates", "block") as bar:
        for mirrored in (False, True):
            for zoom in ZOOMS:
                ours = _describe(queries[:, :, ::-1] if mirrored else queries, zoom)
                for start in starts:
                    rows, columns = _most_similar(ours[start : start + BLOCK] @ descriptors.T)
                    pairs = [rows + start, columns, np.full_like(rows, mirrored)]
                    found.append(np.column_stack(pairs))
                    bar.update()
    return np.unique(np.concatenate(found), axis=0)


def _most_similar(similarity):
    """Rows and columns of the largest entries of each row that are large enough."""
    if not similarity.size:
        return np.empty((2, 0), dtype=np.int64)
    rows = np.flatnonzero(similarity.max(axis=1) >= DESCRIPTOR_SIMILARITY)
    count = min(NEIGHBOURS + 1, similarity.shape[1])  # one more: an image's nearest may be itself
    columns = np.argpartition(-similarity[rows], count - 1, axis=1)[:, :count]
    rows = np.repeat(rows, count)
    columns = columns.ravel()
    alike = similarity[rows, columns] >= DESCRIPTOR_SIMILARITY
    return rows[alike], columns[alike]


def _describe(images, zoom=1.0):
    """(n, 100) float32 of at most unit length: the coarse details of every image, without colour.

    Images with hardly any detail get short descriptors, which are like no other.
    """
    moved = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), 0, zoom)
    details = np.empty((len(images), DESCRIPTOR_SIDE**2), dtype=np.float32)
    for image, row in zip(images, details, strict=True):
        if zoom != 1:
            image = cv2.warpAffine(image, moved, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
        smooth = cv2.GaussianBlur(_details(image, 5).mean(axis=2), (0, 0), 1.5)
        size = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)
        row[:] = cv2.resize(smooth, size, interpolation=cv2.INTER_AREA).ravel()
    lengths = np.linalg.norm(details, axis=1, keepdims=True)
    return details / np.maximum(lengths, 2 * DESCRIPTOR_SIDE)


def _details(image, scale):
    """The image less its blurred self: structure finer than about `scale` pixels."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    return image - cv2.GaussianBlur(image, (0, 0), scale)


def _verify(queries, references, candidates):
    def similarity(candidate):
        query, reference, mirrored = candidate
        image = queries[query][:, ::-1] if mirrored else queries[query]
        return _similarity(image, references[reference])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        similarities = np.fromiter(threads.map(similarity, candidates), float, len(candidates))
    alike = similarities >= FINE_SIMILARITY
    order = np.argsort(-similarities[alike], kind="stable")
    pairs, similarities = candidates[alike][order, :2], similarities[alike][order]
    _, first = np.unique(pairs, axis=0, return_index=True)  # mirrored and not, the better one
    query, reference = pairs[np.sort(first)].T
    exact = (queries[query] == references[reference]).all(axis=(1, 2, 3))
    mask = np.zeros(len(queries), dtype=bool)
    mask[query] = True
    return DuplicatePairs(
        query=query,
        reference=reference,
        distance=np.where(exact, 0, 1 - similarities[np.sort(first)]),
        kind=np.where(exact, "exact", "near"),
        mask=mask,
    )


def _similarity(query, reference):
    """How far the fine details of two images agree after alignment; 0 if the coarse do not."""
    if np.array_equal(query, reference):
        return 1.0
    if _coarse_similarity(_details(query, 3), _details(reference, 3)) < COARSE_SIMILARITY:
        return 0.0
    query, reference = query.astype(np.float32), reference.astype(np.float32)
    try:
        _, transform = cv2.findTransformECC(
            query.mean(axis=2),
            reference.mean(axis=2),
            np.eye(2, 3, dtype=np.float32),
            cv2.MOTION_AFFINE,
            _ALIGNMENT_STEPS,
            None,
            3,
        )
    except cv2.error:  # the alignment does not converge
        return 0.0
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP}
    aligned = cv2.warpAffine(
        reference, transform, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101, **options
    )
    covered = cv2.warpAffine(np.ones((SIDE, SIDE)), transform, (SIDE, SIDE), **options) > 0.99
    if covered.sum() < _LEAST_OVERLAP:
        return 0.0
    return _correlation(_details(query, 1)[covered], _details(aligned, 1)[covered])


def _coarse_similarity(query, reference):
    """The best correlation of the query's centre, at three sizes, with any place in the other."""
    best = 0.0
    for crop in _TEMPLATE_CROPS:
        edge = (SIDE - crop) // 2
        centre = query[edge : SIDE - edge, edge : SIDE - edge]
        template = cv2.resize(centre, (_TEMPLATE, _TEMPLATE))
        scores = cv2.matchTemplate(reference, template, cv2.TM_CCOEFF_NORMED)
        best = max(best, scores.max())
    return best


def _correlation(a, b):
    """Pearson's, over pixels and colours, each colour's mean removed; (n, 3) float32 both."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))
