"""Training on two virtual CPU devices, in processes of their own: devices are set at the start."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

SCRIPT = """
import json, sys
import numpy as np
from cifar100_helpers import inference, resnet, runtime, synthetic, training
from cifar100_helpers.errors import ParameterError
from cifar100_helpers.recipes import Phase
import keras

devices, folder = int(sys.argv[1]), sys.argv[2]
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
if devices == 2:
    runtime.divide_batches(["cpu:0", "cpu:1"])
runtime.configure(seed=0)
cifar = synthetic.load_synthetic(train_size=500, test_size=100, seed=0)

def trained(images):
    model = resnet.build_resnet((1, 1), width=4, dropout_rate=0.0)
    state = training.train(
        model, cifar.x_train[:images], cifar.y_train[:images],
        [Phase(3, 0.05, optimizer="sgd", weight_decay=0.01)],
        run_dir=f"{folder}/{images}", parameters={}, batch_size=64, seed=0,
        validation_data=(cifar.x_test, cifar.y_test),
    )
    return model, state

model, state = trained(222)
odd = cifar.x_test[:37]
features, _ = inference.frozen_features(model, odd, "pool", f"{folder}/features")
predicted = inference.predict(model, odd)
np.savez(f"{folder}/{devices}.npz", predicted, features, *model.get_weights())
said = {"parts": runtime.device_count(), "history": state["history"]}
if devices == 2:
    try:
        trained(221)
    except ParameterError as error:
        said["refused"] = str(error)
print(json.dumps(said))
"""


def train_on(devices, folder):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        # oneDNN's convolutions corrupt memory when two virtual CPU devices call them at once with
        # batches of changing size (TensorFlow 2.21); graphics cards do without oneDNN.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    command = [sys.executable, "-c", SCRIPT, str(devices), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / f"{devices}.npz") as arrays:
        return json.loads(ended.stdout.splitlines()[-1]), list(arrays.values())


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch's backend trains on one device"
)
def test_two_devices_train_as_one_does(tmp_path):
    one, one_arrays = train_on(1, tmp_path / "one")
    two, two_arrays = train_on(2, tmp_path / "two")
    assert (one["parts"], two["parts"]) == (1, 2)
    for name, values in one["history"].items():
        np.testing.assert_allclose(two["history"][name], values, rtol=1e-3, err_msg=name)
    assert one_arrays[0].shape == (37, 100) and len(one_arrays[1]) == 37
    for ours, theirs in zip(two_arrays, one_arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=2e-3)
    assert "221 images in batches of 64 cannot be divided evenly among 2 devices" in two["refused"]
