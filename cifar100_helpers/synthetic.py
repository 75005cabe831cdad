"""Drawings that a network can learn to tell apart: superclass colours, class forms, light, noise.

A superclass has two colours and a form, which each of its classes varies. An image shows its
class's form somewhere else, in light from another side, under noise.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

BLOCK = 100  # images that fit the processor's cache


def draw_images(labels, superclasses, size, *, seed=0):
    """Return an image per label: uint8 (N, `size`, `size`, 3), the same for the same arguments.

    `labels`: int (N,), the class of each image. `superclasses`: int (classes,), the superclass of
    each class.
    """
    rng = np.random.default_rng(seed)
    pixels = _class_pictures(rng, superclasses, size).reshape(-1, 3)
    images = np.empty((len(labels), size, size, 3), np.uint8)
    y, x = np.ogrid[:size, :size]
    for start in range(0, len(labels), BLOCK):
        block = labels[start : start + BLOCK, None, None]
        down, right = rng.integers(-4, 5, (2, len(block), 1, 1))
        moved = (block * size + (y + down) % size) * size + (x + right) % size
        image = pixels.take(moved, axis=0)
        light, slope_y, slope_x = rng.uniform(-0.4, 0.4, (3, len(block), 1, 1)).astype(np.float32)
        image *= (1 + light + slope_y * (y / size - 0.5) + slope_x * (x / size - 0.5))[..., None]
        image += rng.integers(-60, 61, (len(block), size, size, 1), dtype=np.int8)
        images[start : start + BLOCK] = image.clip(0, 255)
    return images


def _class_pictures(rng, superclasses, size):
    """(classes, size, size, 3) float32, 0 to 255: a form in the colours of its superclass."""
    classes, count = len(superclasses), superclasses.max() + 1
    hues = rng.permutation(count)[superclasses, None] / count + np.arange(3) / 3  # of R, G, B
    ground, figure = (128 + 80 * np.cos(2 * np.pi * (hues + turn)) for turn in (0, 0.35))
    noise = rng.normal(size=(count, size, size))[superclasses]
    noise += rng.normal(size=(classes, size, size))
    waves = gaussian_filter(noise, (0, 3, 3), mode="wrap")  # forms may move across the edges
    forms = np.clip(0.5 + 2 * waves / waves.std(), 0, 1)[..., None]
    pictures = forms * figure[:, None, None] + (1 - forms) * ground[:, None, None]
    return pictures.astype(np.float32)
