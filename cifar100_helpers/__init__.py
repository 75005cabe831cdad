"""Loader, augmentation, models, training, evaluation and plots behind the CIFAR-100 notebooks."""

import os

# TensorFlow reads this when it is first imported: without it, start-up notices fill the notebooks.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
