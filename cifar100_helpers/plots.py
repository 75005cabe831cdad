"""Every figure of the series: each function takes data and an optional `ax` and returns Axes."""

import matplotlib.pyplot as plt
import numpy as np

from .evaluation import class_accuracy, most_confident_mistakes, most_confused_pairs

TRAINING_COLOUR, VALIDATION_COLOUR = "tab:blue", "tab:orange"
_CENTRED_BELOW = {"ha": "center", "va": "top", "fontsize": 8}


def mark_figures(data):
    """Have every figure drawn from now on say so where `data` is synthetic, and only there."""
    hook = f"{__name__}:_stamp_synthetic"
    plt.rcParams["figure.hooks"] = [hook] if data.name == "synthetic" else []


def _stamp_synthetic(figure):
    figure.text(0.995, 0.995, "synthetic data", ha="right", va="top", color="tab:red", size=8)


def plot_images(images, titles=None, *, columns=10, size=1.0, heading=None):
    """Draw `images`, uint8 (n, height, width, 3), row by row; returns the Axes, flat (n,)."""
    rows = max(1, -(-len(images) // columns))
    title_space = 0.35 if titles is not None else 0
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size, rows * (size + title_space) + (0.4 if heading else 0)),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for i, image in enumerate(images):
        axes.flat[i].imshow(image)
        if titles is not None:
            axes.flat[i].set_title(titles[i], fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=11)
    return axes.flat[: len(images)]


def plot_class_mosaic(images, data, ax=None):
    """Draw one picture of every class, a row per superclass, with the names of its five classes.

    `images`: uint8 (100, height, width, 3), in the order of the classes.
    """
    ax = ax or plt.subplots(figsize=(8.5, 14), layout="constrained")[1]
    by_superclass = np.argsort(data.coarse_of_fine, kind="stable").reshape(-1, 5)
    for row, classes in enumerate(by_superclass):
        for column, fine in enumerate(classes):
            left, top = (
                1.7 * column,
                1.4 * row,
            )  # in pictures: room beside each, and below for a name
            ax.imshow(images[fine], extent=(left, left + 1, top + 1, top))
            ax.text(left + 0.5, top + 1.03, _words(data.fine_names[fine]), **_CENTRED_BELOW)
    rows = range(len(by_superclass))
    ax.set_yticks([1.4 * row + 0.5 for row in rows], [_words(data.coarse_names[r]) for r in rows])
    ax.set(xlim=(-0.4, 8.2), ylim=(1.4 * len(by_superclass), -0.1), xticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_class_distances(distances, data, ax=None):
    """Draw the (100, 100) `distances` between classes, the classes ordered by superclass."""
    ax = ax or plt.subplots(figsize=(8, 7), layout="constrained")[1]
    order = np.argsort(data.coarse_of_fine, kind="stable")
    shown = np.where(np.eye(len(order), dtype=bool), np.nan, distances[np.ix_(order, order)])
    picture = ax.imshow(shown, cmap="viridis")
    middles = np.arange(len(data.coarse_names)) * 5 + 2
    ax.set_yticks(middles, [_words(name) for name in data.coarse_names], fontsize=8)
    ax.set_xticks([])
    for edge in middles[1:] - 2.5:
        ax.axhline(edge, color="white", lw=0.5)
        ax.axvline(edge, color="white", lw=0.5)
    ax.figure.colorbar(picture, ax=ax, shrink=0.8, label="distance of the mean images")
    return ax


def plot_channel_histograms(images, ax=None):
    """Draw how often each of the 256 values occurs in each colour channel of uint8 `images`."""
    ax = ax or plt.subplots(figsize=(7, 3), layout="constrained")[1]
    for channel, colour in enumerate(("red", "green", "blue")):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        ax.plot(counts / counts.sum(), color=f"tab:{colour}", label=colour)
    ax.set(xlabel="pixel value", ylabel="fraction of pixels", xlim=(0, 255))
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    return ax


def plot_brightness(images_by_name, ax=None):
    """Draw how the mean brightness of an image is distributed in each named uint8 array."""
    ax = ax or plt.subplots(figsize=(7, 3), layout="constrained")[1]
    for name, images in images_by_name.items():
        brightness = images.mean(axis=(1, 2, 3))
        ax.hist(brightness, bins=64, range=(0, 256), density=True, histtype="step", label=name)
    ax.set(xlabel="mean value of an image's pixels", ylabel="density", xlim=(0, 255))
    ax.legend(frameon=False)
    return ax


def plot_training_curves(history, quantity, ax=None, *, frozen_epochs=0):
    """Draw `quantity` ("loss" or "accuracy") by epoch, phases divided by dotted lines.

    `history` is that of `train`: lists by epoch, with validation under "val_…" where there was one.
    The first `frozen_epochs`, where only the head learned, are shaded.
    """
    ax = ax or plt.subplots(figsize=(6, 3.5), layout="constrained")[1]
    epochs = history["epoch"]
    ax.plot(epochs, history[quantity], "o-", ms=3, color=TRAINING_COLOUR, label="training")
    if f"val_{quantity}" in history:
        validation = history[f"val_{quantity}"]
        ax.plot(epochs, validation, "o-", ms=3, color=VALIDATION_COLOUR, label="validation")
    if frozen_epochs:
        ax.axvspan(0.5, frozen_epochs + 0.5, color="grey", alpha=0.15, lw=0, label="head alone")
    for before, phases in zip(epochs, np.diff(history["phase"]), strict=False):
        if phases:
            ax.axvline(before + 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


def plot_class_accuracy(probabilities, labels, names, *, count=10, ax=None):
    """Draw the accuracy of the `count` worst and the `count` best recognised classes as bars."""
    accuracy = class_accuracy(probabilities, labels)
    order = np.argsort(accuracy, kind="stable")
    shown = np.concatenate([order[:count], order[-count:]])
    ax = ax or plt.subplots(figsize=(7, 0.25 * len(shown) + 1), layout="constrained")[1]
    colours = ["tab:red"] * count + ["tab:green"] * count
    ax.barh(range(len(shown)), accuracy[shown], color=colours)
    ax.set_yticks(range(len(shown)), [_words(names[fine]) for fine in shown])
    ax.axhline(count - 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="fraction of test images recognised", xlim=(0, 1))
    ax.set_title(f"The {count} hardest and the {count} easiest classes")
    return ax


def plot_confused_pairs(probabilities, labels, names, *, count=12, ax=None):
    """Draw the pairs of classes most often taken for each other as bars, most first."""
    pairs = most_confused_pairs(probabilities, labels, count)
    ax = ax or plt.subplots(figsize=(7, 0.28 * count + 1), layout="constrained")[1]
    ax.barh(range(len(pairs)), [images for _, _, images in pairs], color="tab:purple")
    readable = [_words(f"{names[a]} / {names[b]}") for a, b, _ in pairs]
    ax.set_yticks(range(len(pairs)), readable)
    ax.invert_yaxis()
    ax.set_xlabel("test images of either class taken for the other")
    ax.set_title("The pairs of classes confused most often")
    return ax


def plot_confident_mistakes(images, probabilities, labels, names, *, count=10):
    """Draw the wrong predictions of highest probability: what was seen, and what it is."""
    mistakes = most_confident_mistakes(probabilities, labels, count)
    predicted = probabilities.argmax(axis=1)
    titles = [
        f"“{names[predicted[i]]}” {probabilities[i, predicted[i]]:.0%}\nis {names[labels[i]]}"
        for i in mistakes
    ]
    heading = "The most confident mistakes: seen, how surely, and what the label says"
    titles = list(map(_words, titles))
    return plot_images(images[mistakes], titles, columns=5, size=1.6, heading=heading)


def _words(name):
    return name.replace("_", " ")
