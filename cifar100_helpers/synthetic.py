"""A learnable stand-in for CIFAR-100: its format, classes and superclasses, with drawn images.

Every superclass has its colours and a soft background; every class puts a form of its own into
the middle, in a hue close to its superclass's; every image shifts, mirrors, veils, relights and
roughens its class's picture. So classes of a superclass resemble each other, as in the real data.
"""

import colorsys
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np

from .data import read_folder
from .download import FILES
from .errors import DatasetError, ParameterError
from .pickling import batch_opcodes, meta_opcodes

SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
COARSE_NAMES = tuple(SUPERCLASSES)
FINE_NAMES = tuple(sorted(itertools.chain(*SUPERCLASSES.values())))
COARSE_OF_FINE = np.array(
    [[name in members for members in SUPERCLASSES.values()].index(True) for name in FINE_NAMES]
)

_LARGEST = 300_000
_SIDE = 32
_VEILS = 64


def load_synthetic(*, train_size=50_000, test_size=10_000, seed=0):
    """A synthetic `Cifar100` named "synthetic", written to a temporary folder and read from there.

    Sizes are numbers of images, multiples of 100, with equally many of every class. The same for
    the same `seed`. Raises `ParameterError` for other sizes, and `DatasetError` where temporary
    files cannot be written.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix="cifar-100-synthetic-")
    except OSError as error:
        raise _not_written("a temporary folder", error) from error
    with scratch as folder:
        write_synthetic(folder, train_size=train_size, test_size=test_size, seed=seed)
        return read_folder(folder, name="synthetic", verify=False)


def write_synthetic(folder, *, train_size=50_000, test_size=10_000, seed=0):
    """Write synthetic files train, test and meta in the official format into `folder`.

    Sizes are numbers of images, multiples of 100, with equally many of every class. Byte for byte
    the same for the same `seed`. Raises `ParameterError` for other sizes, and `DatasetError` if
    `folder` cannot be written or holds one of the files already: it may be the real data.
    """
    folder = Path(folder)
    _check_size("train_size", train_size)
    _check_size("test_size", test_size)
    if any((folder / name).exists() for name in FILES):
        raise DatasetError(f"{folder} holds CIFAR-100 files already: name an empty folder.")
    rng = np.random.default_rng(seed)
    pictures, veils = _shifted(_class_pictures(rng)), _waves(rng, _VEILS, 2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, size in (("train", train_size), ("test", test_size)):
            labels = rng.permutation(np.repeat(np.arange(len(FINE_NAMES)), size // len(FINE_NAMES)))
            images = _images(rng, labels, pictures, veils)
            _write(folder / split, batch_opcodes(**_batch(split, labels), data=images))
        _write(folder / "meta", meta_opcodes(FINE_NAMES, COARSE_NAMES))
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(folder, error):
    return DatasetError(
        f"Synthetic data could not be written to {folder} ({error.strerror or error}): make room "
        "there or name another folder, a temporary one by TMPDIR."
    )


def _check_size(parameter, size):
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or size % len(FINE_NAMES) or not 0 < size <= _LARGEST:
        raise ParameterError(
            f"{parameter} is {size!r}: give a multiple of {len(FINE_NAMES)} up to {_LARGEST:,}, "
            "equally many images for every class."
        )


def _write(path, chunks):
    """Under another name until it is whole."""
    with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=path.parent) as scratch:
        with open(Path(scratch, path.name), "wb") as file:
            file.writelines(chunks)
        os.replace(Path(scratch, path.name), path)


def _waves(rng, count, cycles):
    """(count, 1, 32, 32) soft patterns from -1 to 1 whose opposite edges meet."""
    y, x = np.mgrid[:_SIDE, :_SIDE] * (2 * np.pi / _SIDE)
    total = np.zeros((count, 1, _SIDE, _SIDE))
    for _ in range(3):
        down, right = rng.integers(-cycles, cycles + 1, (2, count, 1, 1, 1))
        total += np.sin(down * y + right * x + rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)))
    return (total / 3).astype(np.float32)


def _colors(hues, saturation, value):
    """(len(hues), 3, 1, 1) from 0 to 255."""
    colors = [colorsys.hsv_to_rgb(hue % 1, saturation, value) for hue in hues]
    return 255 * np.array(colors).reshape(-1, 3, 1, 1)


def _class_pictures(rng):
    """(100, 3, 32, 32) from 0 to 255: a form on the background of the superclass."""
    superclasses = np.arange(len(COARSE_NAMES))
    hues = rng.permutation(superclasses) / len(superclasses)
    light = (_waves(rng, len(hues), 1) + 1) / 2
    ground = light * _colors(hues, 0.35, 0.95) + (1 - light) * _colors(hues + 0.08, 0.6, 0.45)
    form_hues = (hues + 0.45)[COARSE_OF_FINE] + rng.uniform(-0.1, 0.1, len(FINE_NAMES))
    y, x = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    window = 1.4 * np.exp(-(((x**2 + y**2) / 11**2) ** 2)) - 0.7
    form = 1 / (1 + np.exp(-9 * (_waves(rng, len(FINE_NAMES), 3) + window)))
    colors = _colors(form_hues, 0.7, 0.9) * (1 + 0.25 * _waves(rng, len(FINE_NAMES), 3))
    return np.clip(ground[COARSE_OF_FINE] * (1 - form) + colors * form, 0, 255)


def _shifted(pictures):
    """(100, 50, 3, 32, 32) uint8: each picture in 25 places, as it is and mirrored."""
    places = list(itertools.product(range(-4, 5, 2), repeat=2))
    variants = [
        np.roll(mirrored, place, axis=(2, 3))
        for mirrored in (pictures, pictures[..., ::-1])
        for place in places
    ]
    return np.stack(variants, axis=1).astype(np.uint8)


def _images(rng, labels, pictures, veils):
    """(len(labels), 3072) uint8, planes of red, green and blue."""
    images = np.empty((len(labels), 3, _SIDE, _SIDE), dtype=np.uint8)
    # Blocks that fit the processor's cache.
    for start in range(0, len(labels), 100):
        block = labels[start : start + 100]
        shape = (len(block), 1, 1, 1)
        image = pictures[block, rng.integers(pictures.shape[1], size=len(block))].astype(np.float32)
        image = (image - 128) * rng.uniform(0.5, 1.1, shape).astype(np.float32)
        veil = veils[rng.integers(len(veils), size=len(block))]
        image += veil * rng.uniform(-60, 60, (len(block), 3, 1, 1)).astype(np.float32)
        image += rng.uniform(98, 158, shape).astype(np.float32)
        image += rng.integers(-16, 17, image.shape, dtype=np.int8)
        images[start : start + 100] = np.clip(image, 0, 255)
    return images.reshape(len(labels), -1)


def _batch(split, labels):
    return {
        "filenames": [f"{FINE_NAMES[label]}_s_{i:06d}.png" for i, label in enumerate(labels)],
        "batch_label": {"train": "training", "test": "testing"}[split] + " batch 1 of 1",
        "fine_labels": labels.tolist(),
        "coarse_labels": COARSE_OF_FINE[labels].tolist(),
    }
