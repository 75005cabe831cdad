"""Figures of the data, and what all figures share: each function takes arrays and returns its Axes.

Draws into `ax` if it is given. Throughout, `cifar` is a `Cifar100`, and `images` are uint8 (n,
height, width, 3).
"""

import matplotlib.pyplot as plt
import numpy as np


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


def plot_duplicates(cifar, pairs, *, count=12):
    """Draw `count` of the `pairs` of `near_duplicates`, evenly from the most to the least alike."""
    chosen = pairs[np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)]
    images, titles = [], []
    for i, j in chosen[["test_index", "train_index"]]:
        images += [cifar.x_test[i], cifar.x_train[j]]
        titles += [readable(cifar.fine_names[c]) for c in (cifar.y_test[i], cifar.y_train[j])]
    heading = "Test images, each with a training image of the same shot on its right"
    return plot_images(images, titles, columns=8, size=1.1, heading=heading)
