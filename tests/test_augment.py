"""Augmentation: copies against NumPy and SciPy, the layer against all possible crops."""

import inspect
import zlib

import cv2
import keras
import numpy as np
import pytest
from scipy import ndimage

from cifar100_helpers import augment
from cifar100_helpers.augment import RandomTransforms, augmented_copies, transform_images
from cifar100_helpers.errors import ParameterError


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def smooth(count):
    """Blurred noise over the full range of values: like photographs, it has few hard edges."""
    values = np.random.default_rng(1).normal(size=(count, 32, 32, 3))
    values = ndimage.gaussian_filter(values, (0, 2.5, 2.5, 0))
    values -= values.min(axis=(1, 2, 3), keepdims=True)
    return np.uint8(255 * values / values.max(axis=(1, 2, 3), keepdims=True))


def test_no_copy_of_a_validation_image_is_trained_on(synthetic):
    x, y, (validation, labels) = augment.training_set(
        synthetic, copies=1, validation_size=200, train_limit=300, seed=1
    )
    assert len(x) == len(y) == 600 and len(validation) == len(labels) == 200
    known = {image.tobytes() for image in x[:300]}
    assert known.isdisjoint(image.tobytes() for image in validation)
    originals = {image.tobytes(): i for i, image in enumerate(synthetic.x_train)}
    indices = [originals[image.tobytes()] for image in x[:300]]
    np.testing.assert_array_equal(y, np.tile(synthetic.y_train[indices], 2))
    np.testing.assert_array_equal(x, augmented_copies(x[:300], y[:300], copies=1, seed=1)[0])
    assert augment.training_set(synthetic, copies=0, validation_size=0)[2] is None


def shifted(image, right, down):
    """The image moved by whole pixels: reflect-padded by NumPy, then sliced."""
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    return padded[8 - down : 40 - down, 8 - right : 40 - right]


def scipy_warp(image, flip, right, down, angle, zoom):
    """Every result pixel traced back, step by step, and SciPy's bilinear interpolation there."""
    y, x = np.mgrid[:32, :32] - 15.5
    x, y = x - right, y - down
    turn = np.deg2rad(angle)  # counter-clockwise to the eye, with y pointing down
    x, y = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
    x, y = (-1 if flip else 1) * x / zoom + 15.5, y / zoom + 15.5
    channels = np.moveaxis(image.astype(float), -1, 0)
    warped = [ndimage.map_coordinates(c, [y, x], order=1, mode="mirror") for c in channels]
    return np.stack(warped, axis=-1)


def test_flips_and_whole_pixel_shifts_are_exact():
    images, rng = noise(300), np.random.default_rng(2)
    flip, (right, down) = rng.random(300) < 0.5, rng.integers(-8, 9, (2, 300))
    result = transform_images(images, flip=flip, shift_x=right, shift_y=down)
    for image, f, r, d, got in zip(images, flip, right, down, result, strict=True):
        np.testing.assert_array_equal(got, shifted(np.fliplr(image) if f else image, r, d))
    np.testing.assert_array_equal(transform_images(images), images)


# OpenCV 4 rounds coordinates to 1/32 pixel: two 255-level edges give 255/32 + 1/2.
@pytest.mark.parametrize(("make", "tolerance"), [(smooth, 1.2), (noise, 8.5)])
def test_rotation_zoom_and_fractional_shift_agree_with_scipy(make, tolerance):
    rng, images = np.random.default_rng(3), make(40)
    flip, angle = rng.random(40) < 0.5, rng.uniform(-180, 180, 40)
    zoom, (right, down) = rng.uniform(0.75, 1.25, 40), rng.uniform(-8, 8, (2, 40))
    result = transform_images(
        images, flip=flip, shift_x=right, shift_y=down, angle=angle, zoom=zoom
    )
    each = zip(images, flip, right, down, angle, zoom, strict=True)
    difference = result - np.array([scipy_warp(*parameters) for parameters in each])
    assert np.abs(difference).max() <= tolerance
    assert abs(difference.mean()) < 0.05  # no bias to darker or brighter


def test_colours_change_about_the_images_mean():
    images, rng = noise(200), np.random.default_rng(4)
    images[..., 0] //= 3  # channels of different means
    brightness, contrast = rng.uniform(-1, 1, 200), rng.uniform(0, 2, 200)
    result = transform_images(images, brightness=brightness, contrast=contrast)
    for image, b, c, got in zip(images, brightness, contrast, result, strict=True):
        exact = np.clip(image.mean() + c * (image - image.mean()) + 255 * b, 0, 255)
        # float32 tells a value above a tie from one below it to this accuracy.
        assert np.abs(got - exact).max() <= 0.5 + 1e-4


def test_originals_come_first_then_each_copy_in_order():
    images, labels = noise(1200), np.arange(1200) % 100
    still = dict(flip=0, shift=0, rotation=0, zoom=0, brightness=0, contrast=0)
    unmoved, copied_labels = augmented_copies(images, labels, copies=3, **still)
    np.testing.assert_array_equal(unmoved, np.concatenate([images] * 4))
    np.testing.assert_array_equal(copied_labels, np.tile(labels, 4))
    result, _ = augmented_copies(images, labels, copies=3)
    np.testing.assert_array_equal(result[:1200], images)
    assert len({image.tobytes() for image in result}) == 4800  # no two alike


def test_an_image_gets_the_same_copies_in_any_company(monkeypatch):
    images, labels = noise(150), np.arange(150)
    copies = augmented_copies(images, labels)[0].reshape(3, 150, 32, 32, 3)
    chosen = np.random.default_rng(5).permutation(150)[:70]
    alone = augmented_copies(images[chosen], labels[chosen])[0]
    np.testing.assert_array_equal(alone.reshape(3, 70, 32, 32, 3), copies[:, chosen])
    monkeypatch.setattr(cv2, "getNumberOfCPUs", lambda: 5)
    monkeypatch.setattr(augment, "CHUNK", 7)
    np.testing.assert_array_equal(augmented_copies(images, labels)[0].reshape(copies.shape), copies)
    other_seed = augmented_copies(images, labels, seed=1)[0].reshape(copies.shape)
    assert (other_seed != copies)[1:].any(axis=(2, 3, 4)).all()


def test_draws_fill_their_ranges_independently(monkeypatch):
    names, drawn = [*inspect.signature(augment._transform).parameters][2:], []
    monkeypatch.setattr(augment, "_transform", lambda out, image, *own: drawn.append(own))
    augmented_copies(noise(20_000), np.zeros(20_000, int), copies=1, flip=0.3)
    columns = np.array(drawn, float).T
    values = dict(zip(names, columns, strict=True))
    assert abs(values["flip"].mean() - 0.3) < 0.02
    for name in ("shift_x", "shift_y"):
        shares = np.bincount(values[name].astype(int) + 4) / 20_000
        np.testing.assert_allclose(shares, np.full(9, 1 / 9), atol=0.012)
    ranges = dict(angle=(-15, 15), zoom=(0.9, 1.1), brightness=(-0.1, 0.1), contrast=(0.8, 1.2))
    for name, (low, high) in ranges.items():
        fraction = (values[name] - low) / (high - low)
        assert 0 <= fraction.min() < 0.001 and 0.999 < fraction.max() <= 1
        assert abs(fraction.mean() - 0.5) < 0.01 and abs(fraction.std() - 12**-0.5) < 0.01
    assert np.abs(np.corrcoef(columns) - np.eye(7)).max() < 0.04


@pytest.mark.parametrize("images", [np.zeros((2, 32, 32, 3)), np.zeros((2, 3, 32, 32), np.uint8)])
def test_other_images_are_one_clear_error(images):
    with pytest.raises(ParameterError, match=r"images must be uint8 .* not "):
        augmented_copies(images, np.zeros(2, int))


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
    assert (result != images).any(axis=(1, 2, 3)).all()


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
    drawn = [possible[image.tobytes()] for image in result]  # a KeyError: none of them
    assert len(set(drawn)) == 162
    assert abs(np.mean(drawn, axis=0)[0] - 0.5) < 0.05


@pytest.mark.every_backend
@pytest.mark.parametrize("flip", [0, 1])
def test_layer_without_a_transform_leaves_it_out(flip):
    result = applied(RandomTransforms(crop=0, cutout=0, flip=flip), noise(64))
    np.testing.assert_array_equal(result, noise(64)[:, :, :: -1 if flip else 1])


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


def test_layer_draws_what_it_drew_for_the_published_records():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("each backend draws its own numbers")
    assert zlib.crc32(applied(RandomTransforms(seed=3), noise(16))) == 2983288435
