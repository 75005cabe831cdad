"""The frozen phase of Xception on features computed once, and as a frozen base in every epoch.

    python benchmarks/frozen_features.py [images, 3000 by default] [epochs, 20 by default]

Both ways train the same head by the published recipe on the same batches of real images, one after
the other, with everything either takes: compilation, features, checkpoints. The weights are
ImageNet's. Needs CIFAR-100 and the weights of Xception (`CIFAR100_DIR` and `XCEPTION_WEIGHTS`, or
they are fetched); takes some ten minutes on two cores.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time

import numpy as np

from cifar100_helpers import build_xception, configure, load_cifar100, train, xception_phases
from cifar100_helpers.data import train_validation_split

LEAST_RATIO = 15
VALIDATION = 500


def timed(data, chosen, held_out, epochs, *, on_features):
    """Seconds, validation accuracy and the head's weights after `epochs`."""
    configure(seed=0)
    model = build_xception()
    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, silent:
        start = time.perf_counter()
        state = train(
            model,
            data.x_train[chosen],
            data.y_train[chosen],
            xception_phases("published", epochs, 0),
            run_dir=folder,
            parameters={},
            batch_size=128,
            seed=0,
            features_dir=f"{folder}/features" if on_features else None,
        )
        seconds = time.perf_counter() - start
    predicted = model.predict(data.x_train[held_out], verbose=0).argmax(axis=1)
    accuracy = np.mean(predicted == data.y_train[held_out])
    print(
        f"{'features once' if on_features else 'frozen base':<16}{seconds:>8.0f} s"
        f"{state['history']['loss'][-1]:>10.4f}{accuracy:>12.1%}",
        flush=True,
    )
    return seconds, accuracy, model.get_layer("hidden").get_weights()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int, nargs="?", default=3000)
    parser.add_argument("epochs", type=int, nargs="?", default=20)
    arguments = parser.parse_args()
    data = load_cifar100()
    chosen, held_out = train_validation_split(
        data.y_train, VALIDATION, train_limit=arguments.images
    )
    print(f"{arguments.images:,} images, {arguments.epochs} epochs of the head, 71 × 71, float32")
    print(f"{'':<16}{'time':>10}{'loss':>10}{'validation':>12}")
    ours, our_accuracy, our_head = timed(data, chosen, held_out, arguments.epochs, on_features=True)
    theirs, their_accuracy, their_head = timed(
        data, chosen, held_out, arguments.epochs, on_features=False
    )
    ratio = theirs / ours
    print(f"ratio {ratio:.1f}, heads differ by at most {np.abs(our_head - their_head).max():.1e}")
    claims = {
        f"{LEAST_RATIO} times less time": ratio >= LEAST_RATIO,
        "the same accuracy within two images": abs(our_accuracy - their_accuracy) <= 2 / VALIDATION,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    sys.exit(not all(claims.values()))


if __name__ == "__main__":
    main()
