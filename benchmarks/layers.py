"""Training speed with this package's layers and with Keras's in their place, side by side.

    python benchmarks/layers.py

The ResNet of width 16 with either batch normalization, a wider one on small images with either
convolution, and Xception with either separable convolution. Two models differ in that layer alone;
their epochs, on random images, take turns in one process, and a ratio is the median of those of the
rounds. Mixed bfloat16 is measured if the hardware has it. Writes results/layers.md; a quarter of an
hour on two cores.
"""

import time
from pathlib import Path
from unittest import mock

import numpy as np

from cifar100_helpers import resnet, runtime, xception

import keras  # isort: skip  (after the package, which loads it quietly)

RESULT = Path(__file__).resolve().parent.parent / "results" / "layers.md"
BATCH_SIZE, ROUNDS = 128, 3
BUILDERS = {
    ("ResNet, width 16", 30): (
        resnet,
        keras.layers.BatchNormalization,
        lambda: resnet.build_resnet(width=16),
    ),
    ("ResNet, width 48, one block a stage, 16 pixels", 20): (
        resnet,
        keras.layers.Conv2D,
        lambda: resnet.build_resnet((1, 1, 1, 1), width=48, input_shape=(16, 16, 3)),
    ),
    ("Xception, 71 pixels", 3): (
        xception,
        keras.layers.SeparableConv2D,
        lambda: xception.build_xception(weights="none", freeze_statistics=True),
    ),
}


def compiled(build):
    model = build()
    model.compile("adam", loss="sparse_categorical_crossentropy")
    return model


def images_per_second(model, steps):
    rng, count = np.random.default_rng(0), BATCH_SIZE * steps
    x = rng.integers(0, 256, (count, *model.input_shape[1:]), np.uint8)
    y = rng.integers(0, 100, count)
    batches = runtime.prefetch(runtime.Batches(x, y, batch_size=BATCH_SIZE))
    start = time.perf_counter()
    model.fit(batches, shuffle=False, verbose=0)
    return count / (time.perf_counter() - start)


def main():
    fastest, machine = runtime.configure(precision="auto"), runtime.describe()
    text = (
        f"`benchmarks/layers.py` on {machine['device']}, {machine['cores']} cores, "
        f"{machine['backend']}, batches of {BATCH_SIZE}; images/s in training, medians of {ROUNDS} "
        "rounds; a ratio is the median of theirs:\n\n"
        "| model | layer | precision | ours | Keras's | ratio |\n|---|---|---|--:|--:|--:|\n"
    )
    for precision in dict.fromkeys(("float32", fastest)):
        for (name, steps), (module, layer, build) in BUILDERS.items():
            runtime.configure(precision=precision)
            models = [compiled(build)]
            with mock.patch.object(module, layer.__name__, layer):
                models.append(compiled(build))
            rounds = [[images_per_second(m, steps) for m in models] for _ in range(1 + ROUNDS)]
            ours, keras_own = np.transpose(rounds[1:])  # the first round compiles
            text += (
                f"| {name} | `{layer.__name__}` | {precision} | {np.median(ours):,.0f} "
                f"| {np.median(keras_own):,.0f} | {np.median(ours / keras_own):.2f} |\n"
            )
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
