"""Figures of the data, and what all figures share."""

import matplotlib.pyplot as plt
import numpy as np

from cifar100_helpers import plots


def texts(artists):
    return [artist.get_text() for artist in artists]


def test_mosaic_names_every_class_below_its_superclass(synthetic):
    pictures = np.zeros((100, 8, 8, 3), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(100)
    ax = plots.plot_class_mosaic(pictures, synthetic, range(10, 20))
    drawn = [int(image.get_array()[0, 0, 0]) for image in ax.images]
    expected = []
    for coarse, members in enumerate(np.array(drawn).reshape(10, 5), start=10):
        assert (synthetic.coarse_of_fine[members] == coarse).all()
        names = [synthetic.coarse_names[coarse], *(synthetic.fine_names[i] for i in members)]
        expected += [plots.readable(name) for name in names]
    assert texts(ax.texts) == expected
    assert len(set(drawn)) == 50


def test_mean_images_stand_beside_the_names_of_their_superclasses(synthetic):
    means = np.broadcast_to(np.arange(100.0)[:, None, None, None], (100, 32, 32, 3))
    ax = plots.plot_mean_images(means, synthetic)
    classes = ax.images[0].get_array()[::32, ::32, 0]
    for text in ax.texts:
        row, right = int(text.get_position()[1] // 32), text.get_position()[0] > 0
        beside = classes[row, 5:] if right else classes[row, :5]
        names = {synthetic.coarse_names[synthetic.coarse_of_fine[fine]] for fine in beside}
        assert {plots.readable(name) for name in names} == {text.get_text()}
    assert len(ax.texts) == 20


def test_duplicates_are_pairs_whose_differing_labels_are_orange(synthetic):
    test = np.flatnonzero(synthetic.y_test == 3)[0]
    train = [np.flatnonzero(synthetic.y_train == fine)[0] for fine in (3, 7)]
    pairs = np.array([(test, i) for i in train], [("test_index", int), ("train_index", int)])
    ax = plots.plot_duplicates(synthetic, pairs)
    drawn = [image.get_array() for image in ax.images]
    expected = [synthetic.x_test[test], synthetic.x_train[train[0]]] * 2
    expected[3] = synthetic.x_train[train[1]]
    np.testing.assert_array_equal(drawn, expected)
    same, other = (plots.readable(synthetic.fine_names[fine]) for fine in (3, 7))
    labels = [f"test: {same}", f"train: {same}", f"test: {same}", f"train: {other}"]
    assert texts(ax.texts) == labels
    colors = [text.get_color() for text in ax.texts]
    assert colors == ["black", "black", plots.ORANGE, plots.ORANGE]


def test_figures_of_synthetic_data_say_so():
    plots.mark_figures("synthetic")
    assert "synthetic data" in texts(plt.figure().texts)
    plots.mark_figures("cifar100")
    assert texts(plt.figure().texts) == []
