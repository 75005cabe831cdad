"""Figures of the data, and what all figures share.

Functions return their Axes; `cifar` is a `Cifar100`, and `images` are uint8
(n, height, width, 3).
"""

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart by colour-blind readers too
plt.rcParams["image.interpolation"] = "nearest"  # pixels are shown as they are


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
    # On the left, where the labels of an axis leave room beside a title.
    figure.text(0.005, 0.995, "synthetic data", ha="left", va="top", color="tab:red", size=8)


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


def plot_class_mosaic(images, cifar, superclasses):
    """Draw those of `images`, one of every class, that belong to the `superclasses`: two a row."""
    rows = -(-len(superclasses) // 2)
    ax = new_axes(10, 1.35 * rows + 0.3)
    for place, coarse in enumerate(superclasses):
        left, top = 6 * (place % 2), 1.55 * (place // 2)
        name = readable(cifar.coarse_names[coarse])
        ax.text(left, top - 0.05, name, weight="bold", va="bottom", fontsize=9)
        for column, fine in enumerate(np.flatnonzero(cifar.coarse_of_fine == coarse)):
            _draw_tile(ax, images[fine], left + 1.12 * column, top, cifar.fine_names[fine])
    ax.set(xlim=(-0.1, 11.6), ylim=(1.55 * rows - 0.25, -0.3))
    return ax


def plot_mean_images(means, cifar):
    """Draw `means`, (100, 32, 32, 3) from 0 to 255, as a square of two superclasses a row."""
    ax = new_axes(10, 5.5)
    order = np.argsort(cifar.coarse_of_fine, kind="stable").reshape(10, 10)
    ax.imshow(np.vstack([np.hstack(means[row]) for row in order]).round().astype(np.uint8))
    side = means.shape[1]
    ax.axvline(5 * side - 0.5, color="white", lw=3)
    for coarse, name in enumerate(cifar.coarse_names):
        place = {"x": 10 * side + 4, "ha": "left"} if coarse % 2 else {"x": -4, "ha": "right"}
        ax.text(y=(coarse // 2 + 0.5) * side, s=readable(name), va="center", **place)
    ax.set_axis_off()
    return ax


def plot_duplicates(cifar, pairs):
    """Draw the `pairs` of `near_duplicates` four to a row; differing labels are orange."""
    rows = -(-len(pairs) // 4)
    ax = new_axes(10, 1.45 * rows + 0.1)
    for place, (test, train) in enumerate(pairs[["test_index", "train_index"]]):
        left, top = 2.62 * (place % 4), 1.45 * (place // 4)
        labels = [cifar.fine_names[cifar.y_test[test]], cifar.fine_names[cifar.y_train[train]]]
        color = "black" if labels[0] == labels[1] else ORANGE
        _draw_tile(ax, cifar.x_test[test], left, top, f"test: {labels[0]}", color)
        _draw_tile(ax, cifar.x_train[train], left + 1.1, top, f"train: {labels[1]}", color)
    ax.set(xlim=(-0.1, 10.1), ylim=(1.45 * rows - 0.2, -0.1))
    return ax


def _draw_tile(ax, image, left, top, text, color="black"):
    """Draw `image`, one unit wide, with `text` below it."""
    ax.set_axis_off()
    ax.imshow(image, extent=(left, left + 1, top + 1, top))
    place = {"x": left + 0.5, "y": top + 1.03, "ha": "center", "va": "top"}
    ax.text(s=readable(text), fontsize=7.5, color=color, **place)
