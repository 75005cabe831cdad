import json
import shutil

import keras
import numpy as np
import pytest

from cifar100_helpers import features, training
from cifar100_helpers.checkpoint import alone
from cifar100_helpers.errors import RunError
from cifar100_helpers.features import frozen_features, layers_after
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.training import train
from cifar100_helpers.transforms import RandomTransforms

pytestmark = pytest.mark.usefixtures("fresh_keras")

CUTS = ("stem_relu", "pool")
PHASES = (Phase(2, 1e-2, frozen_until="pool"), Phase(1, 1e-3))


def tiny_network(seed=3, **options):
    keras.utils.set_random_seed(seed)
    return build_resnet((1,), width=4, **options)


def directly(network, images, cut):
    return keras.Model(network.input, network.get_layer(cut).output).predict(images, verbose=0)


@pytest.fixture
def computed(monkeypatch):
    """The numbers of images that pass through a network, call by call."""
    counts = []
    predict = keras.Model.predict

    def counting(self, x, **options):
        counts.append(len(x))
        return predict(self, x, **options)

    monkeypatch.setattr(keras.Model, "predict", counting)
    monkeypatch.setattr(features, "ROWS", 64)
    return counts


@pytest.mark.parametrize("cuts", [CUTS, CUTS[1:]])
def test_equal_what_the_network_gives(synthetic, tmp_path, computed, cuts):
    """In one step and in two, over several pieces of the images, the last one smaller."""
    network, images = tiny_network(), synthetic.x_train[:150]
    got, seconds = frozen_features(network, images, cuts, tmp_path)
    assert computed == [64, 64, 22] * len(cuts)
    assert isinstance(got, np.memmap) and got.dtype == np.float32
    assert len(seconds) == len(cuts) and min(seconds.values()) > 0
    np.testing.assert_allclose(got, directly(network, images, "pool"), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 0


def test_second_time_they_are_read(synthetic, tmp_path, computed):
    first, seconds = frozen_features(tiny_network(), synthetic.x_train[:100], CUTS, tmp_path)
    del computed[:]
    keras.utils.clear_session()  # other names, same layers
    again, same_seconds = frozen_features(tiny_network(), synthetic.x_train[:100], CUTS, tmp_path)
    assert computed == [] and same_seconds == seconds
    np.testing.assert_array_equal(first, again)


def other_image(images):
    changed = images.copy()
    changed[7, 3, 5, 1] ^= 1
    return changed


@pytest.mark.parametrize(
    ("network", "images"),
    [
        (tiny_network, other_image),
        (tiny_network, lambda images: images[::-1]),
        (lambda: tiny_network(seed=4), lambda images: images),
        (lambda: tiny_network(input_shape=(40, 40, 3)), lambda images: images.repeat(2, 1)[:, :40]),
        (lambda: build_resnet((1, 1), width=4), lambda images: images),
    ],
    ids=["one pixel", "order", "weights", "size", "layers"],
)
def test_stale_features_are_never_used(synthetic, tmp_path, computed, network, images):
    original = synthetic.x_train[:60]
    frozen_features(tiny_network(), original, CUTS, tmp_path)
    del computed[:]
    network, images = network(), images(original)
    if network.input.shape[1] == 40:
        images = images.repeat(2, 2)[:, :, :40]
    got, _ = frozen_features(network, images, CUTS, tmp_path)
    assert sum(computed) == 2 * len(images)
    np.testing.assert_allclose(got, directly(network, images, "pool"), rtol=1e-4, atol=1e-6)


def test_other_weights_after_training_are_noticed(synthetic, tmp_path):
    network, images = tiny_network(), synthetic.x_train[:60]
    before, _ = frozen_features(network, images, CUTS, tmp_path)
    layer = network.get_layer("stem_conv")
    layer.set_weights([1.1 * weight for weight in layer.get_weights()])
    after, _ = frozen_features(network, images, CUTS, tmp_path)
    assert not np.allclose(before, after)


def test_random_transforms_rest_and_their_seed_does_not_matter(synthetic, tmp_path, computed):
    images = synthetic.x_train[:60]
    for seed in (1, 2):
        network = tiny_network(augmentation=RandomTransforms(seed=seed))
        got, _ = frozen_features(network, images, ["pool"], tmp_path)
        np.testing.assert_allclose(got, directly(network, images, "pool"), rtol=1e-4, atol=1e-6)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize("calls_before", [0, 1, 2, 4, 5])
def test_interrupted_computation_goes_on(synthetic, tmp_path, computed, monkeypatch, calls_before):
    images = synthetic.x_train[:150]
    expected = directly(tiny_network(), images, "pool")
    counting = keras.Model.predict
    del computed[:]

    def interrupted(self, x, **options):
        if len(computed) == calls_before:
            raise KeyboardInterrupt
        return counting(self, x, **options)

    monkeypatch.setattr(keras.Model, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(tiny_network(), images, CUTS, tmp_path)
    monkeypatch.setattr(keras.Model, "predict", counting)
    got, _ = frozen_features(tiny_network(), images, CUTS, tmp_path)
    assert computed == [64, 64, 22] * 2  # nothing twice
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("interrupted", [True, False])
def test_damaged_file_is_computed_anew(synthetic, tmp_path, computed, kept, interrupted):
    images = synthetic.x_train[:150]
    expected, _ = frozen_features(tiny_network(), images, ["pool"], tmp_path)
    expected = np.array(expected)
    file = next(tmp_path.glob("*.npy"))
    if interrupted:
        file = file.rename(file.with_suffix(".unfinished"))
        file.with_suffix(".json").write_text(json.dumps({"rows": 128, "seconds": 1.0}))
    content = file.read_bytes()
    file.write_bytes(content[: kept if kept in (0, 100) else int(len(content) * kept)])
    got, _ = frozen_features(tiny_network(), images, ["pool"], tmp_path)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "note", ["", "[]", "{}", "null", '{"rows": 999, "seconds": 1}', '{"rows": -1, "seconds": 1}']
)
@pytest.mark.parametrize("suffix", [".npy", ".unfinished"])
def test_damaged_note_of_progress_lets_all_be_computed_anew(synthetic, tmp_path, note, suffix):
    images = synthetic.x_train[:150]
    expected, _ = frozen_features(tiny_network(), images, ["pool"], tmp_path)
    expected = np.array(expected)
    file = next(tmp_path.glob("*.npy"))
    file = file.rename(file.with_suffix(suffix))
    file.write_bytes(file.read_bytes()[:-1000] + bytes(1000))  # rows that it has not written yet
    file.with_suffix(".json").write_text(note)
    got, _ = frozen_features(tiny_network(), images, ["pool"], tmp_path)
    np.testing.assert_array_equal(got, expected)


def test_no_room_is_one_sentence_and_nothing_is_written(synthetic, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(RunError, match=r"Features need .* make room"):
        frozen_features(tiny_network(), synthetic.x_train[:50], CUTS, tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".lock"]


def test_computed_by_one_process_at_a_time(synthetic, tmp_path):
    network, images = tiny_network(), synthetic.x_train[:50]
    frozen_features(network, images, ["pool"], tmp_path)
    (lock,) = tmp_path.glob("*.lock")
    with alone(lock, "works in"), pytest.raises(RunError, match="computes the same features"):
        frozen_features(network, images, ["pool"], tmp_path)


def test_half_the_space_under_mixed_precision(synthetic, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    network, images = tiny_network(), synthetic.x_train[:50]
    got, _ = frozen_features(network, images, CUTS, tmp_path)
    assert got.dtype == np.float16
    expected = directly(network, images, "pool").astype("float32")
    np.testing.assert_allclose(got, expected, atol=0.02)


@pytest.mark.every_backend
def test_layers_after_a_cut_share_their_weights_with_the_network(synthetic):
    network, images = tiny_network(), synthetic.x_train[:20]
    head = layers_after(network, "pool")
    head.layers[-1].bias.assign(np.arange(100.0))
    np.testing.assert_allclose(
        head.predict(directly(network, images, "pool"), verbose=0),
        network.predict(images, verbose=0),
        rtol=1e-4,
    )


# Training on features


def run(data, folder, *, features_dir, phases=PHASES):
    network = tiny_network(dropout_rate=0.0)
    options = {"run_dir": folder, "parameters": {}, "batch_size": 64, "seed": 3}
    validation = (data.x_test[:100], data.y_test[:100])
    state = train(
        network,
        data.x_train[:300],
        data.y_train[:300],
        phases,
        validation_data=validation,
        features_dir=features_dir,
        **options,
    )
    return network, state


@pytest.mark.every_backend
def test_head_on_features_equals_head_in_the_network(synthetic, tmp_path):
    """Same batches, same weights, in the frozen phase and in the one after it."""
    on_features, state = run(synthetic, tmp_path / "a", features_dir=tmp_path / "features")
    within, slow_state = run(synthetic, tmp_path / "b", features_dir=None)
    for ours, theirs in zip(on_features.weights, within.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(state["history"][name], slow_state["history"][name], rtol=1e-4)
    assert len(state["feature_seconds"]) == 2 and slow_state["feature_seconds"] == {}


def test_frozen_phase_moves_no_frozen_weight(synthetic, tmp_path):
    before = tiny_network(dropout_rate=0.0).get_weights()
    for features_dir in (None, tmp_path / "features"):
        folder = tmp_path / f"run_{features_dir is None}"
        network, _ = run(synthetic, folder, features_dir=features_dir, phases=PHASES[:1])
        now = network.get_weights()
        moved = [not np.array_equal(*pair) for pair in zip(before, now, strict=True)]
        assert moved == [False] * (len(moved) - 2) + [True, True]  # the last layer's alone


def test_resumed_in_either_phase_it_ends_as_the_uninterrupted(synthetic, tmp_path):
    whole, state = run(synthetic, tmp_path / "whole", features_dir=tmp_path / "features")
    for epochs in (1, 2):
        folder = tmp_path / f"stopped_{epochs}"
        run_until(synthetic, folder, tmp_path / "features", epochs)
        resumed, resumed_state = run(synthetic, folder, features_dir=tmp_path / "features")
        for ours, theirs in zip(resumed.weights, whole.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert resumed_state["history"] == state["history"]
        assert resumed_state["feature_seconds"] == state["feature_seconds"]


def run_until(data, folder, features_dir, epochs):
    fit_epoch = training._fit_epoch

    def stopped(model, batches, epoch, *rest):
        if epoch == epochs:
            raise KeyboardInterrupt
        return fit_epoch(model, batches, epoch, *rest)

    training._fit_epoch = stopped
    try:
        with pytest.raises(KeyboardInterrupt):
            run(data, folder, features_dir=features_dir)
    finally:
        training._fit_epoch = fit_epoch


def test_training_uses_what_was_computed_before_it(synthetic, tmp_path, computed):
    features_dir = tmp_path / "features"
    for images in (synthetic.x_train[:300], synthetic.x_test[:100]):
        frozen_features(tiny_network(dropout_rate=0.0), images, ["pool"], features_dir)
    del computed[:]
    _, state = run(synthetic, tmp_path / "run", features_dir=features_dir)
    assert computed == [] and len(state["feature_seconds"]) == 2


def test_deeper_features_are_computed_from_those_that_a_later_phase_needs(
    synthetic, tmp_path, computed
):
    phases = (Phase(1, 1e-3, frozen_until="pool"), Phase(1, 1e-3, frozen_until="stem_relu"))
    run(synthetic, tmp_path / "run", features_dir=tmp_path / "features", phases=phases)
    assert sum(computed) == 2 * (300 + 100)  # each image once through each part
