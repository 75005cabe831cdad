import matplotlib.pyplot as plt
import numpy as np

from cifar100_helpers import plots
from cifar100_helpers.data import COARSE_NAMES, FINE_NAMES

SUPERCLASSES = [name.replace("_", " ") for name in COARSE_NAMES]


def texts(artists):
    return [artist.get_text() for artist in artists]


def words(*classes):
    return [FINE_NAMES[i].replace("_", " ") for i in classes]


def test_images_are_drawn_in_order_with_titles():
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    axes = plots.plot_images(images, [str(i) for i in range(7)], columns=3)
    assert len(axes) == 7
    for i, ax in enumerate(axes):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[i])
        assert ax.get_title() == str(i)


def test_no_images_leave_an_empty_figure_with_its_heading():
    axes = plots.plot_images(np.empty((0, 32, 32, 3), np.uint8), [], heading="nothing was wrong")
    assert len(axes) == 0 and plt.gcf().get_suptitle() == "nothing was wrong"


def test_mosaic_names_every_class_beside_its_superclass(synthetic):
    pictures = np.zeros((100, 8, 8, 3), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(100)
    ax = plots.plot_class_mosaic(pictures, synthetic)
    by_row = {}
    for image, text in zip(ax.images, ax.texts, strict=True):
        fine = int(image.get_array()[0, 0, 0])
        assert [text.get_text()] == words(fine)
        row = round(image.get_extent()[3] / 1.4)
        by_row.setdefault(row, set()).add(int(synthetic.coarse_of_fine[fine]))
    assert by_row == {row: {row} for row in range(20)}
    assert texts(ax.get_yticklabels()) == SUPERCLASSES


def test_class_distances_are_ordered_by_superclass(synthetic):
    siblings = synthetic.coarse_of_fine[:, None] == synthetic.coarse_of_fine
    shown = plots.plot_class_distances(1.0 - siblings, synthetic).images[0].get_array()
    for block in range(20):
        part = slice(5 * block, 5 * block + 5)
        assert np.nansum(shown[part, part]) == 0
    assert np.nansum(shown) == 100 * 95


def test_channel_histograms_count_every_pixel():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, ..., 2] = 255
    lines = plots.plot_channel_histograms(images).lines
    red, green, blue = (line.get_ydata() for line in lines)
    assert red[0] == green[0] == 1 and blue[0] == blue[255] == 0.5


def test_brightness_is_distributed_over_images_not_pixels():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:2, 0] = 200  # half of their pixels: a mean of 100
    ax = plots.plot_brightness({"a": images})
    heights = {x: y for x, y in ax.patches[0].get_xy() if y > 0}
    assert set(heights) == {0, 4, 100, 104}


def test_duplicates_are_drawn_in_pairs_from_the_first_to_the_last(synthetic):
    columns = [("test_index", int), ("train_index", int), ("distance", float)]
    pairs = np.array([(i, 14 - i, 0.01 * i) for i in range(5)], columns)
    axes = plots.plot_duplicates(synthetic, pairs, count=3)
    assert len(axes) == 6
    for number, (test, train) in enumerate([(0, 14), (2, 12), (4, 10)]):
        ours, theirs = axes[2 * number], axes[2 * number + 1]
        np.testing.assert_array_equal(ours.images[0].get_array(), synthetic.x_test[test])
        np.testing.assert_array_equal(theirs.images[0].get_array(), synthetic.x_train[train])
        titles = [ours.get_title(), theirs.get_title()]
        assert titles == words(synthetic.y_test[test], synthetic.y_train[train])


def test_figures_of_synthetic_data_say_so(synthetic):
    plots.mark_figures("synthetic")
    assert "synthetic data" in texts(plt.figure().texts)
    plots.mark_figures("cifar100")
    assert texts(plt.figure().texts) == []
