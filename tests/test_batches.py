import numpy as np
import pytest

from cifar100_helpers.batches import ShuffledBatches

CLASSES = 7


def batches_of(x, y, size, *, seed=(0, 0), classes=CLASSES, **mixes):
    batches = ShuffledBatches(x, y, size, seed, classes=classes, **mixes)
    return [batches[number] for number in range(len(batches))]


def test_every_image_is_in_one_batch_of_an_epoch(synthetic):
    x = synthetic.x_train[:150]
    drawn = batches_of(x, np.arange(150), 64, classes=150)
    assert [len(labels) for _, labels in drawn] == [64, 64, 22]
    drawn = [(images, labels.argmax(axis=1)) for images, labels in drawn]
    assert sorted(np.concatenate([labels for _, labels in drawn])) == list(range(150))
    for images, labels in drawn:
        np.testing.assert_array_equal(images, x[labels])


def test_labels_are_one_hot():
    ((_, labels),) = batches_of(np.zeros((CLASSES, 1)), np.arange(CLASSES), CLASSES)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.identity(CLASSES))


def test_order_follows_from_seed_and_epoch():
    def drawn(*seed):
        batches = batches_of(np.arange(100), np.arange(100) % CLASSES, 9, seed=seed)
        return tuple(np.concatenate([x for x, _ in batches]))

    assert drawn(3, 1) == drawn(3, 1)
    assert len({drawn(*seed) for seed in ((3, 1), (3, 2), (4, 1), (3, 1, 1))}) == 4


@pytest.fixture
def one_of_each():
    """One image of each class, none like another."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (CLASSES, 12, 10, 3), dtype=np.uint8), np.arange(CLASSES)


def parts(label):
    """The two classes in a mixed label and their shares, the first one's own class."""
    return [(name, label[name]) for name in np.flatnonzero(label)]


@pytest.mark.parametrize(
    ("mix", "kind"),
    [("mixup", "uint8"), ("mixup", "float16"), ("mixup", "pooled"), ("cutmix", "pooled")],
)
def test_average_is_that_of_the_images_that_the_label_names(one_of_each, mix, kind):
    x, y = one_of_each
    if kind == "float16":
        x = (x / 255).astype(np.float16)
    elif kind == "pooled":
        x = x[:, 0, 0].astype(np.float32)
    for seed in range(20):
        ((images, labels),) = batches_of(x, y, CLASSES, seed=(seed,), **{mix: 1.0})
        assert images.dtype == x.dtype and labels.dtype == np.float32
        for image, label in zip(images, labels, strict=True):
            expected = sum(share * x[name].astype(float) for name, share in parts(label))
            np.testing.assert_allclose(image, expected, atol=0.501 if kind == "uint8" else 1e-3)
            assert label.sum() == pytest.approx(1)


def test_label_says_how_much_of_each_image_is_to_be_seen(one_of_each):
    x, y = one_of_each
    for seed in range(40):
        ((images, labels),) = batches_of(x, y, CLASSES, seed=(seed,), cutmix=1.0)
        for image, label in zip(images, labels, strict=True):
            assert label.sum() == pytest.approx(1)
            for name, share in parts(label):
                assert (image == x[name]).all(axis=-1).mean() == pytest.approx(share)


def test_box_is_a_rectangle_of_one_other_image(one_of_each):
    x, y = one_of_each
    for seed in range(40):
        ((images, labels),) = batches_of(x, y, CLASSES, seed=(seed,), cutmix=1.0)
        for image, label in zip(images, labels, strict=True):
            if len(parts(label)) == 2:
                foreign = [(image == x[name]).all(axis=-1) for name, _ in parts(label)]
                rectangles = [fills_its_bounds(mask) for mask in foreign]
                assert any(rectangles)


def fills_its_bounds(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_proportions_follow_the_beta_distribution(one_of_each):
    x, y = one_of_each
    for alpha in (0.2, 1.0):
        largest = []
        for seed in range(400):
            ((_, labels),) = batches_of(x, y, CLASSES, seed=(seed,), mixup=alpha)
            largest += [label.max() for label in labels if label.max() < 1][:1]
        rng = np.random.default_rng(1)
        kept = rng.beta(alpha, alpha, 100_000)
        expected = np.maximum(kept, 1 - kept).mean()
        assert np.mean(largest) == pytest.approx(expected, abs=0.03)


def test_both_kinds_of_mixing_take_turns(one_of_each):
    x, y = (np.repeat(array, 20, axis=0) for array in one_of_each)
    drawn = batches_of(x, y, CLASSES, mixup=1.0, cutmix=1.0)
    corners = {tuple(pixel) for pixel in x[:, 0, 0]}
    pasted = [all(tuple(pixel) in corners for pixel in images[:, 0, 0]) for images, _ in drawn]
    assert 0 < sum(pasted) < len(drawn) == 20
