import keras
import numpy as np
import pytest
from PIL import Image

from cifar100_helpers import explain
from cifar100_helpers.data import FINE_NAMES
from cifar100_helpers.errors import ParameterError

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """Save a picture in a project's folder, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()

    def save(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        return name

    return save


def test_sample_photograph_is_read_without_a_path():
    original, small = explain.load_picture()
    assert original.shape == (427, 427, 3) and small.shape == (32, 32, 3)
    assert original.dtype == small.dtype == np.uint8


def test_small_pixels_are_the_mean_of_the_area_they_cover(picture):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    original, small = explain.load_picture(picture(Image.fromarray(pixels)))
    np.testing.assert_array_equal(original, pixels[:, 8:72])  # the centre
    means = original.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, means, atol=0.51)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (31, 33)])
def test_tiny_pictures_are_enlarged(picture, size):
    original, small = explain.load_picture(picture(Image.new("RGB", size, RED)))
    assert original.shape == (min(size), min(size), 3)
    np.testing.assert_array_equal(small, np.full((32, 32, 3), RED))


@pytest.mark.parametrize(
    ("mode", "value", "options", "colour"),
    [
        ("L", 77, {}, (77, 77, 77)),
        ("I;16", 77 * 256, {}, (77, 77, 77)),
        ("1", 1, {}, (255, 255, 255)),
        ("P", RED, {}, RED),
        ("P", RED, {"transparency": 0}, (255, 255, 255)),
        ("RGBA", (*RED, 127), {}, (255, 128, 128)),
        ("CMYK", (0, 255, 255, 0), {"name": "picture.tif"}, RED),
    ],
)
def test_every_kind_of_picture_becomes_colours_on_white(picture, mode, value, options, colour):
    _, small = explain.load_picture(picture(Image.new(mode, (40, 40), value), **options))
    np.testing.assert_array_equal(small, np.full((32, 32, 3), colour))


def test_photographs_are_turned_as_the_camera_was_held(picture):
    sensor = Image.new("RGB", (64, 64), RED)
    sensor.paste(BLUE, (0, 0, 32, 64))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen after a quarter turn clockwise: blue on top
    original, _ = explain.load_picture(picture(sensor, exif=exif))
    assert tuple(original[5, 32]) == BLUE and tuple(original[60, 32]) == RED


def test_relative_paths_start_here_or_at_the_project(picture, tmp_path, monkeypatch):
    picture(Image.new("RGB", (40, 40), RED), "red.png")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert tuple(explain.load_picture("red.png")[1][0, 0]) == RED
    picture(Image.new("RGB", (40, 40), BLUE), "notebooks/red.png")
    assert tuple(explain.load_picture("red.png")[1][0, 0]) == BLUE
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tuple(explain.load_picture("~/red.png")[1][0, 0]) == RED


def test_missing_pictures_are_one_sentence_with_the_places(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for path in ("cat.png", "."):
        with pytest.raises(ParameterError, match="no picture") as raised:
            explain.load_picture(path)
        assert str(tmp_path / path) in str(raised.value)
    assert str(tmp_path / "notebooks") in str(raised.value)


def test_files_that_are_no_picture_are_one_sentence(picture, tmp_path):
    (tmp_path / "letter.png").write_text("Dear reader")
    name = picture(Image.effect_noise((64, 64), 50), "cut.jpg")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
    for file in ("letter.png", "cut.jpg"):
        with pytest.raises(ParameterError, match=f"{file} is no picture"):
            explain.load_picture(file)


def test_likeliest_classes_are_bars_beside_the_picture():
    original, small = explain.load_picture()
    sure, torn = 0.1 * np.eye(100)[[3, 7]]
    sure[40], torn[[5, 6]] = 0.9, (0.5, 0.4)
    predictions = {"a": sure, "b": torn}
    axes = explain.plot_picture(original, small, predictions, FINE_NAMES, count=3)
    for ax, image in zip(axes[:2], (original, small), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
    for ax, name, classes in zip(axes[2:], "ab", ([40, 3], [5, 6, 7]), strict=True):
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert ax.get_title() == name and len(names) == 3
        assert names[: len(classes)] == [FINE_NAMES[i].replace("_", " ") for i in classes]
    assert [bar.get_width() for bar in axes[3].patches] == pytest.approx([50, 40, 10])
    assert axes[2].texts[0].get_text() == "90 %"


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


def test_heat_maps_share_one_scale_in_points(synthetic):
    maps = np.zeros((2, 32, 32))
    maps[0, 4, 4], maps[1, 9, 9] = 0.2, -0.5
    axes = explain.plot_occlusion(synthetic.x_test[:2], maps, ["first", "second"])
    assert [ax.get_title() for ax in axes] == ["first", "", "second", ""]
    for i in range(2):
        np.testing.assert_array_equal(axes[2 * i].images[0].get_array(), synthetic.x_test[i])
        heat = axes[2 * i + 1].images[-1]
        np.testing.assert_allclose(heat.get_array(), 100 * maps[i])
        assert heat.get_clim() == (-50, 50)
    assert "points" in axes[0].figure.axes[-1].get_ylabel()
