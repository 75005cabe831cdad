"""What class probabilities are worth: metrics, per-class results and confusions."""

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score


def evaluate(probabilities, labels, coarse_of_fine, near_duplicate):
    """Compute the metrics of a run's record, as a dict of plain numbers.

    `top1`, `top5` and `superclass_top1` are fractions, `top1_interval` is the 95 % interval of
    `top1` (Wilson), `loss` the mean cross-entropy in nats with probabilities of at least 1e-7,
    `calibration_error` see `expected_calibration_error`. A prediction's superclass is that of its
    likeliest class. `top1_without_duplicates` is `top1` on the images that are not
    `near_duplicate`, None where none is left.

    `probabilities`: float (n, classes), rows summing to 1; `labels`: int (n,); `coarse_of_fine`:
    int (classes,), the superclass of each class; `near_duplicate`: bool (n,), true where a test
    image has a near-duplicate among the training images.
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
        "top1_without_duplicates": _mean(right[~near_duplicate]),
        "top5": float(top_k_accuracy_score(labels, probabilities, k=5, labels=classes)),
        "superclass_top1": float(np.mean(coarse_of_fine[predicted] == coarse_of_fine[labels])),
        "loss": float(log_loss(labels, clipped, labels=classes)),
        "calibration_error": expected_calibration_error(probabilities, labels),
    }


def _mean(values):
    return float(values.mean()) if len(values) else None


def expected_calibration_error(probabilities, labels, bins=15):
    """Return by how much confidence and accuracy differ, a fraction, averaged over images.

    Mean confidence is compared with accuracy within each of the `reliability_bins`. Source: Guo et
    al., "On Calibration of Modern Neural Networks", 2017.
    """
    images, confidence, accuracy = reliability_bins(probabilities, labels, bins)
    return float(np.nansum(images * np.abs(confidence - accuracy)) / len(labels))


def reliability_bins(probabilities, labels, bins=15):
    """Sort predictions by the probability of the likeliest class into intervals of equal width.

    Returns the number of images in each of the `bins` intervals, their mean confidence and their
    accuracy, arrays (bins,), the last two NaN where there is no image.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    images = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, weights=part, minlength=bins) for part in (confidence, right)]
    with np.errstate(invalid="ignore"):
        return images, *(part / images for part in sums)


def class_accuracy(probabilities, labels):
    """Return the fraction of each class recognised, float (classes,); NaN without images."""
    confusion = count_confusions(probabilities, labels)
    with np.errstate(invalid="ignore"):
        return np.diag(confusion) / confusion.sum(axis=1)


def superclass_accuracy(probabilities, labels, coarse_of_fine):
    """Return the fraction of each superclass's images whose class is recognised, in its order.

    `coarse_of_fine`: int (classes,). Returns float (superclasses,); NaN without images.
    """
    right = probabilities.argmax(axis=1) == labels
    images = np.bincount(coarse_of_fine[labels], minlength=coarse_of_fine.max() + 1)
    recognised = np.bincount(coarse_of_fine[labels], weights=right, minlength=len(images))
    with np.errstate(invalid="ignore"):
        return recognised / images


def mistakes_inside_superclass(probabilities, labels, coarse_of_fine):
    """Return the fraction of the mistakes that name a class of the right superclass; NaN of none.

    `coarse_of_fine`: int (classes,), the superclass of each class.
    """
    predicted = probabilities.argmax(axis=1)
    wrong = predicted != labels
    inside = coarse_of_fine[predicted[wrong]] == coarse_of_fine[labels[wrong]]
    return float(inside.mean()) if wrong.any() else float("nan")


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
