"""Figures of one run: each function takes arrays and returns its Axes.

Draws into `ax` if it is given. Throughout, `images` are uint8 (n, height, width, 3),
`probabilities` float (n, 100), `labels` int (n,), and `names` those of the classes.
"""

import numpy as np
from matplotlib.colors import PowerNorm
from sklearn.metrics import ConfusionMatrixDisplay

from .evaluation import (
    class_accuracy,
    most_confident_mistakes,
    most_confused_pairs,
    superclass_confusion,
)
from .plots import new_axes, plot_images, readable


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
