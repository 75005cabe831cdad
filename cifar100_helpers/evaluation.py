"""Metrics of one model, and two models on the same images: is the difference real?

Throughout, `probabilities` are float (n, classes) with rows that sum to 1, `labels` are int (n,),
and `coarse_of_fine` is int (classes,), the superclass of each class.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, log_loss, recall_score, top_k_accuracy_score

BINS = 15  # of confidence, as Guo et al. take (see below)


def evaluate(probabilities, labels, coarse_of_fine, near_duplicate):
    """Return the metrics of a run's record as a dict of plain numbers.

    All but `loss` are fractions. `loss` is the mean cross-entropy in nats, where no probability
    counts as less than 1e-7; `top1_interval` is the 95 % interval of Wilson, 1927.
    `top1_without_duplicates` leaves out the images marked in `near_duplicate`, bool (n,).
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    predicted = probabilities.argmax(axis=1)
    classes = np.arange(probabilities.shape[1])
    clipped = np.clip(probabilities, 1e-7, 1)  # float16 stores the smallest as 0
    clipped /= clipped.sum(axis=1, keepdims=True)
    correct = predicted == labels
    interval = binomtest(int(correct.sum()), len(labels)).proportion_ci(method="wilson")
    return {
        "top1": float(correct.mean()),
        "top1_interval": [float(interval.low), float(interval.high)],
        "top1_without_duplicates": float(correct[~near_duplicate].mean()),
        "top5": float(top_k_accuracy_score(labels, probabilities, k=5, labels=classes)),
        "superclass_top1": float(np.mean(coarse_of_fine[predicted] == coarse_of_fine[labels])),
        "loss": float(log_loss(labels, clipped, labels=classes)),
        "calibration_error": expected_calibration_error(probabilities, labels),
    }


def expected_calibration_error(probabilities, labels):
    """Return the mean gap between confidence and accuracy over the `reliability_bins`, a fraction.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    images, confidence, accuracy = reliability_bins(probabilities, labels)
    return float(images @ np.abs(confidence - accuracy) / len(labels))


def reliability_bins(probabilities, labels):
    """Sort predictions into BINS of equal width by confidence, the highest probability.

    Returns the number of images, the mean confidence and the accuracy of each bin that has images.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=BINS, pos_label=True)
    bin_of = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)  # as scikit-learn does
    return np.unique(bin_of, return_counts=True)[1], mean_confidence, accuracy


def class_accuracy(probabilities, labels):
    """Return the accuracy on each class's images, float (classes,); NaN for a class without."""
    options = {"average": None, "zero_division": np.nan}
    classes = np.arange(probabilities.shape[1])
    return recall_score(labels, probabilities.argmax(axis=1), labels=classes, **options)


def most_confused_pairs(probabilities, labels, count=10):
    """List the `count` pairs of classes most often taken for each other, the worst first.

    Returns tuples (first class, second class, images of either taken for the other).
    """
    classes = np.arange(probabilities.shape[1])
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)
    either_way = np.triu(confusion + confusion.T, k=1)
    worst = np.argsort(-either_way, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(worst, either_way.shape), strict=True)
    return [(int(a), int(b), int(either_way[a, b])) for a, b in pairs if either_way[a, b]]


def surest(chosen, probabilities, count):
    """Return the indices of the `count` surest predictions among the `chosen`, bool (n,)."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    return order[chosen[order]][:count]


# Two models on the same images. `first_correct` and `second_correct` are bool (n,): the images that
# each model recognises.


def is_correct(run):
    """Return whether `run` gives each image's class the highest probability: bool (n,)."""
    return run.probabilities.argmax(axis=1) == run.labels


def count_agreement(first_correct, second_correct):
    """Count images by which of two models is correct: a dict of four numbers."""
    cases = np.bincount(first_correct + 2 * second_correct, minlength=4)
    neither, first, second, both = cases.tolist()
    return {"both": both, "only the first": first, "only the second": second, "neither": neither}


def mcnemar_p_value(first_correct, second_correct):
    """Return the p-value of McNemar's exact test; 1 if no image is recognised by one model alone.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", 1947.
    """
    decided = int(np.sum(first_correct != second_correct))
    better = int(np.sum(second_correct > first_correct))
    return float(binomtest(better, decided).pvalue) if decided else 1.0


def difference_interval(first_correct, second_correct):
    """Return (difference, low, high): the second model's top-1 minus the first's, as fractions.

    `low` to `high` is its 95 % interval from a paired bootstrap (percentiles) over the images.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    n = len(first_correct)
    counts = count_agreement(first_correct, second_correct)
    worse, better = counts["only the first"], counts["only the second"]
    fractions = np.array([worse, better, n - worse - better]) / n
    # A resample counts pairs that are worse, better or equal, so its counts are multinomial.
    drawn = np.random.default_rng(0).multinomial(n, fractions, size=100_000)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [0.025, 0.975])
    return (better - worse) / n, float(low), float(high)


def average_probabilities(first, second):
    """Return the mean of two runs' probabilities: a third model."""
    return (first.probabilities + second.probabilities) / 2


def fit_temperature(probabilities, labels):
    """Return the temperature, between 0.05 and 20, that gives the least cross-entropy.

    Above 1 the model was too confident, below 1 not confident enough. Source: Guo et al., "On
    Calibration of Modern Neural Networks", 2017.
    """
    logits, images = _logits(probabilities), np.arange(len(labels))

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[images, labels].mean()

    found = minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probabilities, temperature):
    """Return `probabilities` with their logits divided by `temperature`."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def _logits(probabilities):
    # Up to a constant for each image, which softmax ignores.
    return np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1))


def calibrate(run):
    """Fit a temperature on a run's validation images and apply it to its test predictions.

    Returns (temperature, probabilities), or None if the run had no validation images.
    """
    if not len(run.validation_labels):
        return None
    temperature = fit_temperature(run.validation_probabilities, run.validation_labels)
    return temperature, apply_temperature(run.probabilities, temperature)


def coverage_curve(probabilities, labels):
    """Return the coverage, the fraction of images answered, rising to 1, and the accuracy on it.

    The surest are answered first, equally sure ones together. Source: Geifman and El-Yaniv,
    "Selective Classification for Deep Neural Networks", 2017.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    correct = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    answered = np.arange(1, len(labels) + 1)
    last_of_ties = np.append(np.diff(confidence[order]) != 0, True)
    return (answered / len(labels))[last_of_ties], (correct / answered)[last_of_ties]


def accuracy_at_coverage(probabilities, labels, coverage):
    """Return the accuracy if a model answers at least the fraction `coverage` of the images."""
    answered, accuracy = coverage_curve(probabilities, labels)
    return float(accuracy[np.searchsorted(answered, coverage)])
