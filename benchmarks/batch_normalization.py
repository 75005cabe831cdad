"""Training speed of the ResNet with our batch normalization and with Keras's, side by side.

    python benchmarks/batch_normalization.py [width, 16 by default]

The networks differ in that layer alone. Their epochs, on random images, take turns in one process;
a ratio is the median of those of the rounds. Mixed bfloat16 is measured if the hardware has it. The
gain comes from TensorFlow's fused kernel: under another backend the ratio is about 1.
"""

import sys
import time
from unittest import mock

import numpy as np

from cifar100_helpers import resnet, runtime
from cifar100_helpers.recipes import Phase, compile_phase
from cifar100_helpers.training import one_hot

import keras  # isort: skip  (after the package, which loads it quietly)

BATCH_SIZE, STEPS, ROUNDS = 128, 30, 3


def build(layer, width):
    with mock.patch.object(resnet, "BatchNormalization", layer):
        model = resnet.build_resnet(width=width)
    return compile_phase(model, Phase(1, 1e-3), STEPS)


def images_per_second(model, x, y):
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
    return len(x) / (time.perf_counter() - start)


def compare(width, precision):
    runtime.configure(precision=precision)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), dtype=np.uint8)
    y = one_hot(rng.integers(0, 100, len(x)), 100)
    layers = (resnet.BatchNormalization, keras.layers.BatchNormalization)
    models = [build(layer, width) for layer in layers]
    speeds = [[images_per_second(m, x, y) for m in models] for _ in range(1 + ROUNDS)]
    speeds = np.array(speeds[1:])  # the first round compiles
    ours, keras_own = np.median(speeds, axis=0)
    ratio = np.median(speeds[:, 0] / speeds[:, 1])
    print(f"{width:<7}{precision:<16}{ours:>8.0f}{keras_own:>10.0f}{ratio:>8.2f}", flush=True)


def main():
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    print(f"images/s in training, batches of {BATCH_SIZE}, {keras.backend.backend()} backend")
    print(f"{'width':<7}{'precision':<16}{'ours':>8}{'Keras':>10}{'ratio':>8}")
    for precision in dict.fromkeys(("float32", runtime.configure(precision="auto"))):
        compare(width, precision)


if __name__ == "__main__":
    main()
