"""Training the head of Xception on features computed once, and by plain Keras on a frozen base.

    python benchmarks/frozen_features.py [images, 3000 by default] [epochs, 20 by default]

Both train the same head by the published recipe on the same real images, one after the other, with
everything that takes time: compilation, features, checkpoints. Needs CIFAR-100 and Xception's
ImageNet weights (`CIFAR100_DIR` and `XCEPTION_WEIGHTS`, or they are downloaded). About ten minutes
on two cores.
"""

import contextlib
import io
import sys
import tempfile
import time

import numpy as np

from cifar100_helpers import data, inference, recipes, runtime, training, xception

import keras  # isort: skip  (after the package, which loads it quietly)

LEAST_RATIO = 15
VALIDATION = 500
TOLERANCE = 0.02  # of validation accuracy: orders and dropout differ
BATCH_SIZE = 128


def by_features(model, x, y, epochs):
    phases = recipes.xception_phases("published", epochs, 0)
    options = {"parameters": {}, "batch_size": BATCH_SIZE, "seed": 0}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        training.train(model, x, y, phases, run_dir=f"{folder}/run", **options)


def by_keras(model, x, y, epochs):
    for layer in model.layers:
        layer.trainable = layer.name in ("hidden", "probabilities")
    model.compile(keras.optimizers.Adam(2e-4), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def timed(way, train, held_out, epochs):
    """Return the seconds that `way` takes, and the validation accuracy it reaches."""
    runtime.configure(seed=0)
    model = xception.build_xception()
    start = time.perf_counter()
    way(model, *train, epochs)
    seconds = time.perf_counter() - start
    images, labels = held_out
    accuracy = np.mean(inference.predict(model, images).argmax(axis=1) == labels)
    print(f"{way.__name__:<12}{seconds:>8.0f} s{accuracy:>12.1%}", flush=True)
    return seconds, accuracy


def main():
    images, epochs = [*map(int, sys.argv[1:]), *(3000, 20)[len(sys.argv) - 1 :]]
    cifar = data.load_cifar100()
    parts = data.train_validation_split(cifar.y_train, VALIDATION, train_limit=images)
    train, held_out = ((cifar.x_train[part], cifar.y_train[part]) for part in parts)
    print(f"{images:,} images, {epochs} epochs of the head, 71 × 71, float32")
    print(f"{'':<12}{'time':>10}{'validation':>12}")
    ours, our_accuracy = timed(by_features, train, held_out, epochs)
    theirs, their_accuracy = timed(by_keras, train, held_out, epochs)
    print(f"ratio {theirs / ours:.1f}")
    claims = {
        f"at least {LEAST_RATIO} times faster": theirs / ours >= LEAST_RATIO,
        "as accurate": our_accuracy >= their_accuracy - TOLERANCE,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    sys.exit(not all(claims.values()))


if __name__ == "__main__":
    main()
