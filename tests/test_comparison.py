from math import comb

import numpy as np
import pytest
from scipy import stats

from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import (
    accuracy_at_coverage,
    apply_temperature,
    calibrate,
    choose_runs,
    count_agreement,
    coverage_curve,
    difference_interval,
    fit_temperature,
    is_correct,
    mcnemar_p_value,
)
from cifar100_helpers.results import Run

LABELS = np.tile(np.arange(10), 30)


def noisy(strength, *, seed=0, labels=LABELS):
    """Probabilities from scores whose label stands out by `strength`."""
    scores = np.random.default_rng(seed).normal(size=(len(labels), 10))
    scores[np.arange(len(labels)), labels] += strength
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def make_run(name="a", model="resnet", probabilities=None, labels=LABELS, validation=0, **record):
    probabilities = noisy(2) if probabilities is None else probabilities
    top1 = float(np.mean(probabilities.argmax(axis=1) == labels))
    record = {"name": name, "model": model, "dataset": "cifar100", "parameter_count": 9} | record
    return Run(
        record | {"metrics": {"top1": top1}},
        probabilities,
        labels,
        np.zeros(len(labels), bool),
        noisy(1, seed=5)[:validation],
        LABELS[:validation],
    )


def test_best_run_of_each_family_is_compared_unless_others_are_named():
    runs = [
        make_run("weak", probabilities=noisy(1)),
        make_run("strong", probabilities=noisy(4)),
        make_run("pretrained", "xception"),
    ]
    assert [run.record["name"] for run in choose_runs(runs)] == ["strong", "pretrained"]
    assert choose_runs(runs, "weak") == (runs[0], runs[2])
    assert choose_runs(runs, "strong", "weak") == (runs[1], runs[0])
    runs += [make_run("published", probabilities=noisy(2), parameter_count=46_203_236)]
    assert choose_runs(runs) == (runs[3], runs[2])


def test_missing_run_is_one_sentence():
    with pytest.raises(RunError, match=r"no run with the model xception .* \(only\)"):
        choose_runs([make_run("only")])
    with pytest.raises(RunError, match=r"no run with the name other .* \(only\)"):
        choose_runs([make_run("only")], second="other")


def test_run_is_not_compared_with_itself():
    with pytest.raises(RunError, match="only cannot be compared with itself"):
        choose_runs([make_run("only")], "only", "only")


@pytest.mark.parametrize("change", [{"labels": LABELS[::-1]}, {"dataset": "synthetic"}])
def test_runs_on_other_images_are_refused_by_name(change):
    other = make_run("second", "xception", **change)
    with pytest.raises(RunError, match="first and second did not predict the same images"):
        choose_runs([make_run("first"), other])


def test_right_is_where_the_label_is_likeliest():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])  # a tie: the first class
    run = make_run(probabilities=probabilities, labels=np.array([0, 0, 1]))
    np.testing.assert_array_equal(is_correct(run), [True, False, False])


def pair(both, first, second, neither):
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts) > 0, np.repeat([1, 0, 1, 0], counts) > 0


def test_agreement_counts_every_image_once():
    counts = count_agreement(*pair(5, 4, 3, 2))
    assert list(counts.values()) == [5, 4, 3, 2]
    assert list(counts) == ["both", "only the first", "only the second", "neither"]


@pytest.mark.parametrize(("first", "second"), [(1, 0), (3, 9), (40, 17), (20, 20), (0, 12)])
def test_mcnemar_equals_the_sum_of_the_binomial_tail(first, second):
    n, fewer = first + second, min(first, second)
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n
    p_value = mcnemar_p_value(*pair(100, first, second, 50))
    assert p_value == pytest.approx(min(1, 2 * tail), rel=1e-9)


def test_identical_models_do_not_differ():
    right = np.arange(100) < 60
    assert mcnemar_p_value(right, right) == 1
    assert difference_interval(right, right) == (0, 0, 0)


@pytest.mark.parametrize("counts", [(400, 60, 110, 130), (10, 1, 4, 5)])
def test_interval_equals_scipys_paired_bootstrap(counts):
    first, second = pair(*counts)

    def difference(a, b, axis):
        return b.mean(axis=axis) - a.mean(axis=axis)

    expected = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        difference,
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    middle, low, high = difference_interval(first, second)
    assert middle == pytest.approx(second.mean() - first.mean())
    within = 0.05 * (high - low)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=within)


def test_interval_is_the_same_for_the_same_seed():
    few = [difference_interval(*pair(4, 6, 3, 8), resamples=20, seed=seed) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_temperature_undoes_what_made_a_model_too_confident(sharpness):
    """Labels drawn from the probabilities: these are calibrated, and sharpened ones are not."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(10), 20_000)
    labels = (probabilities.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    sharpened = probabilities**sharpness
    sharpened /= sharpened.sum(axis=1, keepdims=True)
    temperature = fit_temperature(sharpened, labels)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    np.testing.assert_allclose(apply_temperature(sharpened, sharpness), probabilities, atol=0.01)


def test_calibration_looks_at_held_out_images_only():
    run = make_run(validation=200)
    temperature, probabilities = calibrate(run)
    assert temperature == fit_temperature(run.validation_probabilities, run.validation_labels)
    np.testing.assert_array_equal(probabilities, apply_temperature(run.probabilities, temperature))
    hopeless = make_run(labels=(LABELS + 1) % 10, validation=200)
    assert calibrate(hopeless)[0] == temperature
    assert calibrate(make_run(validation=0)) is None


def test_coverage_curve_equals_a_slow_count():
    probabilities = np.round(noisy(2), 1) + 1e-9  # many equally sure
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == LABELS
    expected = []
    for threshold in sorted(set(confidence), reverse=True):
        answered = [bool(r) for c, r in zip(confidence, right, strict=True) if c >= threshold]
        expected.append((len(answered) / 300, np.mean(answered)))
    assert 3 < len(expected) < 12
    np.testing.assert_allclose(np.column_stack(coverage_curve(probabilities, LABELS)), expected)


def test_accuracy_is_read_where_enough_is_answered():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    labels = np.array([0, 0, 0, 1])
    assert accuracy_at_coverage(probabilities, labels, 0.5) == 1
    assert accuracy_at_coverage(probabilities, labels, 0.6) == pytest.approx(2 / 3)
    assert accuracy_at_coverage(probabilities, labels, 1) == 0.75
