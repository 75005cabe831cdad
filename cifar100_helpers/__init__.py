"""Loader, augmentation, models, training, evaluation and plots behind the CIFAR-100 notebooks."""

from .runtime import configure, describe  # first: it loads Keras and its backend quietly
from .augment import augmented_copies, transform_images
from .comparison import (
    accuracy_at_coverage,
    average_probabilities,
    calibrate,
    choose_runs,
    count_agreement,
    difference_interval,
    is_right,
    mcnemar_p_value,
)
from .data import Cifar100, load_cifar100, train_validation_split
from .duplicates import DuplicatePairs, duplicates_within, mark_near_duplicates, near_duplicates
from .errors import DatasetError, ParameterError, RunError, WeightsError
from .evaluation import (
    class_accuracy,
    evaluate,
    mistakes_inside_superclass,
    most_confident_mistakes,
    most_confused_pairs,
)
from .features import frozen_features
from .parameters import check_parameters
from .recipes import Phase, describe_schedule, resnet_phases, xception_phases
from .reporting import predict
from .resnet import build_resnet, describe_stages, residual_block
from .results import Run, load_run, load_runs, project_path, save_run
from .synthetic import COARSE_NAMES, COARSE_OF_FINE, FINE_NAMES, load_synthetic
from .tables import runs_table, seed_table
from .training import train
from .transforms import RandomTransforms
from .xception import build_xception

__all__ = [
    "COARSE_NAMES",
    "COARSE_OF_FINE",
    "FINE_NAMES",
    "Cifar100",
    "DatasetError",
    "DuplicatePairs",
    "ParameterError",
    "Phase",
    "RandomTransforms",
    "Run",
    "RunError",
    "WeightsError",
    "accuracy_at_coverage",
    "augmented_copies",
    "average_probabilities",
    "build_resnet",
    "build_xception",
    "calibrate",
    "check_parameters",
    "choose_runs",
    "class_accuracy",
    "configure",
    "count_agreement",
    "describe",
    "describe_schedule",
    "describe_stages",
    "difference_interval",
    "duplicates_within",
    "evaluate",
    "frozen_features",
    "is_right",
    "load_cifar100",
    "load_run",
    "load_runs",
    "load_synthetic",
    "mark_near_duplicates",
    "mcnemar_p_value",
    "mistakes_inside_superclass",
    "most_confident_mistakes",
    "most_confused_pairs",
    "near_duplicates",
    "predict",
    "project_path",
    "residual_block",
    "resnet_phases",
    "runs_table",
    "save_run",
    "seed_table",
    "train",
    "train_validation_split",
    "transform_images",
    "xception_phases",
]
