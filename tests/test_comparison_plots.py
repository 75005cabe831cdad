import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from test_plots import texts

from cifar100_helpers import comparison_plots
from cifar100_helpers.data import FINE_NAMES
from cifar100_helpers.results import RecordedRun

LABELS = np.tile(np.arange(100), 5)
FIRST_WRONG = {3: 7, 10: 11}  # class: what the first run takes it for
SECOND_WRONG = {20: 21, 10: 12}


def make_run(name, model, predicted, *, validation=0, **record):
    probabilities = (0.8 * np.eye(100)[predicted] + 0.002).astype(np.float32)
    top1 = float(np.mean(predicted == LABELS))
    metrics = {"top1": top1, "top1_interval": [top1 - 0.02, top1 + 0.01]}
    metrics["top1_without_duplicates"] = top1 - 0.03
    record = {"name": name, "model": model, "dataset": "cifar100", "metrics": metrics} | record
    record |= {"petaflops": 0.5, "parameters": {"seed": 0, "run": name}}
    validation = slice(0, validation)
    duplicates = np.zeros(500, bool)
    return RecordedRun(
        record, probabilities, LABELS, duplicates, probabilities[validation], LABELS[validation]
    )


def predicted_with(mistakes):
    return np.array([mistakes.get(label, label) for label in LABELS])


@pytest.fixture
def first():
    return make_run("a", "resnet", predicted_with(FIRST_WRONG))


@pytest.fixture
def second():
    return make_run("b", "xception", predicted_with(SECOND_WRONG), validation=200)


def test_two_runs_of_one_model_have_two_colours(first):
    assert len(set(comparison_plots.colours_of(first, first))) == 2


def legend_of(ax):
    legends = [*ax.figure.legends, *filter(None, [ax.get_legend()])]
    return {text.get_text() for legend in legends for text in legend.get_texts()}


def test_top1_shows_intervals_and_the_published_figures_as_lines(first, second):
    ax = comparison_plots.plot_top1([second, first])
    assert texts(ax.get_yticklabels()) == ["b", "a"]  # equal: as given
    for bars in ax.containers:
        ((left, right),) = bars.lines[2][0].get_segments()
        found = left[0], bars.lines[0].get_xdata()[0], right[0]
        assert found == pytest.approx((96, 98, 99))
    clean = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "x"]
    dashed = [line.get_xdata()[0] for line in ax.lines if line.get_ls() == "--"]
    assert clean == pytest.approx([95, 95]) and dashed == pytest.approx([65.49, 72.93])
    assert legend_of(ax) == {"resnet", "xception", "without near-duplicates", "published"}


def test_synthetic_runs_stand_without_the_published_figures(first):
    first.record["dataset"] = "synthetic"
    for plot in (comparison_plots.plot_top1, comparison_plots.plot_cost):
        assert "published" not in legend_of(plot([first]))


def test_cost_is_the_arithmetic_beside_what_was_published(first, second):
    ax = comparison_plots.plot_cost([first, second])
    points = [line.get_xydata()[0] for line in ax.lines if line.get_ls() == "None"]
    np.testing.assert_allclose(points, [(0.5, 98), (0.5, 98), (53.9, 65.49), (13.1, 72.93)])
    assert texts(ax.texts) == ["a", "b", "resnet, published figure", "xception, published figure"]
    assert legend_of(ax) == {"resnet", "xception", "published"}


def test_seeds_are_one_point_with_its_spread():
    seeds = []
    for seed, mistakes in enumerate([FIRST_WRONG, {}, {}]):
        seeds.append(make_run(f"a{seed}", "resnet", predicted_with(mistakes)))
        seeds[-1].record["parameters"] = {"seed": seed}
    ax = comparison_plots.plot_cost(seeds)
    assert texts(ax.texts)[0] == "a0, 3 seeds"
    ((_, low), (_, high)) = ax.containers[0].lines[2][0].get_segments()[0]
    mean, spread = np.mean([98, 100, 100]), np.std([98, 100, 100], ddof=1)
    assert (low, high) == pytest.approx((mean - spread, mean + spread))


def test_labels_of_equal_runs_do_not_overlap(first, second):
    runs = [make_run(f"a_run_{i}", "resnet", predicted_with({})) for i in range(6)]
    ax = comparison_plots.plot_cost([first, second, *runs])
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(label) for label in ax.texts]  # without the lines to points
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_agreement_is_one_bar_of_all_images(first, second):
    ax = comparison_plots.plot_agreement(first, second)
    assert [bar.get_width() for bar in ax.patches] == [485, 5, 5, 5]
    assert texts(ax.texts) == ["485", "5", "5", "5"]
    assert legend_of(ax) == {"both", "only a", "only b", "neither"}


def test_classes_that_differ_most_are_named_in_a_square(first, second):
    ax = comparison_plots.plot_classes(first, second, FINE_NAMES, count=4)
    loses, gains = ax.texts
    assert texts(ax.texts) == [FINE_NAMES[20].replace("_", " "), FINE_NAMES[3].replace("_", " ")]
    assert tuple(loses.xy) == (100, 0) and tuple(gains.xy) == (0, 100)
    assert ax.get_xlim() == ax.get_ylim() == (0, 100)
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[10], [0, 0])


def test_reliability_shows_the_temperature_only_of_runs_that_had_validation(first, second):
    before, after = comparison_plots.plot_reliability(first, second)
    _, trained = before.lines
    np.testing.assert_allclose(trained.get_xydata(), [[80.2, 98]], atol=1e-4)
    as_trained, at_temperature = texts(after.get_legend().get_texts())
    assert as_trained == "as trained: calibration error 17.8 %"
    assert at_temperature.startswith("at temperature 0.")
    assert after.lines[2].get_xdata()[-1] > 95  # surer, as it should be


def test_coverage_ends_at_top1_for_both_and_their_average(first, second):
    ax = comparison_plots.plot_coverage(first, second)
    assert texts(ax.get_legend().get_texts()) == ["a", "b", "average of both"]
    for line, top1 in zip(ax.lines, (98, 98, 99), strict=True):
        assert line.get_xydata()[-1] == pytest.approx((100, top1))


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
    assert axes[0].get_title() == f"{FINE_NAMES[3]}\nnot “{FINE_NAMES[7]}” 95 %".replace("_", " ")


def test_images_both_get_wrong_stand_beside_their_class(synthetic, first, second):
    rows = {"x_test": pictures(), "x_train": synthetic.x_train, "y_train": synthetic.y_train}
    data = type("Data", (), rows | {"fine_names": FINE_NAMES})
    first.probabilities[210], second.probabilities[210] = np.eye(100)[[11, 11]]
    axes = comparison_plots.plot_both_wrong(data, first, second, count=2, examples=3)
    assert len(axes) == 8
    assert index_of(axes[0]) == 210 and index_of(axes[4]) == 10
    name = FINE_NAMES[10].replace("_", " ")
    assert axes[0].get_title() == f"“{FINE_NAMES[11]}” 100 %\nis {name}?"
    examples = synthetic.x_train[synthetic.y_train == 10][:3]
    for ax, image in zip(axes[1:4], examples, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title().strip() == name


def test_groups_without_images_are_said_to_be_empty(first):
    perfect = make_run("b", "xception", predicted_with({}))
    comparison_plots.plot_only_one_correct(pictures(), first, perfect, FINE_NAMES)
    assert plt.gcf().get_suptitle().endswith(": there is no such image")
