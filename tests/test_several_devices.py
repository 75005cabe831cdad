"""Training on two virtual CPU devices, in a process of its own: devices are set at the start."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

SCRIPT = """
import json
import numpy as np
from cifar100_helpers import data, inference, recipes, resnet, runtime
from cifar100_helpers import training, xception
from cifar100_helpers.errors import ParameterError
import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
cifar = data.load_synthetic(train_size=500, test_size=100, seed=0)
phase = recipes.Phase(2, 0.05, optimizer="sgd", weight_decay=0.01)

def trained(images):
    runtime.configure(seed=0)
    model = resnet.build_resnet((1,), width=4, dropout_rate=0.0)
    loss, accuracy = "sparse_categorical_crossentropy", "sparse_categorical_accuracy"
    model.compile(recipes.make_optimizer(phase, 8), loss=loss, metrics=[accuracy])
    parameters = {"batch_size": 64, "seed": 0}
    folder = f"{runtime.device_count()}/{images}"
    run = training.Run(folder, parameters, [phase], petaflops=[1.0])
    validation = (cifar.x_test, cifar.y_test)
    x, y = cifar.x_train[:images], cifar.y_train[:images]
    run.fit(model, x, y, phase=phase, validation_data=validation)
    return model, run

def train():
    model, run = trained(222)
    odd = cifar.x_test[:37]
    features = run.features(keras.Model(model.input, model.get_layer("pool").output), odd)
    predicted = inference.predict(model, odd)
    inference.save_model(model, "")
    np.savez(f"{runtime.device_count()}.npz", predicted, features, *model.get_weights())
    return run.state["history"]

said = {"parts": [runtime.device_count()], "histories": [train()]}
runtime.divide_batches(["cpu:0", "cpu:1"])
said["parts"].append(runtime.device_count())
said["histories"].append(train())

def small_base(weights, input_shape, **options):
    return keras.Sequential([keras.Input(input_shape), keras.layers.BatchNormalization()])

keras.applications.Xception = small_base
base = xception.build_xception(weights="none").get_layer("base")
said["synchronized"] = base.layers[0].synchronized
try:
    trained(221)
except ParameterError as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


@pytest.mark.every_backend
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch's backend trains on one device"
)
def test_two_devices_train_as_one_does(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
        # oneDNN's convolutions corrupt memory when two virtual CPU devices call them at once with
        # batches of changing size (TensorFlow 2.21); graphics cards do without oneDNN.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    options = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path}
    ended = subprocess.run([sys.executable, "-c", SCRIPT], check=False, **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["parts"] == [1, 2]
    one, two = said["histories"]
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-3, err_msg=name)
    one, two = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 2))
    assert one["arr_0"].shape == (37, 100) and len(one["arr_1"]) == 37
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0.02, atol=2e-3)
    saved = zipfile.ZipFile(tmp_path / "model.keras").read("config.json")
    assert b'"synchronized": true' not in saved  # other backends refuse it
    # JAX computes the statistics of a whole batch by itself.
    assert said["synchronized"] == (keras.backend.backend() == "tensorflow")
    assert "221 images in batches of 64 cannot be divided evenly among 2 devices" in said["refused"]
