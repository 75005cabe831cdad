import matplotlib.pyplot as plt
import numpy as np
import pytest

from cifar100_helpers import run_plots
from cifar100_helpers.data import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES

HISTORY = {
    "epoch": [1, 2, 3, 4],
    "phase": [1, 1, 2, 3],
    "loss": [4.0, 3.0, 2.5, 2.25],
    "accuracy": [0.1, 0.2, 0.3, 0.35],
}
SUPERCLASSES = [name.replace("_", " ") for name in COARSE_NAMES]


@pytest.fixture
def predictions(synthetic):
    """Right for every class but 3, always taken for 7, and 10, half taken for 11."""
    labels = synthetic.y_test
    seen = labels.copy()
    seen[labels == 3] = 7
    seen[np.flatnonzero(labels == 10)[::2]] = 11
    return 0.9 * np.eye(100)[seen] + 0.001, labels


def texts(artists):
    return [artist.get_text() for artist in artists]


def words(*classes):
    return [FINE_NAMES[i].replace("_", " ") for i in classes]


def test_training_curves_mark_the_phases_and_the_epochs_of_the_head_alone():
    ax = run_plots.plot_training_curves(HISTORY, "loss")
    curve, *boundaries = ax.lines
    np.testing.assert_array_equal(curve.get_ydata(), HISTORY["loss"])
    assert [line.get_xdata()[0] for line in boundaries] == [2.5, 3.5] and not ax.patches
    (shade,) = run_plots.plot_training_curves(HISTORY, "loss", frozen_epochs=2).patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 2.5)


def test_training_curves_show_validation_if_there_was_any():
    history = HISTORY | {"val_accuracy": [0.1, 0.15, 0.2, 0.2]}
    ax = run_plots.plot_training_curves(history, "accuracy")
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history["val_accuracy"])
    assert texts(ax.get_legend().get_texts()) == ["training", "validation"]


def test_class_accuracy_shows_the_worst_and_the_best(synthetic, predictions):
    ax = run_plots.plot_class_accuracy(*predictions, FINE_NAMES, count=3)
    names = texts(ax.get_yticklabels())
    widths = [bar.get_width() for bar in ax.patches]
    assert names[:2] == words(3, 10)
    assert widths[0] == 0 and 0 < widths[1] < 1 and widths[-3:] == [1, 1, 1]


def test_confused_pairs_come_most_first(synthetic, predictions):
    ax = run_plots.plot_confused_pairs(*predictions, FINE_NAMES, count=5)
    assert [bar.get_width() for bar in ax.patches] == [5, 3]
    assert texts(ax.get_yticklabels())[0] == " / ".join(words(3, 7))


def test_superclass_confusion_is_in_percent_of_the_true_superclass(predictions):
    probabilities, labels = predictions
    ax = run_plots.plot_superclass_confusion(probabilities, labels, COARSE_OF_FINE, COARSE_NAMES)
    shown = np.asarray(ax.images[0].get_array())
    expected = np.zeros((20, 20))
    for true, seen in COARSE_OF_FINE[np.column_stack([labels, probabilities.argmax(axis=1)])]:
        expected[true, seen] += 100 / np.sum(COARSE_OF_FINE[labels] == true)
    np.testing.assert_allclose(shown, expected)
    assert expected[COARSE_OF_FINE[3], COARSE_OF_FINE[7]] == pytest.approx(20)  # not 7 for 3
    numbers = {text.get_text() for text in ax.texts if text.get_visible()}
    assert numbers == {f"{percent:.0f}" for percent in expected.flat if percent}
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == SUPERCLASSES


def test_confident_mistakes_show_what_was_seen_and_what_it_is(synthetic, predictions):
    probabilities, labels = predictions
    mistake = np.flatnonzero(labels == 3)[2]
    probabilities[mistake, 7] = 0.99
    axes = run_plots.plot_confident_mistakes(
        synthetic.x_test, probabilities, labels, FINE_NAMES, count=4
    )
    np.testing.assert_array_equal(axes[0].images[0].get_array(), synthetic.x_test[mistake])
    seen, label = words(7, 3)
    assert axes[0].get_title() == f"“{seen}” 99%\nis {label}" and len(axes) == 4


def test_neighbours_are_coloured_by_whether_the_class_is_the_same(synthetic):
    labels = np.array([0, 1, 0, 1])
    images = synthetic.x_train[:4]
    axes = run_plots.plot_neighbours(images, [0, 3], [[1, 2], [1, 0]], labels, ["cat", "sea_lion"])
    titles = ["cat", "sea lion", "cat", "sea lion", "sea lion", "cat"]
    assert [ax.get_title() for ax in axes] == titles
    colours = [ax.title.get_color() for ax in axes]
    assert colours == ["black", "tab:red", "tab:green", "black", "tab:green", "tab:red"]
    for ax, index in zip(axes, [0, 1, 2, 3, 1, 0], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[index])


def test_functions_draw_into_given_axes(synthetic, predictions):
    _, ax = plt.subplots()
    assert run_plots.plot_training_curves(HISTORY, "loss", ax=ax) is ax
    assert run_plots.plot_confused_pairs(*predictions, FINE_NAMES, ax=ax) is ax
    assert len(plt.get_fignums()) == 1
