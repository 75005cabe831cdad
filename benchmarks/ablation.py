"""What each ingredient of the modern recipe is worth, on a narrow ResNet and a validation split.

    python benchmarks/ablation.py [seeds, 1 by default]

Trains one model per line of the table and seed, on 10,000 real images for 16 epochs, and validates
it on 5,000 others; the test set is never read. A line differs from the first in what it names. What
was measured is kept in results/ablation.json and not measured again; the table is written to
results/ablation.md. About four minutes for each line and seed on two cores.
"""

import contextlib
import io
import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from cifar100_helpers import augment, data, recipes, resnet, runtime
from cifar100_helpers.inference import predict
from cifar100_helpers.storage import write_json
from cifar100_helpers.training import Run

RECORD = Path(__file__).resolve().parent.parent / "results" / "ablation.json"
SETTINGS = {"width": 16, "images": 10_000, "validation_size": 5_000, "epochs": 16}
BATCH_SIZE = 128
BASELINE = "modern recipe"
VARIANTS = {
    BASELINE: {},
    "SGD, rate 0.3": {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 5e-3},
    "AdamW, rate 0.004": {"optimizer": "adam", "learning_rate": 4e-3, "weight_decay": 0.05},
    "constant learning rate": {"schedule": "constant"},
    "whole images from the start, 1.7 times the arithmetic": {"image_sizes": []},
    "no label smoothing": {"label_smoothing": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "no random transforms": {"random_transforms": False},
    "cutout of 8 pixels as well": {"cutout": 8},
    "dropout 0.5 after the stem": {"dropout_rate": 0.5},
}


def validation_accuracy(
    cifar, seed, *, random_transforms=True, cutout=0, dropout_rate=0.0, **changes
):
    width, images, validation_size, epochs = SETTINGS.values()
    runtime.configure(seed=seed, precision="auto")
    x, y, validation = augment.training_set(
        cifar, copies=0, validation_size=validation_size, train_limit=images
    )
    transforms = augment.RandomTransforms(cutout=cutout, seed=seed) if random_transforms else None
    model = resnet.build_resnet(width=width, dropout_rate=dropout_rate, augmentation=transforms)
    return train_and_validate(model, x, y, validation, epochs, seed, **changes)


def train_and_validate(model, x, y, validation, epochs, seed, **changes):
    """Train `model` by the modern recipe, with `changes`; return its validation accuracy."""
    (phase,) = recipes.resnet_phases("modern", epochs, changes=changes)
    model.compile(
        optimizer=recipes.make_optimizer(phase, epochs * -(-len(x) // BATCH_SIZE)),
        loss=recipes.SparseCategoricalCrossentropy(label_smoothing=phase.label_smoothing),
    )
    parameters = {"batch_size": BATCH_SIZE, "seed": seed}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Run(folder, parameters, [phase], petaflops=[1.0]).fit(model, x, y, phase=phase)
    x_validation, y_validation = validation
    return float((predict(model, x_validation).argmax(axis=1) == y_validation).mean())


def measure(file, settings, lines, accuracy_of, table):
    """Measure what the record `file` lacks of `lines`, seed by seed, and write its `table`.

    `accuracy_of(cifar, seed, **line)` measures one line.
    """
    seeds = range(int((sys.argv[1:] or [1])[0]))
    record = {"settings": settings, "machine": runtime.describe(), "accuracies": {}}
    if file.exists():
        record = json.loads(file.read_text())
    assert record["settings"] == settings, f"delete {file} to begin anew with other settings"
    cifar, accuracies = data.load_cifar100(), record["accuracies"]
    for seed, (name, line) in product(map(str, seeds), lines.items()):
        if seed not in accuracies.setdefault(name, {}):
            accuracies[name][seed] = accuracy_of(cifar, int(seed), **line)
            write_json(file, record)
            file.with_suffix(".md").write_text(table(accuracies))
    print(table(accuracies))


def table(accuracies):
    """Mean validation accuracy of each line, its standard deviation, and what it gains."""
    width, images, validation_size, epochs = SETTINGS.values()
    text = (
        f"# What each part of the recipe is worth\n\nAccuracy on {validation_size:,} validation "
        f"images of a ResNet of width {width}, after {epochs} epochs on {images:,} others (± is "
        "the standard deviation of the seeds; gains compare the same seeds):\n\n"
        "| | validation top-1 | seeds | gain in points |\n| --- | --- | --- | --- |\n"
    )
    for name, of_seeds in accuracies.items():
        gain = np.mean([one - accuracies[BASELINE][seed] for seed, one in of_seeds.items()])
        gained = "" if name == BASELINE else f"{100 * gain:+.1f}"
        text += f"| {name} | {mean_and_spread(of_seeds)} | {len(of_seeds)} | {gained} |\n"
    return text


def mean_and_spread(of_seeds):
    points = 100 * np.array(list(of_seeds.values()))
    spread = f" ± {points.std(ddof=1):.1f}" if len(points) > 1 else ""
    return f"{points.mean():.1f} %{spread}"


if __name__ == "__main__":
    measure(RECORD, SETTINGS, VARIANTS, validation_accuracy, table)
