"""The synthetic stand-in: the same drawings as ever."""

import hashlib

import numpy as np
import pytest

from cifar100_helpers.data import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, load_synthetic
from cifar100_helpers.errors import ParameterError


# A change would move every number that a quick run shows.
@pytest.mark.parametrize(
    ("sizes", "seed", "images_md5", "labels_md5"),
    [
        ((300, 100), 5, "1acd2d1e88de6960d2a04d636f1d524b", "1a7db9955b48805e9b9fa6b9454ed1f0"),
        ((5000, 500), 0, "b8dea19664c63697a05f5b0a8d4fafbf", "003e413070a139083d72346faaad64ea"),
        ((100, 200), 2**40, "7cc981ac89fb0455e92db5099e41ad3b", "2c40ace52a415db03b35df1e26b85fd2"),
    ],
)
def test_drawings_are_those_of_earlier_versions(sizes, seed, images_md5, labels_md5):
    drawn = load_synthetic(train_size=sizes[0], test_size=sizes[1], seed=seed)
    images = hashlib.md5(drawn.x_train.tobytes() + drawn.x_test.tobytes())
    labels = hashlib.md5(drawn.y_train.tobytes() + drawn.y_test.tobytes())
    assert labels.hexdigest() == labels_md5
    assert images.hexdigest() == images_md5


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


@pytest.mark.parametrize("size", [0, -100, 150])
@pytest.mark.parametrize("parameter", ["train_size", "test_size"])
def test_sizes_that_are_not_balanced_are_refused(parameter, size):
    with pytest.raises(ParameterError, match=f"^{parameter} is .*multiple of 100"):
        load_synthetic(**{parameter: size})
