"""Figures of compared runs: one question each, and each model in the same colour in all of them.

Runs are `Run` objects; `cifar` is a `Cifar100`, and `names` are those of its classes.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from .evaluation import (
    average_probabilities,
    calibrate,
    class_accuracy,
    count_agreement,
    coverage_curve,
    expected_calibration_error,
    is_correct,
    reliability_bins,
    superclass_accuracy,
)
from .plots import new_axes, plot_images, readable
from .results import PUBLISHED

# Colour-blind readers can tell these apart: Okabe and Ito, "Color Universal Design", 2008.
COLOURS = {"resnet": "#0072B2", "xception": "#D55E00"}
SECOND_OF_ITS_MODEL = "#CC79A7"
AVERAGE_COLOUR = "#009E73"
_PALE = "#BBBBBB"
_RECOGNISED = "test images recognised, %"


def colours_of(first, second):
    """Return the colours of two runs: those of their models, or two if both are the same model."""
    colours = [_colour(run.record) for run in (first, second)]
    return colours if colours[0] != colours[1] else [colours[0], SECOND_OF_ITS_MODEL]


def _colour(record):
    return COLOURS.get(record["model"], "black")


def _name(run):
    return run.record["name"]


def plot_top1(runs, ax=None):
    """Draw the top-1 of `runs` with 95 % intervals; on real data, beside the published figures."""
    records = sorted((run.record for run in runs), key=lambda record: record["metrics"]["top1"])
    published = PUBLISHED if records[0]["dataset"] == "cifar100" else ()
    names = [f"{figures['model']}, published" for figures in published]
    names += [record["name"] for record in records]
    ax = ax or new_axes(7.5, 1.5 + 0.4 * len(names))
    for y, figures in enumerate(published):
        ax.plot(100 * figures["top1"], y, "D", mfc="white", color=_colour(figures))
    for y, record in enumerate(records, start=len(published)):
        _draw_interval(ax, y, record)
    if published:
        ax.plot([], [], "D", mfc="white", color="grey", label="published")
    ax.plot([], [], "o", color="grey", label="recorded, with its 95 % interval")
    ax.plot([], [], "x", color="grey", label="without near-duplicates")
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(-0.6, len(names) - 0.4), xlabel=_RECOGNISED)
    ax.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    ax.set_title("How many of the test images each run recognises")
    return ax


def _draw_interval(ax, y, record):
    metrics, colour = record["metrics"], _colour(record)
    top1, clean = metrics["top1"], metrics["top1_without_duplicates"]
    reach = 100 * np.abs(np.reshape(metrics["top1_interval"], (2, 1)) - top1)
    ax.errorbar(100 * top1, y, xerr=reach, fmt="o", capsize=4, color=colour)
    ax.plot(100 * clean, y, "x", color=colour)


def plot_cost(runs, ax=None):
    """Draw the top-1 of `runs` against the arithmetic of their training; labels on the right."""
    ax = ax or new_axes(8.5, 4.5)
    records = [run.record for run in runs]
    top1 = [100 * record["metrics"]["top1"] for record in records]
    labels = [record["name"] for record in records]
    costs = [record["petaflops"] for record in records]
    ax.scatter(costs, top1, color=list(map(_colour, records)), zorder=3)
    low, high = min(top1) - 2, max(top1) + 2
    ax.set(xscale="log", xlim=(min(costs) / 1.5, max(costs) * 1.5))
    ax.set(xlabel="PFLOPs of training", ylabel=_RECOGNISED, ylim=(low, high))
    heights = spread(top1, (high - low) / 16)  # a line of text is 1/16 of the axis
    for x, y, height, label in zip(costs, top1, heights, labels, strict=True):
        _annotate(ax, (x, y), (1.04, height), label, "left", ax.get_yaxis_transform())
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title("What accuracy costs in arithmetic")
    return ax


def _annotate(ax, point, place, text, side, coordinates="data"):
    line = {"arrowstyle": "-", "color": "grey", "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
    style = {"ha": side, "va": "center", "fontsize": 8, "arrowprops": line}
    ax.annotate(text, point, place, textcoords=coordinates, **style)


def spread(heights, gap):
    """Move `heights`, (n,), apart until neighbours differ by `gap`, in the same order."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for _ in range(500):
        overlap = np.maximum(0, gap - np.diff(placed)) / 2
        placed[:-1] -= overlap
        placed[1:] += overlap
    return placed[np.argsort(order)]


def plot_agreement(first, second, ax=None):
    """Draw how many images both runs get right, only one of them, and neither, as one bar."""
    ax = ax or new_axes(8, 1.6)
    counts = count_agreement(is_correct(first), is_correct(second))
    labels = ("both right", f"only {_name(first)}", f"only {_name(second)}", "neither")
    colours = (_PALE, *colours_of(first, second), "#444444")
    left = 0
    for images, label, colour in zip(counts.values(), labels, colours, strict=True):
        bar = ax.barh(0, images, left=left, color=colour, label=label)
        text_colour = "black" if colour == _PALE else "white"
        ax.bar_label(bar, [f"{images:,}"], label_type="center", fontsize=9, color=text_colour)
        left += images
    ax.set(yticks=[], xlim=(0, left), xlabel="test images")
    ax.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    ax.set_title("How often the two models are right together, alone, and not at all")
    return ax


def plot_classes(first, second, names, *, count=6, ax=None):
    """Draw the accuracies of two runs against each other, a point per class.

    The `count` classes with the largest lead of each run are named.
    """
    ax = ax or new_axes(7.5, 7)
    x, y = (100 * class_accuracy(run.probabilities, run.labels) for run in (first, second))
    ax.plot([0, 100], [0, 100], color="grey", ls=":", lw=1)
    ax.scatter(x, y, s=16, color=_PALE)
    lead = np.nan_to_num(y - x)
    for colour, sign in zip(colours_of(first, second), (-1, 1), strict=True):
        order = np.argsort(-sign * lead, kind="stable")[:count]
        chosen = order[sign * lead[order] > 0]
        ax.scatter(x[chosen], y[chosen], s=24, color=colour, zorder=3)
        for i, height in zip(chosen, spread(y[chosen], 2.4), strict=True):
            side = "right" if sign > 0 else "left"
            _annotate(ax, (x[i], y[i]), (x[i] - 4 * sign, height), readable(names[i]), side)
    lowest = min(np.nanmin(x), np.nanmin(y))
    ax.set(xlim=(lowest - 14, 114), ylim=(lowest - 4, 104), aspect="equal")
    ax.set_xlabel(f"images of a class that {_name(first)} recognises, %")
    ax.set_ylabel(f"images of a class that {_name(second)} recognises, %")
    ax.set_title("Which classes gain and which lose")
    return ax


def plot_superclasses(first, second, coarse_of_fine, coarse_names, ax=None):
    """Draw the accuracies of two runs by superclass, the hardest at the bottom."""
    ax = ax or new_axes(7.5, 6)
    accuracies = [
        100 * superclass_accuracy(run.probabilities, run.labels, coarse_of_fine)
        for run in (first, second)
    ]
    order = np.argsort(np.mean(accuracies, axis=0), kind="stable")
    rows = np.arange(len(order))
    a, b = (accuracy[order] for accuracy in accuracies)
    ax.hlines(rows, a, b, color=_PALE, lw=3, zorder=1)
    colour, other = colours_of(first, second)
    # If both are equal, the larger point shows around the smaller.
    ax.scatter(a, rows, s=70, color=colour, label=_name(first))
    ax.scatter(b, rows, s=30, color=other, label=_name(second))
    ax.set_yticks(rows, [readable(coarse_names[i]) for i in order])
    ax.set_xlabel(_RECOGNISED)
    ax.legend(loc="lower right", frameon=False)
    ax.set_title("Where the two models differ, by superclass")
    return ax


def plot_reliability(first, second):
    """Draw accuracy by confidence, for each of two runs; returns their two Axes.

    A dashed line shows it at the temperature fitted on held-out images, if there are any.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained")
    figure.suptitle("How far the models' confidence can be trusted")
    colours = colours_of(first, second)
    for ax, run, colour in zip(axes, (first, second), colours, strict=True):
        ax.plot([0, 100], [0, 100], color="grey", ls=":", lw=1)
        _draw_reliability(ax, run.probabilities, run.labels, "as trained", color=colour, marker="o")
        if calibrated := calibrate(run):
            style = {"color": "black", "marker": "s", "mfc": "white", "ls": "--"}
            label = f"at temperature {calibrated[0]:.2f}"
            _draw_reliability(ax, calibrated[1], run.labels, label, **style)
        ax.set(xlabel="how sure the model is, %", ylabel="how often it is right, %")
        ax.legend(frameon=False, fontsize=8)
        ax.set_title(_name(run))
    return axes


def _draw_reliability(ax, probabilities, labels, label, **style):
    images, confidence, accuracy = reliability_bins(probabilities, labels)
    error = 100 * expected_calibration_error(probabilities, labels)
    shown = images >= 10  # fewer say next to nothing
    label = f"{label}: calibration error {error:.1f} %"
    ax.plot(100 * confidence[shown], 100 * accuracy[shown], ms=4, label=label, **style)


def plot_coverage(first, second, ax=None):
    """Draw the accuracies of two runs and of their average by the share of images answered."""
    ax = ax or new_axes(7.5, 4)
    models = {_name(run): run.probabilities for run in (first, second)}
    models["average of both"] = average_probabilities(first, second)
    colours = (*colours_of(first, second), AVERAGE_COLOUR)
    for (name, probabilities), colour in zip(models.items(), colours, strict=True):
        coverage, accuracy = coverage_curve(probabilities, first.labels)
        ax.plot(100 * coverage, 100 * accuracy, color=colour, label=name)
    ax.set(xlabel="test images answered, the surest first, %", xlim=(0, 100))
    ax.set(ylabel="right among these, %")
    ax.legend(frameon=False)
    ax.set_title("How accurate the models are when they may abstain")
    return ax


def plot_only_one_correct(images, right, wrong, names, *, count=10):
    """Draw test `images` that the run `right` gets right and `wrong` does not.

    Those about which `wrong` is surest come first. `images`: uint8 (n, height, width, 3).
    """
    seen, confidence = _likeliest(wrong.probabilities)
    chosen = _surest(is_correct(right) & ~is_correct(wrong), confidence, count)
    titles = [
        readable(f"{names[right.labels[i]]}\nnot “{names[seen[i]]}” {confidence[i]:.0%}")
        for i in chosen
    ]
    heading = f"Only {_name(right)} is right; what {_name(wrong)} saw"
    return plot_images(images[chosen], titles, columns=5, size=1.6, heading=heading)


def plot_both_wrong(cifar, first, second, *, count=6, examples=4):
    """Draw test images that both runs get wrong, each beside `examples` of its labelled class.

    What they saw is the likeliest class of their average; the surest come first.
    """
    seen, confidence = _likeliest(average_probabilities(first, second))
    wrong = ~is_correct(first) & ~is_correct(second) & (seen != first.labels)
    images, titles = [], []
    for i in _surest(wrong, confidence, count):
        label = first.labels[i]
        images += [cifar.x_test[i], *cifar.x_train[cifar.y_train == label][:examples]]
        name, other = readable(cifar.fine_names[label]), readable(cifar.fine_names[seen[i]])
        titles += [f"“{other}” {confidence[i]:.0%}\nis {name}?", *[f"\n{name}"] * examples]
    heading = "Both are wrong: what they saw, and training images of the class on the label"
    return plot_images(images, titles, columns=1 + examples, size=1.2, heading=heading)


def _likeliest(probabilities):
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def _surest(mask, confidence, count):
    order = np.argsort(-confidence, kind="stable")
    return order[mask[order]][:count]
