"""Ways of feeding the network: bytes and transforms inside the model, a tf.data pipeline, floats.

    python benchmarks/input_path.py [width, 16 by default]

Training steps of the same network on the same images. Ours: uint8 batches, cropped and mirrored by
a layer. tf.data: the same transforms in a pipeline of Keras's tutorials' kind, mapped in parallel
and prefetched. floats: images scaled to float32 beforehand, no transforms at all. They take turns
in one process; a speed is the median of the rounds. Needs the TensorFlow backend.
"""

import argparse
import time

import numpy as np

from cifar100_helpers import RandomTransforms, build_resnet, configure
from cifar100_helpers.batches import ShuffledBatches, one_hot
from cifar100_helpers.compiling import compile_phase
from cifar100_helpers.recipes import Phase

import keras  # isort: skip  (after the package, which loads it quietly)
import tensorflow as tf  # isort: skip

BATCH_SIZE, STEPS, ROUNDS, CROP = 128, 16, 5, 4


def pipeline(x, y):
    def transformed(image, label):
        padded = tf.pad(image, [[CROP, CROP], [CROP, CROP], [0, 0]], "REFLECT")
        cropped = tf.image.random_crop(padded, tf.shape(image))
        return tf.image.random_flip_left_right(cropped), label

    images = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))
    images = images.map(transformed, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def compiled(model):
    compile_phase(model, Phase(1, 0.05, optimizer="sgd"), STEPS)
    return model


def ways(width):
    """Each way's network and what it is fitted on."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 100, len(x))
    y = one_hot(labels, 100)
    transforms = RandomTransforms(crop=CROP, cutout=0)
    ours = build_resnet(width=width, dropout_rate=0.0, augmentation=transforms)
    plain, whole = (build_resnet(width=width, dropout_rate=0.0) for _ in range(2))
    scaled = keras.Model(whole.get_layer("stem_rescale").output, whole.output)
    floats = tf.data.Dataset.from_tensor_slices(((x / 255).astype(np.float32), y))
    return {
        "ours": (compiled(ours), ShuffledBatches(x, labels, BATCH_SIZE, (0,), classes=100)),
        "tf.data": (compiled(plain), pipeline(x, y)),
        "floats": (compiled(scaled), floats.shuffle(len(x)).batch(BATCH_SIZE)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("width", type=int, nargs="?", default=16)
    width = parser.parse_args().width
    configure(precision="mixed_bfloat16")
    contestants = ways(width)
    seconds = {name: [] for name in contestants}
    for _ in range(1 + ROUNDS):  # the first one compiles
        for name, (model, batches) in contestants.items():
            start = time.perf_counter()
            model.fit(batches, shuffle=False, verbose=0)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: np.median(values[1:]) for name, values in seconds.items()}
    print(f"width {width}, mixed bfloat16, batches of {BATCH_SIZE}")
    print(f"{'':<9}{'images/s':>10}{'ours is':>10}")
    for name, median in medians.items():
        print(f"{name:<9}{BATCH_SIZE * STEPS / median:>10.0f}{median / medians['ours']:>8.2f} ×")


if __name__ == "__main__":
    main()
