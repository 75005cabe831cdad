"""A training step of the ResNet with our batch normalization and with Keras's, side by side.

    python benchmarks/batch_normalization.py [width, 16 by default]

Both networks are the same but for that layer; their epochs take turns in one process, on random
images, and a ratio is the median of those within the rounds. The gain is TensorFlow's fused
kernel, so under another backend the ratio is 1.
"""

import argparse
import time

import numpy as np

from cifar100_helpers import configure, resnet
from cifar100_helpers.batches import one_hot
from cifar100_helpers.compiling import compile_phase
from cifar100_helpers.recipes import Phase

import keras  # isort: skip  (after the package, which loads it quietly)

BATCH_SIZE, STEPS, ROUNDS = 128, 8, 5


def build(layer, width):
    original = resnet.BatchNormalization
    resnet.BatchNormalization = layer
    try:
        model = resnet.build_resnet(width=width)
    finally:
        resnet.BatchNormalization = original
    compile_phase(model, Phase(1, 1e-3), STEPS)
    return model


def images_per_second(model, x, y):
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
    return len(x) / (time.perf_counter() - start)


def compare(width, precision):
    configure(precision=precision)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), dtype=np.uint8)
    y = one_hot(rng.integers(0, 100, len(x)), 100)
    layers = (resnet.BatchNormalization, keras.layers.BatchNormalization)
    models = [build(layer, width) for layer in layers]
    for model in models:
        images_per_second(model, x, y)  # compilation
    speeds = np.array([[images_per_second(m, x, y) for m in models] for _ in range(ROUNDS)])
    ours, keras_own = np.median(speeds, axis=0)
    ratio = np.median(speeds[:, 0] / speeds[:, 1])
    print(f"{width:<7}{precision:<16}{ours:>8.0f}{keras_own:>10.0f}{ratio:>8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("width", type=int, nargs="?", default=16)
    width = parser.parse_args().width
    print(f"images/s in training, batches of {BATCH_SIZE}, {keras.backend.backend()} backend")
    print(f"{'width':<7}{'precision':<16}{'ours':>8}{'Keras':>10}{'ratio':>8}")
    for precision in ("float32", "mixed_bfloat16"):
        compare(width, precision)


if __name__ == "__main__":
    main()
