"""The wide residual network for 32×32 images, trained from scratch, and its faster layers."""

import keras
from keras import layers, ops

from .runtime import conv_with_product_gradient, fused_batch_norm, layers_see_parts


@keras.saving.register_keras_serializable("cifar100_helpers")
class Conv2D(layers.Conv2D):
    """Keras's layer; where little is left of an image, its kernel learns by a matrix product.

    Same variables, same results up to rounding, as long as strides are equal and nothing is
    dilated. In bfloat16 on two cores, the gradient of a convolution's kernel is slow there: on
    images of 16 pixels, a ResNet of width 48 trains 1.3 times as fast with this layer
    (results/layers.md).
    """

    stock_class = layers.Conv2D  # what a saved model has in its place

    def convolution_op(self, inputs, kernel):
        outputs = conv_with_product_gradient(
            inputs, kernel, stride=self.strides[0], padding=self.padding
        )
        return super().convolution_op(inputs, kernel) if outputs is None else outputs


@keras.saving.register_keras_serializable("cifar100_helpers")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, computed over the last axis by the backend's fused kernel if it has one.

    Keras composes the operation from about ten passes over the activations, in float32 even under
    mixed precision; on a CPU this costs a narrow network a quarter of its training speed, or more
    (results/layers.md). Same variables, same results up to rounding.

    The moving averages follow within tens of steps (`momentum` 0.9): with Keras's 0.99, the first
    hundreds of steps look untrained in inference.
    """

    stock_class = keras.layers.BatchNormalization  # what a saved model has in its place

    def __init__(self, momentum=0.9, **options):
        # Statistics are those of the whole batch, not of a part.
        options.setdefault("synchronized", layers_see_parts())
        super().__init__(momentum=momentum, **options)

    def call(self, inputs, training=None):
        training = bool(training) and self.trainable
        fused = fused_batch_norm(
            inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            training=training,
        )
        if fused is None:
            return super().call(inputs, training=training)
        outputs, mean, variance = fused
        if training:
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        return outputs

    def _move(self, average, batch_statistic):
        average.assign(average * self.momentum + batch_statistic * (1 - self.momentum))


@keras.saving.register_keras_serializable("cifar100_helpers")
class Downscale(layers.Layer):
    """Resizes images to `side` pixels in training, if that is set: small images cost less."""

    training_only = True
    side = None

    def call(self, images, training=False):
        if not training or self.side in (None, images.shape[1]):
            return images
        return ops.image.resize(ops.cast(images, "float32"), (self.side, self.side))


def downscale_images(model, side):
    """Let `model` be trained on images of `side` pixels from now on; None: on whole ones."""
    for layer in model.layers:
        if isinstance(layer, Downscale) and layer.side != side:
            layer.side = side
            model.make_train_function(force=True)  # it was compiled for the size before


def residual_block(x, filters, *, stride=1, name="block"):
    """Return `x` after two convolutions, plus `x` after a shortcut.

    Main path: conv 3×3 (`stride`), BN, ReLU, conv 3×3, BN. Shortcut: conv 1×1 (`stride`), BN.

    `x` is a Keras tensor (batch, height, width, channels); returns one of (batch,
    ceil(height / stride), ceil(width / stride), `filters`). Source: He et al., "Deep Residual
    Learning for Image Recognition", 2016.
    """
    shortcut = Conv2D(filters, 1, stride, name=f"{name}_shortcut_conv")(x)
    shortcut = BatchNormalization(name=f"{name}_shortcut_bn")(shortcut)

    x = Conv2D(filters, 3, stride, padding="same", name=f"{name}_conv1")(x)
    x = BatchNormalization(name=f"{name}_bn1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(x)
    x = BatchNormalization(name=f"{name}_bn2")(x)

    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_relu2")(x)


def build_resnet(
    num_blocks=(2, 2, 2, 2),
    width=128,
    dropout_rate=0.5,
    num_classes=100,
    input_shape=(32, 32, 3),
    augmentation=None,
):
    """Build the published ResNet: a stem, stages of residual blocks, pooling and a softmax.

    Stage k (from 1) has `num_blocks[k - 1]` blocks of `width` · 2^(k - 1) filters; from
    stage 2 on, its first block halves height and width. Takes uint8 images (batch,
    *`input_shape`), which go through the layer `augmentation`, if any, and are scaled to [0, 1];
    returns float32 class probabilities (batch, `num_classes`).
    46,203,236 parameters at the defaults, 739,972 at `width=16`.
    """
    images = keras.Input(input_shape, dtype="uint8", name="images")
    x = augmentation(images) if augmentation else images
    x = Downscale(name="stem_downscale")(x)
    x = layers.Rescaling(1 / 255, name="stem_rescale")(x)

    x = Conv2D(width, 3, padding="same", name="stem_conv")(x)
    x = BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    # With a seed: without one, PyTorch draws from a generator that a resumed run cannot restore.
    x = layers.Dropout(dropout_rate, seed=0, name="stem_dropout")(x)

    for stage, blocks in enumerate(num_blocks, start=1):
        for block in range(1, blocks + 1):
            x = residual_block(
                x,
                width * 2 ** (stage - 1),
                stride=2 if stage > 1 and block == 1 else 1,
                name=f"stage{stage}_block{block}",
            )

    x = layers.GlobalAveragePooling2D(name="pool")(x)
    # float32 whatever the precision: probabilities in bfloat16 have two significant digits.
    probabilities = layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )(x)
    return keras.Model(images, probabilities, name="resnet")
