import keras
import numpy as np
import pytest

from cifar100_helpers.resnet import BatchNormalization, Conv2D, Downscale, build_resnet

pytestmark = pytest.mark.usefixtures("fresh_keras")


def test_parameters_are_the_published_number():
    assert build_resnet().count_params() == 46_203_236


def convolve(x, kernel, bias, stride):
    """A "same" convolution of one image, as TensorFlow pads it."""
    outputs = -(-len(x) // stride)
    padding = max((outputs - 1) * stride + len(kernel) - len(x), 0)
    padded = np.pad(x, ((padding // 2, padding - padding // 2),) * 2 + ((0, 0),))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwcij,ijco->hwo", windows[::stride, ::stride], kernel) + bias


def forward_by_hand(model, image, num_blocks):
    """The published network's inference on one image, from its weights alone, in NumPy."""

    def conv(x, name, stride=1):
        return convolve(x, *model.get_layer(name).get_weights(), stride)

    def bn(x, name):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    x = np.maximum(bn(conv(image / 255, "stem_conv"), "stem_bn"), 0)
    for stage, blocks in enumerate(num_blocks, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            shortcut = bn(conv(x, f"{name}_shortcut_conv", stride), f"{name}_shortcut_bn")
            x = np.maximum(bn(conv(x, f"{name}_conv1", stride), f"{name}_bn1"), 0)
            x = np.maximum(shortcut + bn(conv(x, f"{name}_conv2"), f"{name}_bn2"), 0)
    kernel, bias = model.get_layer("probabilities").get_weights()
    logits = x.mean(axis=(0, 1)) @ kernel + bias
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.every_backend
def test_forward_pass_equals_one_written_in_numpy():
    rng = np.random.default_rng(0)
    model = build_resnet((2, 1), width=3, num_classes=5, input_shape=(9, 9, 3))
    # Every vector away from its initial value, so that none can be forgotten unnoticed.
    for layer in model.layers:
        layer.set_weights(
            [w if w.ndim > 1 else rng.uniform(0.2, 1.0, w.shape) for w in layer.get_weights()]
        )
    images = rng.integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    expected = [forward_by_hand(model, image, (2, 1)) for image in images]
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-4)


def test_half_of_what_leaves_the_stem_is_dropped_in_training():
    model = build_resnet((1,), width=8)
    outputs = [model.get_layer(name).output for name in ("stem_relu", "stem_dropout")]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    before, after = keras.Model(model.input, outputs)(images, training=True)
    kept = (after.numpy() > 0)[before.numpy() > 0]
    assert 0.48 < kept.mean() < 0.52


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "layer, options",
    [
        (BatchNormalization, {"momentum": 0.5}),
        (Conv2D, {"filters": 6, "kernel_size": 3, "padding": "same"}),
        (Conv2D, {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2}),
        (Conv2D, {"filters": 6, "kernel_size": 1, "strides": 2}),
    ],
)
def test_layer_equals_keras_own(layer, options, dtype):
    """Outputs, gradients (through one SGD step) and moving statistics, in training and after.

    Keras's own computes in float32, so that bfloat16 is measured against the truth.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (8, 3, 5, 6)).astype("float32")
    results = []
    for kind, precision in ((layer, dtype), (layer.stock_class, "float32")):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(x.shape[1:])
        # The dense layer before makes the gradient with respect to the layer's input visible.
        hidden = keras.layers.Dense(6, kernel_initializer="identity")(inputs)
        model = keras.Model(inputs, kind(dtype=precision, **options)(hidden))
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
        y = np.random.default_rng(1).normal(size=(8, *model.output_shape[1:])).astype("float32")
        loss = model.train_on_batch(x, y)
        results.append([loss, *model.get_weights(), model.predict(x, verbose=0)])
    tolerance = {"float32": 2e-5, "mixed_bfloat16": 0.02}[dtype]
    for ours, keras_own in zip(*results, strict=True):
        scale = max(1, np.abs(keras_own).max())
        np.testing.assert_allclose(ours, keras_own, rtol=0, atol=tolerance * scale)
    if layer is BatchNormalization:
        moved = np.abs(results[0][5] - x.mean(axis=(0, 1, 2)) / 2)
        assert moved.max() < 0.05, "it did not move halfway"


@pytest.mark.every_backend
def test_images_downscale_in_training_alone():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    downscale = Downscale()
    downscale.side = 16
    small = keras.ops.convert_to_numpy(downscale(images, training=True))
    expected = images.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small, expected, rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(downscale(images)), images)
