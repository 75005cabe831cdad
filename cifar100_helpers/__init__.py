"""Loader, augmentation, models, training, evaluation and plots behind the CIFAR-100 notebooks."""

from . import runtime as runtime  # first: it loads Keras and its backend quietly
