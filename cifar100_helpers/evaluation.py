"""What class probabilities are worth: metrics, per-class results and confusions."""

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score


def evaluate(probabilities, labels, coarse_of_fine):
    """Compute the metrics of a run's record, as a dict of plain numbers.

    `top1`, `top5` and `superclass_top1` are fractions, `top1_interval` is the 95 % interval of
    `top1` (Wilson), `loss` the mean cross-entropy in nats with probabilities of at least 1e-7,
    `calibration_error` see `expected_calibration_error`. A prediction's superclass is that of its
    likeliest class.

    `probabilities`: float (n, classes), rows summing to 1; `labels`: int (n,); `coarse_of_fine`:
    int (classes,), the superclass of each class.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    predicted = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    clipped = np.clip(probabilities, 1e-7, 1)
    clipped /= clipped.sum(axis=1, keepdims=True)
    right = predicted == labels
    interval = binomtest(int(right.sum()), len(labels)).proportion_ci(method="wilson")
    return {
        "top1": float(right.mean()),
        "top1_interval": [float(interval.low), float(interval.high)],
        "top5": float(top_k_accuracy_score(labels, probabilities, k=5, labels=classes)),
        "superclass_top1": float(np.mean(coarse_of_fine[predicted] == coarse_of_fine[labels])),
        "loss": float(log_loss(labels, clipped, labels=classes)),
        "calibration_error": expected_calibration_error(probabilities, labels),
    }


def expected_calibration_error(probabilities, labels, bins=15):
    """Return by how much confidence and accuracy differ, a fraction, averaged over images.

    Predictions are sorted into `bins` intervals of equal width by the probability of the likeliest
    class; within each, mean confidence is compared with accuracy. Source: Guo et al., "On
    Calibration of Modern Neural Networks", 2017.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def class_accuracy(probabilities, labels):
    """Return the fraction of each class recognised, float (classes,); NaN without images."""
    confusion = count_confusions(probabilities, labels)
    with np.errstate(invalid="ignore"):
        return np.diag(confusion) / confusion.sum(axis=1)


def count_confusions(probabilities, labels):
    """Count images by true (row) and predicted (column) class: int (classes, classes)."""
    classes = np.arange(probabilities.shape[1])
    return confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)


def most_confused_pairs(probabilities, labels, count=10):
    """List the `count` pairs of classes taken for each other most often.

    Returns tuples (first class, second class, images of either taken for the other), most first;
    ties in the order of the classes.
    """
    confusion = count_confusions(probabilities, labels)
    either_way = np.triu(confusion + confusion.T, k=1)
    order = np.argsort(-either_way, axis=None, kind="stable")[:count]
    pairs = np.column_stack(np.unravel_index(order, either_way.shape))
    return [(int(a), int(b), int(either_way[a, b])) for a, b in pairs if either_way[a, b]]


def most_confident_mistakes(probabilities, labels, count=10):
    """Return the indices, int (≤ count,), of the wrong predictions of highest probability."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")[:count]]
