import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score

from cifar100_helpers.evaluation import (
    class_accuracy,
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
    """The metrics if no image has a near-duplicate."""
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
    expected = {
        "top1": accuracy_score(labels, predicted),
        "top1_without_duplicates": accuracy_score(labels, predicted),
        "top5": top_k_accuracy_score(labels, probabilities, k=5),
        "superclass_top1": accuracy_score(labels % 20, predicted % 20),
        "loss": log_loss(labels, probabilities),
    }
    assert 0.2 < metrics["top1"] < 0.8
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert set(metrics) - set(expected) == {"top1_interval", "calibration_error"}


def test_perfect_hopeless_and_constant_model():
    labels = np.arange(100)
    perfect = evaluated(np.eye(100), labels)
    assert perfect["top1"] == perfect["top5"] == perfect["superclass_top1"] == 1
    assert perfect["loss"] == pytest.approx(0, abs=2e-5)
    hopeless = evaluated(np.eye(100)[(labels + 1) % 100], labels)
    assert hopeless["top1"] == hopeless["superclass_top1"] == 0
    assert hopeless["loss"] == pytest.approx(-np.log(1e-7), rel=1e-4)  # clipped, not infinite
    constant = evaluated(np.full((100, 100), 0.01), labels)
    assert constant["top1"] == 0.01 and constant["loss"] == pytest.approx(np.log(100))


def test_near_duplicates_are_left_out_of_their_metric_alone(predictions):
    probabilities, labels = predictions
    near_duplicate = np.arange(800) % 8 == 0
    metrics = evaluate(probabilities, labels, COARSE, near_duplicate)
    kept = [i for i in range(800) if i % 8]
    expected = accuracy_score(labels[kept], probabilities[kept].argmax(axis=1))
    assert metrics.pop("top1_without_duplicates") == expected != metrics["top1"]
    assert metrics.items() <= evaluated(probabilities, labels).items()


def test_float16_is_evaluated_in_double_precision(predictions):
    probabilities, labels = predictions
    stored = probabilities.astype(np.float16)
    assert evaluated(stored, labels) == evaluated(stored.astype(np.float64), labels)


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
    overconfident = np.eye(100)[(labels + 1) % 100]
    assert expected_calibration_error(overconfident, labels) == 1


def test_reliability_bins_equal_a_histogram(predictions):
    probabilities, labels = predictions
    expected, _ = np.histogram(probabilities.max(axis=1), bins=10, range=(0, 1))
    images, confidence, accuracy = reliability_bins(probabilities, labels, bins=10)
    np.testing.assert_array_equal(images, expected)
    right = probabilities.argmax(axis=1) == labels
    assert np.nansum(images * accuracy) == pytest.approx(right.sum())
    assert np.nansum(images * confidence) == pytest.approx(probabilities.max(axis=1).sum())
    images, confidence, accuracy = reliability_bins(np.eye(4), np.array([0, 1, 2, 0]), bins=4)
    np.testing.assert_array_equal(images, [0, 0, 0, 4])  # certainty is in the last bin
    np.testing.assert_array_equal(confidence, [np.nan, np.nan, np.nan, 1])
    np.testing.assert_array_equal(accuracy, [np.nan, np.nan, np.nan, 0.75])


def test_accuracies_of_classes_and_superclasses(predictions):
    probabilities, labels = predictions
    recall = recall_score(labels, probabilities.argmax(axis=1), average=None)
    np.testing.assert_allclose(class_accuracy(probabilities, labels), recall)
    mean_of_five = recall.reshape(5, 20).mean(axis=0)  # each class has eight images
    accuracy = superclass_accuracy(probabilities, labels, COARSE)
    np.testing.assert_allclose(accuracy, mean_of_five)


def test_class_without_images_has_no_accuracy():
    probabilities, labels = np.eye(4)[[0, 0, 3]], np.array([0, 1, 3])
    np.testing.assert_array_equal(class_accuracy(probabilities, labels), [1, 0, np.nan, 1])
    accuracy = superclass_accuracy(probabilities, labels, np.array([0, 0, 1, 2]))
    np.testing.assert_array_equal(accuracy, [0.5, np.nan, 1])


def test_mistakes_inside_the_superclass_are_counted_among_the_mistakes():
    predicted, labels = np.array([20, 1, 0, 40]), np.array([0, 0, 0, 20])
    assert mistakes_inside_superclass(np.eye(100)[predicted], labels, COARSE) == 2 / 3
    assert np.isnan(mistakes_inside_superclass(np.eye(100)[labels], labels, COARSE))


def test_most_confused_pairs_count_both_directions():
    labels = np.array([0, 0, 1, 2, 2, 2, 3])
    predicted = np.array([1, 1, 0, 2, 3, 0, 3])
    pairs = most_confused_pairs(np.eye(4)[predicted], labels)
    assert pairs == [(0, 1, 3), (0, 2, 1), (2, 3, 1)]
    assert most_confused_pairs(np.eye(4)[predicted], labels, count=1) == [(0, 1, 3)]
    assert most_confused_pairs(np.eye(4)[labels], labels) == []


def test_most_confident_mistakes_are_wrong_and_in_order():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(most_confident_mistakes(probabilities, labels), [2, 1])
    np.testing.assert_array_equal(most_confident_mistakes(probabilities, labels, count=1), [2])
