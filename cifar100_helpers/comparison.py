"""Two models on the same images: is the difference real, and what do they know together?

Throughout, `first_right` and `second_right` are bool (n,): the images that each model gets right.
`probabilities` are float (n, classes) and `labels` int (n,).
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from .errors import RunError
from .results import PUBLISHED


def choose_runs(runs, first="", second=""):
    """Return the two `runs` named `first` and `second`, as a pair of `Run`.

    An empty name stands for the most accurate run of the published ResNet (first) or Xception
    (second), if there is one, else of any of that kind. Raises `RunError` if there is no such run,
    if both are the same one, or if they did not predict the same images.
    """
    a, b = _choose(runs, first, "resnet"), _choose(runs, second, "xception")
    if a is b:
        raise RunError(f"{a.record['name']} cannot be compared with itself: name two runs.")
    if a.record["dataset"] != b.record["dataset"] or not np.array_equal(a.labels, b.labels):
        raise RunError(
            f"{a.record['name']} and {b.record['name']} did not predict the same images: "
            "compare two runs on the same test set."
        )
    return a, b


def _choose(runs, name, family):
    key, wanted = ("name", name) if name else ("model", family)
    candidates = [run for run in runs if run.record[key] == wanted]
    if not candidates:
        there = ", ".join(run.record["name"] for run in runs)
        raise RunError(
            f"There is no run with the {key} {wanted} among the records ({there}): make one, "
            "or name two of these in first_run and second_run."
        )
    sizes = [figures["parameter_count"] for figures in PUBLISHED]
    published = [run for run in candidates if run.record["parameter_count"] in sizes]
    return max(published or candidates, key=lambda run: run.record["metrics"]["top1"])


def is_right(run):
    """Return whether `run` gives each image's class the highest probability: bool (n,)."""
    return run.probabilities.argmax(axis=1) == run.labels


def count_agreement(first_right, second_right):
    """Count images by which of two models is right: a dict of four numbers."""
    neither, first, second, both = np.bincount(first_right + 2 * second_right, minlength=4).tolist()
    return {"both": both, "only the first": first, "only the second": second, "neither": neither}


def mcnemar_p_value(first_right, second_right):
    """Return the p-value of McNemar's exact test.

    That is the probability, if both models were equally accurate, of a split at least this uneven
    of the images that only one of them gets right; 1 if there are none. Source: McNemar, "Note on
    the sampling error of the difference between correlated proportions or percentages", 1947.
    """
    counts = count_agreement(first_right, second_right)
    decided = counts["only the first"] + counts["only the second"]
    return float(binomtest(counts["only the second"], decided).pvalue) if decided else 1.0


def difference_interval(first_right, second_right, *, resamples=100_000, seed=0):
    """Return (difference, low, high): the second model's top-1 minus the first's, as fractions.

    `low` to `high` is its 95 % interval from a paired bootstrap (percentiles) over the test images,
    the same for the same `seed`. Source: Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993.
    """
    n = len(first_right)
    counts = count_agreement(first_right, second_right)
    worse, better = counts["only the first"], counts["only the second"]
    fractions = np.array([worse, better, n - worse - better]) / n
    # A resample counts pairs that are worse, better or equal, so its counts are multinomial.
    drawn = np.random.default_rng(seed).multinomial(n, fractions, size=resamples)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [0.025, 0.975])
    return (better - worse) / n, float(low), float(high)


def average_probabilities(first, second):
    """Return the mean of two runs' probabilities: a third model."""
    return (first.probabilities + second.probabilities) / 2


def fit_temperature(probabilities, labels):
    """Return the temperature, between 0.05 and 20, that gives the least cross-entropy.

    Above 1 the model was too confident, below 1 not confident enough. Fit it on images held out
    from training, never on test images. Source: Guo et al., "On Calibration of Modern Neural
    Networks", 2017.
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
    # Up to a constant for each image, which softmax ignores; float16 stores the smallest as 0.
    return np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1))


def calibrate(run):
    """Fit a temperature on the images that a run held out and apply it to its test predictions.

    Returns (temperature, probabilities), or None if the run held out no images.
    """
    if not len(run.validation_labels):
        return None
    temperature = fit_temperature(run.validation_probabilities, run.validation_labels)
    return temperature, apply_temperature(run.probabilities, temperature)


def coverage_curve(probabilities, labels):
    """Return the accuracy if a model answers only when it is most confident, by its coverage.

    Returns two arrays of fractions: the coverage (the part of images answered, rising to 1) and
    the accuracy on it. Equally confident predictions are answered together. Source: Geifman and
    El-Yaniv, "Selective Classification for Deep Neural Networks", 2017.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    answered = np.arange(1, len(labels) + 1)
    last_of_ties = np.append(np.diff(confidence[order]) != 0, True)
    return (answered / len(labels))[last_of_ties], (right / answered)[last_of_ties]


def accuracy_at_coverage(probabilities, labels, coverage):
    """Return the accuracy if a model answers at least the fraction `coverage` of the images."""
    answered, accuracy = coverage_curve(probabilities, labels)
    return float(accuracy[np.searchsorted(answered, coverage)])
