"""A learnable stand-in for CIFAR-100, drawn in memory.

Every superclass has its colours and a soft background. Every class puts a form of
its own into the middle, in a hue close to its superclass's. Every image is its class's picture,
shifted, mirrored, under a coloured veil, in another light and with noise. So classes of a
superclass resemble each other, as in the real data.
"""

import colorsys
import itertools

import numpy as np

IMAGE_SIZE = 32
_VEILS = 64


def draw_sets(sizes, coarse_of_fine, seed):
    """Draw sets of images, each of one of the `sizes`, multiples of the number of classes.

    Yields (images, labels) per set: uint8 (size, 32, 32, 3) and int64 (size,); the same for the
    same `seed`. `coarse_of_fine`: int (classes,), the superclass of each class.
    """
    rng = np.random.default_rng(seed)
    pictures, veils = _shifted(_class_pictures(rng, coarse_of_fine)), _waves(rng, _VEILS, 2)
    for size in sizes:
        yield _draw(rng, size, pictures, veils)


def _waves(rng, count, cycles):
    """(count, 1, 32, 32) soft patterns from -1 to 1 whose opposite edges meet."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] * (2 * np.pi / IMAGE_SIZE)
    total = np.zeros((count, 1, IMAGE_SIZE, IMAGE_SIZE))
    for _ in range(3):
        down, right = rng.integers(-cycles, cycles + 1, (2, count, 1, 1, 1))
        total += np.sin(down * y + right * x + rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)))
    return (total / 3).astype(np.float32)


def _colors(hues, saturation, value):
    """(len(hues), 3, 1, 1) from 0 to 255."""
    colors = [colorsys.hsv_to_rgb(hue % 1, saturation, value) for hue in hues]
    return 255 * np.array(colors).reshape(-1, 3, 1, 1)


def _class_pictures(rng, coarse_of_fine):
    """(100, 3, 32, 32) from 0 to 255: a form on the background of the superclass."""
    superclasses = np.unique(coarse_of_fine)
    hues = rng.permutation(superclasses) / len(superclasses)
    light = (_waves(rng, len(hues), 1) + 1) / 2
    ground = light * _colors(hues, 0.35, 0.95) + (1 - light) * _colors(hues + 0.08, 0.6, 0.45)
    form_hues = (hues + 0.45)[coarse_of_fine] + rng.uniform(-0.1, 0.1, len(coarse_of_fine))
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] - (IMAGE_SIZE - 1) / 2
    window = 1.4 * np.exp(-(((x**2 + y**2) / 11**2) ** 2)) - 0.7
    form = 1 / (1 + np.exp(-9 * (_waves(rng, len(coarse_of_fine), 3) + window)))
    colors = _colors(form_hues, 0.7, 0.9) * (1 + 0.25 * _waves(rng, len(coarse_of_fine), 3))
    return np.clip(ground[coarse_of_fine] * (1 - form) + colors * form, 0, 255)


def _shifted(pictures):
    """(100, 50, 3, 32, 32) uint8: each picture in 25 places, as it is and mirrored."""
    places = list(itertools.product(range(-4, 5, 2), repeat=2))
    both = pictures, pictures[..., ::-1]
    variants = [np.roll(one, place, axis=(2, 3)) for one in both for place in places]
    return np.stack(variants, axis=1).astype(np.uint8)


def _draw(rng, size, pictures, veils):
    """Images (size, 32, 32, 3) uint8, and their labels and superclasses (size,) int64."""
    classes = len(pictures)
    labels = rng.permutation(np.repeat(np.arange(classes), size // classes))
    images = np.empty((size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for start in range(0, size, 100):  # blocks that fit the processor's cache
        block = labels[start : start + 100]
        shape = (len(block), 1, 1, 1)
        image = pictures[block, rng.integers(pictures.shape[1], size=len(block))].astype(np.float32)
        image = (image - 128) * rng.uniform(0.5, 1.1, shape).astype(np.float32)
        veil = veils[rng.integers(len(veils), size=len(block))]
        image += veil * rng.uniform(-60, 60, (len(block), 3, 1, 1)).astype(np.float32)
        image += rng.uniform(98, 158, shape).astype(np.float32)
        image += rng.integers(-16, 17, image.shape, dtype=np.int8)
        images[start : start + 100] = np.clip(image, 0, 255).transpose(0, 2, 3, 1)
    return images, labels
