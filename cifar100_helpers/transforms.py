"""Random transforms inside the model: on the device, new ones in every epoch, in training only."""

import keras
from keras import layers, ops, random

from .errors import ParameterError


@keras.saving.register_keras_serializable("cifar100_helpers")
class RandomTransforms(layers.Layer):
    """Moves, mirrors and partly covers every image at random, each on its own, while training.

    Pad by `crop` pixels, borders reflected, and crop; mirror with probability `flip` (both as He
    et al., 2016); cover a square of `cutout` pixels, centred anywhere, so that part of it may lie
    outside (DeVries & Taylor, 2017, who take 8 for CIFAR-100); 0 leaves a transform out. Images
    (batch, height, width, channels) keep shape and dtype; with `training=False` they come back as
    they are. The random state is a variable, saved with the model's. Raises `ParameterError`.
    """

    def __init__(self, *, crop=4, flip=0.5, cutout=8, seed=0, **kwargs):
        for option, value in (("crop", crop), ("cutout", cutout)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ParameterError(f"{option} must be a whole number, 0 or more, not {value!r}")
        if not isinstance(flip, (int, float)) or not 0 <= flip <= 1:
            raise ParameterError(f"flip must be a probability between 0 and 1, not {flip!r}")
        super().__init__(**kwargs)
        self.crop, self.flip, self.cutout, self.seed = crop, flip, cutout, seed
        self.random_state = random.SeedGenerator(seed)

    def build(self, input_shape):
        if self.crop >= min(input_shape[1:3]):
            raise ParameterError(f"crop must be less than the image's side, not {self.crop}")

    def call(self, images, training=False):
        if not training:
            return images
        if self.crop or self.flip:
            images = self._move(images)
        return self._cover(images) if self.cutout else images

    def _move(self, images):
        # Every pixel is fetched from its place in the original, all in one gather: several times
        # as fast as to pad, slice each image and reverse some, and XLA compiles it.
        batch = ops.shape(images)[0]
        height, width, channels = images.shape[1:]
        rows, columns = self._moved(batch, height), self._moved(batch, width)
        mirrored = random.uniform((batch, 1), seed=self.random_state) < self.flip
        columns = ops.where(mirrored, ops.flip(columns, axis=1), columns)
        first = height * width * ops.arange(batch, dtype="int32")
        places = first[:, None, None] + width * rows[:, :, None] + columns[:, None, :]
        return ops.take(ops.reshape(images, (-1, channels)), places, axis=0)

    def _moved(self, batch, length):
        """(batch, length) int32: which row or column of the original each of the result is."""
        offset = random.randint((batch, 1), -self.crop, self.crop + 1, seed=self.random_state)
        places = ops.abs(ops.arange(length, dtype="int32") + offset)
        return length - 1 - ops.abs(length - 1 - places)  # reflected at both borders

    def _cover(self, images):
        batch = ops.shape(images)[0]
        rows = self._covered(batch, images.shape[1])[:, :, None, None]
        columns = self._covered(batch, images.shape[2])[:, None, :, None]
        # The paper covers with the data's mean; the image's own suits any range of values.
        colour = ops.mean(ops.cast(images, "float32"), axis=(1, 2), keepdims=True)
        return ops.where(ops.logical_and(rows, columns), ops.cast(colour, images.dtype), images)

    def _covered(self, batch, length):
        """(batch, length) bool: the rows or columns that the square covers."""
        centre = random.randint((batch, 1), 0, length, seed=self.random_state)
        distance = ops.arange(length, dtype="int32") - (centre - self.cutout // 2)
        return ops.logical_and(distance >= 0, distance < self.cutout)

    # Keras leaves the states of random generators out of what it saves.
    def save_own_variables(self, store):
        store["random_state"] = self.random_state.state

    def load_own_variables(self, store):
        self.random_state.state.assign(store["random_state"])

    def get_config(self):
        own = dict(crop=self.crop, flip=self.flip, cutout=self.cutout, seed=self.seed)
        return {**super().get_config(), **own}
