"""What each ingredient of the modern recipe is worth, on a narrow ResNet and a validation split.

    python benchmarks/ablation.py [--seeds 1]

Trains one network per line of the table and seed, on 10,000 real images for 16 epochs, and
validates on 5,000 others; the test set is never read. A line differs from the first in what it
names. A second and third seed are spent on the first line and on those that differ little from it.
What was measured is kept in results/ablation.json and not measured again. About three minutes for
each line and seed on two cores.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

from cifar100_helpers import (
    RandomTransforms,
    build_resnet,
    configure,
    describe,
    load_cifar100,
    resnet_phases,
    train,
    train_validation_split,
)
from cifar100_helpers.checkpoint import write_json

RECORD = Path(__file__).resolve().parent.parent / "results" / "ablation.json"
SETTINGS = {"width": 16, "images": 10_000, "validation_size": 5_000, "epochs": 16}
BASELINE = "modern recipe"
SMALL = 0.04  # a gain with seed 0 that another seed could turn
VARIANTS = {
    BASELINE: {},
    "no random transforms": {"random_transforms": False},
    "cutout of 8 pixels as well": {"cutout": 8},
    "no weight decay": {"changes": {"weight_decay": 0.0}},
    "no label smoothing": {"changes": {"label_smoothing": 0.0}},
    "constant learning rate 0.1": {"changes": {"schedule": "constant", "learning_rate": 0.1}},
    "AdamW, one cycle to 0.004": {
        "changes": {"optimizer": "adam", "learning_rate": 4e-3, "weight_decay": 0.05}
    },
    "mixup 0.2": {"changes": {"mixup": 0.2}},
    "CutMix 1.0": {"changes": {"cutmix": 1.0}},
    "average of the weights, 0.99": {"changes": {"ema": 0.99}},
    "dropout 0.5 after the stem": {"dropout_rate": 0.5},
    "float32": {"precision": "float32"},
    "published schedule and dropout, no copies": {
        "recipe": "published",
        "random_transforms": False,
        "dropout_rate": 0.5,
    },
}


def validation_accuracy(
    data,
    seed,
    *,
    recipe="modern",
    changes=None,
    random_transforms=True,
    cutout=0,
    dropout_rate=0.0,
    precision="mixed_bfloat16",
):
    configure(seed=seed, precision=precision)
    chosen, held_out = train_validation_split(
        data.y_train, SETTINGS["validation_size"], train_limit=SETTINGS["images"], seed=0
    )
    augmentation = RandomTransforms(cutout=cutout, seed=seed) if random_transforms else None
    model = build_resnet(
        width=SETTINGS["width"], dropout_rate=dropout_rate, augmentation=augmentation
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(
            model,
            data.x_train[chosen],
            data.y_train[chosen],
            resnet_phases(recipe, SETTINGS["epochs"], changes=changes),
            run_dir=folder,
            parameters={},
            batch_size=128,
            seed=seed,
        )
    predicted = model.predict(data.x_train[held_out], batch_size=128, verbose=0).argmax(axis=1)
    return float((predicted == data.y_train[held_out]).mean())


def gain(accuracies, name, seeds):
    """The mean difference of line `name` to the first one, over the same `seeds`."""
    return statistics.mean(accuracies[name][seed] - accuracies[BASELINE][seed] for seed in seeds)


def table(record):
    """Mean validation accuracy of each line, its standard deviation, and what it gains."""
    settings = record["settings"]
    lines = [
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
        mean = f"{100 * statistics.mean(values):.1f} %{spread}"
        points = 100 * gain(record["accuracies"], name, accuracies)
        gained = "" if name == BASELINE else f"{points:+.1f}"
        lines.append(f"| {name} | {mean} | {len(values)} | {gained} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (default 1)")
    seeds = range(parser.parse_args().seeds)
    data = load_cifar100()
    record = {"settings": SETTINGS, "machine": describe(), "accuracies": {}}
    if RECORD.exists():
        record = json.loads(RECORD.read_text())
        if record["settings"] != SETTINGS:
            parser.error(f"{RECORD} was measured with other settings: delete it to begin anew")
    for seed in seeds:
        for name, options in VARIANTS.items():
            accuracies = record["accuracies"].setdefault(name, {})
            worth_it = seed == 0 or abs(gain(record["accuracies"], name, ["0"])) < SMALL
            if worth_it and str(seed) not in accuracies:
                accuracies[str(seed)] = validation_accuracy(data, seed, **options)
                write_json(RECORD, record)
                print(f"{name}, seed {seed}: {accuracies[str(seed)]:.1%}", flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
