"""Trained models in use: predictions, cached features, their cost, and the model to take home."""

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
# What a saved layer can do without: it says how to train. Older Keras refuses keys that it does not
# know, and JAX and PyTorch refuse layers that are synchronized.
OF_TRAINING = ("initializer", "regularizer", "constraint", "renorm", "quantization", "synchronized")


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


def save_model(model, run_dir):
    """Write the trained `model` to `run_dir`/model.keras and return what was written.

    That is a model of Keras's own layers, in float32, from uint8 images to probabilities, which
    `keras.saving.load_model` opens without this package. Raises RunError if it cannot be written.
    """
    untrained = keras.Model(model.input, model.output, name=model.name)  # without an optimizer
    stock = keras.models.clone_model(
        untrained, clone_function=_stock_layer, call_function=_call_in_inference
    )
    stock.set_weights(model.get_weights())
    file = Path(run_dir) / "model.keras"
    with atomic_path(file) as unfinished:
        stock.save(unfinished)
    print(f"the trained model: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    return stock


def _stock_layer(layer):
    """A new layer like `layer`, one of Keras's own, which computes in float32."""
    if getattr(layer, "training_only", False):
        return layer  # it is not called
    inner = getattr(layer, "layer", layer)  # without its wrapper
    if isinstance(inner, keras.Model):
        base = keras.models.clone_model(inner, clone_function=_stock_layer)
        base.name = layer.name
        return base
    kind = getattr(layer, "stock_class", type(layer))
    stock = kind.from_config(layer.get_config() | {"dtype": "float32"})
    config = {
        name: value
        for name, value in stock.get_config().items()
        if not any(setting in name for setting in OF_TRAINING)
    }
    stock.get_config = lambda: config  # what is saved of it
    return stock


def _call_in_inference(layer, *inputs, **options):
    return inputs[0] if getattr(layer, "training_only", False) else layer(*inputs, **options)
