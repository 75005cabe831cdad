"""The parameters of the notebooks: what each may be, and one clear sentence if it is not."""

import math
import re
from difflib import get_close_matches
from numbers import Real

from .errors import ParameterError
from .runtime import PRECISIONS

# Where files lie is no property of the run: these parameters stay out of its record.
LOCATIONS = ("data_dir", "picture", "results_dir", "run_name")


def _whole(minimum, maximum=math.inf):
    most = f" and at most {maximum}" if maximum < math.inf else ""
    expected = f"a whole number of at least {minimum}{most}"
    return lambda value: type(value) is int and minimum <= value <= maximum, expected


def _of(kind, expected):
    return lambda value: isinstance(value, kind), expected


def _one_of(*options):
    return lambda value: value in options, "one of " + ", ".join(map(repr, options))


def _is_fraction(value):
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 1


def _is_name(value):
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value)


RULES = {  # a parameter's name: (whether a value fits, what the value must be)
    **dict.fromkeys(("copies", "cutout", "finetune_epochs"), _whole(0)),
    **dict.fromkeys(("train_limit", "validation_size"), _whole(0)),
    **dict.fromkeys(("batch_size", "epochs", "frozen_epochs", "hidden_units", "width"), _whole(1)),
    "image_size": _whole(71),
    "seed": _whole(0, 2**32 - 1),
    "dropout_rate": (_is_fraction, "a number of at least 0 and below 1"),
    **dict.fromkeys(("galleries", "random_transforms"), _of(bool, "True or False")),
    "dataset": _one_of("cifar100", "synthetic"),
    "interpolation": _one_of("bilinear", "bicubic"),
    "precision": _one_of(*PRECISIONS),
    "recipe": _of(str, "the name of a recipe in quotes"),
    "recipe_changes": _of(dict, "a dict such as {'label_smoothing': 0.0}"),
    "weights": _of(str, "'imagenet', 'none', or the path of a weights file"),
    "data_dir": _of(str, "a folder in quotes, or '' to search"),
    "results_dir": _of(str, "a folder in quotes"),
    "run_name": (_is_name, "a folder's name of letters, digits, '.', '_' and '-'"),
    "picture": _of(str, "the path of a picture in quotes, or '' for a sample photograph"),
    "first_run": _of(str, "the name of a run in quotes, or '' for a ResNet"),
    "second_run": _of(str, "the name of a run in quotes, or '' for an Xception"),
}


def check_parameters(namespace, names):
    """Check a notebook's parameters and return those that describe the run, as a dict.

    `namespace` is the notebook's `globals()`, `names` its parameters, separated by spaces. Raises
    ParameterError if a value does not fit, or if a profile or the command line set something that
    is no parameter of this notebook.
    """
    names = names.split()
    _refuse_unknown(namespace, names)
    for name in names:
        fits, expected = RULES[name]
        if not fits(namespace[name]):
            raise ParameterError(f"{name} must be {expected}, not {namespace[name]!r}.")
    return {name: namespace[name] for name in names if name not in LOCATIONS}


def _refuse_unknown(namespace, names):
    # In a fresh kernel, any other plain value is a misspelt parameter. If cells are run again,
    # variables of later cells are there too.
    if namespace.get("_parameters_checked"):
        return
    plain = (str, int, float, list, dict, type(None))
    for name, value in namespace.items():
        of_ipython = name in ("In", "Out") or name.startswith("_")
        if isinstance(value, plain) and name not in names and not of_ipython:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}."
            raise ParameterError(f"{name} is no parameter of this notebook: {hint}")
    namespace["_parameters_checked"] = True
