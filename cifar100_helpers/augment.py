"""Augmentation: copies made once before training, or random transforms inside the model."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import keras
import numpy as np
from keras import layers, ops, random

from .data import IMAGE_SIZE, train_validation_split
from .errors import ParameterError
from .runtime import progress_bar

DRAWS = 2**16  # draws per copy, of which an image's checksum chooses one
CHUNK = 500  # images that a thread transforms between two updates of the progress bar


def training_set(cifar, *, copies, validation_size, train_limit=0, seed=0):
    """Split the training images of `cifar`, a `Cifar100`, first, then augment the ones to train on.

    So no validation image has an altered copy among them. Returns the images and labels of
    `augmented_copies`, and a pair (images, labels) to validate on, None if `validation_size` is 0.
    Raises ParameterError for impossible sizes.
    """
    chosen, validation = train_validation_split(
        cifar.y_train, validation_size, train_limit=train_limit, seed=seed
    )
    x, y = augmented_copies(cifar.x_train[chosen], cifar.y_train[chosen], copies=copies, seed=seed)
    return x, y, (cifar.x_train[validation], cifar.y_train[validation]) if validation_size else None


def augmented_copies(
    images,
    labels,
    *,
    copies=2,
    seed=0,
    flip=0.5,  # most things look as natural mirrored; text and clocks are rare here
    shift=4,  # an eighth of the side, the customary distance for CIFAR
    rotation=15.0,  # photographers tilt cameras this much; beyond, bottles start to lie down
    zoom=0.1,  # three pixels of 32: the object keeps its outline
    brightness=0.1,  # 25 of 255 grey levels: another exposure, with few pixels clipped
    contrast=0.2,  # hazy to sunny, with few pixels clipped
):
    """Return the originals, untouched and in order, then copy 1 of every image, copy 2, and so on.

    `images` (N, 32, 32, 3) uint8 and `labels` (N,) give N·(1 + copies) of both. A copy is mirrored
    with probability `flip`, shifted by whole pixels up to `shift` along each axis, rotated by up to
    `rotation` degrees and zoomed by a factor within 1 ± `zoom`; its brightness changes by up to
    `brightness` of the full scale, its contrast by a factor within 1 ± `contrast`; all uniformly
    drawn. An image's copies depend on its pixels, the copy's number and `seed` alone. Raises
    ParameterError for other images.
    """
    images = _checked_images(images)
    result = np.empty((1 + copies, *images.shape), np.uint8)
    result[0] = images
    checksums = np.array([zlib.crc32(image) for image in images], dtype=int)
    for copy in range(1, 1 + copies):
        rng = np.random.default_rng((seed, copy))
        drawn = _draw(rng, flip, shift, rotation, zoom, brightness, contrast)
        own = [values[checksums % DRAWS] for values in drawn]
        _transform_into(result[copy], images, own, f"copy {copy} of {copies}")
    return result.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3), np.tile(labels, 1 + copies)


def _draw(rng, flip, shift, rotation, zoom, brightness, contrast):
    """What `_transform` takes after the image, in its order: arrays (DRAWS,)."""
    return (
        rng.random(DRAWS) < flip,
        rng.integers(-shift, shift, DRAWS, endpoint=True),
        rng.integers(-shift, shift, DRAWS, endpoint=True),
        rng.uniform(-rotation, rotation, DRAWS),
        rng.uniform(1 - zoom, 1 + zoom, DRAWS),
        rng.uniform(-brightness, brightness, DRAWS),
        rng.uniform(1 - contrast, 1 + contrast, DRAWS),
    )


def transform_images(
    images, *, flip=False, shift_x=0, shift_y=0, angle=0, zoom=1, brightness=0, contrast=1
):
    """Return the images with the given transforms, each one number for all or one per image.

    Both (N, 32, 32, 3) uint8. First the colours: mean + `contrast` · (value − mean) + 255 ·
    `brightness`, with the image's own mean. Then one bilinear warp about the centre: mirrored if
    `flip`, enlarged by the factor `zoom`, turned counter-clockwise by `angle` degrees, moved right
    and down by `shift_x` and `shift_y` pixels, the borders filled by reflection as in `np.pad`.
    Flips and whole-pixel shifts are exact. Raises ParameterError for other images.
    """
    images = _checked_images(images)
    result = np.empty_like(images)
    given = (flip, shift_x, shift_y, angle, zoom, brightness, contrast)
    own = [np.broadcast_to(values, len(images)) for values in given]
    _transform_into(result, images, own, "transforms")
    return result


def _checked_images(images):
    images = np.ascontiguousarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ParameterError(
            f"images must be uint8 of shape (N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3), "
            f"not {images.dtype} of shape {images.shape}"
        )
    return images


def _transform_into(out, images, parameters, description):
    def transform(start):
        part = slice(start, start + CHUNK)
        columns = [values[part].tolist() for values in parameters]
        for one in zip(out[part], images[part], *columns, strict=True):
            _transform(*one)
        return len(images[part])

    cv2.setNumThreads(1)  # threads within one small image cost more than they save
    bar = progress_bar(len(images), description, unit="image", delay=0.5)
    with bar, ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
        for done in pool.map(transform, range(0, len(images), CHUNK)):
            bar.update(done)


def _transform(out, image, flip, shift_x, shift_y, angle, zoom, brightness, contrast):
    mean = sum(cv2.mean(image)) / 3  # of the three channels; OpenCV's fourth is 0
    image = cv2.addWeighted(image, contrast, image, 0, mean * (1 - contrast) + 255 * brightness)
    if flip:
        image = cv2.flip(image, 1)
    matrix = cv2.getRotationMatrix2D(((IMAGE_SIZE - 1) / 2,) * 2, angle, zoom)
    matrix[:, 2] += shift_x, shift_y
    cv2.warpAffine(image, matrix, image.shape[:2], dst=out, borderMode=cv2.BORDER_REFLECT_101)


@keras.saving.register_keras_serializable("cifar100_helpers")
class RandomTransforms(layers.Layer):
    """Shifts, mirrors and partly covers every image at random, each on its own, in training only.

    Pad by `crop` pixels (reflected) and crop; mirror with probability `flip` (He et al., 2016);
    cover a square of `cutout` pixels, centred anywhere, with the image's mean (DeVries & Taylor,
    2017, who take 8 for CIFAR-100). 0 leaves a transform out. Images (batch, height, width,
    channels) keep their shape and dtype.
    """

    training_only = True

    def __init__(self, *, crop=4, flip=0.5, cutout=8, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.crop, self.flip, self.cutout = crop, flip, cutout
        self.random_state = random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        if self.crop or self.flip:
            images = self._move(images)
        return self._cover(images) if self.cutout else images

    def _move(self, images):
        # One gather fetches every pixel from its place in the original: several times as fast as
        # padding, slicing and reversing, and XLA compiles it.
        batch = ops.shape(images)[0]
        height, width, channels = images.shape[1:]
        rows, columns = self._moved(batch, height), self._moved(batch, width)
        mirrored = random.uniform((batch, 1), seed=self.random_state) < self.flip
        columns = ops.where(mirrored, ops.flip(columns, axis=1), columns)
        first = height * width * ops.arange(batch, dtype="int32")
        places = first[:, None, None] + width * rows[:, :, None] + columns[:, None, :]
        return ops.take(ops.reshape(images, (-1, channels)), places, axis=0)

    def _moved(self, batch, length):
        """(batch, length) int32: where each row or column of the result comes from."""
        offset = random.randint((batch, 1), -self.crop, self.crop + 1, seed=self.random_state)
        places = ops.abs(ops.arange(length, dtype="int32") + offset)
        return length - 1 - ops.abs(length - 1 - places)  # reflected at both borders

    def _cover(self, images):
        batch = ops.shape(images)[0]
        rows = self._covered(batch, images.shape[1])[:, :, None, None]
        columns = self._covered(batch, images.shape[2])[:, None, :, None]
        # The paper uses the data's mean; the image's own suits any range of values.
        colour = ops.mean(ops.cast(images, "float32"), axis=(1, 2), keepdims=True)
        return ops.where(ops.logical_and(rows, columns), ops.cast(colour, images.dtype), images)

    def _covered(self, batch, length):
        """(batch, length) bool: true for the rows or columns that the square covers."""
        centre = random.randint((batch, 1), 0, length, seed=self.random_state)
        distance = ops.arange(length, dtype="int32") - (centre - self.cutout // 2)
        return ops.logical_and(distance >= 0, distance < self.cutout)
