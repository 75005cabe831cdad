import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score

from cifar100_helpers.evaluation import (
    class_accuracy,
    count_confusions,
    evaluate,
    expected_calibration_error,
    mistakes_inside_superclass,
    most_confident_mistakes,
    most_confused_pairs,
    reliability_bins,
    superclass_accuracy,
)

COARSE = np.arange(100) % 20


def evaluated(probabilities, labels):
    """The metrics where no image has a near-duplicate."""
    return evaluate(probabilities, labels, COARSE, np.zeros(len(labels), bool))


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(100), 8))
    scores = rng.normal(size=(800, 100))
    scores[np.arange(800), labels] += 2
    probabilities = np.exp(scores)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def test_metrics_equal_scikit_learn(predictions):
    probabilities, labels = predictions
    metrics = evaluated(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert 0.2 < metrics["top1"] < 0.8
    low, high = metrics.pop("top1_interval")
    assert low < metrics["top1"] < high
    del metrics["calibration_error"]
    assert metrics.pop("top1_without_duplicates") == metrics["top1"]
    assert metrics == pytest.approx(
        {
            "top1": accuracy_score(labels, predicted),
            "top5": top_k_accuracy_score(labels, probabilities, k=5),
            "superclass_top1": accuracy_score(labels % 20, predicted % 20),
            "loss": log_loss(labels, probabilities),
        },
        rel=1e-6,
    )


def test_perfect_and_hopeless_model():
    labels = np.arange(100)
    perfect = evaluated(np.eye(100), labels)
    assert perfect["top1"] == perfect["top5"] == perfect["superclass_top1"] == 1
    assert perfect["loss"] == pytest.approx(0, abs=2e-5)
    hopeless = evaluated(np.eye(100)[(labels + 1) % 100], labels)
    assert hopeless["top1"] == hopeless["superclass_top1"] == 0
    assert hopeless["loss"] == pytest.approx(-np.log(1e-7), rel=1e-4)  # clipped, not infinite


def test_constant_model_scores_chance():
    uniform = np.full((1000, 100), 0.01)
    metrics = evaluated(uniform, np.arange(1000) % 100)
    assert metrics["top1"] == 0.01
    assert metrics["loss"] == pytest.approx(np.log(100))


def test_mistake_within_the_superclass_counts_for_the_superclass():
    probabilities = np.eye(100)[[20, 1]]
    metrics = evaluated(probabilities, np.array([0, 0]))  # 0 and 20 are siblings
    assert metrics["top1"] == 0 and metrics["superclass_top1"] == 0.5


def test_near_duplicates_are_left_out_and_counted_elsewhere(predictions):
    probabilities, labels = predictions
    near_duplicate = np.arange(800) % 8 == 0
    metrics = evaluate(probabilities, labels, COARSE, near_duplicate)
    kept = [i for i in range(800) if i % 8]
    expected = accuracy_score(labels[kept], probabilities[kept].argmax(axis=1))
    assert metrics.pop("top1_without_duplicates") == expected != metrics["top1"]
    assert metrics.items() <= evaluated(probabilities, labels).items()


def test_where_every_image_has_a_near_duplicate_nothing_is_left(predictions):
    metrics = evaluate(*predictions, COARSE, np.ones(800, bool))
    assert metrics["top1_without_duplicates"] is None and metrics["top1"] > 0


def test_float16_is_evaluated_in_double_precision(predictions):
    probabilities, labels = predictions
    stored = probabilities.astype(np.float16)
    exact = evaluated(stored.astype(np.float64), labels)
    assert evaluated(stored, labels) == exact


def test_interval_is_wilsons():
    labels = np.zeros(400, int)
    probabilities = np.eye(100)[np.where(np.arange(400) < 260, 0, 1)]
    n, p, z = 400, 260 / 400, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = evaluated(probabilities, labels)["top1_interval"]
    assert interval == pytest.approx([middle - reach, middle + reach], rel=1e-6)


def test_calibration_error_equals_a_slow_count(predictions):
    probabilities, labels = predictions
    expected = 0.0
    for k in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if k / 15 <= row.max() < (k + 1) / 15
        ]
        if inside:
            confidences, rights = zip(*inside, strict=True)
            expected += len(inside) / len(labels) * abs(np.mean(confidences) - np.mean(rights))
    assert expected > 0.05
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_calibration_error_of_a_perfect_an_overconfident_and_a_humble_model():
    labels = np.arange(100)
    assert expected_calibration_error(np.eye(100), labels) == 0
    assert expected_calibration_error(np.eye(100)[(labels + 1) % 100], labels) == 1
    assert expected_calibration_error(np.full((100, 100), 0.01), labels) == pytest.approx(0)


def test_reliability_bins_equal_histograms(predictions):
    probabilities, labels = predictions
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    expected, edges = np.histogram(confidence, bins=10, range=(0, 1))
    images, mean_confidence, accuracy = reliability_bins(probabilities, labels, bins=10)
    np.testing.assert_array_equal(images, expected)
    for k in np.flatnonzero(images):
        inside = (confidence >= edges[k]) & (confidence < edges[k + 1])
        assert mean_confidence[k] == pytest.approx(confidence[inside].mean())
        assert accuracy[k] == pytest.approx(right[inside].mean())


def test_bins_without_images_have_no_accuracy_and_certainty_is_in_the_last():
    images, confidence, accuracy = reliability_bins(np.eye(4), np.array([0, 1, 2, 0]), bins=4)
    np.testing.assert_array_equal(images, [0, 0, 0, 4])
    np.testing.assert_array_equal(confidence, [np.nan, np.nan, np.nan, 1])
    np.testing.assert_array_equal(accuracy, [np.nan, np.nan, np.nan, 0.75])


def test_superclass_accuracy_equals_a_slow_count(predictions):
    probabilities, labels = predictions
    rights = {superclass: [] for superclass in range(20)}
    for row, label in zip(probabilities, labels, strict=True):
        rights[label % 20].append(row.argmax() == label)
    expected = [np.mean(rights[superclass]) for superclass in range(20)]
    np.testing.assert_allclose(superclass_accuracy(probabilities, labels, COARSE), expected)


def test_superclass_without_images_has_no_accuracy():
    coarse = np.array([0, 0, 1, 2])
    accuracy = superclass_accuracy(np.eye(4)[[0, 0, 3]], np.array([0, 1, 3]), coarse)
    np.testing.assert_array_equal(accuracy, [0.5, np.nan, 1])


def test_mistakes_inside_the_superclass_are_counted_among_the_mistakes():
    predicted, labels = np.array([20, 1, 0, 40]), np.array([0, 0, 0, 20])
    assert mistakes_inside_superclass(np.eye(100)[predicted], labels, COARSE) == 2 / 3
    assert np.isnan(mistakes_inside_superclass(np.eye(100)[labels], labels, COARSE))
    constant = np.eye(100)[np.zeros(100, int)]  # 4 of 99 mistakes name a sibling
    assert mistakes_inside_superclass(constant, np.arange(100), COARSE) == pytest.approx(4 / 99)


def test_class_accuracy_equals_recall(predictions):
    probabilities, labels = predictions
    expected = recall_score(labels, probabilities.argmax(axis=1), average=None)
    np.testing.assert_allclose(class_accuracy(probabilities, labels), expected)


def test_class_without_images_has_no_accuracy():
    accuracy = class_accuracy(np.eye(3), np.array([0, 1, 1]))
    np.testing.assert_array_equal(accuracy, [1, 0.5, np.nan])


def test_confusions_equal_a_slow_count(predictions):
    probabilities, labels = predictions
    counts = np.zeros((100, 100), int)
    for row, label in zip(probabilities, labels, strict=True):
        counts[label, row.argmax()] += 1
    np.testing.assert_array_equal(count_confusions(probabilities, labels), counts)


def test_most_confused_pairs_counts_both_directions():
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    predicted = np.array([1, 1, 0, 2, 3, 0, 3])
    pairs = most_confused_pairs(np.eye(4)[predicted], labels, count=10)
    assert pairs == [(0, 1, 3), (0, 2, 1), (2, 3, 1)]
    assert most_confused_pairs(np.eye(4)[predicted], labels, count=1) == [(0, 1, 3)]
    assert most_confused_pairs(np.eye(4)[labels], labels) == []


def test_most_confident_mistakes_are_wrong_and_in_order():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(most_confident_mistakes(probabilities, labels), [2, 1])
    np.testing.assert_array_equal(most_confident_mistakes(probabilities, labels, count=1), [2])
