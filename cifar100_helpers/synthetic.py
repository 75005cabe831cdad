"""The data set as an object, its classes, and a learnable stand-in drawn in memory.

In the stand-in, every superclass has its colours and a soft background. Every class puts a form of
its own into the middle, in a hue close to its superclass's. Every image is its class's picture,
shifted, mirrored, under a coloured veil, in another light and with noise. So classes of a
superclass resemble each other, as in the real data.
"""

import colorsys
import itertools
from dataclasses import dataclass

import numpy as np

from .errors import ParameterError

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

_SIDE = 32
_VEILS = 64


@dataclass(frozen=True, eq=False, repr=False)
class Cifar100:
    """Images, labels and class names of CIFAR-100 or of its synthetic stand-in, all read-only.

    `x_train`, `x_test`: (N, 32, 32, 3) uint8 RGB. `y_train`, `y_test`: (N,) int64, 0 to 99.
    `coarse_train`, `coarse_test`: (N,) int64 superclasses, 0 to 19. `fine_names`, `coarse_names`:
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

    def __post_init__(self):
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __repr__(self):
        sizes = f"{len(self.y_train):,} training and {len(self.y_test):,} test images"
        return f"<Cifar100 {self.name!r}: {sizes}>"


def load_synthetic(*, train_size=50_000, test_size=10_000, seed=0):
    """Draw a `Cifar100` named "synthetic", the same for the same `seed`.

    Sizes are multiples of 100, for equally many images of every class; others raise ParameterError.
    """
    for parameter, size in (("train_size", train_size), ("test_size", test_size)):
        if size <= 0 or size % len(FINE_NAMES):
            raise ParameterError(
                f"{parameter} is {size!r}: give a multiple of {len(FINE_NAMES)}, "
                "equally many images of every class."
            )
    rng = np.random.default_rng(seed)
    pictures, veils = _shifted(_class_pictures(rng)), _waves(rng, _VEILS, 2)
    train = _draw(rng, train_size, pictures, veils)
    test = _draw(rng, test_size, pictures, veils)
    names = FINE_NAMES, COARSE_NAMES
    return Cifar100(*train, *test, *names, COARSE_OF_FINE.copy(), "synthetic")


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
    both = pictures, pictures[..., ::-1]
    variants = [np.roll(one, place, axis=(2, 3)) for one in both for place in places]
    return np.stack(variants, axis=1).astype(np.uint8)


def _draw(rng, size, pictures, veils):
    """Images (size, 32, 32, 3) uint8, and their labels and superclasses (size,) int64."""
    labels = rng.permutation(np.repeat(np.arange(len(FINE_NAMES)), size // len(FINE_NAMES)))
    images = np.empty((size, _SIDE, _SIDE, 3), dtype=np.uint8)
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
    return images, labels, COARSE_OF_FINE[labels]
