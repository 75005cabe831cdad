"""Augmentation: offline copies against NumPy and SciPy, the layer against all possible crops."""

import hashlib
import tracemalloc

import cv2
import keras
import numpy as np
import pytest
from scipy import ndimage

from cifar100_helpers import augment
from cifar100_helpers.augment import augmented_copies, transform_images
from cifar100_helpers.errors import ParameterError
from cifar100_helpers.transforms import RandomTransforms

STRENGTHS = dict(flip=0.5, shift=4, rotation=15, zoom=0.1, brightness=0.1, contrast=0.2)
STILL = dict.fromkeys(STRENGTHS, 0)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def smooth(count):
    """Blurred noise over the full range of values: like photographs, it has few hard edges."""
    values = np.random.default_rng(1).normal(size=(count, 32, 32, 3))
    values = ndimage.gaussian_filter(values, (0, 2.5, 2.5, 0))
    values -= values.min(axis=(1, 2, 3), keepdims=True)
    return np.uint8(255 * values / values.max(axis=(1, 2, 3), keepdims=True))


def shifted(image, right, down):
    """The image moved by whole pixels: reflect-padded by NumPy, then sliced."""
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    return padded[8 - down : 40 - down, 8 - right : 40 - right]


def scipy_warp(image, flip, right, down, angle, zoom):
    """Forward matrices one after another, inverted, and SciPy's bilinear interpolation."""
    turn = np.deg2rad(-angle)  # counter-clockwise to the eye, with y pointing down
    steps = [
        [[1, 0, -15.5], [0, 1, -15.5], [0, 0, 1]],
        [[-1 if flip else 1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[zoom, 0, 0], [0, zoom, 0], [0, 0, 1]],
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]],
        [[1, 0, 15.5 + right], [0, 1, 15.5 + down], [0, 0, 1]],
    ]
    forward = np.eye(3)
    for step in steps:
        forward = np.array(step) @ forward
    y, x = np.mgrid[:32, :32].reshape(2, -1)
    x, y, _ = np.linalg.inv(forward) @ [x, y, np.ones(1024)]
    channels = [
        ndimage.map_coordinates(image[..., c].astype(float), [y, x], order=1, mode="mirror")
        for c in range(3)
    ]
    return np.stack(channels, axis=-1).reshape(32, 32, 3)


def test_flips_and_whole_pixel_shifts_are_exact():
    images, rng = noise(300), np.random.default_rng(2)
    flip, (right, down) = rng.random(300) < 0.5, rng.integers(-8, 9, (2, 300))
    result = transform_images(images, flip=flip, shift_x=right, shift_y=down)
    mirrored = [np.fliplr(x) if f else x for x, f in zip(images, flip, strict=True)]
    expected = [shifted(x, r, d) for x, r, d in zip(mirrored, right, down, strict=True)]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("images", "tolerance"),
    [
        pytest.param(smooth(40), 1.2, id="smooth"),
        # Coordinates are off by 1/64 pixel at most, so two 255-level edges give 255/32 + 1/2.
        pytest.param(noise(40), 8.5, id="noise"),
    ],
)
def test_rotation_zoom_and_fractional_shift_agree_with_scipy(images, tolerance):
    rng, count = np.random.default_rng(3), len(images)
    flip, angle = rng.random(count) < 0.5, rng.uniform(-180, 180, count)
    zoom, (right, down) = rng.uniform(0.75, 1.25, count), rng.uniform(-8, 8, (2, count))
    result = transform_images(
        images, flip=flip, shift_x=right, shift_y=down, angle=angle, zoom=zoom
    )
    each = zip(images, flip, right, down, angle, zoom, strict=True)
    expected = np.array([scipy_warp(*parameters) for parameters in each])
    error = np.abs(result - expected)
    assert error.max() <= tolerance
    assert abs((result - expected).mean()) < 0.05  # no bias to darker or brighter


def test_a_quarter_turn_is_counter_clockwise():
    images = noise(3)
    np.testing.assert_array_equal(transform_images(images, angle=90), np.rot90(images, 1, (1, 2)))


def test_colours_are_rounded_to_the_nearest():
    images, rng = noise(200), np.random.default_rng(4)
    brightness, contrast = rng.uniform(-1, 1, 200), rng.uniform(0, 2, 200)
    result = transform_images(images, brightness=brightness, contrast=contrast)
    for image, b, c, got in zip(images, brightness, contrast, result, strict=True):
        exact = np.clip(image.mean() + c * (image - image.mean()) + 255 * b, 0, 255)
        # float32 can only tell the two neighbours of a tie from each other to this accuracy.
        assert np.abs(got - exact).max() <= 0.5 + 1e-4


def test_untouched_parameters_leave_images_untouched():
    images = noise(5)
    np.testing.assert_array_equal(transform_images(images), images)


@pytest.mark.parametrize("copies", [0, 1, 2, 3])
def test_originals_come_first_then_each_copy_in_order(copies):
    images, labels = noise(150), np.arange(150) % 100
    result, result_labels = augmented_copies(images, labels, copies=copies)
    assert result.shape == (150 * (1 + copies), 32, 32, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(result[:150], images)
    np.testing.assert_array_equal(result_labels, np.concatenate([labels] * (1 + copies)))
    assert len({image.tobytes() for image in result}) == len(result)  # no two alike
    still, _ = augmented_copies(images, labels, copies=copies, **STILL)
    np.testing.assert_array_equal(still, np.concatenate([images] * (1 + copies)))


def test_an_image_gets_the_same_copies_in_any_company(monkeypatch):
    images, labels = noise(150), np.arange(150)
    copy = augmented_copies(images, labels, copies=2)[0].reshape(3, 150, 32, 32, 3)
    chosen = np.random.default_rng(5).permutation(150)[:70]
    alone = augmented_copies(images[chosen], labels[chosen], copies=2)[0]
    np.testing.assert_array_equal(alone.reshape(3, 70, 32, 32, 3), copy[:, chosen])
    for threads, stack in [(1, 7), (5, 33)]:
        monkeypatch.setattr(cv2, "getNumberOfCPUs", lambda threads=threads: threads)
        monkeypatch.setattr(augment, "STACK", stack)
        again = augmented_copies(images, labels, copies=2)[0]
        np.testing.assert_array_equal(again.reshape(copy.shape), copy)
    assert not np.array_equal(augmented_copies(images, labels, seed=1)[0][150:300], copy[1])


def test_the_same_pixels_on_every_machine():
    images = np.uint8(np.arange(64 * 3072) ** 2 >> 9).reshape(64, 32, 32, 3)
    result, _ = augmented_copies(images, np.arange(64), seed=7)
    assert hashlib.md5(result).hexdigest() == "2ebd134858aa68d4811a1689cf3c7d1a"


def test_drawn_parameters_fill_their_ranges():
    content = augment._content_hash(noise(20_000))
    drawn = augment._draw_parameters(content, 0, 1, STRENGTHS)
    assert abs(drawn["flip"].mean() - 0.5) < 0.02
    for axis in ("shift_x", "shift_y"):
        values, counts = np.unique(drawn[axis], return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-4, 5))
        np.testing.assert_allclose(counts / 20_000, 1 / 9, atol=0.012)
    for name, middle, reach in [
        ("angle", 0, 15), ("zoom", 1, 0.1), ("brightness", 0, 0.1), ("contrast", 1, 0.2)
    ]:  # fmt: skip
        fraction = (drawn[name] - middle) / reach
        assert -1 <= fraction.min() < -0.999 and 0.999 < fraction.max() <= 1
        assert abs(fraction.mean()) < 0.02 and abs(fraction.std() - 3**-0.5) < 0.02
    pairs = np.corrcoef([values.astype(float) for values in drawn.values()])
    assert np.abs(pairs - np.eye(len(drawn))).max() < 0.04


def test_unusual_arrays_are_accepted():
    images, labels = noise(40), np.arange(40)
    images.setflags(write=False)
    expected = augmented_copies(np.ascontiguousarray(images[::2]), labels[::2])[0]
    np.testing.assert_array_equal(augmented_copies(images[::2], labels[::2])[0], expected)
    turned = np.asfortranarray(images[::2])
    np.testing.assert_array_equal(augmented_copies(turned, list(labels[::2]))[0], expected)
    np.testing.assert_array_equal(
        transform_images(turned, angle=9), transform_images(images[::2], angle=9)
    )
    assert augmented_copies(images[:1], labels[:1])[0].shape == (3, 32, 32, 3)
    nothing, no_labels = augmented_copies(images[:0], labels[:0])
    assert nothing.shape == (0, 32, 32, 3) and no_labels.shape == (0,)


def test_peak_memory_is_little_more_than_the_result():
    images, labels = noise(10_000), np.zeros(10_000, int)
    augmented_copies(images[:100], labels[:100])
    tracemalloc.start()
    result, _ = augmented_copies(images, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * result.nbytes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": np.zeros((2, 32, 32, 3))}, "uint8"),
        ({"images": np.zeros((2, 32, 32, 1), np.uint8)}, "shape"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, "shape"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"labels": np.zeros((2, 1), int)}, "labels"),
        ({"copies": -1}, "copies"),
        ({"copies": 1.5}, "copies"),
        ({"copies": True}, "copies"),
        ({"seed": -1}, "seed"),
        ({"flip": 1.1}, "flip"),
        ({"shift": 0.5}, "shift"),
        ({"shift": 9}, "shift"),
        ({"rotation": -1}, "rotation"),
        ({"zoom": 0.3}, "zoom"),
        ({"brightness": float("nan")}, "brightness"),
        ({"contrast": "much"}, "contrast"),
        ({"contrast": [0.1, 0.2]}, "contrast"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(change, sentence):
    arguments = {"images": noise(2), "labels": np.zeros(2, int), **change}
    with pytest.raises(ParameterError, match=sentence):
        augmented_copies(**arguments)


@pytest.mark.parametrize(
    "wrong", [{"zoom": 0.5}, {"shift_x": 9}, {"contrast": -1}, {"angle": [1, 2, 3]}, {"flip": 2}]
)
def test_a_transform_beyond_its_limits_is_one_clear_error(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        transform_images(noise(2), **wrong)


def applied(layer, images):
    return keras.ops.convert_to_numpy(layer(images, training=True))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.every_backend
def test_layer_acts_in_training_only_and_keeps_the_dtype(dtype):
    images, layer = noise(32).astype(dtype), RandomTransforms()
    for result in (layer(images), layer(images, training=False)):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(result), images)
    result = applied(layer, images)
    assert result.shape == images.shape and result.dtype == dtype
    assert layer(keras.Input((32, 32, 3), dtype=dtype)).dtype == dtype
    assert all((a != b).any() for a, b in zip(result, images, strict=True))


@pytest.mark.every_backend
def test_layer_moves_as_pad_and_crop_and_flip():
    images = np.repeat(noise(1), 4000, axis=0)
    result = applied(RandomTransforms(cutout=0), images)
    possible = {
        shifted(image, right, down).tobytes(): (flip, right, down)
        for flip, image in enumerate([images[0], np.fliplr(images[0])])
        for right in range(-4, 5)
        for down in range(-4, 5)
    }
    seen = [possible[image.tobytes()] for image in result]  # a KeyError: none of them
    assert len(set(seen)) == 162
    assert abs(np.mean(seen, axis=0)[0] - 0.5) < 0.05


@pytest.mark.every_backend
def test_layer_without_a_transform_leaves_it_out():
    images = noise(64)
    mirrored = applied(RandomTransforms(crop=0, cutout=0, flip=1), images)
    np.testing.assert_array_equal(mirrored, images[:, :, ::-1])
    cropped = applied(RandomTransforms(crop=4, flip=0, cutout=0, seed=1), images)
    crops = [[shifted(x, r, d) for r in range(-4, 5) for d in range(-4, 5)] for x in images]
    assert all((crop == got).all((1, 2, 3)).any() for crop, got in zip(crops, cropped, strict=True))
    still = applied(RandomTransforms(crop=0, flip=0, cutout=0), images)
    np.testing.assert_array_equal(still, images)


@pytest.mark.every_backend
def test_layer_covers_one_square_with_the_mean():
    images = smooth(400) // 2 + 128
    images[:, 0, 0] = 0  # so that the mean is nowhere a pixel's colour
    images[..., 0] |= 1
    result = applied(RandomTransforms(crop=0, flip=0), images.astype("float32"))
    sizes = []
    for image, got in zip(images, result, strict=True):
        rows, columns = np.nonzero((got != image).any(axis=-1))
        patch = got[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        np.testing.assert_allclose(patch, np.broadcast_to(image.mean((0, 1)), patch.shape), 1e-4)
        sizes.append(patch.shape[:2])
    assert np.max(sizes) == 8 and np.min(sizes) == 4  # whole, or cut in half at the border
    covered = (result != images).any(axis=-1).mean(axis=0)
    assert covered[8:24, 8:24].min() > 0.02  # everywhere: 64 / 1024 on average


@pytest.mark.every_backend
def test_layer_draws_by_its_seed():
    images = noise(16)
    layers = [RandomTransforms(seed=seed) for seed in (3, 3, 4)]
    first, same, other = (applied(layer, images) for layer in layers)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, applied(layers[0], images))


@pytest.mark.every_backend
def test_random_state_is_saved_with_the_weights(tmp_path):
    images = noise(16)
    model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), RandomTransforms(seed=5)])
    applied(model, images)
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.keras")
    expected = applied(model, images)
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(applied(clone, images), expected)
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(applied(loaded, images), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.every_backend
def test_layer_trains_in_a_model(compiled):
    if compiled and keras.backend.backend() == "torch":
        pytest.skip("torch compiles with a C++ compiler of the user's")
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(RandomTransforms()(images))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    model = keras.Model(images, outputs)
    model.compile("sgd", "mse", jit_compile=compiled)
    history = model.fit(noise(40), np.zeros((40, 2)), batch_size=16, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"crop": 1.5}, {"flip": 2}, {"cutout": "big"}])
def test_a_wrong_option_of_the_layer_is_one_clear_error(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        RandomTransforms(**wrong)
    with pytest.raises(ParameterError, match="crop"):
        RandomTransforms(crop=32)(noise(1), training=True)
