"""Augmented copies and the layer `RandomTransforms` beside what Keras has for the same.

    python benchmarks/augmentation.py

Writes results/augmentation.md: copies like those of 02_augment made by ours, by Keras's
ImageDataGenerator and by its layers; and what random transforms add to a training step. All take
turns in one process, so that a busy machine slows every one of them.
"""

import statistics
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
)
LAYERS = keras.Sequential(
    [
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(0.125, 0.125, "reflect"),
        layers.RandomRotation(15 / 360, "reflect"),
        layers.RandomZoom(0.1, fill_mode="reflect"),
        layers.RandomBrightness(0.1),
        layers.RandomContrast(0.2),
    ]
)
IN_THE_STEP = [
    layers.RandomTranslation(0.125, 0.125, "reflect"),
    layers.RandomFlip("horizontal"),
    layers.RandomErasing(1.0, scale=(1 / 16, 1 / 16), value_range=(0, 255)),
]


def generator():
    batches = GENERATOR.flow(IMAGES, batch_size=BATCH, shuffle=False)
    return [next(batches) for _ in range(len(batches))]


def keras_layers():
    parts = np.split(IMAGES, COUNT // BATCH)
    return [keras.ops.convert_to_numpy(LAYERS(part, training=True)) for part in parts]


def training_step(transforms):
    end = [layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), *transforms, *end])
    model.compile("sgd", "mse")
    return lambda: model.train_on_batch(IMAGES[:128], np.zeros(128))


def take_turns(rounds, actions):
    """Return the median seconds of each action, after a first call that does not count."""
    seconds = {name: [] for name in actions}
    for _ in range(1 + rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def main():
    copies = {
        "augmented_copies": lambda: augmented_copies(IMAGES, np.zeros(COUNT, int), copies=1),
        "ImageDataGenerator": generator,
        "Keras's layers": keras_layers,
    }
    steps = {
        "none": training_step([]),
        "RandomTransforms": training_step([RandomTransforms()]),
        "RandomTranslation, RandomFlip, RandomErasing": training_step(IN_THE_STEP),
    }
    copies, steps, machine = take_turns(ROUNDS, copies), take_turns(STEPS, steps), describe()
    nothing = steps.pop("none")
    text = f"`benchmarks/augmentation.py` on {machine['device']}, {machine['cores']} cores:\n\n"
    text += "| copies made beforehand | images/s | time |\n|---|--:|--:|\n"
    for name, seconds in copies.items():
        ratio = seconds / copies["augmented_copies"]
        text += f"| {name} | {COUNT / seconds:,.0f} | {ratio:.1f} × |\n"
    text += "\n| transforms in a training step | ms per batch of 128 | time |\n|---|--:|--:|\n"
    for name, seconds in steps.items():
        ratio = (seconds - nothing) / (steps["RandomTransforms"] - nothing)
        text += f"| {name} | {1000 * (seconds - nothing):.1f} | {ratio:.1f} × |\n"
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
