"""Two models on the same images: is the difference real, and what do they know together?"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from .errors import RunError

FAMILIES = ("resnet", "xception")
SMALLEST = 1e-7  # a probability; float16 has stored still smaller ones as 0


def choose_runs(runs, first="", second=""):
    """Return the two `runs` named `first` and `second`, as a pair of `Run`.

    An empty name stands for the run of the highest top-1 among the ResNets (first) or the Xceptions
    (second). Raises RunError where there is no such run, where both are the same one, or where they
    did not predict the same images.
    """
    pair = tuple(_choose(runs, *which) for which in zip((first, second), FAMILIES, strict=True))
    if pair[0] is pair[1]:
        name = pair[0].record["name"]
        raise RunError(f"{name} cannot be compared with itself: name two runs.")
    check_same_images(*pair)
    return pair


def _choose(runs, name, family):
    named = [run for run in runs if run.record["name"] == name]
    candidates = named if name else [run for run in runs if run.record["model"] == family]
    if not candidates:
        there = ", ".join(run.record["name"] for run in runs)
        wanted = f"no run {name}" if name else f"no run of the model {family}"
        raise RunError(
            f"There is {wanted} among the records ({there}): make one, or name two that are there "
            "in first_run and second_run."
        )
    return max(candidates, key=lambda run: run.record["metrics"]["top1"])


def check_same_images(first, second):
    """Raise RunError where two `Run` are of different data or their labels differ."""
    same_data = first.record["dataset"] == second.record["dataset"]
    if not same_data or not np.array_equal(first.labels, second.labels):
        raise RunError(
            f"{first.record['name']} and {second.record['name']} did not predict the same images: "
            "compare two runs on the same test set."
        )


def is_right(run):
    """Say of each test image whether `run` gives its class the highest probability: bool (n,)."""
    return run.probabilities.argmax(axis=1) == run.labels


def count_agreement(first_right, second_right):
    """Count images by which of two models is right, from two bool arrays (n,): a dict."""
    return {
        "both": int(np.sum(first_right & second_right)),
        "only the first": int(np.sum(first_right & ~second_right)),
        "only the second": int(np.sum(~first_right & second_right)),
        "neither": int(np.sum(~first_right & ~second_right)),
    }


def mcnemar_p_value(first_right, second_right):
    """Return how likely so uneven a split is, were both models equally often right.

    Exact and two-sided, on the images that one of the models alone gets right; 1 where there are
    none. `first_right`, `second_right`: bool (n,). Source: McNemar, "Note on the sampling error of
    the difference between correlated proportions or percentages", 1947.
    """
    counts = count_agreement(first_right, second_right)
    decided = counts["only the first"] + counts["only the second"]
    return float(binomtest(counts["only the second"], decided).pvalue) if decided else 1.0


def difference_interval(first_right, second_right, *, resamples=100_000, seed=0):
    """Return the second model's top-1 less the first's, and its 95 % interval, as fractions.

    The interval is the paired bootstrap's (percentiles, test images drawn anew). Only three things
    can happen to a pair of predictions, so how often each does among n images drawn with
    replacement is multinomial, and is drawn directly. `first_right`, `second_right`: bool (n,).
    Returns (difference, low, high), the same for the same `seed`. Source: Efron and Tibshirani,
    "An Introduction to the Bootstrap", 1993.
    """
    n = len(first_right)
    counts = count_agreement(first_right, second_right)
    worse, better = counts["only the first"], counts["only the second"]
    drawn = np.random.default_rng(seed).multinomial(
        n, np.array([worse, better, n - worse - better]) / n, size=resamples
    )
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [0.025, 0.975])
    return (better - worse) / n, float(low), float(high)


def average_probabilities(first, second):
    """Return the mean of what two `Run` predict, float (n, classes): a third model."""
    return (first.probabilities + second.probabilities) / 2


def fit_temperature(probabilities, labels):
    """Return the temperature that makes these predictions' cross-entropy least.

    Give it predictions of images held out from training that are no test images. `probabilities`:
    float (n, classes), `labels`: int (n,). Above 1 the model was too sure of itself, below 1 not
    sure enough; from 0.05 to 20. Source: Guo et al., "On Calibration of Modern Neural Networks",
    2017. Raises ValueError without images.
    """
    if not len(labels):
        raise ValueError("A temperature cannot be fitted without held-out predictions.")
    logits = _logits(probabilities)
    images = np.arange(len(labels))

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[images, labels].mean()

    found = minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probabilities, temperature):
    """Return `probabilities`, float (n, classes), with their logits divided by `temperature`."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def calibrate(run):
    """Fit a temperature on the images that a `Run` held out, and apply it to the test images.

    Returns (temperature, probabilities), or None where the run held no images out.
    """
    if not len(run.validation_labels):
        return None
    temperature = fit_temperature(run.validation_probabilities, run.validation_labels)
    return temperature, apply_temperature(run.probabilities, temperature)


def _logits(probabilities):
    # Logits are known up to a constant for each image, and their softmax needs no more.
    return np.log(np.clip(probabilities.astype(np.float64), SMALLEST, 1))


def coverage_curve(probabilities, labels):
    """Return the accuracy on the images that a model answers, by how many it answers.

    It answers where it is surest: equally sure predictions are answered together. Returns two
    arrays of fractions, coverage (rising to 1) and accuracy. Source: Geifman and El-Yaniv,
    "Selective Classification for Deep Neural Networks", 2017.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(axis=1) == labels)[order])
    answered = np.arange(1, len(labels) + 1)
    last_of_its_confidence = np.append(np.diff(confidence[order]) != 0, True)
    coverage, accuracy = answered / len(labels), right / answered
    return coverage[last_of_its_confidence], accuracy[last_of_its_confidence]


def accuracy_at_coverage(probabilities, labels, coverage):
    """Return the accuracy where a model answers at least the fraction `coverage` of the images."""
    answered, accuracy = coverage_curve(probabilities, labels)
    return float(accuracy[np.searchsorted(answered, coverage)])
