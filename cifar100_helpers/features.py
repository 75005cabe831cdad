"""What frozen layers give: computed once, kept on disk, taken up where it was interrupted."""

import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np

from .checkpoint import alone, write_json
from .errors import RunError, stoppable
from .progress import progress_bar
from .reporting import predict_quietly

ROWS = 1024  # computed between two notes of progress
BATCH_SIZE = 128
# Settings of layers that change nothing in inference; names are counted through by Keras.
WITHOUT_EFFECT = ("name", "seed", "trainable")


def layers_after(network, cut):
    """The layers of `network` after the one named `cut`, as a model of what that one gives.

    They are the network's own: what is trained here is trained there.
    """
    return keras.Model(network.get_layer(cut).output, network.output, name=network.name)


@stoppable("run this again, and the computation goes on where it was.")
def frozen_features(network, images, cuts, folder):
    """Return what the last of the layers named in `cuts` gives for `images`, and the seconds spent.

    What each cut gives is computed from what the one before it gave, in inference, and kept in
    `folder` under a name that follows from images, weights, layers and backend: asked again, it is
    read, and an interrupted computation goes on. `images`: uint8 (n, height, width, 3). Returns a
    read-only memory map (n, …) of float32, or of float16 under mixed precision, and the seconds
    that computing each of the files took, whenever that was, as a dict. Raises RunError where
    `folder` has no room.
    """
    features, start, seconds = images, network.input, {}
    key = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
    for cut in cuts:
        output = network.get_layer(cut).output
        piece = keras.Model(start, output)
        key = _key(key, piece)
        file = Path(folder) / f"{key}.npy"
        if not file.exists():
            print(f"computing, once, what {cut} gives for {len(images):,} images", flush=True)
        with alone(file.with_suffix(".lock"), "computes the same features in"):
            features, seconds[key] = _compute_once(piece, features, file)
        start = output
    return features, seconds


def _key(inputs_key, piece):
    digest = hashlib.sha256(f"{inputs_key} {keras.backend.backend()}".encode())
    for layer in _flat_layers(piece):
        config = {k: v for k, v in layer.get_config().items() if k not in WITHOUT_EFFECT}
        digest.update(f"{type(layer).__name__} {json.dumps(config, default=str)}".encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:20]


def _flat_layers(model):
    for layer in model.layers:
        layer = getattr(layer, "layer", layer)  # in a wrapper
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _compute_once(piece, inputs, file):
    """The features in `file`, and the seconds they took; whatever is missing is computed first."""
    unfinished, progress_file = file.with_suffix(".unfinished"), file.with_suffix(".json")
    shape = (len(inputs), *piece.output.shape[1:])
    features, progress = _open(file, progress_file, shape)
    if features is not None:
        return features, progress["seconds"]

    features, progress = _open(unfinished, progress_file, shape)
    if features is None:
        dtype = np.dtype("float32" if piece.output.dtype == "float32" else "float16")
        _begin(unfinished, progress_file, shape, dtype)
        features, progress = _open(unfinished, progress_file, shape)
    with progress_bar(len(inputs), "features", "image", initial=progress["rows"]) as bar:
        while progress["rows"] < len(inputs):
            began = time.perf_counter()
            rows = slice(progress["rows"], progress["rows"] + ROWS)
            computed = predict_quietly(piece, inputs[rows], batch_size=BATCH_SIZE)
            _write_rows(unfinished, features, rows.start, computed)
            progress["rows"] += len(computed)
            progress["seconds"] += time.perf_counter() - began
            write_json(progress_file, progress)
            bar.update(len(computed))
    os.replace(unfinished, file)
    return features, progress["seconds"]


def _open(file, progress_file, shape):
    """The read-only memory map in `file` and how far it is, or None twice where it is not sound."""
    try:
        features = np.lib.format.open_memmap(file, mode="r")
        note = json.loads(progress_file.read_text())
        progress = {"rows": int(note["rows"]), "seconds": float(note["seconds"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
    sound = features.shape == shape and 0 <= progress["rows"] <= len(features)
    return (features, progress) if sound else (None, None)


def _begin(unfinished, progress_file, shape, dtype):
    """Make the file of zeros `unfinished`, and its note of progress."""
    unfinished.unlink(missing_ok=True)
    needed = math.prod(shape) * dtype.itemsize
    free = shutil.disk_usage(unfinished.parent).free
    if needed > free:
        raise _no_room(unfinished.parent, needed, f"{free / 1e9:.1f} GB are free")
    # Before the file: an older note would speak of rows that are zeros.
    write_json(progress_file, {"rows": 0, "seconds": 0.0})
    try:
        np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise _no_room(unfinished.parent, needed, error.strerror) from error


def _write_rows(file, features, start, computed):
    # Not through the memory map: on a full disk the system kills a process that writes there.
    try:
        with open(file, "r+b") as stream:
            stream.seek(features.offset + start * features.strides[0])
            stream.write(computed.astype(features.dtype).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _no_room(file.parent, features.nbytes, error.strerror) from error


def _no_room(folder, needed, reason):
    return RunError(
        f"Features need {needed / 1e9:.1f} GB in {folder} ({reason}): make room there, or choose "
        "another results_dir."
    )
