"""CIFAR-100 as arrays: found, fetched, verified, read and split."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .download import fetch, find_cached, locate
from .errors import DatasetError, ParameterError
from .reading import NUM_CLASSES, read_batch, read_names


@dataclass(frozen=True, eq=False, repr=False)
class Cifar100:
    """Images, labels and class names of CIFAR-100 or of its synthetic stand-in, all read-only.

    `x_train`, `x_test`: (N, 32, 32, 3) uint8 RGB. `y_train`, `y_test`: (N,) int64, 0–99.
    `coarse_train`, `coarse_test`: (N,) int64 superclasses, 0–19. `fine_names`, `coarse_names`:
    100 and 20 strings. `coarse_of_fine`: (100,) int64, the superclass of each class. `name`:
    "cifar100" or "synthetic". Source: Krizhevsky, "Learning Multiple Layers of Features from
    Tiny Images", 2009.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    coarse_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    coarse_test: np.ndarray
    fine_names: tuple
    coarse_names: tuple
    coarse_of_fine: np.ndarray
    name: str

    def __repr__(self):
        sizes = f"{len(self.y_train):,} training and {len(self.y_test):,} test images"
        return f"<Cifar100 {self.name!r}: {sizes}>"


def load_cifar100(data_dir=None):
    """CIFAR-100 as a `Cifar100`, each of its three files checked against its official MD5.

    Looks in `data_dir`, else in the folder that the environment variable CIFAR100_DIR names (in
    either, the folder of train, test and meta or the one above), else in Keras's cache
    (`~/.keras/datasets`, or under KERAS_HOME), and else downloads the official archive (169 MB)
    into that cache. Raises `DatasetError` if a named folder lacks the files, a file is not the
    official one, or the download fails.
    """
    named = data_dir or os.environ.get("CIFAR100_DIR")
    if not named:
        return read_folder(find_cached() or fetch())
    folder = locate(os.path.expanduser(str(named)))
    if folder is None:
        source = "data_dir" if data_dir else "CIFAR100_DIR"
        raise DatasetError(
            f"{source} names {named}, where the files train, test and meta of CIFAR-100 are not: "
            f"name the folder that holds them, or leave {source} out to have them fetched."
        )
    return read_folder(folder)


def read_folder(folder, *, name="cifar100", verify=True):
    """The files train, test and meta of `folder` as a `Cifar100` called `name`.

    `verify=False` skips the comparison with the official MD5, for data in the official format
    that is not the official data. Raises `DatasetError` if a file is missing, another than the
    official one, or not in the official format.
    """
    folder = Path(folder)
    x_train, y_train, coarse_train = read_batch(folder / "train", verify=verify)
    x_test, y_test, coarse_test = read_batch(folder / "test", verify=verify)
    fine_names, coarse_names = read_names(folder / "meta", verify=verify)
    coarse_of_fine = _superclass_of_each_class(
        np.concatenate([y_train, y_test]), np.concatenate([coarse_train, coarse_test]), folder
    )
    return Cifar100(
        x_train=_read_only(x_train),
        y_train=_read_only(y_train),
        coarse_train=_read_only(coarse_train),
        x_test=_read_only(x_test),
        y_test=_read_only(y_test),
        coarse_test=_read_only(coarse_test),
        fine_names=fine_names,
        coarse_names=coarse_names,
        coarse_of_fine=_read_only(coarse_of_fine),
        name=name,
    )


def train_validation_split(labels, validation_size, *, train_limit=0, seed=0):
    """Split images into training and validation, each class in the same share of both.

    `labels`: (N,) classes of the images. `validation_size`: images to validate on, 0 for none.
    `train_limit`: images to train on, 0 for all others. Returns sorted (train_indices,
    validation_indices), int64; the same for the same `seed`. Raises `ParameterError` if a part
    would be smaller than one image per class or larger than what there is.
    """
    labels = np.asarray(labels)
    train, validation = np.arange(len(labels)), np.arange(0)
    if validation_size != 0:
        validation, train = _stratified("validation_size", validation_size, train, labels, seed)
    if train_limit not in (0, len(train)):
        train, _ = _stratified("train_limit", train_limit, train, labels, seed)
    return np.sort(train), np.sort(validation)


def _stratified(parameter, size, indices, labels, seed):
    """`size` of the `indices` and the others, each with its share of every class."""
    # Loading a data set should not have to wait for scikit-learn.
    from sklearn.model_selection import train_test_split

    labels = labels[indices]
    least = len(np.unique(labels))
    most = len(indices) - least
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or not least <= size <= most:
        raise ParameterError(
            f"{parameter} is {size!r}, to be chosen from {len(indices):,} images of {least} "
            f"classes: give 0, or a whole number from {least:,} to {most:,}, so that each part "
            "has an image of every class."
        )
    return train_test_split(indices, train_size=size, stratify=labels, random_state=seed)


def _superclass_of_each_class(fine, coarse, folder):
    superclasses = np.full(NUM_CLASSES, -1)
    superclasses[fine] = coarse
    if superclasses.min() < 0:
        reason = f"there is no image of class {superclasses.argmin()}"
    elif np.any(superclasses[fine] != coarse):
        reason = "images of one class lie in two superclasses"
    else:
        return superclasses
    raise DatasetError(f"{folder} does not hold CIFAR-100, {reason}: write its files again.")


def _read_only(array):
    array.flags.writeable = False
    # A view cannot be made writable again, unlike the array that owns the memory.
    return array.view()
