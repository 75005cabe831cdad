"""Figures of the data and of one run: each function takes arrays and returns its Axes.

Draws into `ax` if it is given. Throughout, `cifar` is a `Cifar100`, `images` are uint8 (n, height,
width, 3), `probabilities` float (n, 100), `labels` int (n,), and `names` those of the classes.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from sklearn.metrics import ConfusionMatrixDisplay

from .evaluation import (
    class_accuracy,
    most_confident_mistakes,
    most_confused_pairs,
    superclass_confusion,
)


def readable(name):
    """Return the `name` of a class in words: "sweet_pepper" becomes "sweet pepper"."""
    return name.replace("_", " ")


def new_axes(width, height):
    """Return the Axes of a new figure, `width` by `height` inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def mark_figures(dataset):
    """Stamp every figure from now on "synthetic data" if that is what `dataset` names."""
    hook = f"{__name__}:_stamp_synthetic"
    plt.rcParams["figure.hooks"] = [hook] if dataset == "synthetic" else []


def _stamp_synthetic(figure):
    figure.text(0.995, 0.995, "synthetic data", ha="right", va="top", color="tab:red", size=8)


def plot_images(images, titles=None, *, columns=10, size=1.0, heading=None):
    """Draw `images` row by row, each `size` inches wide; returns their Axes, (n,)."""
    rows = max(1, -(-len(images) // columns))
    height = rows * (size + (0.35 if titles else 0)) + (0.4 if heading else 0)
    figure = plt.figure(figsize=(columns * size, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for i, image in enumerate(images):
        axes[i].imshow(image)
        axes[i].set_title(titles[i] if titles else "", fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=11)
    return axes[: len(images)]


def plot_class_mosaic(images, cifar, ax=None):
    """Draw `images`, one of every class in the order of the classes, in a row per superclass."""
    ax = ax or new_axes(8.5, 14)
    by_superclass = np.argsort(cifar.coarse_of_fine, kind="stable").reshape(-1, 5)
    for row, classes in enumerate(by_superclass):
        for column, fine in enumerate(classes):
            # A picture is one unit wide; between the pictures is room for the names below them.
            left, top = 1.7 * column, 1.4 * row
            ax.imshow(images[fine], extent=(left, left + 1, top + 1, top))
            name = readable(cifar.fine_names[fine])
            ax.text(left + 0.5, top + 1.03, name, ha="center", va="top", fontsize=8)
    middles = 1.4 * np.arange(len(by_superclass)) + 0.5
    ax.set_yticks(middles, map(readable, cifar.coarse_names))
    ax.set(xlim=(-0.4, 8.2), ylim=(1.4 * len(by_superclass), -0.1), xticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_class_distances(distances, cifar, ax=None):
    """Draw the (100, 100) `distances` between classes, ordered by superclass."""
    ax = ax or new_axes(8, 7)
    order = np.argsort(cifar.coarse_of_fine, kind="stable")
    shown = np.where(np.eye(len(order), dtype=bool), np.nan, distances[np.ix_(order, order)])
    picture = ax.imshow(shown, cmap="viridis")
    middles = np.arange(len(cifar.coarse_names)) * 5 + 2
    ax.set_yticks(middles, map(readable, cifar.coarse_names), fontsize=8)
    ax.set_xticks([])
    for edge in middles[1:] - 2.5:
        ax.axhline(edge, color="white", lw=0.5)
        ax.axvline(edge, color="white", lw=0.5)
    ax.figure.colorbar(picture, ax=ax, shrink=0.8, label="distance of the mean images")
    return ax


def plot_channel_histograms(images, ax=None):
    """Draw how often each of the 256 values occurs in each colour channel of `images`."""
    ax = ax or new_axes(7, 3)
    for channel, colour in enumerate(("red", "green", "blue")):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        ax.plot(counts / counts.sum(), color=f"tab:{colour}", label=colour)
    ax.set(xlabel="pixel value", ylabel="fraction of pixels", xlim=(0, 255), ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def plot_brightness(images_by_name, ax=None):
    """Draw the distribution of the images' mean brightness for each array, by name."""
    ax = ax or new_axes(7, 3)
    for name, images in images_by_name.items():
        brightness = images.mean(axis=(1, 2, 3))
        ax.hist(brightness, bins=64, range=(0, 256), density=True, histtype="step", label=name)
    ax.set(xlabel="mean value of an image's pixels", ylabel="density", xlim=(0, 255))
    ax.legend(frameon=False)
    return ax


def plot_training_curves(history, quantity, ax=None, *, frozen_epochs=0):
    """Draw `quantity` ("loss" or "accuracy") by epoch, with dotted lines between phases.

    `history` is that of `train`: lists by epoch, those of validation under "val_…" if there are
    any. The first `frozen_epochs`, which trained only the head, are shaded.
    """
    ax = ax or new_axes(6, 3.5)
    epochs = history["epoch"]
    ax.plot(epochs, history[quantity], "o-", ms=3, label="training")
    if f"val_{quantity}" in history:
        ax.plot(epochs, history[f"val_{quantity}"], "o-", ms=3, label="validation")
    if frozen_epochs:
        ax.axvspan(0.5, frozen_epochs + 0.5, color="grey", alpha=0.15, lw=0, label="head alone")
    for last_of_phase in np.flatnonzero(np.diff(history["phase"])):
        ax.axvline(epochs[last_of_phase] + 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


def plot_class_accuracy(probabilities, labels, names, *, count=10, ax=None):
    """Draw the accuracies of the `count` hardest and the `count` easiest classes as bars."""
    accuracy = class_accuracy(probabilities, labels)
    order = np.argsort(accuracy, kind="stable")
    shown = np.concatenate([order[:count], order[-count:]])
    rows = np.arange(2 * count)
    ax = ax or new_axes(7, 0.25 * len(rows) + 1)
    ax.barh(rows, accuracy[shown], color=np.where(rows < count, "tab:red", "tab:green"))
    ax.set_yticks(rows, [readable(names[fine]) for fine in shown])
    ax.axhline(count - 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="fraction of test images recognised", xlim=(0, 1))
    ax.set_title(f"The {count} hardest and the {count} easiest classes")
    return ax


def plot_confused_pairs(probabilities, labels, names, *, count=12, ax=None):
    """Draw the pairs of classes most often taken for each other as bars, the worst first."""
    pairs = most_confused_pairs(probabilities, labels, count)
    ax = ax or new_axes(7, 0.28 * count + 1)
    rows = range(len(pairs))
    ax.barh(rows, [images for _, _, images in pairs], color="tab:purple")
    ax.set_yticks(rows, [readable(f"{names[a]} / {names[b]}") for a, b, _ in pairs])
    ax.invert_yaxis()
    ax.set_xlabel("test images of either class taken for the other")
    ax.set_title("The pairs of classes confused most often")
    return ax


def plot_superclass_confusion(probabilities, labels, coarse_of_fine, coarse_names, ax=None):
    """Draw what images of each superclass (row) are taken for (column), in percent of the row.

    `coarse_of_fine`: int (100,), the superclass of each class. Numbers below 0.5 % are left out.
    """
    counts = superclass_confusion(probabilities, labels, coarse_of_fine)
    percent = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    ax = ax or new_axes(10, 9.5)
    display = ConfusionMatrixDisplay(percent, display_labels=list(map(readable, coarse_names)))
    # On an even scale, all mistakes would look white beside the diagonal.
    scale = {"norm": PowerNorm(0.5, vmin=0, vmax=100)}
    display.plot(ax=ax, cmap="Blues", colorbar=False, values_format=".0f", im_kw=scale)
    for text in display.text_.flat:
        text.set(fontsize=8, visible=text.get_text() != "0")
    ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=45, ha="right")
    ax.set(xlabel="predicted superclass", ylabel="true superclass")
    ax.set_title("Which superclass is taken for which: % of each row, mistakes off the diagonal")
    return ax


def plot_confident_mistakes(images, probabilities, labels, names, *, count=10):
    """Draw the wrong predictions of highest probability: what was seen, and what it is."""
    mistakes = most_confident_mistakes(probabilities, labels, count)
    predicted = probabilities.argmax(axis=1)
    titles = [
        f"“{readable(names[predicted[i]])}” {probabilities[i].max():.0%}\n"
        f"is {readable(names[labels[i]])}"
        for i in mistakes
    ]
    heading = "The most confident mistakes: seen, how surely, and what the label says"
    return plot_images(images[mistakes], titles, columns=5, size=1.6, heading=heading)


def plot_neighbours(images, queries, neighbours, labels, names):
    """Draw rows of images, each a query and its nearest neighbours, named by their classes.

    `queries`, int (rows,), and `neighbours`, int (rows, columns), are indices into `images`.
    """
    shown = np.column_stack([queries, neighbours])
    titles = [readable(names[label]) for label in labels[shown.flat]]
    heading = "One picture in each row, and its nearest neighbours; green: of the same class"
    drawn = plot_images(images[shown.flat], titles, columns=shown.shape[1], heading=heading)
    for row, classes in zip(drawn.reshape(shown.shape), labels[shown], strict=True):
        row[0].title.set_weight("bold")
        for ax, fine in zip(row[1:], classes[1:], strict=True):
            ax.title.set_color("tab:green" if fine == classes[0] else "tab:red")
    return drawn


def plot_duplicates(cifar, pairs, *, count=12):
    """Draw `count` of the `pairs` of `near_duplicates`, evenly from the most to the least alike."""
    chosen = pairs[np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)]
    images, titles = [], []
    for i, j in chosen[["test_index", "train_index"]]:
        images += [cifar.x_test[i], cifar.x_train[j]]
        titles += [readable(cifar.fine_names[c]) for c in (cifar.y_test[i], cifar.y_train[j])]
    heading = "Test images, each with a training image of the same shot on its right"
    return plot_images(images, titles, columns=8, size=1.1, heading=heading)
