"""Pictures that compared runs get wrong, with what they saw in them."""

import numpy as np

from .comparison import average_probabilities, is_right
from .plots import _words, plot_images


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
