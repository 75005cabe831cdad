"""Xception with ImageNet's weights, for 32×32 images."""

import os

import keras
from keras import layers, ops

from .errors import WeightsError, in_one_line
from .runtime import layers_see_parts, progress_bar
from .storage import places, quiet_download


@keras.saving.register_keras_serializable("cifar100_helpers")
class InferenceMode(layers.Wrapper):
    """Calls `layer` in inference mode, even while the model around it is trained.

    Its weights learn, but its batch normalization keeps its statistics. In a functional model,
    `layer(x, training=False)` does not do that: `fit` overrules it (Keras issue 20285).
    """

    def call(self, inputs):
        return self.layer(inputs, training=False)


@keras.saving.register_keras_serializable("cifar100_helpers")
class SeparableConv2D(layers.SeparableConv2D):
    """Keras's layer as Xception has it, its 1×1 convolution computed as a matrix product.

    Same variables, same results up to rounding. In bfloat16 on two cores, the gradient of a
    convolution's kernel is slow: with this layer, Xception trains 1.6 times as fast
    (results/layers.md).
    """

    stock_class = layers.SeparableConv2D  # what a saved model has in its place

    def call(self, inputs):
        x = ops.depthwise_conv(inputs, self.depthwise_kernel, padding=self.padding)
        return ops.matmul(x, self.pointwise_kernel[0, 0])


def build_xception(
    *,
    image_size=71,
    weights="imagenet",
    hidden_units=512,
    dropout_rate=0.5,
    num_classes=100,
    interpolation="bilinear",
    freeze_statistics=False,
    augmentation=None,
):
    """Build the published transfer-learning network: Keras's Xception, pooling and a dense head.

    Takes uint8 images (batch, 32, 32, 3), which go through the layer `augmentation`, if any, are
    scaled to [-1, 1] and resized to `image_size` (at least 71); returns float32 class probabilities
    (batch, `num_classes`). Batch normalization uses ImageNet's statistics while the layer "base" is
    frozen; once it is trainable, those of the batch, as Keras does, or with `freeze_statistics`
    still ImageNet's. 21,961,868 parameters at the defaults.

    `weights`: "imagenet" (the file that the environment variable XCEPTION_WEIGHTS names, else
    downloaded by Keras), the path of a weights file, or "none" for random ones. Raises WeightsError
    if the weights cannot be loaded. Source: Chollet, "Xception: Deep Learning with Depthwise
    Separable Convolutions", 2017.
    """
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    x = augmentation(images) if augmentation else images
    # float32 whatever the precision: in bfloat16, every step of resizing would round.
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")(x)
    x = layers.Resizing(
        image_size, image_size, interpolation=interpolation, dtype="float32", name="resize"
    )(x)
    base = _pretrained_base(image_size, weights)
    x = InferenceMode(base, name="base")(x) if freeze_statistics else base(x)

    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(hidden_units, activation="relu", name="hidden")(x)
    # With a seed: without one, PyTorch draws from a generator that a resumed run cannot restore.
    x = layers.Dropout(dropout_rate, seed=0, name="dropout")(x)
    probabilities = layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )(x)
    return keras.Model(images, probabilities, name="xception")


def _pretrained_base(image_size, weights):
    named = os.environ.get("XCEPTION_WEIGHTS") if weights == "imagenet" else None
    source = named or weights
    way_out = 'name their file by the parameter weights, or use "imagenet" to have them downloaded.'
    if named:
        way_out = "correct XCEPTION_WEIGHTS, or leave it empty to have them downloaded."
    if source not in ("imagenet", "none"):
        source = _weights_file(source, way_out)
    try:
        with progress_bar(1, "building Xception", bar_format="{desc}"), quiet_download():
            base = keras.applications.Xception(
                include_top=False,
                weights=None if source == "none" else source,
                input_shape=(image_size, image_size, 3),
            )
    except Exception as error:  # Keras and h5py raise what they find, down to Exception itself
        if source == "none":
            raise
        raise WeightsError(_unloadable(source, in_one_line(error), way_out)) from error
    faster = keras.models.clone_model(base, clone_function=_faster_layer)
    faster.set_weights(base.get_weights())
    faster.name = "base"
    return faster


def _faster_layer(layer):
    kind = SeparableConv2D if isinstance(layer, layers.SeparableConv2D) else type(layer)
    config = layer.get_config()
    if isinstance(layer, layers.BatchNormalization):
        config["synchronized"] = layers_see_parts()  # statistics of the whole batch, not of a part
    return kind.from_config(config)


def _weights_file(source, way_out):
    for file in places(source):
        if os.path.isfile(file):
            return str(file)
    raise WeightsError(f"There is no file {source} with the weights of Xception: {way_out}")


def _unloadable(source, reason, way_out):
    if source == "imagenet":
        return (
            f"The ImageNet weights of Xception could not be downloaded ({reason}): check the "
            "network, or name their file by XCEPTION_WEIGHTS."
        )
    return f"{source} does not hold the weights of Xception without its top ({reason}): {way_out}"
