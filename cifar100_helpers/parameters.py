"""The parameters of the notebooks: what each may be, and one clear sentence where it is not."""

import math
import re
from difflib import get_close_matches
from numbers import Real

from .errors import ParameterError
from .runtime import PRECISIONS

# Where files lie says nothing about the run: these stay out of its record.
LOCATIONS = ("data_dir", "results_dir", "run_name")


def _whole_number(minimum, maximum=math.inf):
    def fits(value):
        return type(value) is int and minimum <= value <= maximum

    most = f" and at most {maximum}" if maximum < math.inf else ""
    return fits, f"a whole number of at least {minimum}{most}"


def _fraction(value):
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 1


def _choice(*options):
    return lambda value: value in options, "one of " + ", ".join(map(repr, options))


def _is_text(value):
    return isinstance(value, str)


def _is_name(value):
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None


_SWITCH = (lambda value: isinstance(value, bool), "True or False")
_RUN = (_is_text, "the name of a run in quotes, or '' for the best of its model")

RULES = {
    "batch_size": _whole_number(1),
    "copies": _whole_number(0),
    "crop": _whole_number(0),
    "cutout": _whole_number(0),
    "data_dir": (_is_text, "a folder in quotes, or '' to search"),
    "dataset": _choice("cifar100", "synthetic"),
    "dropout_rate": (_fraction, "a number from 0 up to, but not, 1"),
    "epochs": _whole_number(1),
    "first_run": _RUN,
    "galleries": _SWITCH,
    "finetune_epochs": _whole_number(0),
    "frozen_blocks": _whole_number(0, 13),
    "frozen_epochs": _whole_number(1),
    "hidden_units": _whole_number(1),
    "image_size": _whole_number(71),
    "interpolation": _choice("bilinear", "bicubic"),
    "precision": _choice(*PRECISIONS),
    "random_transforms": _SWITCH,
    "recipe": (_is_text, "the name of a recipe in quotes"),
    "recipe_changes": (lambda value: isinstance(value, dict), "a dict such as {'mixup': 0.2}"),
    "results_dir": (_is_text, "a folder in quotes"),
    "run_name": (_is_name, "a folder's name of letters, digits, '.', '_' and '-'"),
    "second_run": _RUN,
    "seed": _whole_number(0, 2**32 - 1),
    "train_limit": _whole_number(0),
    "validation_size": _whole_number(0),
    "weights": (_is_text, "'imagenet', 'none', or the path of a weights file"),
    "width": _whole_number(1),
}


def check_parameters(namespace, names):
    """Check a notebook's parameters and return those that describe the run, as a dict.

    `namespace` is the notebook's `globals()`, `names` its parameters, separated by spaces. Raises
    ParameterError where a value does not fit, or where a profile or the command line set something
    that is no parameter of this notebook.
    """
    names = names.split()
    _refuse_unknown(namespace, names)
    for name in names:
        fits, expected = RULES[name]
        if not fits(namespace[name]):
            raise ParameterError(f"{name} must be {expected}, not {namespace[name]!r}.")
    return {name: namespace[name] for name in names if name not in LOCATIONS}


def _refuse_unknown(namespace, names):
    # A fresh kernel holds nothing but imports and parameters when it comes here, so any other plain
    # value is a misspelt parameter. When cells are run again, later variables are there too.
    if namespace.get("_parameters_checked"):
        return
    plain = (str, int, float, list, dict, tuple, type(None))
    hidden = ("In", "Out", "_")  # IPython's own
    for name, value in namespace.items():
        if isinstance(value, plain) and name not in names and not name.startswith(hidden):
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}."
            raise ParameterError(f"{name} is no parameter of this notebook: {hint}")
    namespace["_parameters_checked"] = True
