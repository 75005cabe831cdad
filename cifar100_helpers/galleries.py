"""Pages of pictures: neighbours, near-duplicates, and what compared runs get wrong."""

import numpy as np

from .comparison import average_probabilities, is_right
from .plots import _words, plot_images


def plot_neighbours(images, queries, neighbours, labels, names):
    """Draw images, each row a query and its nearest neighbours, named by their classes.

    `images`: uint8 (n, height, width, 3); `queries`, int (rows,), and `neighbours`, int (rows,
    columns), are indices into them; `labels`: int (n,).
    """
    shown = np.column_stack([queries, neighbours])
    drawn = plot_images(
        images[shown.ravel()],
        [_words(names[label]) for label in labels[shown.ravel()]],
        columns=shown.shape[1],
        heading="One picture in each row, and its nearest neighbours; green: of the same class",
    )
    for ax, label, query in zip(
        drawn, labels[shown].ravel(), np.repeat(queries, shown.shape[1]), strict=True
    ):
        ax.title.set_color("tab:green" if label == labels[query] else "tab:red")
    for ax in drawn[:: shown.shape[1]]:
        ax.title.set(color="black", weight="bold")
    return drawn


def plot_duplicates(data, pairs, *, count=12):
    """Draw `count` of the near-duplicates `pairs`, evenly from the most to the least alike.

    `data` is a `Cifar100`, `pairs` the `DuplicatePairs` of its test and training images.
    """
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)
    images, labels = [], []
    for query, reference in zip(pairs.query[chosen], pairs.reference[chosen], strict=True):
        images += [data.x_test[query], data.x_train[reference]]
        labels += [data.y_test[query], data.y_train[reference]]
    titles = [_words(data.fine_names[label]) for label in labels]
    heading = "Test images, each with a training image of the same shot on its right"
    return plot_images(images, titles, columns=8, size=1.1, heading=heading)


def plot_only_one_right(images, right, wrong, names, *, count=10):
    """Draw test images that the run `right` recognises and `wrong` does not, its surest first.

    `images`: uint8 (n, height, width, 3), the test set; `names`: those of the classes.
    """
    seen, confidence = _likeliest(wrong.probabilities)
    chosen = _surest(is_right(right) & ~is_right(wrong), confidence, count)
    titles = [
        f"{_words(names[right.labels[i]])}\nnot “{_words(names[seen[i]])}” {confidence[i]:.0%}"
        for i in chosen
    ]
    heading = f"Only {right.record['name']} is right; what {wrong.record['name']} saw"
    return plot_images(images[chosen], titles, columns=5, size=1.6, heading=heading)


def plot_both_wrong(data, first, second, *, count=6, examples=4):
    """Draw test images that neither run recognises, each beside `examples` of its labelled class.

    What they saw is what their average holds likeliest; the surest come first. `data` is a
    `Cifar100`.
    """
    seen, confidence = _likeliest(average_probabilities(first, second))
    wrong = ~is_right(first) & ~is_right(second) & (seen != first.labels)
    chosen = _surest(wrong, confidence, count)
    images, titles = [], []
    for i in chosen:
        label = first.labels[i]
        images += [data.x_test[i], *data.x_train[data.y_train == label][:examples]]
        name, other = _words(data.fine_names[label]), _words(data.fine_names[seen[i]])
        titles += [f"“{other}” {confidence[i]:.0%}\nis {name}?", *[f"\n{name}"] * examples]
    heading = "Both are wrong: what they saw, and training images of the class on the label"
    return plot_images(images, titles, columns=1 + examples, size=1.2, heading=heading)


def _likeliest(probabilities):
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


def _surest(mask, confidence, count):
    chosen = np.flatnonzero(mask)
    return chosen[np.argsort(-confidence[chosen], kind="stable")[:count]]
