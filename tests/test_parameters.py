import ast
import math
from pathlib import Path

import papermill
import pytest

from cifar100_helpers.errors import ParameterError
from cifar100_helpers.parameters import RULES, check_parameters

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("0*.ipynb"))
GOOD = {  # the defaults of all notebooks
    name: ast.literal_eval(parameter["default"])
    for path in NOTEBOOKS
    for name, parameter in papermill.inspect_notebook(str(path)).items()
}
BAD = {
    "batch_size": [-1, 0],
    "copies": ["2", -1],
    "cutout": [-1],
    "data_dir": [None],
    "dataset": ["cifar10", ["cifar100"]],
    "dropout_rate": [1.0, -0.1, math.nan, "0.5", False],
    "epochs": [0, "abc", 2.5, True, None],
    "finetune_epochs": [-1],
    "first_run": [1],
    "frozen_epochs": [0],
    "galleries": ["False"],
    "hidden_units": [0],
    "image_size": [70],
    "interpolation": ["nearest"],
    "picture": [None],
    "precision": ["float8"],
    "random_transforms": ["true", 1],
    "recipe": [3],
    "recipe_changes": ["label_smoothing=0", None],
    "results_dir": [3],
    "run_name": ["../elsewhere", "", "a/b"],
    "second_run": [None],
    "seed": [-1, 2**32],
    "train_limit": [-1],
    "validation_size": [0.1],
    "weights": [None],
    "width": [0],
}
ALL = " ".join(GOOD)


def test_every_rule_is_tested_here():
    assert RULES.keys() == GOOD.keys() == BAD.keys()


def test_good_parameters_come_back_without_locations():
    checked = check_parameters(dict(GOOD), ALL)
    locations = {"data_dir", "picture", "results_dir", "run_name"}
    assert checked == {name: GOOD[name] for name in GOOD.keys() - locations}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_value_is_one_sentence_that_names_it(name, value):
    with pytest.raises(ParameterError) as caught:
        check_parameters(GOOD | {name: value}, ALL)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} must be ") and repr(value) in sentence


def test_unknown_parameter_is_refused_with_the_right_ones():
    with pytest.raises(ParameterError, match=r"epcohs.*did you mean epochs"):
        check_parameters(GOOD | {"epcohs": 3}, ALL)
    for name in ("width", "EPOCHS", "Inputs"):
        with pytest.raises(ParameterError, match=rf"{name} is no parameter .*: there are seed\."):
            check_parameters({"seed": 0, name: 128}, "seed")


def test_imports_and_the_shells_own_names_are_no_parameters():
    namespace = GOOD | {"math": math, "In": [""], "Out": {}, "_i1": "", "get_ipython": print}
    check_parameters(namespace, ALL)


def test_cells_may_be_run_again_when_later_ones_left_variables():
    namespace = dict(GOOD)
    check_parameters(namespace, ALL)
    namespace["history"] = {"loss": [1.0]}
    check_parameters(namespace, ALL)


def test_notebooks_show_the_sentence_alone():
    with pytest.raises(ParameterError) as caught:
        check_parameters(GOOD | {"epochs": 0}, ALL)
    expected = "ParameterError: epochs must be a whole number of at least 1, not 0."
    assert caught.value._render_traceback_() == [expected]
