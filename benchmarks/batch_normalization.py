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
WIDTH = int((sys.argv[1:] or [16])[0])
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), dtype=np.uint8)
Y = RNG.integers(0, 100, len(X))


def build(layer):
    with mock.patch.object(resnet, "BatchNormalization", layer):
        model = resnet.build_resnet(width=WIDTH)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    return model


def images_per_second(model):
    start = time.perf_counter()
    model.fit(X, Y, batch_size=BATCH_SIZE, verbose=0)
    return len(X) / (time.perf_counter() - start)


print(f"width {WIDTH}, batches of {BATCH_SIZE}, {keras.backend.backend()}: images/s in training")
for precision in dict.fromkeys(("float32", runtime.configure(precision="auto"))):
    runtime.configure(precision=precision)
    models = [build(resnet.BatchNormalization), build(keras.layers.BatchNormalization)]
    speeds = [[images_per_second(model) for model in models] for _ in range(1 + ROUNDS)]
    ours, keras_own = np.transpose(speeds[1:])  # the first round compiles
    print(f"{precision:<15} ours {np.median(ours):,.0f}, Keras {np.median(keras_own):,.0f}", end="")
    print(f", ratio {np.median(ours / keras_own):.2f}", flush=True)
