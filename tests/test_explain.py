from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cifar100_helpers import explain
from cifar100_helpers.data import FINE_NAMES
from cifar100_helpers.errors import ParameterError
from cifar100_helpers.results import RecordedRun

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """Save a picture in the working directory."""
    monkeypatch.chdir(tmp_path)

    def save(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        return name

    return save


def read(path):
    """The centre square of the picture at `path`, and that square shrunk."""
    ((name, pair),) = explain.load_pictures(path).items()
    assert name == Path(path).name
    return pair


def test_five_photographs_are_read_without_a_path():
    pictures = explain.load_pictures()
    assert list(pictures) == ["motorcycle", "coffee", "rocket", "astronaut", "cat"]
    for square, small in pictures.values():
        assert square.shape[0] == square.shape[1] >= 300 and small.shape == (32, 32, 3)
        assert square.dtype == small.dtype == np.uint8


def test_small_pixels_are_the_mean_of_the_area_they_cover(picture):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    for whole, centre in ((pixels[:, :64], pixels[8:72, :64]), (pixels[:64], pixels[:64, 8:72])):
        original, small = read(picture(Image.fromarray(whole)))
        np.testing.assert_array_equal(original, centre)
        means = original.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(small, means, atol=0.51)


@pytest.mark.parametrize(
    ("mode", "value", "options", "colour"),
    [
        ("L", 77, {}, (77, 77, 77)),
        ("I;16", 77 * 257, {}, (77, 77, 77)),
        ("1", 1, {}, (255, 255, 255)),
        ("P", RED, {"transparency": 0}, (255, 255, 255)),
        ("RGBA", (*RED, 127), {}, (255, 128, 128)),
        ("CMYK", (0, 255, 255, 0), {"name": "picture.tif"}, RED),
    ],
)
def test_every_kind_of_picture_becomes_colours_on_white(picture, mode, value, options, colour):
    """Also if it is so small that it is enlarged."""
    _, small = read(picture(Image.new(mode, (20, 40), value), **options))
    np.testing.assert_array_equal(small, np.full((32, 32, 3), colour))


@pytest.mark.filterwarnings("error")
def test_photograph_of_200_megapixels_is_read_as_a_jpeg_alone(picture):
    large = Image.new("L", (20_000, 10_000), 77)
    square, small = read(picture(large, "large.jpg"))
    assert square.shape[0] >= 1_250 and (small == 77).all()
    picture(large, "large.png", compress_level=1)
    with pytest.raises(ParameterError, match=r"large.png is too large \(20000 × 10000 pixels\)"):
        read("large.png")


def test_photographs_are_turned_as_the_camera_was_held(picture):
    sensor = Image.new("RGB", (64, 64), RED)
    sensor.paste(BLUE, (0, 0, 32, 64))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen after a quarter turn clockwise: blue on top
    original, _ = read(picture(sensor, exif=exif))
    assert tuple(original[5, 32]) == BLUE and tuple(original[60, 32]) == RED


def test_files_that_are_no_picture_are_one_sentence(picture, tmp_path):
    (tmp_path / "letter.png").write_text("Dear reader")
    name = picture(Image.effect_noise((64, 64), 50), "cut.jpg")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
    for file in ("letter.png", "cut.jpg"):
        with pytest.raises(ParameterError, match=f"{file} is no picture"):
            read(file)
    picture(Image.new("F", (40, 40), 0.5), "heights.tif")
    with pytest.raises(ParameterError, match=r"heights.tif has 32 bits a pixel"):
        read("heights.tif")
    for missing in ("cat.png", 300 * "a"):  # the system refuses so long a name
        with pytest.raises(ParameterError, match=rf"no picture .*/{missing}: give the path"):
            read(missing)


def test_likeliest_classes_stand_below_each_picture():
    pictures = dict(list(explain.load_pictures().items())[:2])
    sure, torn = 0.1 * np.eye(100)[[3, 7]]
    sure[40], torn[[5, 6]] = 0.9, (0.5, 0.4)
    axes = explain.plot_pictures(pictures, {"a": np.array([sure, torn])}, FINE_NAMES)
    assert axes.shape == (3, 2) and axes[2, 0].get_title(loc="left") == "a"
    for column, pair in zip(axes[:2].T, pictures.values(), strict=True):
        for ax, image in zip(column, pair, strict=True):
            np.testing.assert_array_equal(ax.images[0].get_array(), image)
    said = [
        f"{FINE_NAMES[i]} {share} %".replace("_", " ") for i, share in ((5, 50), (6, 40), (7, 10))
    ]
    assert [text.get_text() for text in axes[2, 1].texts] == said
    assert [bar.get_width() for bar in axes[2, 1].patches] == pytest.approx([50, 40, 10])


@pytest.mark.every_backend
def test_occlusion_of_a_keras_network_is_the_mean_over_covers():
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    layers += [keras.layers.Dense(4, activation="softmax", kernel_initializer="normal")]
    network = keras.Sequential([keras.Input((6, 6, 3), dtype="uint8"), *layers])
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    total, covers = np.zeros((2, 6, 6))
    before = network.predict(image[None], verbose=0)[0, 2]
    for top in (0, 2, 3):  # the last one moves back to stay inside
        for left in (0, 2, 3):
            covered = image.copy()
            covered[top : top + 3, left : left + 3] = image.mean(axis=(0, 1)).round()
            fall = before - network.predict(covered[None], verbose=0)[0, 2]
            total[top : top + 3, left : left + 3] += fall
            covers[top : top + 3, left : left + 3] += 1
    heat = explain.occlusion_map(network, image, 2, patch=3, stride=2)
    np.testing.assert_allclose(heat, total / covers, atol=1e-6)


def test_answers_that_hang_on_one_place_are_chosen(monkeypatch):
    images = np.arange(8)  # stand for pictures; the last is wrong, as is the one before
    probabilities = np.full((8, 4), 0.1) + 0.6 * np.eye(4)[[0] * 8]
    probabilities[[0, 5], 0] = 0.99, 0.3  # too sure and not sure enough: no candidates
    labels = np.array([0] * 6 + [1] * 2)
    run = RecordedRun({}, probabilities, labels, labels > 9, probabilities[:0], labels[:0])
    falls = {i: np.full((2, 2), 0.1 * i) for i in range(8)}
    monkeypatch.setattr(explain, "occlusion_map", lambda model, image, label: falls[image])
    shown, maps = explain.telling_pictures(None, run, images, count=2, among=4)
    np.testing.assert_array_equal(shown, [4, 3, 7, 6])
    np.testing.assert_allclose(maps[:, 0, 0], [0.4, 0.3, 0.7, 0.6])


def test_heat_maps_have_each_their_own_scale_in_points(synthetic):
    maps = np.zeros((3, 32, 32))
    maps[0, 4, 4], maps[1, 9, 9] = 0.2, -0.5
    axes = explain.plot_occlusion(synthetic.x_test[:3], maps, ["a", "b", "c"], "tiny")
    assert [ax.get_title() for ax in axes[::2]] == ["a", "b", "c"]
    for i, (points, strongest) in enumerate(((20, 1), (50, -1), (0, 0))):
        image, heat = axes[2 * i : 2 * i + 2]
        np.testing.assert_array_equal(image.images[0].get_array(), synthetic.x_test[i])
        assert heat.get_title() == f"red: falls by\nup to {points} points"
        _, grey, share = (drawn.get_array() for drawn in heat.images)
        np.testing.assert_allclose(grey, synthetic.x_test[i].mean(axis=-1))
        assert share.sum() == pytest.approx(strongest)
