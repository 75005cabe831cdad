import cv2
import keras
import numpy as np
import pytest
from test_results import probabilities_of_plain_keras

from cifar100_helpers import inference, results
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import WeightsError
from cifar100_helpers.inference import frozen_features, predict
from cifar100_helpers.recipes import Phase, compile_phase, xception_phases
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.training import ShuffledBatches, train
from cifar100_helpers.xception import InferenceMode, build_xception

pytestmark = pytest.mark.usefixtures("fresh_keras")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    network = build_xception(weights="none")
    for layer in network.get_layer("base").layer.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Random weights let the signal die out, and all images would look the same.
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.1))
    return network


@pytest.fixture(scope="module")
def weights_file(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    network.get_layer("base").layer.save_weights(file)
    return file


@pytest.fixture
def quick_base(network, monkeypatch):
    """Building takes no time: Keras's function gives the base of `network`, and loads weights."""
    asked = []

    def xception(weights, **options):
        asked.append(weights)
        if weights:
            network.get_layer("base").layer.load_weights(weights)
        return network.get_layer("base").layer

    monkeypatch.setattr(keras.applications, "Xception", xception)
    return asked


@pytest.mark.every_backend
def test_parameters_are_the_published_number(network):
    assert network.count_params() == 21_961_868
    assert network.get_layer("base").count_params() == 20_861_480


@pytest.mark.every_backend
def test_resized_and_scaled_as_if_done_beforehand(network, synthetic):
    """OpenCV resizes, Keras's own function scales."""
    images = synthetic.x_test[:4]
    resized = [cv2.resize(image.astype("float32"), (71, 71)) for image in images]
    expected = keras.applications.xception.preprocess_input(np.stack(resized))
    prepared = keras.Model(network.input, network.get_layer("resize").output)
    np.testing.assert_allclose(prepared.predict(images, verbose=0), expected, atol=1e-5)


@pytest.mark.every_backend
def test_inference_mode_keeps_statistics_while_weights_learn():
    base = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, InferenceMode(base)(inputs))
    model.compile("sgd", "mse")
    before = [weight.numpy() for weight in base.weights]
    rng = np.random.default_rng(0)
    model.fit(rng.normal(2, 3, (8, 3)), rng.normal(size=(8, 4)), verbose=0)
    moved = [not np.array_equal(a, b.numpy()) for a, b in zip(before, base.weights, strict=True)]
    names = [weight.name for weight in base.weights]
    assert dict(zip(names, moved, strict=True)) == {
        **dict.fromkeys(("kernel", "bias", "gamma", "beta"), True),
        **dict.fromkeys(("moving_mean", "moving_variance"), False),
    }


def test_what_each_phase_trains(network):
    head, *finetuning = xception_phases("published", 20, 26)

    def trained(phase):
        compile_phase(network, phase, 1)
        return [layer.name for layer in network.layers if layer.trainable_weights]

    assert isinstance(network.get_layer("base"), InferenceMode)
    assert trained(head) == ["hidden", "probabilities"]
    for phase in finetuning:
        assert trained(phase) == ["base", "hidden", "probabilities"]


def test_plain_keras_opens_what_was_trained(network, synthetic, tmp_path):
    results.save_network(network, tmp_path)
    images = synthetic.x_test[:8]
    plain = probabilities_of_plain_keras(tmp_path, images)
    np.testing.assert_allclose(plain, predict(network, images), atol=1e-5)
    assert plain.std(axis=0).max() > 1e-4, "all images look the same to it"


# Weights


def test_weights_from_the_file_that_the_environment_names(network, weights_file, monkeypatch):
    monkeypatch.setenv("HOME", str(weights_file.parent))
    monkeypatch.setenv("XCEPTION_WEIGHTS", f"~/{weights_file.name}")
    loaded = build_xception(weights="imagenet").get_layer("base").get_weights()
    for ours, theirs in zip(loaded, network.get_layer("base").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_environment_names_the_weights_of_imagenet_alone(weights_file, monkeypatch, quick_base):
    monkeypatch.setenv("XCEPTION_WEIGHTS", "/elsewhere.h5")
    build_xception(weights=str(weights_file))
    build_xception(weights="none")
    assert quick_base == [str(weights_file), None]


def test_no_network_is_one_sentence(monkeypatch):
    def without_network(**options):
        raise OSError(f"asked for {options['weights']}")

    monkeypatch.setattr(keras.applications, "Xception", without_network)
    monkeypatch.setenv("XCEPTION_WEIGHTS", "")
    with pytest.raises(WeightsError, match=r"could not be downloaded \(asked for imagenet\): che"):
        build_xception(weights="imagenet")


@pytest.mark.parametrize("by_environment", [True, False])
def test_missing_file_is_one_sentence(tmp_path, monkeypatch, by_environment):
    missing = str(tmp_path / "missing.h5")
    monkeypatch.setenv("XCEPTION_WEIGHTS", missing)
    with pytest.raises(WeightsError, match=r"no file .*missing\.h5 with the weights"):
        build_xception(weights="imagenet" if by_environment else missing)


DAMAGED = {
    "empty": lambda whole, file: file.touch(),
    "cut": lambda whole, file: file.write_bytes(whole.read_bytes()[:40_000_000]),
    "text": lambda whole, file: file.write_text("text"),
    "of another network": lambda whole, file: build_resnet((1,), width=4).save_weights(file),
}


@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras"])
def test_damaged_file_is_one_sentence(weights_file, quick_base, tmp_path, make, name):
    make(weights_file, tmp_path / "a.weights.h5")
    file = (tmp_path / "a.weights.h5").rename(tmp_path / name)
    with pytest.raises(WeightsError, match="does not hold the weights of Xception") as caught:
        build_xception(weights=str(file))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


# Features of frozen layers


def tiny_network(seed=3, **options):
    keras.utils.set_random_seed(seed)
    return build_resnet((1,), width=4, **{"dropout_rate": 0.0} | options)


def directly(network, images):
    return keras.Model(network.input, network.get_layer("pool").output).predict(images, verbose=0)


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
        network = tiny_network(augmentation=RandomTransforms(seed=seed, cutout=seed))
        got, seconds = frozen_features(network, images, "pool", tmp_path)
        assert got.dtype == np.float32 and seconds > 0
        np.testing.assert_allclose(got, directly(network, images), rtol=1e-4, atol=1e-6)
    assert computed == [150]


def one_pixel_changed(images):
    changed = images.copy()
    changed[7, 3, 5, 1] ^= 1
    return changed


@pytest.mark.parametrize(
    ("other_network", "other_images"),
    [
        (tiny_network, one_pixel_changed),
        (tiny_network, lambda images: images[::-1]),
        (lambda: tiny_network(seed=4), np.array),
        (lambda: build_resnet((1, 1), width=4), np.array),
    ],
    ids=["one pixel", "order", "weights", "layers"],
)
def test_other_features_are_computed_anew(
    synthetic, tmp_path, computed, other_network, other_images
):
    frozen_features(tiny_network(), synthetic.x_train[:60], "pool", tmp_path)
    network, images = other_network(), other_images(synthetic.x_train[:60])
    got, _ = frozen_features(network, images, "pool", tmp_path)
    assert computed == [60, 60]
    np.testing.assert_allclose(got, directly(network, images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [0, 100, 700])
def test_damaged_cache_is_computed_anew(synthetic, tmp_path, computed, kept):
    images = synthetic.x_train[:60]
    expected, _ = frozen_features(tiny_network(), images, "pool", tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:kept])
    for _ in range(2):
        got, _ = frozen_features(tiny_network(), images, "pool", tmp_path)
        np.testing.assert_array_equal(got, expected)
    assert computed == [60, 60]


def test_half_the_space_under_mixed_precision(synthetic, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    network, images = tiny_network(), synthetic.x_train[:20]
    got, _ = frozen_features(network, images, "pool", tmp_path)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, directly(network, images).astype("float32"), atol=0.02)


@pytest.mark.every_backend
def test_head_on_features_equals_head_in_the_network(synthetic, tmp_path):
    """The same batches by plain Keras, on images, with the other layers frozen."""
    x, y = synthetic.x_train[:300], synthetic.y_train[:300]
    ours, plain = tiny_network(), tiny_network()
    phases = (Phase(2, 1e-2, frozen_until="pool"),)
    options = {"run_dir": tmp_path / "run", "parameters": {}, "batch_size": 64, "seed": 3}
    state = train(ours, x, y, phases, **options)

    for layer in plain.layers[:-1]:
        layer.trainable = False
    plain.compile(keras.optimizers.Adam(1e-2), "categorical_crossentropy")
    losses = []
    for epoch in range(2):
        batches = ShuffledBatches(x, y, 64, (3, epoch), classes=100)
        losses += plain.fit(batches, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(state["history"]["loss"], losses, rtol=1e-4)
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
