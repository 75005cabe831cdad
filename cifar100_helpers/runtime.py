"""All that depends on the backend: seeds, precision, GPUs, input, a fused kernel; progress bars."""

import importlib.util
import logging
import math
import os
import platform
import re
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress

import numpy as np
from tqdm import tqdm


@contextmanager
def _without_startup_notices():
    """Hide what a backend writes to standard error while it loads, unless loading fails.

    TensorFlow prints its first notices before it reads TF_CPP_MIN_LOG_LEVEL, past `sys.stderr`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on processors without AVX-512, where it doubles the speed of training.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # TensorFlow and JAX take nearly all of a GPU's memory unless told; PyTorch does not.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            yield
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with _without_startup_notices():
    import keras

    # Under every backend, Keras imports TensorFlow when it first needs to know a tensor's kind.
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf
    BACKEND = keras.backend.backend()
    if BACKEND == "jax":
        import jax
    elif BACKEND == "torch":
        import torch
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retraced functions
# Labels are int64; since release 0.12, JAX says that it makes them int32.
warnings.filterwarnings("ignore", "Explicitly requested dtype int64")

FEW_CELLS = 16  # of a convolution's output: up to here, oneDNN's gradient of its kernel is slow
BFLOAT16_GPU = (8, 0)  # the compute capability of the first that has it, NVIDIA's A100


def configure(*, seed=0, precision="float32"):
    """Seed Python, NumPy and the backend, set the precision, and use all GPUs.

    `precision` is a Keras dtype policy, or "auto": bfloat16 on hardware that computes in it, else
    float32. Returns the policy. Models built later train on all GPUs (see `divide_batches`).
    """
    _keep_compiled_programs()
    if len(gpus := _gpus()) > 1:
        divide_batches([f"gpu:{number}" for number in range(len(gpus))])
    # The keras.json in the user's home may have other settings.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.utils.set_random_seed(seed)
    if precision == "auto":
        # Older hardware emulates bfloat16, a CPU some twenty times slower than float32.
        cpu = not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_info("flags").split())
        fast = all(capability >= BFLOAT16_GPU for _, capability in gpus) if gpus else cpu
        precision = "mixed_bfloat16" if fast else "float32"
    keras.config.set_dtype_policy(precision)
    return precision


def divide_batches(devices):
    """Divide every batch of models built from now on among `devices`, such as ["gpu:0", "gpu:1"].

    Each device holds a copy of the weights and gradients are averaged, so the result is that of
    one device up to rounding and random draws. PyTorch's backend cannot do this: it uses one.
    """
    if BACKEND == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    elif BACKEND == "tensorflow":
        tf.distribute.experimental_set_strategy(tf.distribute.MirroredStrategy(devices))


def device_count():
    """Return the number of devices that every batch is divided among; 1 if it stays whole."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


def layers_see_parts():
    """Return whether layers compute on one device's part of every batch, as under TensorFlow."""
    return BACKEND == "tensorflow" and device_count() > 1


def describe():
    """Return what computes here: `device`, `gpus` (together), `cores`, `backend`, `versions`."""
    gpus = _gpus()
    cpu = _cpu_info("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # TensorFlow's package has several names, its module has one.
    modules = ("keras", BACKEND, "numpy")
    versions = {name: importlib.import_module(name).__version__ for name in modules}
    return {
        "device": gpus[0][0] if gpus else cpu,
        "gpus": device_count() if gpus else 0,
        "cores": cores,
        "backend": BACKEND,
        "versions": {"python": platform.python_version(), **versions},
    }


class Batches(keras.utils.PyDataset):
    """Batches of `arrays`, each (n, …), in the given `order` of their rows, by default their own.

    Keras shuffles arrays in another order under every backend.
    """

    def __init__(self, *arrays, batch_size, order=None):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size
        self.order = np.arange(len(arrays[0])) if order is None else order

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number):
        chosen = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        return tuple(array[chosen] for array in self.arrays)

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


def prefetch(batches):
    """Return `batches`, a `Batches`, as what `fit` and `predict` read without a pause at the end.

    TensorFlow tunes the pipelines that Keras makes, in a thread that sleeps for up to a minute and
    may miss its wake-up call when the data end: `fit` then waits until it wakes. Nothing is tuned
    here.
    """
    if BACKEND != "tensorflow":
        return batches
    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in batches.arrays)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    counted = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(2).with_options(options)


def conv_with_product_gradient(x, kernel, *, stride, padding):
    """Convolve `x` (batch, height, width, in) with `kernel` (height, width, in, out).

    The kernel's gradient is one matrix product, of the patches of `x` and the gradient of the
    outputs. Returns None where that does not pay: for outputs of more than FEW_CELLS, on other
    backends and on GPUs.
    """
    cells = math.prod(-(-side // stride) for side in x.shape[1:3])
    if BACKEND != "tensorflow" or cells > FEW_CELLS or tf.config.list_physical_devices("GPU"):
        return None
    strides, padding = (1, stride, stride, 1), padding.upper()

    @tf.custom_gradient
    def conv(x, kernel):
        def gradients(outputs):
            patches = tf.image.extract_patches(
                x, (1, *kernel.shape[:2], 1), strides, (1, 1, 1, 1), padding
            )
            rows = (tf.reshape(t, (-1, t.shape[-1])) for t in (patches, outputs))
            return (
                tf.nn.conv2d_transpose(outputs, kernel, tf.shape(x), strides, padding),
                tf.reshape(tf.matmul(*rows, transpose_a=True), kernel.shape),
            )

        return tf.nn.conv2d(x, kernel, strides, padding), gradients

    return conv(x, tf.convert_to_tensor(kernel))


def fused_batch_norm(x, *, scale, offset, mean, variance, epsilon, training):
    """Normalize `x` (batch, height, width, channels) with TensorFlow's fused kernel.

    Returns the normalized `x`, and the mean and biased variance, float32 (channels,), it was
    normalized with: the batch's in `training`, else the given ones. Returns None on other backends,
    and if batches are divided: the kernel would see one part only.
    """
    if BACKEND != "tensorflow" or device_count() > 1:
        return None
    # In training, the kernel wants no statistics.
    statistics = {} if training else {"mean": mean, "variance": variance}
    vectors = {"scale": scale, "offset": offset, "mean": [], "variance": []} | statistics
    vectors = {name: tf.cast(vector, tf.float32) for name, vector in vectors.items()}
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, **vectors, epsilon=epsilon, is_training=training
    )
    if training:  # the kernel returns the unbiased variance
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        variance = variance * (count - 1) / count
    return outputs, mean, variance


def progress_bar(total, description, unit="it", **options):
    """Return a `tqdm` bar of `total` `unit`s that shows only in a terminal and in JupyterLab.

    It leaves nothing behind when it closes. `options` go to `tqdm`.
    """
    someone_watches = sys.stdout.isatty() or "JPY_SESSION_NAME" in os.environ
    options |= {"file": sys.stdout, "leave": False, "disable": not someone_watches}
    return tqdm(total=total, desc=description, unit=unit, **options)


def _keep_compiled_programs():
    # An Xception's training step takes JAX more than a minute to compile.
    if BACKEND == "jax" and _gpus() and not jax.config.jax_compilation_cache_dir:
        folder = os.path.expanduser("~/.cache/cifar100_helpers/jax")
        jax.config.update("jax_compilation_cache_dir", folder)


def _gpus():
    """Name and compute capability of each GPU."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_physical_devices("GPU")
        details = map(tf.config.experimental.get_device_details, devices)
        return [(d.get("device_name", "GPU"), d.get("compute_capability", (0,))) for d in details]
    if BACKEND == "jax":
        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        numbers = [re.findall(r"\d+", gpu.compute_capability) for gpu in gpus]
        return [(g.device_kind, (*map(int, n),)) for g, n in zip(gpus, numbers, strict=True)]
    cuda = torch.cuda
    return [
        (cuda.get_device_name(i), cuda.get_device_capability(i)) for i in range(cuda.device_count())
    ]


def _cpu_info(field):
    """What Linux says of the first processor's `field`, "" elsewhere."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
    return ""
