"""Every figure of the series: each function takes data and an optional `ax` and returns Axes."""

import matplotlib.pyplot as plt
import numpy as np

from .evaluation import class_accuracy, most_confident_mistakes, most_confused_pairs

TRAINING_COLOUR, VALIDATION_COLOUR = "tab:blue", "tab:orange"


def plot_images(images, titles=None, *, columns=10, size=1.0, heading=None):
    """Draw `images`, uint8 (n, height, width, 3), row by row; returns the Axes, flat (n,)."""
    rows = -(-len(images) // columns)
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


def plot_class_mosaic(images, labels, data, ax=None):
    """Draw one image of every class, a row per superclass with the names of its five classes.

    `images`: uint8 (n, 32, 32, 3) with `labels`: int (n,); the first image of each class is taken.
    """
    order = np.argsort(data.coarse_of_fine, kind="stable").reshape(-1, 5)
    first = [int(np.flatnonzero(labels == fine)[0]) for fine in range(len(data.fine_names))]
    ax = ax or plt.subplots(figsize=(9, 15), layout="constrained")[1]
    pitch_x, pitch_y = 64, 42  # room for a name beside and below each 32-pixel image
    for row, classes in enumerate(order):
        for column, fine in enumerate(classes):
            left, top = column * pitch_x, row * pitch_y
            ax.imshow(images[first[fine]], extent=(left, left + 32, top + 32, top))
            name = data.fine_names[fine].replace("_", " ")
            ax.text(left + 16, top + 33, name, ha="center", va="top", fontsize=8)
    ax.set_yticks([row * pitch_y + 16 for row in range(len(order))])
    ax.set_yticklabels([data.coarse_names[row].replace("_", " ") for row in range(len(order))])
    ax.set_xlim(-8, 4 * pitch_x + 44)
    ax.set_ylim(len(order) * pitch_y, -4)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Twenty superclasses of five classes each")
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


def plot_training_curves(history, quantity, ax=None):
    """Draw `quantity` ("loss" or "accuracy") by epoch, phases divided by dotted lines.

    `history` is that of `train`: lists by epoch, with validation under "val_…" where there was one.
    """
    ax = ax or plt.subplots(figsize=(6, 3.5), layout="constrained")[1]
    epochs = history["epoch"]
    ax.plot(epochs, history[quantity], "o-", ms=3, color=TRAINING_COLOUR, label="training")
    if f"val_{quantity}" in history:
        validation = history[f"val_{quantity}"]
        ax.plot(epochs, validation, "o-", ms=3, color=VALIDATION_COLOUR, label="validation")
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
    ax.set_yticks(range(len(shown)), [names[fine].replace("_", " ") for fine in shown])
    ax.axhline(count - 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="fraction of test images recognised", xlim=(0, 1))
    ax.set_title(f"The {count} hardest and the {count} easiest classes")
    return ax


def plot_confused_pairs(probabilities, labels, names, *, count=12, ax=None):
    """Draw the pairs of classes most often taken for each other as bars, most first."""
    pairs = most_confused_pairs(probabilities, labels, count)
    ax = ax or plt.subplots(figsize=(7, 0.28 * count + 1), layout="constrained")[1]
    ax.barh(range(len(pairs)), [images for _, _, images in pairs], color="tab:purple")
    readable = [f"{names[a]} / {names[b]}".replace("_", " ") for a, b, _ in pairs]
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
        f"“{names[predicted[i]]}”\n{probabilities[i, predicted[i]]:.0%}, is\n{names[labels[i]]}"
        for i in mistakes
    ]
    titles = [title.replace("_", " ") for title in titles]
    return plot_images(images[mistakes], titles, columns=5, size=1.5)
