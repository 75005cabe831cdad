"""Training speed of the ResNet with our batch normalization and with Keras's, side by side.

    python benchmarks/batch_normalization.py [width, 16 by default]

The models differ in that layer alone. Their epochs, on random images, take turns in one process; a
ratio is the median of those of the rounds. Mixed bfloat16 is measured if the hardware has it. The
gain comes from TensorFlow's fused kernel: under another backend the ratio is about 1.
"""

import sys
import time
from unittest import mock

import numpy as np

from cifar100_helpers import resnet, runtime

import keras  # isort: skip  (after the package, which loads it quietly)

BATCH_SIZE, STEPS, ROUNDS = 128, 30, 3


def build(layer, width):
    with mock.patch.object(resnet, "BatchNormalization", layer):
        model = resnet.build_resnet(width=width)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    return model


def images_per_second(model, x, y):
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
    return len(x) / (time.perf_counter() - start)


def compare(width, precision):
    runtime.configure(precision=precision)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 100, len(x))
    layers = (resnet.BatchNormalization, keras.layers.BatchNormalization)
    models = [build(layer, width) for layer in layers]
    speeds = [[images_per_second(model, x, y) for model in models] for _ in range(1 + ROUNDS)]
    speeds = np.array(speeds[1:])  # the first round compiles
    ours, keras_own = np.median(speeds, axis=0)
    ratio = np.median(speeds[:, 0] / speeds[:, 1])
    print(f"{width:<7}{precision:<16}{ours:>8.0f}{keras_own:>10.0f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    print(f"images/s in training, batches of {BATCH_SIZE}, {keras.backend.backend()} backend")
    print(f"{'width':<7}{'precision':<16}{'ours':>8}{'Keras':>10}{'ratio':>8}")
    for precision in dict.fromkeys(("float32", runtime.configure(precision="auto"))):
        compare(int((sys.argv[1:] or [16])[0]), precision)
