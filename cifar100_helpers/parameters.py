"""The settings of a notebook: its profile, what the parameters cell changes, and their rules."""

import ast
import contextlib
import math
import re
from difflib import get_close_matches
from numbers import Real
from types import SimpleNamespace

import yaml

from .errors import ParameterError, in_one_line
from .storage import PROJECT

PROFILES = PROJECT / "notebooks" / "profiles"
COMPLETE = "published"  # the profile that has every parameter; the others hold what differs
# Where files lie, what chose the settings and how long a run may take: no properties of the run.
NOT_RECORDED = ("changed", "data_dir", "hours", "picture", "profile", "results_dir", "run_name")


def _whole(minimum, maximum=math.inf):
    most = f" and at most {maximum}" if maximum < math.inf else ""
    expected = f"a whole number of at least {minimum}{most}"
    return lambda value: type(value) is int and minimum <= value <= maximum, expected


def _is_stages(value):
    whole = type(value) is list and all(type(blocks) is int and blocks >= 0 for blocks in value)
    # The fifth stage of a 32-pixel image has 2 × 2 cells.
    return whole and 1 <= len(value) <= 5 and all(value[1:])


def _of(kind, expected):
    return lambda value: isinstance(value, kind), expected


def _one_of(*options):
    return lambda value: value in options, "one of " + ", ".join(map(repr, options))


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_name(value):
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value)


RULES = {  # a parameter's name: (whether a value fits, what the value must be)
    **dict.fromkeys(("finetune_epochs", "train_limit", "validation_size"), _whole(0)),
    **dict.fromkeys(("batch_size", "epochs", "frozen_epochs", "hidden_units", "width"), _whole(1)),
    "copies": _whole(0, 10),  # more than ten fill the memory of most machines
    "cutout": _whole(0, 16),  # half of an image's side
    "image_size": _whole(71, 299),
    "seed": _whole(0, 2**32 - 1),
    "dropout_rate": (
        lambda value: _is_number(value) and 0 <= value < 1,
        "a number of at least 0 and below 1",
    ),
    "hours": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(
        ("freeze_statistics", "galleries", "random_transforms"), _of(bool, "True or False")
    ),
    "dataset": _one_of("cifar100", "synthetic"),
    "interpolation": _one_of("bilinear", "bicubic"),
    "num_blocks": (_is_stages, "a list of 1 to 5 whole numbers; only the first may be 0"),
    "precision": _one_of("float32", "mixed_bfloat16", "mixed_float16", "auto"),
    "recipe": _of(str, "the name of a recipe in quotes"),
    "recipe_changes": _of(dict, "a dict such as {'label_smoothing': 0.0}"),
    "weights": _of(str, "'imagenet', 'none', or the path of a weights file"),
    "data_dir": _of(str, "a folder in quotes, or '' to search"),
    "results_dir": _of(str, "a folder in quotes"),
    "run_name": (_is_name, "a folder's name of letters, digits, '.', '_' and '-'"),
    "picture": _of(str, "the path of a picture in quotes, or '' for sample photographs"),
    "first_run": _of(str, "the name of a run in quotes, or '' for a ResNet"),
    "second_run": _of(str, "the name of a run in quotes, or '' for an Xception"),
}

# Examples of what papermill takes by -y alone.
AS_YAML = {"num_blocks": "[1, 1, 1, 1]", "recipe_changes": "{label_smoothing: 0.0}"}


class Settings(SimpleNamespace):
    """A notebook's settings as attributes; printed, they are a table that marks what was changed.

    `changed`: a dict from the names of changed settings to their values in the profile.
    """

    def __str__(self):
        lines = []
        for name, value in vars(self).items():
            if name != "changed":
                note = f"  (the profile: {self.changed[name]})" if name in self.changed else ""
                lines.append(f"{name:<18} {value}{note}")
        return "\n".join(lines)

    def of_the_run(self):
        """Return the settings that describe a run, as its record holds them: a dict."""
        return {name: value for name, value in vars(self).items() if name not in NOT_RECORDED}


def resolve(namespace, notebook):
    """Return the `Settings` of a `notebook`: those of its profile, and what its parameters change.

    `namespace` is the notebook's `globals()`. A parameter that is not None beats the profile.
    Raises ParameterError if a profile, a parameter or a value does not fit, or if something was set
    that is no parameter of this notebook.
    """
    known = ["profile", *load_profile(COMPLETE, notebook)]
    for name in sorted(_assigned(namespace.get("In", ())) - set(known)):
        raise ParameterError(f"{name} is no parameter of this notebook: {_hint(name, known)}")
    given = {name: namespace[name] for name in known if namespace.get(name) is not None}
    profile = given.pop("profile", COMPLETE)
    planned = load_profile(profile, notebook)
    values = planned | given
    for name, value in values.items():
        fits, expected = RULES[name]
        if not fits(value):
            raise ParameterError(
                f"{name} must be {expected}, not {value!r}{_way_out(name, value)}."
            )
    changed = {name: planned[name] for name in given if given[name] != planned[name]}
    return Settings(profile=profile, **values, changed=changed)


def load_profile(name, notebook):
    """Return what the profile `name` sets in `notebook`, such as "03_resnet": a dict, complete.

    Raises ParameterError if there is no such profile, if it has no section for the notebook, or if
    it sets something else.
    """
    profiles = {file.stem: _read_profile(file) for file in sorted(PROFILES.glob("*.yaml"))}
    known = [profile for profile, sections in profiles.items() if notebook in sections]
    if name not in known:
        raise ParameterError(f"profile {name!r} does not exist here: {_hint(name, known)}")
    settings, own = profiles[COMPLETE][notebook], profiles[name][notebook] or {}
    for unknown in own.keys() - settings.keys():
        raise ParameterError(
            f"{unknown} in {name}.yaml is no parameter of {notebook}: {_hint(unknown, settings)}"
        )
    return settings | own


def _read_profile(file):
    try:
        sections = yaml.safe_load(file.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"{file} is not YAML ({in_one_line(error)}): correct it.") from None
    sound = isinstance(sections, dict) and all(
        isinstance(section or {}, dict) for section in sections.values()
    )
    if not sound:
        raise ParameterError(
            f"{file} must name notebooks, and below each its parameters, such as epochs: 3."
        )
    return sections


def _hint(name, known):
    close = get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."


def _way_out(name, value):
    """What papermill's user may have meant: its -p guesses types, and knows no lists or dicts."""
    if isinstance(value, str) and name in AS_YAML:
        return f" (papermill: -y '{name}: {AS_YAML[name]}')"
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return f" (papermill: -p {name} {value.capitalize()})"
    if _is_number(value) and RULES[name][0](str(value)):
        return f" (papermill: -r {name} {value} passes it as text)"
    return ""


def _assigned(cells):
    """Return the names that the parameters cell assigns, and papermill's cell behind it: a set.

    `cells` are the sources of all cells as they were run: the last version of each counts. Where
    the kernel keeps no such list, as under nbval, the set is empty.
    """
    own, papermills = set(), set()
    for source in cells:
        with contextlib.suppress(SyntaxError):
            body = ast.parse(source).body
            targets = [t for s in body if isinstance(s, ast.Assign) for t in s.targets]
            targets += [s.target for s in body if isinstance(s, ast.AnnAssign)]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            if source.startswith("# Parameters"):
                papermills = names
            elif names > {"profile"}:  # a cell with the profile alone chooses another one
                own = names
    return own | papermills
