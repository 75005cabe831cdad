import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_plots import texts

from cifar100_helpers import run_plots
from cifar100_helpers.data import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES
from cifar100_helpers.plots import mark_figures
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.run_plots import BLUE, ORANGE

HISTORY = {
    "epoch": [1, 2, 3, 4],
    "phase": [1, 1, 2, 3],
    "loss": [4.0, 3.0, 2.5, 2.25],
    "accuracy": [0.1, 0.2, 0.3, 0.35],
}
SUPERCLASSES = [name.replace("_", " ") for name in COARSE_NAMES]
ABLATION = {
    "settings": {"width": 16, "images": 10_000, "epochs": 16},
    "accuracies": {
        "recipe": {"0": 0.40, "1": 0.42},
        "larger images": {"0": 0.44, "1": 0.46},
        "no decay": {"0": 0.39, "1": 0.42},
        "no cycle": {"0": 0.30},
    },
}


@pytest.fixture
def predictions(synthetic):
    """Correct for every class but 3, always taken for 7, and 10, half taken for 11."""
    labels = synthetic.y_test
    predicted = labels.copy()
    predicted[labels == 3] = 7
    predicted[np.flatnonzero(labels == 10)[::2]] = 11
    return 0.9 * np.eye(100)[predicted] + 0.001, labels


def words(*classes):
    return [FINE_NAMES[i].replace("_", " ") for i in classes]


def legend(ax):
    return texts(ax.get_legend().get_texts())


def bar_widths(ax):
    return [bar.get_width() for bar in ax.patches]


def colours_of(patches):
    return [to_hex(patch.get_facecolor()).upper() for patch in patches]


def test_schedule_shows_each_rate_and_the_phases():
    ax = run_plots.plot_schedule([Phase(16, 1e-3), Phase(6, 1e-4), Phase(4, 5e-5)])
    assert texts(ax.texts) == ["Adam\n0.001", "Adam\n0.0001", "Adam\n0.00005"]
    assert ax.get_yscale() == "log"
    boundaries = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert boundaries == [16, 22]


def test_schedule_shows_one_cycle_and_the_sizes_of_the_images():
    phase = Phase(6, 0.03, "muon", "one_cycle", warmup=0.5, image_sizes=[16, 32])
    ax = run_plots.plot_schedule([phase])
    (curve,) = ax.lines
    rates = dict(zip(curve.get_xdata(), curve.get_ydata(), strict=True))
    assert rates[3] == max(rates.values()) == pytest.approx(0.03)
    assert rates[0] == 0 and rates[6] == pytest.approx(0)
    assert texts(ax.texts) == ["Muon\n0.03", "16 × 16 pixels", "32 × 32 pixels"]
    assert [(band.get_x(), band.get_width()) for band in ax.patches] == [(0, 3), (3, 3)]


def test_ablation_sorts_what_is_lost_and_gained():
    mark_figures("synthetic")
    ax = run_plots.plot_ablation(ABLATION)
    assert texts(ax.get_yticklabels()) == ["no cycle", "no decay", "larger images"]
    assert bar_widths(ax) == pytest.approx([-10, -0.5, 4])
    assert colours_of(ax.patches) == [ORANGE, ORANGE, BLUE]
    assert texts(ax.texts) == ["−10.0", "−0.5", "+4.0"]
    assert "width 16, 10,000 images, 16 epochs, 2 seeds" in ax.get_xlabel()
    assert not ax.figure.texts  # it was measured on real images


def test_copies_stand_beside_variants_that_are_new_in_every_epoch():
    mark_figures("synthetic")
    accuracies = {"1": {"0": 0.3, "1": 0.4}, "2": {"0": 0.4, "1": 0.5}}
    accuracies["new every epoch"] = {"0": 0.5, "1": 0.52}
    ax = run_plots.plot_copies(ABLATION | {"accuracies": accuracies})
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([35, 45, 51])
    assert colours_of(ax.patches) == [BLUE, BLUE, ORANGE]
    assert texts(ax.get_xticklabels()) == ["1", "2", "new every\nepoch"]
    assert "width 16, 10,000 images, as many steps as 16 epochs on them, 2 seeds" in ax.get_xlabel()
    assert not ax.figure.texts


def test_picture_of_the_resnet_has_every_block_and_the_numbers_of_each_stage():
    ax = run_plots.plot_resnet(build_resnet((1, 2), width=16))
    # The image, the stem, two convolutions in each of three blocks, pool, probabilities.
    assert len(ax.patches) == 2 + 2 * 3 + 2
    assert {"32 × 32", "16 × 16", "stage1", "stage2", "5,104"} <= set(texts(ax.texts))


def test_training_curves_mark_the_phases_and_the_epochs_of_the_head_alone():
    ax = run_plots.plot_training_curves(HISTORY, "loss")
    curve, *boundaries = ax.lines
    np.testing.assert_array_equal(curve.get_ydata(), HISTORY["loss"])
    assert [line.get_xdata()[0] for line in boundaries] == [2.5, 3.5] and not ax.patches
    (shade,) = run_plots.plot_training_curves(HISTORY, "loss", frozen_epochs=2).patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 2.5)


def test_training_curves_show_accuracy_in_percent_beside_validation_and_test():
    history = HISTORY | {"val_accuracy": [0.1, 0.15, 0.2, 0.2]}
    ax = run_plots.plot_training_curves(history, "accuracy", test=0.215, name="a_run")
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [10, 15, 20, 20])
    ends = ["training: 35.00 % at the end", "validation: 20.00 % at the end", "test: 21.50 %"]
    assert legend(ax) == ends and ax.get_title() == "a_run"


def test_loss_that_falls_by_orders_of_magnitude_has_a_logarithmic_scale():
    assert run_plots.plot_training_curves(HISTORY, "loss").get_yscale() == "linear"
    steep = HISTORY | {"loss": [3.0, 0.3, 0.03, 0.02]}
    assert run_plots.plot_training_curves(steep, "loss").get_yscale() == "log"


def test_class_accuracy_shows_the_worst_the_best_and_a_strip_of_all(predictions):
    ax = run_plots.plot_class_accuracy(*predictions, FINE_NAMES, count=3, name="a_run")
    names, widths = texts(ax.get_yticklabels()), bar_widths(ax)
    assert names[:2] == words(3, 10) and names[-1] == "all 100 classes"
    assert widths[0] == 0 and 0 < widths[1] < 100 and widths[-3:] == [100, 100, 100]
    assert colours_of(ax.patches) == 3 * [ORANGE] + 3 * [BLUE]
    assert len(ax.lines[0].get_xdata()) == 100 and "a_run" in ax.get_title()


def test_confused_pairs_come_most_first_and_tell_siblings_from_others(predictions):
    # 3, bear, and 7, beetle, are not of one superclass; 10, bowl, and 11, boy, neither.
    ax = run_plots.plot_confused_pairs(*predictions, FINE_NAMES, COARSE_OF_FINE, name="a_run")
    assert bar_widths(ax) == [5, 3] and colours_of(ax.patches) == [ORANGE, ORANGE]
    assert texts(ax.get_yticklabels())[0] == " / ".join(words(3, 7))
    assert legend(ax) == ["of the same superclass: 0 of 2", "of different superclasses: 2 of 2"]
    assert colours_of(ax.get_legend().get_patches()) == [BLUE, ORANGE]
    siblings = COARSE_OF_FINE.copy()
    siblings[10] = siblings[11]
    ax = run_plots.plot_confused_pairs(*predictions, FINE_NAMES, siblings, name="a_run")
    assert legend(ax) == ["of the same superclass: 1 of 2", "of different superclasses: 1 of 2"]
    assert dict(zip(bar_widths(ax), colours_of(ax.patches), strict=True)) == {5: ORANGE, 3: BLUE}
    correct = np.eye(100)[predictions[1]], predictions[1]
    ax = run_plots.plot_confused_pairs(*correct, FINE_NAMES, COARSE_OF_FINE, name="a_run")
    assert bar_widths(ax) == []


def test_superclass_confusion_is_in_percent_of_the_true_superclass(predictions):
    ax = run_plots.plot_superclass_confusion(
        *predictions, COARSE_OF_FINE, COARSE_NAMES, name="a_run"
    )
    shown = np.asarray(ax.images[0].get_array())
    bear, beetle = COARSE_OF_FINE[[3, 7]]
    assert shown[bear, beetle] == pytest.approx(20) and shown[bear, bear] == pytest.approx(80)
    np.testing.assert_allclose(shown.sum(axis=1), 100)
    numbers = {text.get_text() for text in ax.texts if text.get_visible()}
    assert numbers == {f"{percent:.0f}" for percent in shown.flat if percent}
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == SUPERCLASSES


def test_confident_mistakes_show_what_was_predicted_and_what_it_is(synthetic, predictions):
    probabilities, labels = predictions
    mistake = np.flatnonzero(labels == 3)[2]
    probabilities[mistake, 7] = 0.99
    ax, *others = run_plots.plot_confident_mistakes(
        synthetic.x_test, probabilities, labels, FINE_NAMES, count=4, name="a_run"
    )
    np.testing.assert_array_equal(ax.images[0].get_array(), synthetic.x_test[mistake])
    predicted, label = words(7, 3)
    assert ax.get_title() == f"“{predicted}” 99 %\nis {label}" and len(others) == 3


def test_neighbours_of_the_same_class_have_a_mark_and_a_frame(synthetic):
    labels = np.array([0, 1, 0, 1])
    images = synthetic.x_train[:4]
    axes = run_plots.plot_neighbours(images, [0, 3], [[1, 2], [1, 0]], labels, ["cat", "sea_lion"])
    titles = ["cat", "sea lion", "✓ cat", "sea lion", "✓ sea lion", "cat"]
    assert [ax.get_title() for ax in axes] == titles
    assert [len(ax.patches) for ax in axes] == [0, 0, 1, 0, 1, 0]
    for ax, index in zip(axes, [0, 1, 2, 3, 1, 0], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[index])
        assert ax.images[0].get_interpolation() == "nearest"


def test_embedding_draws_each_superclass_in_every_panel():
    labels = np.arange(40) % 20
    before, after = np.random.default_rng(0).normal(size=(2, 40, 2))
    placed = {"before": before, "after": after}
    panels = run_plots.plot_embedding(placed, labels, COARSE_NAMES)
    for ax, (title, points) in zip(panels, placed.items(), strict=True):
        assert ax.get_title() == title
        np.testing.assert_array_equal(ax.collections[3].get_offsets(), points[labels == 3])
    assert texts(panels[0].figure.legends[0].get_texts()) == SUPERCLASSES
