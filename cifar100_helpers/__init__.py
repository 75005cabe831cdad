"""Loader, augmentation, models, training, evaluation and plots behind the CIFAR-100 notebooks."""

from . import runtime as runtime  # first: it loads Keras and its backend quietly
from .data import load_cifar100, load_synthetic
from .inference import predict
from .resnet import build_resnet
from .results import load_run
from .training import Run
from .xception import build_xception

__all__ = [
    "Run",
    "build_resnet",
    "build_xception",
    "load_cifar100",
    "load_run",
    "load_synthetic",
    "predict",
]
