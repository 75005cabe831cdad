from dataclasses import replace

import cv2
import numpy as np
import pytest

from cifar100_helpers import duplicates
from cifar100_helpers.duplicates import duplicates_within, mark_near_duplicates, near_duplicates
from cifar100_helpers.errors import ParameterError


def pictures(count, seed):
    """Images with structure of every size, no two alike."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 48, 48, 3), np.float32)
    for side, strength in ((4, 90), (8, 60), (16, 40), (32, 30)):
        noise = rng.normal(size=(count, side, side, 3)).astype(np.float32)
        noise = noise.mean(axis=3, keepdims=True) + 0.3 * noise
        images += strength * np.stack([cv2.resize(n, (48, 48)) for n in noise])
    return np.clip(128 + images, 0, 255).astype(np.uint8)


def crop(images, top=8, left=8, side=32):
    cut = images[:, top : top + side, left : left + side]
    if side == 32:
        return cut
    return np.stack([cv2.resize(i, (32, 32), interpolation=cv2.INTER_AREA) for i in cut])


def jpeg(images):
    options = [cv2.IMWRITE_JPEG_QUALITY, 90]
    return np.stack([cv2.imdecode(cv2.imencode(".jpg", i, options)[1], 1) for i in images])


def recolour(images, gains, offset=0):
    return np.clip(images * np.array(gains) + offset, 0, 255).astype(np.uint8)


DISTORTIONS = {
    "shift": lambda x: crop(x, 9, 6),
    "closer": lambda x: crop(x, 10, 10, 28),
    "farther": lambda x: crop(x, 6, 6, 36),
    "mirror": lambda x: crop(x)[:, :, ::-1],
    "mirror and shift": lambda x: crop(x, 7, 9)[:, :, ::-1],
    "brightness": lambda x: recolour(crop(x), [1, 1, 1], 30),
    "contrast": lambda x: recolour(crop(x), [0.6, 0.6, 0.6], 20),
    "colour": lambda x: recolour(crop(x), [1.1, 0.8, 0.9]),
    "grey": lambda x: crop(x).mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8),
    "compression": lambda x: jpeg(crop(x)),
}


@pytest.fixture(scope="module")
def shots():
    return pictures(20, seed=1)


@pytest.fixture(scope="module")
def distractors():
    return crop(pictures(300, seed=2))


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_planted_shots_are_found_and_nothing_else(shots, distractors, distortion):
    rng = np.random.default_rng(3)
    queries = np.concatenate([distractors[:100], DISTORTIONS[distortion](shots)])
    references = np.concatenate([distractors[100:], crop(shots)])
    query_order, reference_order = rng.permutation(120), rng.permutation(220)
    pairs = near_duplicates(queries[query_order], references[reference_order])
    found = list(zip(query_order[pairs.query], reference_order[pairs.reference], strict=True))
    assert set(found) <= {(100 + i, 200 + i) for i in range(20)}
    assert len(found) == len(set(found)) >= 18
    assert set(pairs.kind) == {"near"} and np.all(np.diff(pairs.distance) >= 0)
    assert pairs.distance.min() >= 0 and pairs.distance.max() <= 0.18
    np.testing.assert_array_equal(np.flatnonzero(pairs.mask), np.unique(pairs.query))


def test_equal_pixels_are_exact_and_come_first(shots, distractors):
    queries = np.concatenate([DISTORTIONS["colour"](shots[:5]), crop(shots[5:8])])
    pairs = near_duplicates(queries, np.concatenate([crop(shots), distractors]))
    np.testing.assert_array_equal(np.sort(pairs.query), range(8))
    np.testing.assert_array_equal(pairs.reference, pairs.query)
    assert list(pairs.kind) == ["exact"] * 3 + ["near"] * 5
    assert (pairs.distance[:3] == 0).all() and (pairs.distance[3:] > 0).all()


def test_other_shots_are_not_reported(distractors):
    """Nor flat images and gradients, alike as they are."""
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 3, (5, 32, 32, 3)).astype(np.uint8)
    dull = [np.zeros((32, 32, 3)), np.full((32, 32, 3), 255), *(120 + noise)]
    gradients = [np.broadcast_to(ramp[:, None, None] // k, (32, 32, 3)) for k in (1, 2, 3)]
    images = np.concatenate([distractors, np.stack([*dull, *gradients]).astype(np.uint8)])
    pairs = duplicates_within(images)
    assert np.isin(pairs.query, range(300, 310)).all() and len(pairs) <= 3
    assert not near_duplicates(distractors[:150], distractors[150:]).mask.any()


def test_both_directions_find_the_same(shots, distractors):
    ours = np.concatenate([DISTORTIONS["contrast"](shots[:10]), distractors[:50]])
    theirs = np.concatenate([distractors[50:], crop(shots)])
    there, back = near_duplicates(ours, theirs), near_duplicates(theirs, ours)
    assert len(there) == 10
    assert set(zip(there.query, there.reference, strict=True)) == set(
        zip(back.reference, back.query, strict=True)
    )


def test_within_one_set_each_pair_is_once_and_no_image_its_own(shots, distractors):
    images = np.concatenate([crop(shots), distractors[:50], DISTORTIONS["shift"](shots)])
    pairs = duplicates_within(images)
    assert (pairs.query < pairs.reference).all()
    found = set(zip(pairs.query, pairs.reference, strict=True))
    assert len(found) == len(pairs) >= 18 and found <= {(i, 70 + i) for i in range(20)}
    assert set(np.flatnonzero(pairs.mask)) == {i for pair in found for i in pair}


def test_blocks_do_not_matter(shots, distractors, monkeypatch):
    queries = np.concatenate([distractors[:30], DISTORTIONS["shift"](shots)])
    whole = near_duplicates(queries, crop(shots))
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    parts = near_duplicates(queries, crop(shots))
    assert len(whole) >= 18
    for name in ("query", "reference", "distance", "kind", "mask"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize(("queries", "references"), [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_few_or_no_images(shots, queries, references):
    pairs = near_duplicates(crop(shots)[:queries], crop(shots)[:references])
    assert len(pairs) == min(queries, references) and pairs.mask.shape == (queries,)


def test_test_images_are_marked(shots, distractors, synthetic):
    test = np.concatenate([distractors[:10], DISTORTIONS["contrast"](shots[:5])])
    train = np.concatenate([crop(shots), distractors[10:50]])
    data = replace(synthetic, name="cifar100", x_test=test, x_train=train)
    np.testing.assert_array_equal(np.flatnonzero(mark_near_duplicates(data)), range(10, 15))
    assert not mark_near_duplicates(replace(data, name="synthetic")).any()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_other_arrays_are_one_sentence(shots, images):
    with pytest.raises(ParameterError, match="references must be uint8 images"):
        near_duplicates(crop(shots), images)


def test_pairs_of_the_real_test_set_share_their_label(real_data):
    """The finder never sees a label; pictures of one shot nearly always have one."""
    pairs = near_duplicates(real_data.x_test[:500], real_data.x_train)
    same = real_data.y_test[pairs.query] == real_data.y_train[pairs.reference]
    assert len(pairs) >= 15 and same.mean() >= 0.9
