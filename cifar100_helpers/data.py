"""CIFAR-100 as arrays: found, fetched, verified, read and split; and its near-duplicates."""

import contextlib
import hashlib
import itertools
import os
import pickle
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import keras
import numpy as np

from .errors import DatasetError, ParameterError, in_one_line
from .runtime import progress_bar
from .storage import places, quiet_download
from .synthetic import draw_images

IMAGE_SIZE = 32  # pixels: the side of every image

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

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
OFFICIAL_MD5 = {
    "archive": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
NEAR_DUPLICATES = Path(__file__).with_name("near_duplicates.csv")

_FILES = ("train", "test")  # the third, meta, holds the names above
_FOLDER = "cifar-100-python"  # in the archive; and where older versions of Keras unpacked it
_CACHED = "cifar-100-python-target"  # where keras.datasets.cifar100 unpacks it


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
    name: str
    fine_names: tuple = FINE_NAMES
    coarse_names: tuple = COARSE_NAMES
    coarse_of_fine: np.ndarray = field(default_factory=COARSE_OF_FINE.copy)

    def __post_init__(self):
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __repr__(self):
        sizes = f"{len(self.y_train):,} training and {len(self.y_test):,} test images"
        return f"<Cifar100 {self.name!r}: {sizes}>"


def load(dataset, data_dir="", *, seed=0, small=False):
    """Return the data set that a notebook's parameters name, as a `Cifar100`.

    "synthetic" draws the stand-in by `seed`: 5,000 + 200 images if `small`, else as many as the
    real data set has. "cifar100" is `load_cifar100(data_dir)`, never smaller.
    """
    if dataset != "synthetic":
        return load_cifar100(data_dir)
    sizes = {"train_size": 5_000, "test_size": 200} if small else {}
    return load_synthetic(seed=seed, **sizes)


def load_cifar100(data_dir=None):
    """Return CIFAR-100 as a `Cifar100`, read from files whose MD5 is the official one.

    Looks in `data_dir`, else in CIFAR100_DIR of the environment (in either, the folder of train and
    test or the one above; relative to the working directory or the project's root), else in Keras's
    cache (`~/.keras/datasets`, or under KERAS_HOME), else downloads the official archive (169 MB)
    into it. Raises DatasetError if a named folder lacks the files, a file is not the official one,
    or the download fails.
    """
    if named := data_dir or os.environ.get("CIFAR100_DIR"):
        files = _official_files(_locate(named, "data_dir" if data_dir else "CIFAR100_DIR"))
    else:
        files = _cached_files() or _download()
    return Cifar100(*_arrays(files["train"]), *_arrays(files["test"]), "cifar100")


def load_synthetic(*, train_size=50_000, test_size=10_000, seed=0):
    """Draw a `Cifar100` named "synthetic", the same for the same `seed`.

    Both sizes are multiples of 100: the same number of every class.
    """
    rng = np.random.default_rng((seed, 1))  # other numbers than the drawings are made of
    each = [np.repeat(np.arange(100), size // 100) for size in (train_size, test_size)]
    labels = np.concatenate([rng.permutation(part) for part in each])
    images = draw_images(labels, COARSE_OF_FINE, IMAGE_SIZE, seed=seed)
    columns = (images, labels, COARSE_OF_FINE[labels])
    train, test = ([c[:train_size] for c in columns], [c[train_size:] for c in columns])
    return Cifar100(*train, *test, "synthetic")


def train_validation_split(labels, validation_size, *, train_limit=0, seed=0):
    """Split images into training and validation, the same number of every class in each.

    `labels`: (N,) classes, equally many of each. `validation_size`: 0 for none. `train_limit`:
    images to train on, 0 for all others. Returns two sorted int64 arrays of indices, the same for
    the same `seed`. Raises ParameterError if a size is no multiple of the number of classes, or too
    large.
    """
    labels = np.asarray(labels)
    train, validation = np.arange(len(labels)), np.arange(0)
    if validation_size != 0:
        validation, train = _stratified("validation_size", validation_size, train, labels, seed)
    if train_limit not in (0, len(train)):
        train, _ = _stratified("train_limit", train_limit, train, labels, seed)
    return np.sort(train), np.sort(validation)


def near_duplicates():
    """Return the pairs of test and training images of CIFAR-100 that show the same shot.

    A structured array, the most alike first: `test_index`, `train_index`, and `distance` from 0
    (all pixels equal) to 0.18 (1 less the correlation of the aligned details). Found by
    scripts/find_near_duplicates.py. Background: Barz and Denzler, "Do We Train on Test Data?
    Purging CIFAR of Near-Duplicates", 2020.
    """
    return np.genfromtxt(NEAR_DUPLICATES, delimiter=",", names=True, dtype=None)


def mark_near_duplicates(cifar):
    """Return for each test image of `cifar` whether a training image shows the same shot: bool.

    In synthetic data no image is marked: all images of a class are variations of one picture.
    """
    marked = np.zeros(len(cifar.y_test), dtype=bool)
    if cifar.name != "synthetic":
        marked[near_duplicates()["test_index"]] = True
    return marked


def _locate(named, source):
    """Return the folder of the files: one that `source` may mean by `named`, or a folder in it."""
    folders = places(named)
    for folder in itertools.chain(*((place, place / _FOLDER) for place in folders)):
        if all(os.path.isfile(folder / name) for name in _FILES):
            return folder
    looked = " and ".join(map(str, folders))
    raise DatasetError(
        f"{source} is {str(named)!r}, but the files train and test of CIFAR-100 are not in "
        f"{looked}: name their folder, or leave {source} empty to have them fetched."
    )


def _official_files(folder):
    """Return the bytes of both files by name, or raise DatasetError if one is not official."""
    files = {}
    for name in _FILES:
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{error.filename} cannot be read ({error.strerror}): get the right to read it, or "
                "name another folder by data_dir or CIFAR100_DIR."
            ) from error
        md5 = hashlib.md5(files[name], usedforsecurity=False).hexdigest()
        if md5 != OFFICIAL_MD5[name]:
            raise DatasetError(
                f"{folder / name} is damaged or not the official file (its MD5 is {md5}): replace "
                "it, or leave data_dir and CIFAR100_DIR empty to have the official one fetched."
            )
    return files


def _arrays(raw):
    """Return images, labels and superclasses of the verified bytes of train or test."""
    content = pickle.loads(raw, encoding="bytes")
    planes = content[b"data"].reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE).swapaxes(0, 1)
    images = np.stack(list(planes), axis=-1)  # several times as fast as one transposition
    return images, np.array(content[b"fine_labels"]), np.array(content[b"coarse_labels"])


def _caches():
    """Return the folders that Keras keeps data sets in: its home, or a spare if that is locked."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras")
    spare = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
    return Path(home), Path(spare, ".keras")


def _cached_files():
    for cache, folder in itertools.product(_caches(), (Path(_CACHED, _FOLDER), _FOLDER)):
        with contextlib.suppress(DatasetError):
            return _official_files(cache / "datasets" / folder)
    return None


def _download():
    """Fetch the archive into Keras's cache, or unpack the one there; return the files' bytes."""
    home, spare = _caches()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    cache = home if os.access(home, os.W_OK) else spare
    try:
        (cache / "datasets").mkdir(parents=True, exist_ok=True)
        # Of several processes one downloads, and the others wait.
        lock = filelock.FileLock(cache / "datasets" / f"{_CACHED}.lock")
        with progress_bar(1, "fetching CIFAR-100 (169 MB)", bar_format="{desc}"), lock:
            return _cached_files() or _official_files(_fetch(cache))
    except DatasetError:
        raise
    except Exception as error:  # get_file raises whatever it meets, and bare Exceptions
        raise DatasetError(
            f"CIFAR-100 is not on this machine, and its download from {URL} into {cache} failed "
            f"({in_one_line(error).rstrip('.')}): check the network and the room there and try "
            "again, or fetch and unpack it by other means and name its folder by CIFAR100_DIR."
        ) from error


def _fetch(cache):
    options = {"file_hash": OFFICIAL_MD5["archive"], "extract": True, "cache_dir": cache}
    with quiet_download():
        return Path(keras.utils.get_file(_CACHED, URL, **options), _FOLDER)


def _stratified(parameter, size, indices, labels, seed):
    """Return `size` of the `indices` and the others, each with as many of every class."""
    # Loading a data set should not have to wait for scikit-learn.
    from sklearn.model_selection import train_test_split

    labels = labels[indices]
    classes = len(np.unique(labels))
    if size not in range(classes, len(indices), classes):
        raise ParameterError(
            f"{parameter} is {size!r}: give 0, or a multiple of {classes}, the number of classes, "
            f"below {len(indices):,}, the number of images to choose from."
        )
    return train_test_split(indices, train_size=size, stratify=labels, random_state=seed)
