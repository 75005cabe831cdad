import cv2
import keras
import numpy as np
import pytest
from test_saved_model import probabilities_of_plain_keras

from cifar100_helpers import inference
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import WeightsError
from cifar100_helpers.inference import cached_features, predict
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.xception import build_xception

pytestmark = pytest.mark.usefixtures("fresh_keras")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = build_xception(weights="none")
    for layer in model.get_layer("base").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Random weights let the signal die out, and all images would look the same.
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.1))
    return model


@pytest.fixture(scope="module")
def weights_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    model.get_layer("base").save_weights(file)
    return file


@pytest.fixture
def quick_base(model, monkeypatch):
    """Building takes no time: Keras's function gives the base of `model`, and loads weights."""
    asked, base = [], model.get_layer("base")

    def xception(weights, **options):
        asked.append(weights)
        if weights:
            base.load_weights(weights)
        return base

    monkeypatch.setattr(keras.applications, "Xception", xception)
    return asked


@pytest.fixture
def small_base(monkeypatch):
    """A small network stands for Xception."""

    def small(weights, input_shape, **options):
        layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
        return keras.Sequential([keras.Input(input_shape), *layers])

    monkeypatch.setattr(keras.applications, "Xception", small)


def test_parameters_are_the_published_number(model):
    assert model.count_params() == 21_961_868
    assert model.get_layer("base").count_params() == 20_861_480


def test_head_equals_one_written_in_numpy(model):
    """The mean of each map, ReLUs, of which half drop out in training, and a softmax."""
    layers = [model.get_layer(name) for name in ("hidden", "dropout", "probabilities")]
    head = keras.Model(model.get_layer("pool").input, [layer.output for layer in layers])
    maps = np.random.default_rng(0).uniform(0, 4, (4, 3, 3, 2048)).astype("float32")
    hidden, _, probabilities = map(keras.ops.convert_to_numpy, head(maps))
    (w, b), (v, c) = layers[0].get_weights(), layers[2].get_weights()
    np.testing.assert_allclose(hidden, np.maximum(maps.mean((1, 2)) @ w + b, 0), atol=1e-4)
    odds = np.exp(hidden @ v + c)
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=1, keepdims=True), rtol=1e-4)
    _, dropped, _ = map(keras.ops.convert_to_numpy, head(maps, training=True))
    assert 0.45 < (dropped > 0)[hidden > 0].mean() < 0.55


@pytest.mark.every_backend
def test_resized_and_scaled_as_if_done_beforehand(small_base, synthetic):
    """OpenCV resizes, Keras's own function scales."""
    model = build_xception(weights="none")
    images = synthetic.x_test[:4]
    resized = [cv2.resize(image.astype("float32"), (71, 71)) for image in images]
    expected = keras.applications.xception.preprocess_input(np.stack(resized))
    prepared = keras.Model(model.input, model.get_layer("resize").output)
    np.testing.assert_allclose(prepared.predict(images, verbose=0), expected, atol=1e-5)


def moved(model):
    """Which variables of the base move in one step: "kernel", "moving_mean" and so on."""
    model.compile("sgd", "sparse_categorical_crossentropy")
    base = model.get_layer("base").weights
    before = [keras.ops.convert_to_numpy(weight) for weight in base]
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    model.fit(images, np.arange(8), verbose=0)
    pairs = zip(base, before, strict=True)
    return {w.name for w, old in pairs if not np.array_equal(old, keras.ops.convert_to_numpy(w))}


@pytest.mark.every_backend
def test_statistics_move_with_the_base_unless_they_are_frozen(small_base):
    """Keras itself decides for the plain base."""
    weights, statistics = {"kernel", "bias", "gamma", "beta"}, {"moving_mean", "moving_variance"}
    for frozen in (False, True):
        model = build_xception(weights="none", freeze_statistics=frozen)
        model.get_layer("base").trainable = False
        assert moved(model) == set()
        model.get_layer("base").trainable = True
        assert moved(model) == (weights if frozen else weights | statistics)


def test_plain_keras_opens_what_was_trained(model, synthetic, tmp_path):
    inference.save_model(model, tmp_path)
    images = synthetic.x_test[:8]
    plain = probabilities_of_plain_keras(tmp_path, images)
    np.testing.assert_allclose(plain, predict(model, images), atol=1e-5)
    assert plain.std(axis=0).max() > 1e-4, "all images look the same to it"


def test_environment_names_the_weights_of_imagenet_alone(weights_file, monkeypatch, quick_base):
    monkeypatch.setenv("HOME", str(weights_file.parent))
    monkeypatch.setenv("XCEPTION_WEIGHTS", f"~/{weights_file.name}")
    build_xception(weights="imagenet")
    monkeypatch.setenv("XCEPTION_WEIGHTS", "/elsewhere.h5")
    build_xception(weights=str(weights_file))
    build_xception(weights="none")
    assert quick_base == [str(weights_file), str(weights_file), None]


def test_no_network_access_is_one_sentence(monkeypatch):
    def without_model(**options):
        raise OSError(f"asked for {options['weights']}")

    monkeypatch.setattr(keras.applications, "Xception", without_model)
    monkeypatch.setenv("XCEPTION_WEIGHTS", "")
    with pytest.raises(WeightsError, match=r"could not be downloaded \(asked for imagenet\): che"):
        build_xception(weights="imagenet")


@pytest.mark.parametrize("named", [False, True])
def test_missing_file_is_one_sentence_that_knows_who_named_it(tmp_path, monkeypatch, named):
    missing = str(tmp_path / "missing.h5")
    monkeypatch.setenv("XCEPTION_WEIGHTS", missing)
    way_out = "correct XCEPTION_WEIGHTS, or" if named else "parameter weights, or use .imag"
    with pytest.raises(WeightsError, match=rf"no file .*missing\.h5 with .*: .*{way_out}"):
        build_xception(weights="imagenet" if named else missing)


DAMAGED = {
    "empty": lambda whole, file: file.touch(),
    "cut": lambda whole, file: file.write_bytes(whole.read_bytes()[:40_000_000]),
    "text": lambda whole, file: file.write_text("text"),
    "of another model": lambda whole, file: build_resnet((1,), width=4).save_weights(file),
}


@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_one_sentence(weights_file, quick_base, tmp_path, make):
    file = tmp_path / "a.weights.h5"
    make(weights_file, file)
    with pytest.raises(WeightsError, match="does not hold the weights of Xception") as caught:
        build_xception(weights=str(file))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def tiny_model(seed=3, **options):
    keras.utils.set_random_seed(seed)
    return build_resnet(**{"num_blocks": (1,), "width": 4, "dropout_rate": 0.0} | options)


def frozen_part(model):
    return keras.Model(model.input, model.get_layer("pool").output)


def directly(model, images):
    return frozen_part(model).predict(images, verbose=0).astype("float32")


@pytest.fixture
def computed(monkeypatch):
    """The numbers of images that pass through frozen layers, call by call."""
    counts, predict = [], inference.predict

    def counting(model, images, **options):
        counts.append(len(images))
        return predict(model, images, **options)

    monkeypatch.setattr(inference, "predict", counting)
    return counts


@pytest.mark.every_backend
def test_features_are_computed_once_and_equal_what_the_layers_give(synthetic, tmp_path, computed):
    """Random transforms rest, and neither they nor the layers' names matter."""
    images = synthetic.x_train[:150]
    for seed in (1, 2):
        model = tiny_model(augmentation=RandomTransforms(seed=seed, cutout=seed))
        got, seconds = cached_features(frozen_part(model), images, tmp_path)
        assert got.dtype == np.float32 and seconds > 0
        np.testing.assert_allclose(got, directly(model, images), rtol=1e-4, atol=1e-6)
    assert computed == [150]


@pytest.mark.parametrize("change", ["one pixel", "weights", "layers"])
def test_other_features_are_computed_anew(synthetic, tmp_path, computed, change):
    images = synthetic.x_train[:60].copy()
    cached_features(frozen_part(tiny_model()), images, tmp_path)
    images[7, 3, 5, 1] ^= change == "one pixel"
    num_blocks = (1, 1) if change == "layers" else (1,)
    model = tiny_model(3 + (change == "weights"), num_blocks=num_blocks)
    got, _ = cached_features(frozen_part(model), images, tmp_path)
    assert computed == [60, 60]
    np.testing.assert_allclose(got, directly(model, images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [0, 700])
def test_damaged_cache_is_computed_anew(synthetic, tmp_path, computed, kept):
    images = synthetic.x_train[:60]
    expected, _ = cached_features(frozen_part(tiny_model()), images, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:kept])
    for _ in range(2):
        got, _ = cached_features(frozen_part(tiny_model()), images, tmp_path)
        np.testing.assert_array_equal(got, expected)
    assert computed == [60, 60]


def test_half_the_space_under_mixed_precision(synthetic, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, images = tiny_model(), synthetic.x_train[:20]
    got, _ = cached_features(frozen_part(model), images, tmp_path)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, directly(model, images), atol=0.02)
