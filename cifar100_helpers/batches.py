"""Batches for training: in an order that a seed decides, labels one-hot, mixed where wanted."""

import keras
import numpy as np


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of `x` and one-hot `y`, read one by one, drawn and mixed as `seed` alone decides.

    Keras would read a memory map whole, and shuffles in another order under every backend.

    `x`: (n, …), an array or a memory map; `y`: int (n,), below `classes`; `seed`: a tuple of ints.
    `mixup` and `cutmix`: see `Phase`; where both are set, every batch draws one of them.
    """

    def __init__(self, x, y, batch_size, seed, *, classes, mixup=0.0, cutmix=0.0):
        super().__init__()
        self.x, self.y, self.batch_size, self.seed, self.classes = x, y, batch_size, seed, classes
        self.order = np.random.default_rng(seed).permutation(len(x))
        self.mixes = [(mix, alpha) for mix, alpha in ((mixed, mixup), (pasted, cutmix)) if alpha]

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number):
        start = number * self.batch_size
        # In the order of the file: a batch's own order does not matter.
        chosen = np.sort(self.order[start : start + self.batch_size])
        x, y = self.x[chosen], one_hot(self.y[chosen], self.classes)
        if not self.mixes:
            return x, y
        rng = np.random.default_rng([*self.seed, number + 1])
        mix, alpha = self.mixes[rng.integers(len(self.mixes))]
        return mix(x, y, alpha, rng)


def one_hot(labels, classes):
    """Return int `labels` (n,) as float32 (n, `classes`)."""
    return np.eye(classes, dtype=np.float32)[labels]


def mixed(x, y, alpha, rng):
    """Average every image of a batch with another, their labels in the same proportion.

    The proportion is drawn once a batch, from Beta(`alpha`, `alpha`). Source: Zhang et al., "mixup:
    Beyond Empirical Risk Minimization", 2018.
    """
    return _average(x, y, rng.permutation(len(x)), rng.beta(alpha, alpha))


def pasted(x, y, alpha, rng):
    """Paste a box of another image into every one of a batch, labels in proportion of the areas.

    The box is drawn once a batch, its area from Beta(`alpha`, `alpha`). Pooled features, which have
    no place to cut, are averaged instead. Source: Yun et al., "CutMix: Regularization Strategy to
    Train Strong Classifiers with Localizable Features", 2019.
    """
    partner, kept = rng.permutation(len(x)), rng.beta(alpha, alpha)
    if x.ndim == 2:
        return _average(x, y, partner, kept)
    rows, columns = (_side(length, np.sqrt(1 - kept), rng) for length in x.shape[1:3])
    result = x.copy()
    result[:, rows, columns] = x[partner][:, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    covered = area / (x.shape[1] * x.shape[2])
    return result, _between(y, y[partner], 1 - covered)


def _average(x, y, partner, kept):
    average = _between(x.astype(np.float32), x[partner], kept)
    if np.issubdtype(x.dtype, np.integer):
        average = np.rint(average)
    return average.astype(x.dtype), _between(y, y[partner], kept)


def _between(a, b, kept):
    return np.float32(kept) * a + np.float32(1 - kept) * b


def _side(length, share, rng):
    """A slice of `share` of `length`, centred anywhere: part of it may lie outside."""
    centre, half = rng.integers(length), round(length * share) / 2
    return slice(max(0, int(centre - half)), min(length, int(centre + half)))
