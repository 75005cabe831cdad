"""Offline copies against other engines, and what the layer in the model adds to a training step.

    python benchmarks/augmentation.py [number of images, 50,000 by default]

Every engine makes new images from random uint8 ones: flip, shift up to 4 pixels, rotation up to
15 degrees, zoom up to 10 %, brightness and contrast, reflected borders; each in a process of its
own, three times, the median counts. Memory is the peak above the input, in sizes of the result.
Slow engines make fewer images. Libraries that are not installed are named and skipped.

DOCSTRING
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROUNDS = 3
STRENGTHS = dict(flip=0.5, shift=4, rotation=15, zoom=0.1, brightness=0.1, contrast=0.2)
MOST_SECONDS = 10  # for 100,000 new images
LEAST_RATIO_TO_KERAS = 10
MOST_MEMORY = 2


def ours(images):
    from cifar100_helpers.augment import augmented_copies

    return augmented_copies(images, np.zeros(len(images), int), **STRENGTHS)[0]


def drawn(images):
    """Our matrices (N, 2, 3) and colour tables (N, 256), so that peers spend no time on them."""
    from cifar100_helpers import augment

    content = augment._content_hash(images)
    parameters = augment._draw_parameters(content, 0, 1, STRENGTHS)
    matrices = augment._inverse_matrices(parameters) / (1 << augment.FIXED_BITS)
    gain, brightness = parameters["contrast"][:, None], parameters["brightness"][:, None]
    mean = images.mean(axis=(1, 2, 3))[:, None]
    tables = np.rint(mean + gain * (np.arange(256) - mean) + 255 * brightness)
    return np.moveaxis(matrices, -1, 0), np.uint8(np.clip(tables, 0, 255))


def each(images, make):
    """Calls `make(i)` for every image, on all cores where the library lets go of the GIL."""
    result = np.empty_like(images)

    def fill(start):
        for i in range(start, min(start + 250, len(images))):
            result[i] = make(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(images), 250)))
    return result


def opencv(images):
    import cv2

    matrices, tables = drawn(images)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def make(i):
        coloured = cv2.LUT(images[i], tables[i])
        return cv2.warpAffine(
            coloured, matrices[i], (32, 32), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )

    return each(images, make)


def scipy(images):
    from scipy import ndimage

    matrices, tables = drawn(images)

    def make(i):
        turn, move = matrices[i, ::-1, 1::-1], matrices[i, ::-1, 2]  # rows before columns
        coloured = tables[i][images[i]]
        channels = [
            ndimage.affine_transform(coloured[..., c], turn, move, order=1, mode="mirror")
            for c in range(3)
        ]
        return np.stack(channels, axis=-1)

    return each(images, make)


def scikit_image(images):
    from skimage import transform

    matrices, tables = drawn(images)

    def make(i):
        matrix = np.vstack([matrices[i], [0, 0, 1]])
        coloured = tables[i][images[i]]
        return transform.warp(coloured, matrix, order=1, mode="reflect", preserve_range=True)

    return each(images, make)


def albumentations(images):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    shift = {axis: (-4, 4) for axis in "xy"}
    compose = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                translate_px=shift,
                rotate=(-15, 15),
                scale=(0.9, 1.1),
                border_mode=cv2.BORDER_REFLECT_101,
                p=1,
            ),
            A.RandomBrightnessContrast(0.1, 0.2, p=1),
        ]
    )
    # Its random state is not made for threads, which gain it nothing either.
    return np.stack([compose(image=image)["image"] for image in images])


def kornia(images):
    import kornia.augmentation as K
    import torch

    move = dict(degrees=15, translate=(0.125, 0.125), scale=(0.9, 1.1))
    sequence = torch.nn.Sequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(**move, padding_mode="reflection", p=1),
        K.ColorJitter(brightness=0.1, contrast=0.2, p=1),
    )
    made = []
    for start in range(0, len(images), 500):
        batch = torch.tensor(images[start : start + 500]).permute(0, 3, 1, 2) / 255
        made.append((sequence(batch) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)


def keras_layers(images):
    import keras

    sequence = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.125, 0.125, "reflect"),
            keras.layers.RandomRotation(15 / 360, "reflect"),
            keras.layers.RandomZoom(0.1, fill_mode="reflect"),
            keras.layers.RandomBrightness(0.1),
            keras.layers.RandomContrast(0.2),
        ]
    )
    batches = (images[start : start + 500] for start in range(0, len(images), 500))
    made = [keras.ops.convert_to_numpy(sequence(batch, training=True)) for batch in batches]
    return np.uint8(np.clip(np.rint(np.concatenate(made)), 0, 255))


def legacy_keras(images):
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        horizontal_flip=True,
        width_shift_range=4,
        height_shift_range=4,
        rotation_range=15,
        zoom_range=0.1,
        brightness_range=(0.9, 1.1),  # it has no contrast
        fill_mode="reflect",
    )
    batches = generator.flow(images, batch_size=500, shuffle=False)
    return np.concatenate([np.uint8(next(batches)) for _ in range(len(batches))])


# The function, the module it needs, and the part of the images that it gets.
ENGINES = {
    "ours: OpenCV remap, stacked": (ours, "cv2", 1),
    "OpenCV warpAffine, threads": (opencv, "cv2", 1),
    "albumentations": (albumentations, "albumentations", 0.1),
    "Keras layers on the CPU": (keras_layers, "keras", 0.1),
    "kornia": (kornia, "kornia", 0.1),
    "SciPy affine_transform": (scipy, "scipy", 0.1),
    "scikit-image warp": (scikit_image, "skimage", 0.1),
    "Keras ImageDataGenerator": (legacy_keras, "keras", 0.1),
}


def memory(field):
    """Bytes of this process: VmRSS, now, or VmHWM, at the peak; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(name, count):
    """(new images, their number per second, peak memory in sizes of the result)."""
    engine, _, part = ENGINES[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (int(count * part), 32, 32, 3), np.uint8)
    engine(images[:500])  # imports, first calls
    before, times = memory("VmRSS"), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        result = engine(images)
        times.append(time.perf_counter() - start)
        size, new = result.nbytes, len(result) - (len(images) if engine is ours else 0)
        del result
    return new, new / statistics.median(times), (memory("VmHWM") - before) / size


def compare(count):
    """Prints a line per engine; returns its images per second, and our peak memory."""
    speeds, peaks = {}, {}
    print(f"{'engine':<30}{'new images':>11}{'images/s':>10}{'ours is':>9}{'memory':>8}")
    for name, (_, module, _) in ENGINES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name:<30} skipped: {module} is not installed")
            continue
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            new, speeds[name], peaks[name] = fresh.apply(measure, (name, count))
        ratio = next(iter(speeds.values())) / speeds[name]
        print(f"{name:<30}{new:>11,}{speeds[name]:>10,.0f}{ratio:>8.1f}×{peaks[name]:>8.1f}")
    return list(speeds.values()), speeds["Keras ImageDataGenerator"], next(iter(peaks.values()))


def step_cost(batch_size=128, steps=15):
    """Prints the time of a training step of a narrow ResNet without and with the layer."""
    from cifar100_helpers.resnet import build_resnet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
    labels, times = rng.integers(0, 100, batch_size), {False: [], True: []}
    models = {on: build_resnet(width=16, random_transforms=on) for on in times}
    for model in models.values():
        model.compile("adam", "sparse_categorical_crossentropy")
        model.train_on_batch(images, labels)
    for _ in range(steps):  # in turns, so that a busy machine slows both
        for on, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            times[on].append(1000 * (time.perf_counter() - start))
    without, with_layer = (statistics.median(times[on]) for on in (False, True))
    print(f"\none training step, batch of {batch_size}, ResNet of width 16:")
    print(f"without transforms {without:.0f} ms, with {with_layer:.0f} ms", end="")
    print(f" ({100 * (with_layer / without - 1):+.1f} %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=50_000)
    speeds, legacy, peak = compare(parser.parse_args().count)
    step_cost()
    claims = {
        f"100,000 new images in at most {MOST_SECONDS} s": 100_000 / speeds[0] <= MOST_SECONDS,
        f"{LEAST_RATIO_TO_KERAS} × ImageDataGenerator": speeds[0] >= LEAST_RATIO_TO_KERAS * legacy,
        "ahead of every other engine": speeds[0] >= max(speeds),
        f"peak memory at most {MOST_MEMORY} × the result": peak <= MOST_MEMORY,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    sys.exit(not all(claims.values()))


if __name__ == "__main__":
    main()
