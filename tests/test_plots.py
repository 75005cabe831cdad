import matplotlib.pyplot as plt
import numpy as np
import pytest

from cifar100_helpers import plots

HISTORY = {
    "epoch": [1, 2, 3, 4],
    "phase": [1, 1, 2, 3],
    "loss": [4.0, 3.0, 2.5, 2.25],
    "accuracy": [0.1, 0.2, 0.3, 0.35],
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")
    plt.rcParams["figure.hooks"] = []


@pytest.fixture
def predictions(synthetic):
    """Right for every class but 3, always taken for 7, and 10, half taken for 11."""
    labels = synthetic.y_test
    seen = labels.copy()
    seen[labels == 3] = 7
    seen[np.flatnonzero(labels == 10)[::2]] = 11
    return 0.9 * np.eye(100)[seen] + 0.001, labels


def texts(ax):
    return [text.get_text() for text in ax.texts]


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
        assert text.get_text() == synthetic.fine_names[fine].replace("_", " ")
        row = round(image.get_extent()[3] / 1.4)
        by_row.setdefault(row, set()).add(int(synthetic.coarse_of_fine[fine]))
    assert by_row == {row: {row} for row in range(20)}
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in synthetic.coarse_names]


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


def test_training_curves_mark_the_phases():
    ax = plots.plot_training_curves(HISTORY, "loss")
    curve, *boundaries = ax.lines
    np.testing.assert_array_equal(curve.get_ydata(), HISTORY["loss"])
    assert [line.get_xdata()[0] for line in boundaries] == [2.5, 3.5]


def test_training_curves_show_validation_where_there_is_one():
    history = HISTORY | {"val_accuracy": [0.1, 0.15, 0.2, 0.2]}
    ax = plots.plot_training_curves(history, "accuracy")
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history["val_accuracy"])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["training", "validation"]


def test_class_accuracy_shows_the_worst_and_the_best(synthetic, predictions):
    ax = plots.plot_class_accuracy(*predictions, synthetic.fine_names, count=3)
    names = [label.get_text() for label in ax.get_yticklabels()]
    widths = [bar.get_width() for bar in ax.patches]
    assert names[:2] == [synthetic.fine_names[i].replace("_", " ") for i in (3, 10)]
    assert widths[0] == 0 and 0 < widths[1] < 1 and widths[-3:] == [1, 1, 1]


def test_confused_pairs_come_most_first(synthetic, predictions):
    ax = plots.plot_confused_pairs(*predictions, synthetic.fine_names, count=5)
    assert [bar.get_width() for bar in ax.patches] == [5, 3]
    first = ax.get_yticklabels()[0].get_text()
    assert first == f"{synthetic.fine_names[3]} / {synthetic.fine_names[7]}".replace("_", " ")


def test_confident_mistakes_show_what_was_seen_and_what_it_is(synthetic, predictions):
    probabilities, labels = predictions
    mistake = int(np.flatnonzero(labels == 3)[2])
    probabilities[mistake, 7] = 0.99
    axes = plots.plot_confident_mistakes(
        synthetic.x_test, probabilities, labels, synthetic.fine_names, count=4
    )
    np.testing.assert_array_equal(axes[0].images[0].get_array(), synthetic.x_test[mistake])
    title = axes[0].get_title()
    seen, label = (synthetic.fine_names[i].replace("_", " ") for i in (7, 3))
    assert seen in title and label in title and "99%" in title
    assert len(axes) == 4


def test_functions_draw_into_given_axes(synthetic, predictions):
    _, ax = plt.subplots()
    assert plots.plot_training_curves(HISTORY, "loss", ax=ax) is ax
    assert plots.plot_confused_pairs(*predictions, synthetic.fine_names, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_figures_of_synthetic_data_say_so(synthetic):
    plots.mark_figures(synthetic)
    assert "synthetic data" in texts(plt.figure())
    real = type("Real", (), {"name": "cifar100"})
    plots.mark_figures(real)
    assert texts(plt.figure()) == []


def test_training_curves_shade_the_epochs_of_the_head_alone():
    history = {"epoch": [1, 2, 3], "phase": [1, 1, 2], "loss": [3.0, 2.0, 1.0]}
    ax = plots.plot_training_curves(history, "loss", frozen_epochs=2)
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 2.5)
    assert not plots.plot_training_curves(history, "loss").patches
