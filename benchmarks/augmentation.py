"""Augmented copies and the layer `RandomTransforms` beside what Keras has for the same.

    python benchmarks/augmentation.py

Writes results/augmentation.md: copies like those of 02_augment made by ours, by Keras's
ImageDataGenerator and by its layers; and what random transforms add to a training step. All take
turns in one process, so that a busy machine slows every one of them.
"""

import time
from pathlib import Path

import numpy as np

from cifar100_helpers.augment import RandomTransforms, augmented_copies
from cifar100_helpers.runtime import describe

import keras  # isort: skip  (after the package, which loads it quietly)
from keras import layers  # isort: skip
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # isort: skip

COUNT, BATCH, ROUNDS, STEPS = 5000, 500, 7, 50
RESULT = Path(__file__).parent.parent / "results/augmentation.md"
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)

GENERATOR = ImageDataGenerator(
    horizontal_flip=True,
    width_shift_range=4,
    height_shift_range=4,
    rotation_range=15,
    zoom_range=0.1,
    brightness_range=(0.9, 1.1),  # it has no contrast
    fill_mode="reflect",
).flow(IMAGES, batch_size=BATCH, shuffle=False)
FLIP = layers.RandomFlip("horizontal")
SHIFT = layers.RandomTranslation(0.125, 0.125, "reflect")
ROTATION = layers.RandomRotation(15 / 360, "reflect")
ZOOM = layers.RandomZoom(0.1, fill_mode="reflect")
LIGHT = [layers.RandomBrightness(0.1), layers.RandomContrast(0.2)]
CUTOUT = layers.RandomErasing(1.0, scale=(1 / 16, 1 / 16), value_range=(0, 255))
LAYERS = keras.Sequential([FLIP, SHIFT, ROTATION, ZOOM, *LIGHT])


def apply_layers():
    for part in np.split(IMAGES, COUNT // BATCH):
        keras.ops.convert_to_numpy(LAYERS(part, training=True))


def training_step(*transforms):
    end = [layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), *transforms, *end])
    model.compile("sgd", "mse")
    return lambda: model.train_on_batch(IMAGES[:128], np.zeros(128))


COPIES = {
    "augmented_copies": lambda: augmented_copies(IMAGES, np.zeros(COUNT, int), copies=1),
    "ImageDataGenerator": lambda: [next(GENERATOR) for _ in range(len(GENERATOR))],
    "Keras's layers": apply_layers,
}
IN_THE_STEP = {
    "none": training_step(),
    "RandomTransforms": training_step(RandomTransforms()),
    "RandomTranslation, RandomFlip, RandomErasing": training_step(SHIFT, FLIP, CUTOUT),
}


def median_seconds(rounds, actions):
    """Return the seconds of each action, by its name, after a first call that does not count."""
    times = np.empty((1 + rounds, len(actions)))
    for number in np.ndindex(times.shape):
        start = time.perf_counter()
        list(actions.values())[number[1]]()
        times[number] = time.perf_counter() - start
    return dict(zip(actions, np.median(times[1:], axis=0), strict=True))


if __name__ == "__main__":
    copies, steps = median_seconds(ROUNDS, COPIES), median_seconds(STEPS, IN_THE_STEP)
    machine, nothing, ours = describe(), steps.pop("none"), copies["augmented_copies"]
    text = f"`benchmarks/augmentation.py` on {machine['device']}, {machine['cores']} cores:\n\n"
    text += "| copies made beforehand | images/s | time |\n|---|--:|--:|\n"
    for name, seconds in copies.items():
        text += f"| {name} | {COUNT / seconds:,.0f} | {seconds / ours:.1f} × |\n"
    text += "\n| transforms in a training step | ms per batch of 128 | time |\n|---|--:|--:|\n"
    ours = steps["RandomTransforms"] - nothing
    for name, seconds in steps.items():
        added = seconds - nothing
        text += f"| {name} | {1000 * added:.1f} | {added / ours:.1f} × |\n"
    RESULT.write_text(text, encoding="utf-8")
    print(text)
