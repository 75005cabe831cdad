"""What a run leaves to take home: model.keras, which plain Keras opens."""

import itertools
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from test_training import PARAMETERS, PHASES, compile_for, tiny_model, tiny_run

from cifar100_helpers import results, training
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import RunError, Stopped
from cifar100_helpers.inference import predict, save_model
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.training import Run

pytestmark = pytest.mark.usefixtures("fresh_keras")

PLAIN_KERAS = """
import sys
sys.modules["cifar100_helpers"] = None  # to import it fails
import keras, numpy as np
model = keras.saving.load_model("model.keras")
np.save("plain.npy", model.predict(np.load("images.npy"), verbose=0))
"""


KNOWN_TO_KERAS_3_12 = """
activation antialias axis batch_shape center crop_to_aspect_ratio data_format depth_multiplier
dilation_rate dtype epsilon fill_mode fill_value filters groups height interpolation keepdims
kernel_size max_value momentum name negative_slope noise_shape offset optional
pad_to_aspect_ratio padding pool_size ragged rate scale seed sparse strides threshold trainable
units use_bias width
"""


def layer_settings(config):
    for layer in config["layers"]:
        nested = "layers" in layer["config"]
        yield from layer_settings(layer["config"]) if nested else layer["config"]


def probabilities_of_plain_keras(run_dir, images):
    """What a process without this package reads from `run_dir`/model.keras for `images`.

    The oldest Keras that may open it knows all settings of its layers.
    """
    config = json.loads(zipfile.ZipFile(run_dir / "model.keras").read("config.json"))
    assert set(layer_settings(config["config"])) <= set(KNOWN_TO_KERAS_3_12.split())
    np.save(run_dir / "images.npy", images)
    command = [sys.executable, "-c", PLAIN_KERAS]
    done = subprocess.run(command, cwd=run_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(run_dir / "plain.npy")


@pytest.mark.every_backend
def test_plain_keras_opens_what_was_trained_and_predicts_what_was_recorded(synthetic, tmp_path):
    # With fewer than 8 filters, TensorFlow 2.21 corrupts memory in the second stage on one core.
    model = build_resnet((1, 1), width=8, augmentation=RandomTransforms())
    compile_for(model, PHASES[1])
    x, y = synthetic.x_train[:16], synthetic.y_train[:16]
    parameters = {"dataset": "synthetic", "seed": 0, "batch_size": 16}
    run = Run(tmp_path, parameters, PHASES[1:], petaflops=[0.2])
    run.fit(model, x, y, phase=PHASES[1])
    kernel, bias = model.get_layer("probabilities").get_weights()
    model.get_layer("probabilities").set_weights([100 * kernel, bias])  # or all look the same

    recorded = results.finish_run(run, model, synthetic, validation=(x, y))
    plain = probabilities_of_plain_keras(tmp_path, np.concatenate([synthetic.x_test, x]))
    stored = np.concatenate([recorded.probabilities, recorded.validation_probabilities])
    np.testing.assert_allclose(plain, stored, rtol=2**-10, atol=1e-6)
    assert plain.std(axis=0).max() > 1e-3, "all look the same"
    np.testing.assert_allclose(plain[-16:], predict(model, x), atol=1e-6)


def test_run_that_is_not_trained_to_its_end_is_never_tested(synthetic, tmp_path, monkeypatch):
    """Stopped in its last epoch; trained, but by another process; or built anew since then."""
    _, whole = tiny_run(synthetic, tmp_path / "whole")
    other = Run(whole.run_dir, PARAMETERS, PHASES, petaflops=[0.1, 0.2])
    stopped = Run(tmp_path / "stopped", PARAMETERS, PHASES[1:], petaflops=[0.2])
    model, fit_epoch = tiny_model(), Run._fit_epoch
    compile_for(model, PHASES[1])

    def fit_until_the_last(self, model, x, y, epoch, *rest):
        if epoch == 1:
            raise Stopped
        return fit_epoch(self, model, x, y, epoch, *rest)

    monkeypatch.setattr(Run, "_fit_epoch", fit_until_the_last)
    with pytest.raises(Stopped):
        stopped.fit(model, synthetic.x_train[:70], synthetic.y_train[:70], phase=PHASES[1])
    for run, asked in ((stopped, model), (other, model), (whole, tiny_model())):
        with pytest.raises(RunError, match="not trained to its end: run the cells that train it"):
            results.finish_run(run, asked, synthetic)
        assert not run.recorded
    whole.fit(model, synthetic.x_train[:70], synthetic.y_train[:70], phase=PHASES[0])
    with pytest.raises(RunError, match="not trained to its end"):  # that was one phase of two
        results.finish_run(whole, model, synthetic)


def test_finished_run_is_read_and_never_tested_again(synthetic, tmp_path, monkeypatch):
    """Nor trained again, nor stopped as too long, where only its record is left."""
    model, run = tiny_run(synthetic, tmp_path / "run")
    first = results.finish_run(run, model, synthetic)
    monkeypatch.setattr(results, "predict", None)
    (tmp_path / "run" / "checkpoint.npz").unlink()
    _, run = tiny_run(synthetic, tmp_path / "run")
    again = results.finish_run(run, model, synthetic)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    history = run.state["history"]
    assert history == first.record["history"] and len(history["loss"]) == 4
    clock = itertools.count(step=3600.0)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    finished = Run(tmp_path / "run", PARAMETERS, PHASES, petaflops=[0.1, 0.2], hours=0.5)
    assert len(finished.features(model, synthetic.x_train[:400])) == 400


def test_model_of_mixed_precision_is_saved_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_resnet((1,), width=2)
    assert model.input.dtype == "uint8" and model.output.dtype == "float32"
    save_model(model, tmp_path)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in loaded.layers[1:]} == {"float32"}
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
