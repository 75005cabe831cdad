"""The synthetic stand-in: drawn by its seed, balanced, and learnable."""

import numpy as np

from cifar100_helpers.data import load_synthetic


def test_drawn_data_are_balanced_mixed_and_all_different(synthetic):
    assert np.bincount(synthetic.y_train).tolist() == [20] * 100
    assert np.bincount(synthetic.y_test).tolist() == [5] * 100
    images = np.concatenate([synthetic.x_train, synthetic.x_test]).reshape(2_500, -1)
    assert len(np.unique(images, axis=0)) == 2_500
    assert np.any(np.diff(synthetic.y_train) < 0), "classes come one after the other"


def test_the_same_seed_draws_the_same():
    first, again, other = (load_synthetic(train_size=200, test_size=100, seed=s) for s in (5, 5, 6))
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_classes_can_be_learned_and_superclasses_more_easily(synthetic):
    train, test = (x.reshape(-1, 3072) / 255 for x in (synthetic.x_train, synthetic.x_test))
    means = np.stack([train[synthetic.y_train == fine].mean(axis=0) for fine in range(100)])
    # Which is nearest does not depend on the image's own length.
    nearest = (test @ means.T - (means**2).sum(axis=1) / 2).argmax(axis=1)
    fine = np.mean(nearest == synthetic.y_test)
    coarse = np.mean(synthetic.coarse_of_fine[nearest] == synthetic.coarse_test)
    assert 0.4 < fine < coarse - 0.1
