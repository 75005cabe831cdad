"""One file of CIFAR-100 at a time: verified, unpickled, checked and turned into arrays."""

import hashlib
import pickle
import stat

import numpy as np

from .download import OFFICIAL_MD5
from .errors import DatasetError
from .unpickling import unpickle

NUM_CLASSES = 100
NUM_SUPERCLASSES = 20
IMAGE_SHAPE = (32, 32, 3)
BATCH_KEYS = ("filenames", "batch_label", "fine_labels", "coarse_labels", "data")
META_KEYS = ("fine_label_names", "coarse_label_names")

# Official files have up to 155 MB; a synthetic one of 300,000 images stays below this.
_MOST_BYTES = 1 << 30


def read_batch(path, *, verify):
    """Images (N, 32, 32, 3) uint8, fine and coarse labels (N,) int64 of the file train or test."""
    values = _read_dict(path, BATCH_KEYS, verify)
    data = values["data"]
    if type(data) is not np.ndarray or data.shape[1] != np.prod(IMAGE_SHAPE) or len(data) == 0:
        raise _malformed(path, "its data are not rows of 3,072 pixel values")
    fine = _labels(values["fine_labels"], len(data), NUM_CLASSES)
    coarse = _labels(values["coarse_labels"], len(data), NUM_SUPERCLASSES)
    if fine is None or coarse is None:
        raise _malformed(path, "each image needs a fine label 0 to 99 and a coarse one 0 to 19")
    return _channels_last(data), fine, coarse


def read_names(path, *, verify):
    """The names of the 100 classes and of the 20 superclasses, two tuples, of the file meta."""
    values = _read_dict(path, META_KEYS, verify)
    for key, count in zip(META_KEYS, (NUM_CLASSES, NUM_SUPERCLASSES), strict=True):
        names = values[key]
        if type(names) is not list or {type(name) for name in names} != {bytes}:
            raise _malformed(path, f"its {key} are not names")
        if not len(names) == len(set(names)) == count:
            raise _malformed(path, f"its {key} are not {count} different names")
    return tuple(
        tuple(name.decode("ascii", "replace") for name in values[key]) for key in META_KEYS
    )


def _read_dict(path, keys, verify):
    try:
        values = unpickle(_read_bytes(path, verify))
    except pickle.UnpicklingError as error:
        raise _malformed(path, str(error)) from error
    if type(values) is not dict or set(values) != {key.encode() for key in keys}:
        raise _malformed(path, f"it does not hold just {', '.join(keys)}")
    return {key: values[key.encode()] for key in keys}


def _read_bytes(path, verify):
    """The whole file, read once, so that the bytes that are hashed are those unpickled."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")  # a pipe would be waited for without an end
        size = status.st_size
        raw = path.read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{path} cannot be read ({reason}): mend or replace it.") from error
    if size > _MOST_BYTES:
        raise _malformed(path, f"it has {size:,} bytes")
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest() if verify else None
    if verify and md5 != OFFICIAL_MD5[path.name]:
        raise DatasetError(
            f"{path} is damaged or not the official file, with {len(raw):,} bytes and the MD5 "
            f"{md5} instead of {OFFICIAL_MD5[path.name]}: delete its folder to have the official "
            "archive fetched again, or put the official file there."
        )
    return raw


def _malformed(path, reason):
    return DatasetError(f"{path} is no CIFAR-100 file, {reason}: replace it.")


def _labels(values, count, num_classes):
    """The list `values` as an array, or None if it is not `count` labels below `num_classes`."""
    if type(values) is not list or len(values) != count or {*map(type, values)} != {int}:
        return None
    try:
        # Takes nothing but whole numbers from 0 to 255, and fast.
        labels = np.frombuffer(bytes(values), dtype=np.uint8).astype(np.int64)
    except ValueError:
        return None
    return labels if labels.max() < num_classes else None


def _channels_last(data):
    planes = data.reshape(-1, 3, 32 * 32)
    images = np.empty((len(data), *IMAGE_SHAPE), dtype=np.uint8)
    pixels = images.reshape(-1, 32 * 32, 3)
    # Blocks that fit the processor's cache: several times as fast as one transposition.
    for start in range(0, len(data), 64):
        block = slice(start, start + 64)
        for channel in range(3):
            pixels[block, :, channel] = planes[block, channel]
    return images
