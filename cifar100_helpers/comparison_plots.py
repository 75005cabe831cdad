"""Figures of compared runs: one question each, and each model in the same colour in all of them.

Runs are `RecordedRun` objects; `cifar` is a `Cifar100`, and `names` are those of its classes.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from .evaluation import (
    average_probabilities,
    calibrate,
    class_accuracy,
    count_agreement,
    coverage_curve,
    expected_calibration_error,
    is_correct,
    reliability_bins,
    surest,
)
from .plots import BLUE, ORANGE, new_axes, plot_images, readable
from .results import mean_and_spread, published_beside, seed_groups

COLOURS = {"resnet": BLUE, "xception": ORANGE}
SECOND_OF_ITS_MODEL = "#CC79A7"
AVERAGE_COLOUR = "#009E73"
_PALE = "#BBBBBB"
_RECOGNISED = "test images recognised, %"


def colours_of(first, second):
    """Return the colours of two runs: those of their models, or two if both are the same model."""
    colours = [COLOURS[run.record["model"]] for run in (first, second)]
    return colours if colours[0] != colours[1] else [colours[0], SECOND_OF_ITS_MODEL]


def plot_top1(runs):
    """Draw the top-1 of `runs` with 95 % intervals; on real data, beside the published figures."""
    records = sorted((run.record for run in runs), key=lambda record: record["metrics"]["top1"])
    ax = new_axes(8, 1.6 + 0.28 * len(records))
    for y, record in enumerate(records):
        metrics, colour = record["metrics"], COLOURS[record["model"]]
        reach = 100 * np.abs(np.reshape(metrics["top1_interval"], (2, 1)) - metrics["top1"])
        ax.errorbar(100 * metrics["top1"], y, xerr=reach, fmt="o", ms=5, capsize=3, color=colour)
        ax.plot(100 * metrics["top1_without_duplicates"], y - 0.28, "x", ms=4, color=colour)
    for figures in published_beside(records):
        ax.axvline(100 * figures["top1"], color=COLOURS[figures["model"]], ls="--", lw=1)
    ax.set_yticks(range(len(records)), [record["name"] for record in records])
    ax.set(ylim=(-0.7, len(records) - 0.5), xlabel=_RECOGNISED)
    cross = Line2D([], [], color="grey", marker="x", ls="", label="without near-duplicates")
    ax.figure.legend(
        handles=_handles(records, cross), loc="outside lower center", ncols=4, **_LEGEND
    )
    ax.set_title("How many of the test images each run recognises, with 95 % intervals")
    return ax


_LEGEND = {"frameon": False, "fontsize": 9}


def _handles(records, *marks):
    """What a legend says of colours and dashed lines."""
    models = sorted({record["model"] for record in records})
    handles = [Line2D([], [], color=COLOURS[m], marker="o", ls="", label=m) for m in models]
    dashed = Line2D([], [], color="grey", ls="--", lw=1, label="published")
    return [*handles, *marks, *([dashed] if published_beside(records) else [])]


def plot_cost(runs):
    """Draw the top-1 of `runs` against the arithmetic of their training, beside what was published.

    Several seeds are one point at their mean, with their standard deviation.
    """
    ax = new_axes(8.5, 4.8)
    groups = seed_groups([run.record for run in runs])
    records = [group[0] for group in groups]
    points, texts = [], []
    for group, record in zip(groups, records, strict=True):
        top1, spread = (100 * value for value in mean_and_spread(group))
        points.append((record["petaflops"], top1))
        texts.append(record["name"] + (f", {len(group)} seeds" if len(group) > 1 else ""))
        style = {"fmt": "o", "capsize": 3, "color": COLOURS[record["model"]]}
        ax.errorbar(*points[-1], yerr=spread if len(group) > 1 else None, **style)
    for figures in published_beside(records):
        colour = COLOURS[figures["model"]]
        points.append((figures["PFLOPs"], 100 * figures["top1"]))
        texts.append(f"{figures['model']}, published figure")
        ax.plot(*points[-1], "D", mfc="white", color=colour)
        ax.axhline(points[-1][1], color=colour, ls="--", lw=1, zorder=0)
    ax.set_xscale("log")
    ax.margins(0.12, 0.1)
    ax.set(xlabel="PFLOPs of training: 10¹⁵ operations (logarithmic)", ylabel=_RECOGNISED)
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title("What accuracy costs in arithmetic")
    ax.legend(handles=_handles(records), loc="upper left", **_LEGEND)
    _label_points(ax, points, dict(enumerate(texts)))
    return ax


def _label_points(ax, points, texts):
    """Write `texts`, by the index of a point, where they cover no text, point or dashed line."""
    ax.figure.draw_without_rendering()  # the layout is fixed from here on
    taken = [Bbox([place - 4, place + 4]) for place in ax.transData.transform(points)]
    taken += [line.get_window_extent().padded(1) for line in ax.lines if line.get_ls() == "--"]
    taken += [ax.get_legend().get_window_extent()] if ax.get_legend() else []
    for i, text in texts.items():
        for place in _PLACES:
            label = ax.annotate(text, points[i], **place, **_LABEL)
            label.get_window_extent()  # Matplotlib places it now, and measures it with its line
            box = Text.get_window_extent(label)
            inside = ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            if place is not _PLACES[-1]:  # where it stays if none is free
                label.remove()
        taken.append(box)


_LABEL = {
    "textcoords": "offset points",
    "va": "center",
    "fontsize": 8,
    "path_effects": [withStroke(linewidth=2, foreground="white")],  # no line crosses a letter
    "arrowprops": {"arrowstyle": "-", "color": "grey", "lw": 0.5, "shrinkA": 0, "shrinkB": 6},
}
_PLACES = [  # the nearest first
    {"xytext": (x, y), "ha": side}
    for y in (0, -9, 9, -18, 18, -27, 27, -36, 36, -45, 45)
    for x, side in ((7, "left"), (-7, "right"))
]


def plot_agreement(first, second):
    """Draw how many images both runs recognise, only one of them, and neither, as one bar."""
    ax = new_axes(8, 1.6)
    counts = count_agreement(is_correct(first), is_correct(second))
    labels = ("both", f"only {first.name}", f"only {second.name}", "neither")
    colours = (_PALE, *colours_of(first, second), "#444444")
    left = 0
    for images, label, colour in zip(counts.values(), labels, colours, strict=True):
        bar = ax.barh(0, images, left=left, color=colour, label=label)
        text_colour = "black" if colour == _PALE else "white"
        ax.bar_label(bar, [f"{images:,}"], label_type="center", fontsize=9, color=text_colour)
        left += images
    ax.set(yticks=[], xlim=(0, left), xlabel="test images")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.figure.legend(loc="outside lower center", ncols=4, **_LEGEND)
    ax.set_title("Which test images the two models recognise")
    return ax


def plot_classes(first, second, names, *, count=6):
    """Draw the accuracies of two runs against each other, a point per class.

    The `count` classes with the largest lead of each run are named.
    """
    ax = new_axes(6.8, 6.8)
    points = 100 * np.column_stack(
        [class_accuracy(run.probabilities, run.labels) for run in (first, second)]
    )
    lowest = 10 * np.floor(np.nanmin(points) / 10)
    limits = (min(lowest, 90), 100)
    ax.plot(limits, limits, color="grey", ls=":", lw=1)
    ax.scatter(*points.T, s=16, color=_PALE, clip_on=False)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    lead = np.nan_to_num(points[:, 1] - points[:, 0])
    named = []
    for colour, gains in zip(colours_of(first, second), (-lead, lead), strict=True):
        order = np.argsort(-gains, kind="stable")[:count]
        chosen = order[gains[order] > 0]
        ax.scatter(*points[chosen].T, s=24, color=colour, zorder=3, clip_on=False)
        named += chosen.tolist()
    ax.set_xlabel(f"images of a class that {first.name} recognises, %")
    ax.set_ylabel(f"images of a class that {second.name} recognises, %")
    ax.set_title("Two models, class by class")
    _label_points(ax, points, {i: readable(names[i]) for i in named})
    return ax


def plot_reliability(first, second):
    """Draw accuracy by confidence, before and after `calibrate`; return an Axes for each run."""
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
        ax.set(xlabel="confidence, %", ylabel="correct images, %")
        ax.legend(frameon=False, fontsize=8)
        ax.set_title(run.name)
    return axes


def _draw_reliability(ax, probabilities, labels, label, **style):
    images, confidence, accuracy = reliability_bins(probabilities, labels)
    error = 100 * expected_calibration_error(probabilities, labels)
    shown = images >= 10  # fewer say next to nothing
    label = f"{label}: calibration error {error:.1f} %"
    ax.plot(100 * confidence[shown], 100 * accuracy[shown], ms=4, label=label, **style)


def plot_coverage(first, second):
    """Draw the accuracies of two runs and of their average by the share of images answered."""
    ax = new_axes(7.5, 4)
    models = {run.name: run.probabilities for run in (first, second)}
    models["average of both"] = average_probabilities(first, second)
    colours = (*colours_of(first, second), AVERAGE_COLOUR)
    for (name, probabilities), colour in zip(models.items(), colours, strict=True):
        coverage, accuracy = coverage_curve(probabilities, first.labels)
        ax.plot(100 * coverage, 100 * accuracy, color=colour, label=name)
    ax.set(xlabel="test images answered, the surest first, %", xlim=(0, 100))
    ax.set(ylabel="correct images among these, %")
    ax.legend(frameon=False)
    ax.set_title("How accurate the models are when they may abstain")
    return ax


def plot_only_one_correct(images, correct, wrong, names, *, count=10):
    """Draw test `images` that the run `correct` recognises and `wrong` does not.

    Those about which `wrong` was surest come first. `images`: uint8 (n, height, width, 3).
    """
    predicted = wrong.probabilities.argmax(axis=1)
    confidence = 100 * wrong.probabilities.max(axis=1)
    chosen = surest(is_correct(correct) & ~is_correct(wrong), wrong.probabilities, count)
    titles = [
        readable(f"{names[correct.labels[i]]}\nnot “{names[predicted[i]]}” {confidence[i]:.0f} %")
        for i in chosen
    ]
    heading = f"Only {correct.name} is correct; what {wrong.name} predicted"
    return _plot_gallery(images[chosen], titles, heading, columns=5, size=1.6)


def plot_both_wrong(cifar, first, second, *, count=6, examples=3):
    """Draw test images that both runs get wrong, each beside `examples` of its labelled class.

    What they predict is the likeliest class of their average; the surest come first.
    """
    average = average_probabilities(first, second)
    predicted, confidence = average.argmax(axis=1), 100 * average.max(axis=1)
    wrong = ~is_correct(first) & ~is_correct(second) & (predicted != first.labels)
    images, titles = [], []
    for i in surest(wrong, average, count):
        label = first.labels[i]
        images += [cifar.x_test[i], *cifar.x_train[cifar.y_train == label][:examples]]
        name, other = readable(cifar.fine_names[label]), readable(cifar.fine_names[predicted[i]])
        titles += [f"“{other}” {confidence[i]:.0f} %\nis {name}?", *[f"\n{name}"] * examples]
    heading = "Both are wrong: what they predict together, and training images of the label's class"
    axes = _plot_gallery(images, titles, heading, columns=2 * (1 + examples), size=1.15)
    for ax in axes[:: 1 + examples]:
        ax.title.set_weight("bold")
    return axes


def _plot_gallery(images, titles, heading, **layout):
    heading = heading if len(images) else f"{heading}: there is no such image"
    return plot_images(images, titles, heading=heading, **layout)
