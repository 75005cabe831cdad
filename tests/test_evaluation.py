from math import comb

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from cifar100_helpers.evaluation import (
    accuracy_at_coverage,
    apply_temperature,
    calibrate,
    class_accuracy,
    count_agreement,
    coverage_curve,
    difference_interval,
    evaluate,
    expected_calibration_error,
    fit_temperature,
    mcnemar_p_value,
    most_confused_pairs,
    reliability_bins,
)
from cifar100_helpers.results import RecordedRun

COARSE = np.arange(100) % 20


def noisy(strength, labels, classes, seed=0):
    """Probabilities from scores whose label stands out by `strength`."""
    scores = np.random.default_rng(seed).normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), labels] += strength
    return softmax(scores, axis=1)


@pytest.fixture(scope="module")
def predictions():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 8))
    return noisy(2, labels, 100), labels


def test_metrics_equal_scikit_learn(predictions):
    """Of what is stored, in double precision; near-duplicates are left out of one metric alone."""
    probabilities, labels = predictions[0].astype(np.float16), predictions[1]
    near_duplicate = np.arange(800) % 8 == 0
    metrics = evaluate(probabilities, labels, COARSE, near_duplicate)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    predicted, kept = probabilities.argmax(axis=1), ~near_duplicate
    expected = {
        "top1": accuracy_score(labels, predicted),
        "top1_without_duplicates": accuracy_score(labels[kept], predicted[kept]),
        "top5": top_k_accuracy_score(labels, probabilities, k=5),
        "superclass_top1": accuracy_score(labels % 20, predicted % 20),
        "loss": log_loss(labels, probabilities),
    }
    low, high = metrics.pop("top1_interval")
    assert low < metrics["top1"] < high and 0 < metrics.pop("calibration_error") < 1
    assert metrics == pytest.approx(expected, rel=1e-6)


def test_hopeless_model_has_a_finite_loss():
    labels = np.arange(100)
    hopeless = evaluate(np.eye(100)[(labels + 1) % 100], labels, COARSE, labels < 0)
    assert hopeless["top1"] == 0 and hopeless["calibration_error"] == 1
    assert hopeless["loss"] == pytest.approx(-np.log(1e-7), rel=1e-4)


def test_reliability_and_calibration_error_equal_a_slow_count(predictions):
    probabilities, labels = predictions
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = [np.floor(15 * confidence) == k for k in range(15)]
    rows = [(b.sum(), confidence[b].mean(), correct[b].mean()) for b in bins if b.any()]
    assert 5 < len(rows) < 15  # bins without images are left out
    np.testing.assert_allclose(np.column_stack(reliability_bins(probabilities, labels)), rows)
    expected = sum(images * abs(sure - right) for images, sure, right in rows) / 800
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_accuracy_of_a_class_is_that_of_its_images():
    probabilities, labels = np.eye(4)[[0, 0, 3, 1]], np.array([0, 1, 3, 1])
    np.testing.assert_array_equal(class_accuracy(probabilities, labels), [1, 0.5, np.nan, 1])


def test_most_confused_pairs_count_both_directions():
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    predicted = np.array([1, 1, 0, 2, 3, 0, 3])
    pairs = most_confused_pairs(np.eye(4)[predicted], labels)
    assert pairs == [(0, 1, 3), (0, 2, 1), (2, 3, 1)]
    assert most_confused_pairs(np.eye(4)[labels], labels) == []


# Two models

LABELS = np.tile(np.arange(10), 30)


def make_run(probabilities, validation=0):
    validated = noisy(1, LABELS, 10, seed=5)[:validation], LABELS[:validation]
    return RecordedRun({}, probabilities, LABELS, LABELS < 0, *validated)


def pair(both, first, second, neither):
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts) > 0, np.repeat([1, 0, 1, 0], counts) > 0


def test_agreement_counts_every_image_once():
    counts = count_agreement(*pair(5, 4, 3, 2))
    assert list(counts.values()) == [5, 4, 3, 2]
    assert list(counts) == ["both", "only the first", "only the second", "neither"]


@pytest.mark.parametrize(("first", "second"), [(3, 9), (40, 17), (20, 20), (0, 0)])
def test_mcnemar_equals_the_sum_of_the_binomial_tail(first, second):
    n, fewer = first + second, min(first, second)
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n
    p_value = mcnemar_p_value(*pair(100, first, second, 50))
    assert p_value == pytest.approx(min(1, 2 * tail), rel=1e-9)


def test_interval_equals_scipys_paired_bootstrap():
    first, second = pair(400, 60, 110, 130)
    expected = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    middle, low, high = difference_interval(first, second)
    assert middle == pytest.approx(second.mean() - first.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.05 * (high - low))
    assert difference_interval(first, second) == (middle, low, high)
    assert difference_interval(first, first) == (0, 0, 0)


def test_temperature_undoes_what_made_a_model_too_confident(sharpness=3.0):
    """Labels drawn from the probabilities: these are calibrated, and sharpened ones are not."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(10), 20_000)
    labels = (probabilities.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    sharpened = probabilities**sharpness
    sharpened /= sharpened.sum(axis=1, keepdims=True)
    temperature = fit_temperature(sharpened, labels)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    np.testing.assert_allclose(apply_temperature(sharpened, sharpness), probabilities, atol=0.01)


def test_calibration_looks_at_validation_images_only():
    run = make_run(noisy(2, LABELS, 10), validation=200)
    temperature, probabilities = calibrate(run)
    assert temperature == fit_temperature(run.validation_probabilities, run.validation_labels)
    np.testing.assert_array_equal(probabilities, apply_temperature(run.probabilities, temperature))
    assert calibrate(make_run(run.probabilities)) is None


def test_coverage_curve_answers_equally_sure_images_together():
    probabilities = np.round(noisy(2, LABELS, 10), 1) + 1e-9
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == LABELS
    thresholds = sorted(set(confidence), reverse=True)
    expected = [((confidence >= t).mean(), correct[confidence >= t].mean()) for t in thresholds]
    np.testing.assert_allclose(np.column_stack(coverage_curve(probabilities, LABELS)), expected)


def test_accuracy_is_read_where_enough_is_answered():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    labels = np.array([0, 0, 0, 1])
    assert accuracy_at_coverage(probabilities, labels, 0.5) == 1
    assert accuracy_at_coverage(probabilities, labels, 0.6) == pytest.approx(2 / 3)
    assert accuracy_at_coverage(probabilities, labels, 1) == 0.75
