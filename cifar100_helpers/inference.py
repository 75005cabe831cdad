"""Forward passes: predictions, cached features, and what they cost."""

import hashlib
import json
import math
import time
from pathlib import Path

import keras
import numpy as np

from .errors import explain_interrupt
from .runtime import Batches, device_count, prefetch, progress_bar
from .storage import atomic_path, exclusive_lock, load_arrays

BATCH_SIZE = 128
# Settings that change nothing in inference. Keras numbers layers: names differ between models.
WITHOUT_EFFECT = ("name", "seed", "trainable")


@explain_interrupt("run this again, and it starts anew.")
def predict(model, images, *, after_batch=None):
    """Return the outputs of `model` for uint8 `images` (n, height, width, 3), as float (n, …).

    `after_batch`, if given, is called after every batch with the number of batches.
    """
    devices = device_count()
    # Repeated at the end if every device must get the same number; the surplus is cut off.
    surplus = -len(images) % devices
    filled = np.resize(images, (len(images) + surplus, *images.shape[1:])) if surplus else images
    batches = Batches(filled, batch_size=BATCH_SIZE - BATCH_SIZE % devices)
    with progress_bar(len(batches), "predicting", "batch") as bar:

        def count(batch, logs):
            bar.update()
            if after_batch:
                after_batch(len(batches))

        predicted = model.predict(
            prefetch(batches),
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_predict_batch_end=count)],
        )
    return predicted[: len(images)]


def cached_features(frozen, images, folder, *, after_batch=None):
    """Return the outputs of the model `frozen` for `images`, and the seconds that they took.

    Computed once and cached in `folder`, under a name that follows from images, weights, layers and
    backend. `images`: uint8 (n, height, width, 3). Returns float32 (n, …), float16 under mixed
    precision, and the seconds of the computation, whenever that was. `after_batch` as in `predict`.
    Raises RunError if `folder` has no room.
    """
    file = Path(folder) / f"{_key(frozen, images)}.npz"
    with exclusive_lock(file.with_suffix(".lock"), "computes the same features in"):
        try:
            cached = load_arrays(file)
        except (FileNotFoundError, ValueError):
            print(f"computing the features of {len(images):,} images, once", flush=True)
            start = time.perf_counter()
            features = predict(frozen, images, after_batch=after_batch)
            dtype = "float32" if frozen.output.dtype == "float32" else "float16"
            seconds = time.perf_counter() - start
            cached = {"features": features.astype(dtype, copy=False), "seconds": seconds}
            with atomic_path(file) as unfinished:
                np.savez(unfinished, **cached)
    return cached["features"], float(cached["seconds"])


def _key(frozen, images):
    digest = hashlib.sha256(keras.backend.backend().encode())
    digest.update(np.ascontiguousarray(images))
    for layer in flat_layers(frozen):
        if getattr(layer, "training_only", False):
            continue
        config = {k: v for k, v in layer.get_config().items() if k not in WITHOUT_EFFECT}
        digest.update(f"{type(layer).__name__} {json.dumps(config, default=str)}".encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:20]


def flat_layers(model):
    """Yield the layers of `model` and of the models inside it, without wrappers and inputs."""
    for layer in model.layers:
        layer = getattr(layer, "layer", layer)  # in a wrapper
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def forward_flops(model):
    """Return the operations of one image's forward pass, multiplications plus additions.

    Convolutions and dense layers count, everything else is left out.
    """
    return sum(
        2 * math.prod(layer.output.shape[1:-1]) * math.prod(kernel.shape)
        for layer in flat_layers(model)
        for kernel in layer.weights
        if len(kernel.shape) > 1
    )
