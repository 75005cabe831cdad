"""What each ingredient of the modern recipe is worth, on a narrow ResNet and a validation split.

    python benchmarks/ablation.py [--seeds 3]

Trains one network per line of the table and seed, on 10,000 real images for 16 epochs, and
validates on 5,000 others; the test set is never read. A line differs from the first in what it
names. What was measured is kept in results/ablation.json and not measured again; the table is
written to results/ablation.md. About four minutes for each line and seed on two cores.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

from cifar100_helpers import augment, data, recipes, resnet, runtime
from cifar100_helpers.inference import predict
from cifar100_helpers.storage import write_json
from cifar100_helpers.training import train

RESULTS = Path(__file__).resolve().parent.parent / "results"
SETTINGS = {"width": 16, "images": 10_000, "validation_size": 5_000, "epochs": 16}
BASELINE = "modern recipe"
VARIANTS = {
    BASELINE: {},
    "SGD, rate 0.3": {
        "changes": {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 5e-3},
    },
    "AdamW, rate 0.004": {
        "changes": {"optimizer": "adam", "learning_rate": 4e-3, "weight_decay": 0.05}
    },
    "constant learning rate": {"changes": {"schedule": "constant"}},
    "whole images from the start, 1.7 times the arithmetic": {"changes": {"image_sizes": []}},
    "no label smoothing": {"changes": {"label_smoothing": 0.0}},
    "no weight decay": {"changes": {"weight_decay": 0.0}},
    "no random transforms": {"random_transforms": False},
    "cutout of 8 pixels as well": {"cutout": 8},
    "dropout 0.5 after the stem": {"dropout_rate": 0.5},
}


def validation_accuracy(
    cifar, seed, *, changes=None, random_transforms=True, cutout=0, dropout_rate=0.0
):
    runtime.configure(seed=seed, precision="auto")
    x, y, (x_held_out, y_held_out) = augment.training_set(
        cifar,
        copies=0,
        validation_size=SETTINGS["validation_size"],
        train_limit=SETTINGS["images"],
    )
    transforms = augment.RandomTransforms(cutout=cutout, seed=seed) if random_transforms else None
    model = resnet.build_resnet(
        width=SETTINGS["width"], dropout_rate=dropout_rate, augmentation=transforms
    )
    phases = recipes.resnet_phases("modern", SETTINGS["epochs"], changes=changes)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(model, x, y, phases, run_dir=folder, parameters={}, batch_size=128, seed=seed)
    return float((predict(model, x_held_out).argmax(axis=1) == y_held_out).mean())


def table(record):
    """Mean validation accuracy of each line, its standard deviation, and what it gains."""
    settings, baseline = record["settings"], record["accuracies"][BASELINE]
    lines = [
        "# What each part of the recipe is worth",
        "",
        f"Accuracy on {settings['validation_size']:,} validation images of a ResNet of width "
        f"{settings['width']}, after {settings['epochs']} epochs on {settings['images']:,} others "
        "(± is the standard deviation of the seeds; gains compare the same seeds):",
        "",
        "| | validation top-1 | seeds | gain in points |",
        "| --- | --- | --- | --- |",
    ]
    for name, accuracies in record["accuracies"].items():
        values = list(accuracies.values())
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        points = 100 * statistics.mean(accuracies[seed] - baseline[seed] for seed in accuracies)
        gained = "" if name == BASELINE else f"{points:+.1f}"
        mean = f"{100 * statistics.mean(values):.1f} %{spread}"
        lines.append(f"| {name} | {mean} | {len(values)} | {gained} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (default 1)")
    seeds = range(parser.parse_args().seeds)
    cifar = data.load_cifar100()
    file = RESULTS / "ablation.json"
    record = {"settings": SETTINGS, "machine": runtime.describe(), "accuracies": {}}
    if file.exists():
        record = json.loads(file.read_text())
        if record["settings"] != SETTINGS:
            parser.error(f"{file} was measured with other settings: delete it to begin anew")
    for seed in map(str, seeds):
        for name, options in VARIANTS.items():
            accuracies = record["accuracies"].setdefault(name, {})
            if seed not in accuracies:
                accuracies[seed] = validation_accuracy(cifar, int(seed), **options)
                write_json(file, record)
                (RESULTS / "ablation.md").write_text(table(record))
                print(f"{name}, seed {seed}: {accuracies[seed]:.1%}", flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
