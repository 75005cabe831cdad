"""The synthetic stand-in: the same drawings as ever, learnable, with resembling superclasses."""

import hashlib

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from cifar100_helpers.errors import ParameterError
from cifar100_helpers.synthetic import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, load_synthetic


# Of an earlier version, which wrote files in the official format and read them again: published
# results on synthetic data stay comparable.
@pytest.mark.parametrize(
    ("train_size", "test_size", "seed", "images_sha256", "labels_sha256"),
    [
        (
            300,
            100,
            5,
            "ad2d7438c64eae8a81e9502820bf1f696cea4fdd5ce34c801c9a24635ebe2c75",
            "1060ae076a7eb9bfcf4547ef1a9b8959324c9992b9d2921998943b658485c06c",
        ),
        (
            5000,
            500,
            0,
            "681c563096c660f59ac0c0d88f0cd48b52b229074f2f43a1c08d743d8e9552ae",
            "75f95515037e7c3d32d2cf770249fc3c3ee4e41d3648364d1d274acb60e40a9f",
        ),
        (
            100,
            200,
            1099511627776,
            "866b10850367a4af5fca5087f72015411e2c76c5dae605f3d18f60f7a93a8fdc",
            "392236b1d2083da5cf07a76e12394ae47db662a2ff59a6547e113415b81fce00",
        ),
    ],
)
def test_drawings_are_those_of_earlier_versions(
    train_size, test_size, seed, images_sha256, labels_sha256
):
    drawn = load_synthetic(train_size=train_size, test_size=test_size, seed=seed)
    images = hashlib.sha256(drawn.x_train.tobytes() + drawn.x_test.tobytes())
    labels = hashlib.sha256(drawn.y_train.tobytes() + drawn.y_test.tobytes())
    assert labels.hexdigest() == labels_sha256
    assert images.hexdigest() == images_sha256


def test_drawn_data_are_balanced_named_and_all_different(synthetic):
    assert synthetic.name == "synthetic"
    assert synthetic.x_train.shape == (2_000, 32, 32, 3) and synthetic.x_train.dtype == np.uint8
    assert np.bincount(synthetic.y_train).tolist() == [20] * 100
    assert np.bincount(synthetic.y_test).tolist() == [5] * 100
    assert (synthetic.fine_names, synthetic.coarse_names) == (FINE_NAMES, COARSE_NAMES)
    np.testing.assert_array_equal(synthetic.coarse_of_fine, COARSE_OF_FINE)
    np.testing.assert_array_equal(synthetic.coarse_train, COARSE_OF_FINE[synthetic.y_train])
    np.testing.assert_array_equal(synthetic.coarse_test, COARSE_OF_FINE[synthetic.y_test])
    images = np.concatenate([synthetic.x_train, synthetic.x_test]).reshape(2_500, -1)
    assert len(np.unique(images, axis=0)) == 2_500
    assert np.any(np.diff(synthetic.y_train) < 0), "classes come one after the other"


def test_classes_can_be_learned_but_not_at_a_glance(synthetic):
    def coarse_pixels(images):
        blocks = images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
        return blocks.reshape(len(images), -1)

    model = NearestCentroid().fit(coarse_pixels(synthetic.x_train), synthetic.y_train)
    predicted = model.predict(coarse_pixels(synthetic.x_test))
    assert 0.2 < np.mean(predicted == synthetic.y_test) < 0.7
    assert np.mean(COARSE_OF_FINE[predicted] == synthetic.coarse_test) > 0.5


def test_classes_of_a_superclass_resemble_each_other(synthetic):
    means = np.stack([synthetic.x_train[synthetic.y_train == c].mean(axis=0) for c in range(100)])
    means = means.reshape(100, -1)
    distances = np.linalg.norm(means[:, None] - means, axis=2)
    same = COARSE_OF_FINE[:, None] == COARSE_OF_FINE
    within = distances[same & ~np.eye(100, dtype=bool)]
    assert 0 < within.mean() < 0.7 * distances[~same].mean()
    assert within.min() > 0.1 * distances[~same].mean(), "two classes look the same"


@pytest.mark.parametrize("size", [0, -100, 150, 100.0, "100", True])
@pytest.mark.parametrize("parameter", ["train_size", "test_size"])
def test_sizes_that_are_not_balanced_are_refused(parameter, size):
    with pytest.raises(ParameterError, match=f"^{parameter} is .*multiple of 100"):
        load_synthetic(**{parameter: size})
