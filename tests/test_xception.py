import io
import os
import subprocess
import sys
import zipfile

import cv2
import h5py
import keras
import numpy as np
import pytest

from cifar100_helpers.batches import one_hot
from cifar100_helpers.compiling import compile_phase
from cifar100_helpers.errors import ParameterError, WeightsError
from cifar100_helpers.recipes import Phase, xception_phases
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.transforms import RandomTransforms
from cifar100_helpers.xception import build_xception

pytestmark = pytest.mark.usefixtures("fresh_keras")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    return build_xception(weights="none")


@pytest.mark.every_backend
def test_parameters_are_the_published_number(network):
    assert network.count_params() == 21_961_868
    assert network.get_layer("base").count_params() == 20_861_480


@pytest.mark.every_backend
def test_resized_and_scaled_as_if_done_beforehand(network, synthetic):
    """OpenCV resizes, Keras's own function scales."""
    images = synthetic.x_test[:4]
    resized = [
        cv2.resize(x.astype("float32"), (71, 71), interpolation=cv2.INTER_LINEAR) for x in images
    ]
    expected = keras.applications.xception.preprocess_input(np.stack(resized))
    prepared = keras.Model(network.input, network.get_layer("resize").output)
    np.testing.assert_allclose(prepared.predict(images, verbose=0), expected, atol=1e-5)


def test_base_is_keras_own(network, synthetic):
    own = keras.applications.Xception(include_top=False, weights=None, input_shape=(71, 71, 3))
    own.set_weights(network.get_layer("base").get_weights())
    prepared = keras.Model(network.input, network.get_layer("resize").output)
    inputs = prepared.predict(synthetic.x_test[:2], verbose=0)
    ours = keras.Model(network.input, network.get_layer("pool").output)
    expected = own.predict(inputs, verbose=0).mean(axis=(1, 2))
    np.testing.assert_allclose(
        ours.predict(synthetic.x_test[:2], verbose=0), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("blocks", [1, 8, 13])
def test_dividing_the_base_changes_nothing(synthetic, tmp_path, blocks):
    """Both read the same weights file."""
    file = tmp_path / "random.weights.h5"
    keras.applications.Xception(include_top=False, weights=None).save_weights(file)
    whole = build_xception(weights=str(file))
    divided = build_xception(weights=str(file), frozen_blocks=blocks)
    assert divided.count_params() == whole.count_params()
    assert 0 < divided.get_layer("frozen_blocks").count_params() < 20_861_480
    pooled = [
        keras.Model(model.input, model.get_layer("pool").output).predict(
            synthetic.x_test[:4], verbose=0
        )
        for model in (whole, divided)
    ]
    np.testing.assert_allclose(*pooled, rtol=1e-5, atol=1e-6)


def test_blocks_end_where_the_architecture_says():
    sides = {}
    for blocks in (1, 3, 4, 12, 13):
        model = build_xception(image_size=128, weights="none", frozen_blocks=blocks)
        sides[blocks] = model.get_layer("frozen_blocks").output.shape[1:]
    assert sides == {
        1: (61, 61, 64),
        3: (16, 16, 256),
        4: (8, 8, 728),
        12: (8, 8, 728),
        13: (4, 4, 1024),
    }


@pytest.mark.every_backend
def test_batch_statistics_stay_those_of_imagenet_when_everything_is_trained(network, synthetic):
    def statistics():
        return [w.numpy() for w in network.get_layer("base").non_trainable_weights]

    compile_phase(network, Phase(1, 1e-3), 1)
    before = statistics()
    kernel = network.get_layer("base").layer.get_layer("block14_sepconv2").get_weights()[0]
    network.train_on_batch(synthetic.x_train[:4], one_hot(synthetic.y_train[:4], 100))
    assert len(before) == 80
    for a, b in zip(before, statistics(), strict=True):
        np.testing.assert_array_equal(a, b)
    after = network.get_layer("base").layer.get_layer("block14_sepconv2").get_weights()[0]
    assert not np.array_equal(kernel, after)


def trained(model, phase):
    compile_phase(model, phase, 1)
    return [layer.name for layer in model.layers if layer.trainable_weights]


@pytest.mark.every_backend
def test_what_each_phase_trains(network):
    head, *finetuning = xception_phases("published", 20, 26)
    assert trained(network, head) == ["hidden", "probabilities"]
    for phase in finetuning:
        assert trained(network, phase) == ["base", "hidden", "probabilities"]


def test_frozen_blocks_are_trained_in_no_phase():
    model = build_xception(weights="none", frozen_blocks=8)
    head, finetuning = xception_phases("modern", 2, 2, frozen_blocks=8)
    assert trained(model, head) == ["hidden", "probabilities"]
    assert trained(model, finetuning) == ["base", "hidden", "probabilities"]


def test_published_schedule():
    phases = xception_phases("published", 20, 26)
    assert [phase.epochs for phase in phases] == [20, 16, 10]
    assert [phase.learning_rate for phase in phases] == [2e-4, 5e-6, 2e-6]
    assert {phase.optimizer for phase in phases} == {"adam"}


def test_schedule_without_finetuning_and_without_a_frozen_phase():
    assert [phase.epochs for phase in xception_phases("published", 3, 0)] == [3]
    assert [phase.epochs for phase in xception_phases("published", 0, 13)] == [8, 5]
    assert [phase.epochs for phase in xception_phases("published", 1, 1)] == [1, 1]


def test_augmentation_comes_before_the_trained_blocks():
    order = {
        blocks: [
            layer.name
            for layer in build_xception(
                weights="none", frozen_blocks=blocks, augmentation=RandomTransforms(name="random")
            ).layers
        ]
        for blocks in (0, 12)
    }
    assert order[0][:5] == ["images", "random", "rescale", "resize", "base"]
    assert order[12][:6] == ["images", "rescale", "resize", "frozen_blocks", "random", "base"]


# Weights


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    keras.utils.set_random_seed(5)
    keras.applications.Xception(include_top=False, weights=None).save_weights(file)
    return file


def first_kernel(model):
    return model.get_layer("base").layer.get_layer("block1_conv1").get_weights()[0]


def test_weights_from_a_file_by_name_and_by_environment(weights_file, monkeypatch):
    by_name = build_xception(weights=str(weights_file))
    monkeypatch.setenv("XCEPTION_WEIGHTS", str(weights_file))
    by_environment = build_xception(weights="imagenet")
    monkeypatch.setenv("HOME", str(weights_file.parent))
    in_home = build_xception(weights=f"~/{weights_file.name}")
    np.testing.assert_array_equal(first_kernel(in_home), first_kernel(by_name))
    np.testing.assert_array_equal(first_kernel(by_name), first_kernel(by_environment))
    assert not np.array_equal(first_kernel(build_xception(weights="none")), first_kernel(by_name))


def test_empty_variable_names_no_file(monkeypatch):
    def without_network(**options):
        raise OSError(f"asked for {options['weights']}")

    monkeypatch.setattr(keras.applications, "Xception", without_network)
    monkeypatch.setenv("XCEPTION_WEIGHTS", "")
    with pytest.raises(WeightsError, match=r"could not be fetched \(asked for imagenet\)"):
        build_xception(weights="imagenet")


@pytest.mark.parametrize("variable", [True, False])
def test_missing_file_is_one_sentence(tmp_path, monkeypatch, variable):
    missing = tmp_path / "missing.h5"
    if variable:
        monkeypatch.setenv("XCEPTION_WEIGHTS", str(missing))
    with pytest.raises(WeightsError, match=r"no file .*missing\.h5"):
        build_xception(weights="imagenet" if variable else str(missing))


@pytest.mark.parametrize("kept", [0, 1000, 40_000_000])
def test_truncated_file_is_one_sentence(weights_file, tmp_path, kept):
    file = tmp_path / "cut.weights.h5"
    file.write_bytes(weights_file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cut\.weights\.h5 does not hold"):
        build_xception(weights=str(file))


def test_file_of_another_network_is_one_sentence(tmp_path):
    file = tmp_path / "resnet.weights.h5"
    build_resnet((1,), width=4).save_weights(file)
    with pytest.raises(WeightsError, match=r"resnet\.weights\.h5 does not hold"):
        build_xception(weights=str(file))


def with_other_datasets(weights_file, file, make):
    """`file` with the names in `weights_file`, each dataset made by `make(group, name)`."""
    with h5py.File(weights_file) as whole, h5py.File(file, "w") as other:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                make(other.require_group(os.path.dirname(name)), os.path.basename(name))

        whole.visititems(copy)


def external_storage(group, name):
    group.create_dataset(name, (4,), "u1", external=[("/etc/passwd", 0, 4)])


HOSTILE = {
    "datasets of 64 terabytes": lambda group, name: group.create_dataset(
        name, (1 << 22, 1 << 22), "f4", chunks=(64, 64)
    ),
    "datasets of another shape": lambda group, name: group.create_dataset(name, data=np.zeros(3)),
    "text": lambda group, name: group.create_dataset(name, data="text"),
    "links to another file": lambda group, name: group.__setitem__(
        name, h5py.ExternalLink("/etc/passwd", "/")
    ),
    "links to itself": lambda group, name: group.__setitem__(name, h5py.SoftLink(group.name)),
    "contents of another file": external_storage,
    "groups": lambda group, name: group.create_group(name),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_one_sentence(weights_file, tmp_path, make):
    file = tmp_path / "hostile.weights.h5"
    with_other_datasets(weights_file, file, make)
    with pytest.raises(WeightsError, match=r"hostile\.weights\.h5 does not hold") as caught:
        build_xception(weights=str(file))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def packed(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


OTHER_FILES = {
    "a.txt": b"text",
    "a.h5": b"text",
    "a.weights.h5": b"text",
    "a.weights.json": b'{"weight_map": 5}',
    "a.keras": packed("model.weights.h5", b"text"),
}


@pytest.mark.parametrize(("name", "content"), OTHER_FILES.items(), ids=OTHER_FILES)
def test_other_file_is_one_sentence_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="does not hold the weights of Xception"):
        build_xception(weights=str(tmp_path / name))


def test_no_network_is_one_sentence(tmp_path):
    program = "from cifar100_helpers import build_xception; build_xception()"
    nowhere = {"KERAS_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    environment = {k: v for k, v in os.environ.items() if k != "XCEPTION_WEIGHTS"} | nowhere
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "WeightsError: The ImageNet weights of Xception could not be fetched" in done.stderr


@pytest.mark.parametrize("blocks", [14, -1])
def test_base_cannot_be_divided_there(blocks):
    with pytest.raises(ParameterError, match="frozen_blocks must be from 0 to 13"):
        build_xception(weights="none", frozen_blocks=blocks)
