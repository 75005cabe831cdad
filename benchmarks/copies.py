"""Copies made beforehand, or transforms in the model: which teach more, for the same arithmetic?

    python benchmarks/copies.py [seeds, 1 by default]

Trains a narrow ResNet by the modern recipe on 10,000 real images in some number of variants each,
the original and its copies; the more variants, the fewer epochs. It is validated on 5,000 other
images; the test set is never read. What was measured is kept in results/copies.json and not
measured again; the table is written to results/copies.md. About six minutes for each line and seed
on two cores.
"""

from pathlib import Path

from ablation import mean_and_spread, measure, train_and_validate

from cifar100_helpers import augment, resnet, runtime

RECORD = Path(__file__).resolve().parent.parent / "results" / "copies.json"
SETTINGS = {"width": 16, "images": 10_000, "validation_size": 5_000, "epochs": 24}
NUM_BLOCKS = (0, 1, 1, 1)  # as the profile half_hour
# The copies are then cropped and mirrored, no more: what the layer does, for one epoch only.
ONLY_CROPS = {"rotation": 0, "zoom": 0, "brightness": 0, "contrast": 0}
LINES = {  # 24 epochs can be divided by all of these, and a third of them as well
    "1": {"variants": 1},
    "2": {"variants": 2},
    "4": {"variants": 4},
    "8": {"variants": 8},
    "new every epoch": {"variants": 1, "random_transforms": True},
    "8, also turned, zoomed and relit": {"variants": 8, "ranges": {}},
}


def validation_accuracy(cifar, seed, *, variants, random_transforms=False, ranges=ONLY_CROPS):
    width, images, validation_size, epochs = SETTINGS.values()
    runtime.configure(seed=seed, precision="auto")
    x, y, validation = augment.training_set(
        cifar, copies=0, validation_size=validation_size, train_limit=images
    )
    x, y = augment.augmented_copies(x, y, copies=variants - 1, seed=seed, **ranges)
    transforms = augment.RandomTransforms(cutout=0, seed=seed) if random_transforms else None
    model = resnet.build_resnet(NUM_BLOCKS, width, dropout_rate=0.0, augmentation=transforms)
    return train_and_validate(model, x, y, validation, epochs // variants, seed)


def table(accuracies):
    """Mean validation accuracy of each line and its standard deviation."""
    width, images, validation_size, epochs = SETTINGS.values()
    text = (
        f"# Copies beforehand, or transforms in the model?\n\nAccuracy on {validation_size:,} "
        f"validation images of a ResNet of width {width} after {epochs} epochs on {images:,} "
        "others, or after as many steps on these and their copies (± is the standard deviation of "
        "the seeds):\n\n| variants of each image | validation top-1 | seeds |\n"
        "| --- | --- | --- |\n"
    )
    for name, of_seeds in accuracies.items():
        text += f"| {name} | {mean_and_spread(of_seeds)} | {len(of_seeds)} |\n"
    return text


if __name__ == "__main__":
    measure(RECORD, SETTINGS, LINES, validation_accuracy, table)
