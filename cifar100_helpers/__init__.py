"""Loader, augmentation, models, training, evaluation and plots behind the CIFAR-100 notebooks."""

from .runtime import configure, describe  # first: it loads Keras and its backend quietly
from .augment import augmented_copies, transform_images
from .data import Cifar100, load_cifar100, train_validation_split
from .errors import DatasetError, ParameterError, RunError
from .evaluation import class_accuracy, evaluate, most_confident_mistakes, most_confused_pairs
from .parameters import check_parameters
from .recipes import Phase, describe_schedule, resnet_phases
from .resnet import build_resnet, describe_stages, residual_block
from .results import Run, load_run, project_path, save_run
from .synthetic import load_synthetic
from .training import train
from .transforms import RandomTransforms

__all__ = [
    "Cifar100",
    "DatasetError",
    "ParameterError",
    "Phase",
    "RandomTransforms",
    "Run",
    "RunError",
    "augmented_copies",
    "build_resnet",
    "check_parameters",
    "class_accuracy",
    "configure",
    "describe",
    "describe_schedule",
    "describe_stages",
    "evaluate",
    "load_cifar100",
    "load_run",
    "load_synthetic",
    "most_confident_mistakes",
    "most_confused_pairs",
    "project_path",
    "residual_block",
    "resnet_phases",
    "save_run",
    "train",
    "train_validation_split",
    "transform_images",
]
