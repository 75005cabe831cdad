"""Offline copies against other engines, and what the layer in the model adds to a training step.

    python benchmarks/augmentation.py [number of images, 50,000 by default]

Every engine makes two copies of random uint8 images: flip, shift up to 4 pixels, rotation up to
15 degrees, zoom up to 10 %, brightness and contrast, reflected borders; each in a process of its
own, in rounds of turns, from the images to originals and copies in one array. Memory is the
peak above the input, in sizes of that array. Slow engines get a twentieth of the images. Libraries
that are not installed are named and skipped.

Two cores of an AMD EPYC (OpenCV 5.0, Keras 3.15, NumPy 2.2), three runs, the last with nothing else
running: ours made 80,000 to 106,000 images/s, 2.1 to 2.6 times as many as OpenCV's warpAffine image
by image in threads, 3 to 4 times kornia, 5 to 8 times SciPy, scikit-image and albumentations, 9 to
11 times Keras's layers on the CPU, 17 to 24 times its ImageDataGenerator. Two earlier runs on a
busy machine, with 5 rounds, gave 1.2 and 0.8 times warpAffine; hence more rounds and the column of
processor time. Two more engines were tried apart from this script, on a quieter
machine where warpAffine had 0.8 of our engine's speed: gathers in NumPy, the three channels of a
pixel in one 64-bit word, had 0.7 with twice the code; `remap` with float coordinates was at least
as fast as with integers, but its pixels, like those of OpenCV 5's warpAffine, differ with the
processor and the release.

In the model, per batch of 128: our layer takes 1 ms under XLA and 3 to 5 without, of a step of
200. Keras's RandomTranslation takes 5 to 6, on JAX 28, and TensorFlow cannot compile it with XLA;
RandomCrop cuts the whole batch at one place; RandAugment takes 70 to 90, on JAX 400. RandomFlip
and RandomErasing are as fast as ours, but turn uint8 into floats and need the range of values.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROUNDS = 5
MORE_ROUNDS = 15  # for the engines close to each other: a busy machine can swap two in five rounds
STRENGTHS = dict(flip=0.5, shift=4, rotation=15, zoom=0.1, brightness=0.1, contrast=0.2)
MOST_SECONDS = 10  # for 100,000 new images
LEAST_RATIO_TO_KERAS = 10
MOST_MEMORY = 2


def random_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def ours(images):
    from cifar100_helpers.augment import augmented_copies

    return augmented_copies(images, np.zeros(len(images), int), **STRENGTHS)[0]


def theirs(engine, images):
    """The same as `ours`: the originals and two copies in one array, which `engine` fills."""
    result = np.empty((3, *images.shape), np.uint8)
    result[0] = images
    for copy in (1, 2):
        engine(images, result[copy])
    return result


def drawn(images):
    """Matrices (N, 2, 3) and colour tables (N, 256) for libraries that draw nothing themselves."""
    from cifar100_helpers import augment

    content = augment._content_hash(images)
    parameters = augment._draw_parameters(content, 0, 1, STRENGTHS)
    matrices = augment._inverse_matrices(parameters) / (1 << augment.FIXED_BITS)
    gain, brightness = (parameters[k][:, None] for k in ("contrast", "brightness"))
    mean = images.reshape(len(images), -1).sum(axis=1, dtype=np.uint32)[:, None] / images[0].size
    tables = gain * np.arange(256) + (mean * (1 - gain) + 255 * brightness)
    np.clip(np.rint(tables, out=tables), 0, 255, out=tables)
    return np.moveaxis(matrices, -1, 0), tables.astype(np.uint8)


def each(count, make, out):
    """Fills `out` with `make(i)` for every i, in threads: most of these libraries free the GIL."""

    def fill(start):
        for i in range(start, min(start + 250, count)):
            out[i] = make(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, count, 250)))


def opencv(images, out):
    import cv2

    matrices, tables = drawn(images)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def make(i):
        coloured = cv2.LUT(images[i], tables[i])
        return cv2.warpAffine(
            coloured, matrices[i], (32, 32), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )

    each(len(images), make, out)


def scipy(images, out):
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

    each(len(images), make, out)


def scikit_image(images, out):
    from skimage import transform

    matrices, tables = drawn(images)

    def make(i):
        matrix = np.vstack([matrices[i], [0, 0, 1]])
        coloured = tables[i][images[i]]
        return transform.warp(coloured, matrix, order=1, mode="reflect", preserve_range=True)

    each(len(images), make, out)


def albumentations(images, out):
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
    for i, image in enumerate(images):
        out[i] = compose(image=image)["image"]


def kornia(images, out):
    import kornia.augmentation as K
    import torch

    move = dict(degrees=15, translate=(0.125, 0.125), scale=(0.9, 1.1))
    sequence = torch.nn.Sequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(**move, padding_mode="reflection", p=1),
        K.ColorJitter(brightness=0.1, contrast=0.2, p=1),
    )
    for start in range(0, len(images), 500):
        batch = torch.tensor(images[start : start + 500]).permute(0, 3, 1, 2) / 255
        made = (sequence(batch) * 255).round().byte()
        out[start : start + 500] = made.permute(0, 2, 3, 1).numpy()


def keras_layers(images, out):
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
    for start in range(0, len(images), 500):
        made = keras.ops.convert_to_numpy(sequence(images[start : start + 500], training=True))
        out[start : start + 500] = np.clip(np.rint(made), 0, 255)


def legacy_keras(images, out):
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
    for start in range(0, len(images), 500):
        out[start : start + 500] = next(batches)


OURS, LEGACY = "ours: OpenCV remap, stacked", "Keras ImageDataGenerator"
# The function, the module it needs, and the part of the images that it gets.
ENGINES = {
    OURS: (ours, "cv2", 1),
    "OpenCV warpAffine, threads": (opencv, "cv2", 1),
    "albumentations": (albumentations, "albumentations", 0.05),
    "Keras layers on the CPU": (keras_layers, "keras", 0.05),
    "kornia": (kornia, "kornia", 0.05),
    "SciPy affine_transform": (scipy, "scipy", 0.05),
    "scikit-image warp": (scikit_image, "skimage", 0.05),
    LEGACY: (legacy_keras, "keras", 0.05),
}


def memory(field):
    """Bytes of this process: VmRSS, now, or VmHWM, at the peak; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(name, count):
    """(new images per second, per second of processor time, peak memory in sizes of the result)."""
    engine, _, part = ENGINES[name]
    images = random_images(int(count * part))
    make = engine if engine is ours else functools.partial(theirs, engine)
    make(images[:500])  # imports, first calls
    before, start, start_cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    result = make(images)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    new, peak = 2 * len(images), memory("VmHWM") - before
    return new / seconds, new / cpu_seconds, peak / result.nbytes


def compare(count):
    """Prints a line per engine; returns our seconds for 100,000, the ratios and our peak memory.

    The engines take turns, so that a busy machine slows all of them; a ratio is the median of
    those within the rounds.
    """
    measured, workers = {}, {}
    for name, (_, module, _) in ENGINES.items():
        if importlib.util.find_spec(module) is None:
            print(f"skipped: {name}, {module} is not installed")
        else:
            workers[name] = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            measured[name] = []
    for turn in range(MORE_ROUNDS):
        for name, worker in workers.items():
            if turn < ROUNDS or ENGINES[name][2] == 1:
                measured[name].append(worker.submit(measure, name, count).result())
    for worker in workers.values():
        worker.shutdown()
    first = np.array(measured[OURS])
    ratios, peaks = {}, {}
    print(f"{'engine':<28}{'images/s':>10}{'ours is':>9}{'in CPU time':>13}{'memory':>8}")
    for name, rounds in measured.items():
        wall, cpu, _ = np.median(first[: len(rounds)] / np.array(rounds), axis=0)
        ratios[name], peaks[name] = wall, rounds[0][2]  # later peaks include earlier rounds'
        speed = np.median(rounds, axis=0)[0]
        print(f"{name:<28}{speed:>10,.0f}{wall:>8.2f}×{cpu:>12.2f}×{peaks[name]:>8.1f}")
    return 100_000 / np.median(first[:, 0]), ratios, peaks[OURS]


def step_cost(batch_size=128, steps=15):
    """Prints the time of a training step of a narrow ResNet without and with the layer."""
    import keras

    from cifar100_helpers.resnet import build_resnet
    from cifar100_helpers.transforms import RandomTransforms

    images, labels = random_images(batch_size), np.arange(batch_size) % 100
    inputs = keras.Input(images.shape[1:], dtype="uint8")
    transformed = RandomTransforms()(inputs)
    models = {
        "without": keras.Model(inputs, build_resnet(width=16)(inputs)),
        "with": keras.Model(inputs, build_resnet(width=16)(transformed)),
    }
    times = {name: [] for name in models}
    for model in models.values():
        model.compile("adam", "sparse_categorical_crossentropy")
        model.train_on_batch(images, labels)
    for _ in range(steps):  # in turns, so that a busy machine slows both
        for name, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"\none training step, batch of {batch_size}, ResNet of width 16, milliseconds:")
    print(f"without the layer {medians['without']:.0f}, with it {medians['with']:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=50_000)
    seconds, ratios, peak = compare(parser.parse_args().count)
    step_cost()
    claims = {
        f"100,000 new images in at most {MOST_SECONDS} s": seconds <= MOST_SECONDS,
        f"{LEAST_RATIO_TO_KERAS} × ImageDataGenerator": ratios[LEGACY] >= LEAST_RATIO_TO_KERAS,
        "ahead of every other engine": min(ratios.values()) >= 1,
        f"peak memory at most {MOST_MEMORY} × the result": peak <= MOST_MEMORY,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    sys.exit(not all(claims.values()))


if __name__ == "__main__":
    main()
