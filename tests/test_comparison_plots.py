import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from cifar100_helpers import comparison_plots
from cifar100_helpers.data import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES
from cifar100_helpers.results import Run

LABELS = np.tile(np.arange(100), 5)
FIRST_WRONG = {3: 7, 10: 11}  # class: what the first run sees in it, the second in half of its own
SECOND_WRONG = {20: 21, 10: 12}


def make_run(name, model, seen, *, validation=0, **record):
    probabilities = (0.8 * np.eye(100)[seen] + 0.002).astype(np.float32)
    top1 = float(np.mean(seen == LABELS))
    metrics = {"top1": top1, "top1_interval": [top1 - 0.02, top1 + 0.01]}
    metrics["top1_without_duplicates"] = top1 - 0.03
    record = {"name": name, "model": model, "dataset": "cifar100", "metrics": metrics} | record
    record["petaflops"] = 0.5
    validation = slice(0, validation)
    duplicates = np.zeros(500, bool)
    return Run(
        record, probabilities, LABELS, duplicates, probabilities[validation], LABELS[validation]
    )


def seen_with(mistakes):
    return np.array([mistakes.get(label, label) for label in LABELS])


@pytest.fixture
def first():
    return make_run("a", "resnet", seen_with(FIRST_WRONG))


@pytest.fixture
def second():
    return make_run("b", "xception", seen_with(SECOND_WRONG), validation=200)


def texts(artists):
    return [artist.get_text() for artist in artists]


def hex_colour(artist):
    return to_hex(artist.get_color()).upper()


def test_models_keep_their_colours_and_two_of_one_differ(first, second):
    blue, orange = comparison_plots.colours_of(first, second)
    assert comparison_plots.colours_of(second, first) == [orange, blue]
    same = comparison_plots.colours_of(first, first)
    assert same[0] == blue and same[1] not in (blue, orange)


def test_top1_shows_intervals_beside_the_published_figures(first, second):
    ax = comparison_plots.plot_top1([second, first])
    names = texts(ax.get_yticklabels())
    assert names == ["resnet, published", "xception, published", "b", "a"]  # equal: as given
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == pytest.approx([65.49, 72.93])
    for bars, row in zip(ax.containers, (2, 3), strict=True):
        ((left, right),) = bars.lines[2][0].get_segments()
        assert (left[0], right[0]) == pytest.approx((96.0, 99.0)) and left[1] == row
        assert bars.lines[0].get_xdata()[0] == pytest.approx(98)
    clean = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert any(line.get_xdata()[0] == pytest.approx(95) for line in clean)


def test_synthetic_runs_stand_without_the_published_figures(first):
    first.record["dataset"] = "synthetic"
    ax = comparison_plots.plot_top1([first])
    assert texts(ax.get_yticklabels()) == ["a"]


def test_cost_is_the_arithmetic(first, second):
    ax = comparison_plots.plot_cost([first, second])
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.5, 98], [0.5, 98]])
    assert texts(ax.texts) == ["a", "b"] and "PFLOPs" in ax.get_xlabel()


def test_labels_of_equal_runs_do_not_overlap(first, second):
    ax = comparison_plots.plot_cost([first, second, first, first, second])
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(label) for label in ax.texts]  # without the lines to points
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_labels_are_spread_no_more_than_they_must():
    placed = comparison_plots.spread([1.0, 9.0, 1.5, 5.0, 9.0], 1.0)
    np.testing.assert_allclose(placed, [0.75, 8.5, 1.75, 5, 9.5], atol=0.01)


def test_agreement_is_one_bar_of_all_images(first, second):
    ax = comparison_plots.plot_agreement(first, second)
    assert [bar.get_width() for bar in ax.patches] == [485, 5, 5, 5]
    assert texts(ax.texts) == ["485", "5", "5", "5"]
    (legend,) = ax.figure.legends
    labels = texts(legend.get_texts())
    assert labels == ["both right", "only a", "only b", "neither"]


def test_classes_that_differ_most_are_named_on_their_side(first, second):
    ax = comparison_plots.plot_classes(first, second, FINE_NAMES, count=4)
    assert texts(ax.texts) == [FINE_NAMES[20].replace("_", " "), FINE_NAMES[3].replace("_", " ")]
    loses, gains = ax.texts
    assert loses.xy == (100, 0) and gains.xy == (0, 100)
    assert gains.get_ha() == "right" and loses.get_ha() == "left"
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[10], [0, 0])


def test_superclasses_are_ordered_by_difficulty(first, second):
    ax = comparison_plots.plot_superclasses(first, second, COARSE_OF_FINE, COARSE_NAMES)
    names = texts(ax.get_yticklabels())
    hardest = COARSE_NAMES[COARSE_OF_FINE[10]].replace("_", " ")
    assert names[0] == hardest and len(names) == 20
    left, right = (points.get_offsets()[:, 0] for points in ax.collections[1:])
    assert left[0] == pytest.approx(80) and right[0] == pytest.approx(80)
    assert left.max() == right.max() == 100


def test_reliability_shows_the_temperature_only_of_runs_that_held_out(first, second):
    before, after = comparison_plots.plot_reliability(first, second)
    assert len(before.get_legend().get_texts()) == 1
    _, trained = before.lines
    np.testing.assert_allclose(trained.get_xydata(), [[80.2, 98]], atol=1e-4)
    assert hex_colour(trained) == comparison_plots.COLOURS["resnet"]
    first_label, second_label = texts(after.get_legend().get_texts())
    assert first_label == "as trained: calibration error 17.8 %"
    assert second_label.startswith("at temperature 0.")
    assert after.lines[2].get_xdata()[-1] > 95  # surer, as it should be


def test_coverage_ends_at_top1_for_both_and_their_average(first, second):
    ax = comparison_plots.plot_coverage(first, second)
    labels = texts(ax.get_legend().get_texts())
    assert labels == ["a", "b", "average of both"]
    for line, top1 in zip(ax.lines, (98, 98, 99), strict=True):
        assert line.get_xydata()[-1] == pytest.approx((100, top1))
    assert len({hex_colour(line) for line in ax.lines}) == 3


def test_figures_draw_into_given_axes(first, second):
    _, ax = plt.subplots()
    for plot in (comparison_plots.plot_agreement, comparison_plots.plot_coverage):
        assert plot(first, second, ax=ax) is ax
    assert comparison_plots.plot_top1([first], ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def pictures():
    """500 images that say which they are."""
    images = np.zeros((500, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(500) // 100, np.arange(500) % 100
    return images


def index_of(ax):
    red, green, _ = ax.images[0].get_array()[0, 0]
    return 100 * int(red) + int(green)


def test_images_only_one_run_recognises_come_surest_first(first, second):
    mistake = 303  # of class 3, which the first run takes for 7
    first.probabilities[mistake, 7] = 0.95
    axes = comparison_plots.plot_only_one_correct(pictures(), second, first, FINE_NAMES, count=4)
    assert [index_of(ax) for ax in axes] == [303, 3, 103, 203]
    assert axes[0].get_title() == f"{FINE_NAMES[3]}\nnot “{FINE_NAMES[7]}” 95%".replace("_", " ")


def test_images_both_get_wrong_stand_beside_their_class(synthetic, first, second):
    rows = {"x_test": pictures(), "x_train": synthetic.x_train, "y_train": synthetic.y_train}
    data = type("Data", (), rows | {"fine_names": FINE_NAMES})
    first.probabilities[210], second.probabilities[210] = np.eye(100)[[11, 11]]
    axes = comparison_plots.plot_both_wrong(data, first, second, count=2, examples=3)
    assert len(axes) == 8
    assert index_of(axes[0]) == 210 and index_of(axes[4]) == 10
    name = FINE_NAMES[10].replace("_", " ")
    assert axes[0].get_title() == f"“{FINE_NAMES[11]}” 100%\nis {name}?"
    examples = synthetic.x_train[synthetic.y_train == 10][:3]
    for ax, image in zip(axes[1:4], examples, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title().strip() == name
