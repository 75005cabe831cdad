"""Figures of one run: each function takes arrays and returns its Axes.

`name` is the run's; `images` are uint8 (n, height, width, 3), `probabilities` float (n, 100),
`labels` int (n,), `coarse_of_fine` int (100,), and `names` those of the classes.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.patches import Patch, Rectangle
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from . import evaluation
from .plots import BLUE, ORANGE, new_axes, plot_images, readable
from .recipes import learning_rate

OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "muon": "Muon"}


# The recipe and the model


def plot_schedule(phases):
    """Draw the learning rate of `phases` over the epochs, and above it the size of the images."""
    ax = new_axes(6, 3)
    start, rates = 0, [phase.learning_rate for phase in phases]
    for phase in phases:
        _draw_learning_rate(ax, phase, start)
        _draw_image_sizes(ax, phase, start)
        if start:
            ax.axvline(start, color="grey", ls=":", lw=1)
        start += phase.epochs
    constant = all(phase.schedule == "constant" for phase in phases)
    if constant and max(rates) >= 10 * min(rates):
        ax.set(yscale="log", ylim=(min(rates) / 3, max(rates) * 6))
    else:
        ax.set_ylim(0, 1.5 * max(rates))  # room for the text and the sizes
    ax.set(xlabel="epochs", ylabel="learning rate", xlim=(0, start))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def _draw_learning_rate(ax, phase, start):
    steps = 100 * phase.epochs  # more would draw the same curve
    rate = learning_rate(phase, steps)
    at = np.linspace(0, steps, 101)
    values = [float(rate(step)) if callable(rate) else rate for step in at]
    epochs = start + at / 100
    ax.plot(epochs, values, color=BLUE, lw=2)
    highest = int(np.argmax(values)) if callable(rate) else len(at) // 2
    number = np.format_float_positional(phase.learning_rate, trim="-")  # not 5e-05
    text, style = f"{OPTIMIZERS[phase.optimizer]}\n{number}", {"fontsize": 9, "color": BLUE}
    ax.text(epochs[highest], 1.06 * max(values), text, ha="center", va="bottom", **style)


def _draw_image_sizes(ax, phase, start):
    """Draw a band along the top, darker the larger the images of `phase`, from epoch `start` on."""
    sizes = [phase.image_size(epoch) for epoch in range(phase.epochs)]
    for size in dict.fromkeys(phase.image_sizes):
        left, width = start + sizes.index(size), sizes.count(size)
        place = {"transform": ax.get_xaxis_transform()}
        style = {"fc": ORANGE, "ec": "white", "alpha": 0.4 * (size / max(sizes)) ** 2}
        ax.add_patch(Rectangle((left, 0.88), width, 0.12, **style, **place))
        text = f"{size} × {size} pixels"
        ax.text(left + width / 2, 0.94, text, ha="center", va="center", fontsize=8, **place)


def plot_ablation(record):
    """Draw what each change to a recipe gains or loses in validation accuracy, in points.

    `record`: the content of results/ablation.json. Every line is compared with the first, the
    recipe, seed by seed; the whiskers are one standard deviation over the seeds.
    """
    (_, baseline), *changes = record["accuracies"].items()
    points = {
        name: [100 * (accuracies[seed] - baseline[seed]) for seed in accuracies]
        for name, accuracies in changes
    }
    names = sorted(points, key=lambda name: np.mean(points[name]))
    means = np.array([np.mean(points[name]) for name in names])
    spreads = [np.std(points[name], ddof=len(points[name]) > 1) for name in names]
    with plt.rc_context({"figure.hooks": []}):  # of real images, whatever the notebook trains on
        ax = new_axes(7.5, 1.2 + 0.4 * len(names))
    rows, colours = range(len(names)), np.where(means > 0, BLUE, ORANGE)
    bars = ax.barh(rows, means, 0.6, xerr=spreads, color=colours, error_kw={"lw": 1, "capsize": 3})
    numbers = [f"{mean:+.1f}".replace("-", "−") for mean in means]
    ax.bar_label(bars, numbers, padding=4, fontsize=9)
    ax.axvline(0, color="black", lw=1)
    ax.set_yticks(rows, [textwrap.fill(name, 30) for name in names])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    measured = "width {width}, {images:,} images, {epochs} epochs".format(**record["settings"])
    measured += f", {len(baseline)} seeds; whiskers: their spread"
    ax.set_xlabel(f"points of validation accuracy\n({measured})")
    ax.set_title("The modern recipe with one thing changed: gain or loss")
    return ax


def plot_copies(record):
    """Draw validation accuracy by the number of variants of each image, for the same arithmetic.

    `record`: the content of results/copies.json. Bars are means, orange where the variants are new
    in every epoch; the whiskers are one standard deviation over the seeds.
    """
    accuracies = record["accuracies"]
    points = 100 * np.array([[*of_seeds.values()] for of_seeds in accuracies.values()])
    with plt.rc_context({"figure.hooks": []}):  # of real images, whatever the notebook draws
        ax = new_axes(7.5, 4)
    places, colours = range(len(points)), [ORANGE if "new" in name else BLUE for name in accuracies]
    spreads = points.std(axis=1, ddof=points.shape[1] > 1)
    whiskers = {"yerr": spreads, "error_kw": {"lw": 1, "capsize": 3}}
    bars = ax.bar(places, points.mean(axis=1), 0.6, color=colours, **whiskers)
    ax.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    ax.set_xticks(places, [textwrap.fill(name, 14) for name in accuracies])
    ax.margins(y=0.12)
    measured = "width {width}, {images:,} images, as many steps as {epochs} epochs on them"
    measured = measured.format(**record["settings"]) + f", {points.shape[1]} seeds"
    ax.set_xlabel(f"variants of each image, the original among them\n({measured})")
    ax.set_ylabel("correct validation images, %")
    ax.set_title("More variants of the same images, for the same arithmetic")
    return ax


def plot_resnet(model):
    """Draw a `model` from `build_resnet`, with a small table of its stages below.

    Bars are as high as the maps of features, and darker the more filters there are.
    """
    ax = new_axes(9.5, 3)
    side, _, channels = model.input_shape[1:]
    stages, widest = {}, max(layer.output.shape[-1] for layer in model.layers)
    for layer in model.layers:
        stage = layer.name.split("_")[0]
        if stage.startswith(("stem", "stage", "pool", "probabilities")):  # no random transforms
            stages.setdefault(stage, []).append(layer)
    right = _draw_bar(ax, 0, 1, "#F8DFCC")
    _write_column(ax, -0.4, ("", "height × width", "filters", "parameters"), ha="right")
    _write_column(ax, right / 2, ("image", f"{side} × {side}", channels, ""))
    for stage, layers in stages.items():
        *maps, filters = layers[-1].output.shape[1:]
        height = (maps[0] / side) ** 0.5 if maps else 0.12
        shade = plt.cm.Blues(0.2 + 0.7 * (filters / widest) ** 0.5)
        left = right = _draw_arrow(ax, right, 0.6)
        blocks = sum(layer.name.endswith("_add") for layer in layers)
        for block in range(blocks):
            right = _draw_arrow(ax, right, 0.35) if block else right
            right = _draw_residual_block(ax, right, height, shade)
        right = right if blocks else _draw_bar(ax, left, height, shade)
        size, parameters = " × ".join(map(str, maps)), sum(layer.count_params() for layer in layers)
        cells = (stage, size, filters, f"{parameters:,}" if parameters else "")
        _write_column(ax, (left + right) / 2, cells)
    ax.plot([], [], color=ORANGE, label="shortcut: a 1 × 1 convolution beside two of 3 × 3")
    ax.legend(loc="upper right", frameon=False, fontsize=9)
    ax.set(xlim=(-1.4, right + 0.45), ylim=(-1.7, 0.8))
    ax.set_axis_off()
    ax.set_title(f"{model.name}: {model.count_params():,} parameters")
    return ax


def _draw_residual_block(ax, left, height, colour):
    """Draw two convolutions from `left` on and the shortcut around them; return the right end."""
    right = _draw_bar(ax, _draw_bar(ax, left, height, colour) + 0.08, height, colour)
    start, end, top = left - 0.17, right + 0.12, height / 2 + 0.12
    ax.plot([start, start, end, end], [0, top, top, 0], color=ORANGE, lw=1.5)
    ax.plot(end, 0.07, "v", color=ORANGE, ms=5)
    return right


def _draw_bar(ax, left, height, colour):
    ax.add_patch(Rectangle((left, -height / 2), 0.16, height, fc=colour, ec="black", lw=0.8))
    return left + 0.16


def _draw_arrow(ax, left, length):
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (left + length, 0), (left, 0), arrowprops=style)
    return left + length


def _write_column(ax, x, cells, ha="center"):
    for row, cell in enumerate(cells):
        weight = "bold" if row == 0 else "normal"
        ax.text(x, -0.75 - 0.28 * row, cell, ha=ha, va="center", fontsize=8.5, weight=weight)


# Training


def plot_training_curves(history, quantity, ax=None, *, frozen_epochs=0, test=None, name=None):
    """Draw `quantity` ("loss" or "accuracy") by epoch, with dotted lines between phases.

    `history` is that of a record. The first `frozen_epochs`, of the head alone, are shaded. `test`:
    the quantity on the test images after training, in the unit of `history`. A loss that falls to
    less than a hundredth is drawn on a logarithmic scale.
    """
    ax = ax or new_axes(6, 3.5)
    epochs, percent = history["epoch"], quantity == "accuracy"
    scale, text = (100, "{:.2f} %") if percent else (1, "{:.2g}")
    for key, label, colour in (("", "training", BLUE), ("val_", "validation", ORANGE)):
        if key + quantity in history:
            values = scale * np.array(history[key + quantity])
            label = f"{label}: {text.format(values[-1])} at the end"
            ax.plot(epochs, values, "o-", ms=3, color=colour, label=label)
    if test is not None:
        label = f"test: {text.format(scale * test)}"
        ax.axhline(scale * test, color=ORANGE, ls="--", lw=1)
        ax.plot(epochs[-1], scale * test, "D", ls="--", lw=1, color=ORANGE, label=label)
    if frozen_epochs:
        ax.axvspan(0.5, frozen_epochs + 0.5, color="grey", alpha=0.15, lw=0, label="head alone")
    for last_of_phase in np.flatnonzero(np.diff(history["phase"])):
        ax.axvline(epochs[last_of_phase] + 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="epoch", ylabel="correct images, %" if percent else quantity)
    if percent:
        ax.set_ylim(0, 102)
    elif max(history[quantity]) > 100 * min(history[quantity]):
        ax.set_yscale("log")  # or most epochs would lie on zero
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(edgecolor="none", loc="lower right" if percent else "best")
    ax.set_title(name)
    return ax


# What the model predicted


def plot_class_accuracy(probabilities, labels, names, *, name, count=10):
    """Draw the accuracies of the `count` hardest and easiest classes, and a strip of all."""
    accuracy = 100 * evaluation.class_accuracy(probabilities, labels)
    order = np.argsort(accuracy, kind="stable")
    shown, rows = np.concatenate([order[:count], order[-count:]]), np.arange(2 * count)
    ax = new_axes(7, 1.2 + 0.23 * len(rows))
    bars = ax.barh(rows, accuracy[shown], color=np.where(rows < count, ORANGE, BLUE))
    ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    ax.plot(accuracy, np.full(len(accuracy), 2 * count + 0.3), "|", color="grey", ms=14, alpha=0.6)
    labels_of_rows = [readable(names[fine]) for fine in shown]
    ax.set_yticks([*rows, 2 * count + 0.3], [*labels_of_rows, f"all {len(accuracy)} classes"])
    ax.axhline(count - 0.5, color="grey", ls=":", lw=1)
    ax.set(xlabel="correct test images of the class, %", xlim=(0, 100), ylim=(-0.7, 2 * count + 1))
    ax.set_title(f"{name}: the {count} hardest and the {count} easiest classes")
    return ax


def plot_confused_pairs(probabilities, labels, names, coarse_of_fine, *, name, count=12):
    """Draw the pairs of classes most often taken for each other, coloured by kind of pair."""
    pairs = evaluation.most_confused_pairs(probabilities, labels, count)
    ax = new_axes(7, 1.2 + 0.28 * count)
    a, b, images = np.reshape(pairs, (-1, 3)).T.astype(int)
    rows, siblings = np.arange(len(pairs)), coarse_of_fine[a] == coarse_of_fine[b]
    kinds = []
    for chosen, kind, colour in (
        (siblings, "of the same superclass", BLUE),
        (~siblings, "of different superclasses", ORANGE),
    ):
        bars = ax.barh(rows[chosen], images[chosen], color=colour)
        ax.bar_label(bars, padding=3, fontsize=8)
        kinds.append(Patch(color=colour, label=f"{kind}: {chosen.sum()} of {len(pairs)}"))
    ax.set_yticks(rows, [readable(f"{names[a]} / {names[b]}") for a, b, _ in pairs])
    ax.invert_yaxis()
    ax.set_xlabel("test images of either class taken for the other")
    ax.xaxis.get_major_locator().set_params(integer=True)
    place = {"loc": "upper center", "bbox_to_anchor": (0.4, -0.13)}
    ax.legend(handles=kinds, ncols=2, frameon=False, fontsize=9, **place)
    ax.set_title(f"{name}: the classes confused most often")
    return ax


def plot_superclass_confusion(probabilities, labels, coarse_of_fine, coarse_names, *, name):
    """Draw what images of each superclass (row) are taken for (column), in percent of the row."""
    true, predicted = coarse_of_fine[labels], coarse_of_fine[probabilities.argmax(axis=1)]
    percent = 100 * confusion_matrix(
        true, predicted, labels=range(len(coarse_names)), normalize="true"
    )
    ax = new_axes(9, 7.4)
    display = ConfusionMatrixDisplay(percent, display_labels=list(map(readable, coarse_names)))
    # On an even scale, all mistakes would look white beside the diagonal.
    scale = {"norm": PowerNorm(0.5, vmin=0, vmax=100), "aspect": "auto"}
    display.plot(ax=ax, cmap="Blues", colorbar=False, values_format=".0f", im_kw=scale)
    for text in display.text_.flat:
        text.set(fontsize=8, visible=text.get_text() != "0")
    ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=45, ha="right")
    ax.tick_params(labelsize=9)
    ax.set(xlabel="predicted superclass", ylabel="true superclass")
    ax.set_title(f"{name}: which superclass is taken for which, % of each row")
    return ax


def plot_confident_mistakes(images, probabilities, labels, names, *, name, count=10):
    """Draw the wrong predictions of highest probability: what was predicted, and what it is."""
    predicted = probabilities.argmax(axis=1)
    mistakes = evaluation.surest(predicted != labels, probabilities, count)
    titles = [
        f"“{readable(names[predicted[i]])}” {100 * probabilities[i].max():.0f} %\n"
        f"is {readable(names[labels[i]])}"
        for i in mistakes
    ]
    heading = f"{name}: the surest mistakes, “predicted” and true class"
    return plot_images(images[mistakes], titles, columns=5, size=1.6, heading=heading)


# What the features know


def plot_neighbours(images, queries, neighbours, labels, names):
    """Draw rows of images: a query and its nearest neighbours; those of its class are framed.

    `queries`, int (rows,), and `neighbours`, int (rows, columns), are indices into `images`.
    """
    shown = np.column_stack([queries, neighbours])
    titles = [readable(names[label]) for label in labels[shown.flat]]
    heading = "An image, and its nearest neighbours: ✓ and a frame for the same class"
    axes = plot_images(images[shown.flat], titles, columns=shown.shape[1], heading=heading)
    for row, classes in zip(axes.reshape(shown.shape), labels[shown], strict=True):
        row[0].title.set_weight("bold")
        for ax, fine in zip(row[1:], classes[1:], strict=True):
            if fine == classes[0]:
                ax.set_title(f"✓ {ax.get_title()}", fontsize=8, color=BLUE)
                frame = {"fill": False, "ec": BLUE, "lw": 6, "transform": ax.transAxes}
                ax.add_patch(Rectangle((0, 0), 1, 1, **frame))
    return axes


def plot_embedding(points_by_title, coarse_labels, coarse_names):
    """Draw points in the plane, coloured by superclass, in a panel for each title.

    `points_by_title`: a dict of float (n, 2); `coarse_labels`, int (n,), are of the same images.
    """
    panels = len(points_by_title)
    figure, axes = plt.subplots(1, panels, figsize=(4 * panels + 2, 4.4), layout="constrained")
    for ax, (title, points) in zip(axes, points_by_title.items(), strict=True):
        for coarse, coarse_name in enumerate(coarse_names):
            x, y = points[coarse_labels == coarse].T
            label = readable(coarse_name) if ax is axes[0] else None
            ax.scatter(x, y, s=6, lw=0, color=plt.cm.tab20(coarse), label=label)
        ax.set(xticks=[], yticks=[], title=title)
        ax.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right center", frameon=False, fontsize=8, markerscale=3)
    return axes
