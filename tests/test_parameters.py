import math

import pytest

from cifar100_helpers.errors import ParameterError
from cifar100_helpers.parameters import RULES, check_parameters

GOOD = {
    "batch_size": 128,
    "copies": 2,
    "crop": 4,
    "cutout": 8,
    "data_dir": "",
    "dataset": "cifar100",
    "dropout_rate": 0.5,
    "epochs": 26,
    "first_run": "resnet_published",
    "galleries": True,
    "finetune_epochs": 26,
    "frozen_blocks": 0,
    "frozen_epochs": 20,
    "hidden_units": 512,
    "image_size": 71,
    "interpolation": "bilinear",
    "precision": "float32",
    "random_transforms": False,
    "recipe": "published",
    "recipe_changes": {},
    "results_dir": "runs",
    "run_name": "resnet_published",
    "second_run": "",
    "seed": 0,
    "train_limit": 0,
    "validation_size": 0,
    "weights": "imagenet",
    "width": 128,
}
ALL = " ".join(GOOD)


def test_every_rule_is_tested_here():
    assert RULES.keys() == GOOD.keys()


def test_good_parameters_come_back_without_locations():
    checked = check_parameters(dict(GOOD), ALL)
    assert checked == {
        name: value
        for name, value in GOOD.items()
        if name not in ("data_dir", "results_dir", "run_name")
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", "abc"),
        ("epochs", 2.5),
        ("epochs", True),
        ("epochs", None),
        ("batch_size", -1),
        ("copies", "2"),
        ("seed", -1),
        ("seed", 2**32),
        ("dropout_rate", 1.0),
        ("dropout_rate", -0.1),
        ("dropout_rate", math.nan),
        ("dropout_rate", "0.5"),
        ("precision", "float8"),
        ("dataset", "cifar10"),
        ("dataset", ["cifar100"]),
        ("random_transforms", "true"),
        ("random_transforms", 1),
        ("frozen_blocks", 14),
        ("frozen_epochs", 0),
        ("image_size", 70),
        ("interpolation", "nearest"),
        ("weights", None),
        ("run_name", "../elsewhere"),
        ("run_name", ""),
        ("run_name", "a/b"),
        ("data_dir", None),
        ("results_dir", 3),
        ("recipe", 3),
        ("recipe_changes", "mixup=0.2"),
        ("recipe_changes", None),
        ("first_run", 1),
        ("second_run", None),
        ("galleries", "False"),
    ],
)
def test_bad_value_is_one_sentence_that_names_it(name, value):
    with pytest.raises(ParameterError) as caught:
        check_parameters(GOOD | {name: value}, ALL)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} must be ") and repr(value) in sentence


def test_misspelt_parameter_suggests_the_right_one():
    with pytest.raises(ParameterError, match=r"epcohs.*did you mean epochs"):
        check_parameters(GOOD | {"epcohs": 3}, ALL)


def test_parameter_of_another_notebook_is_refused():
    with pytest.raises(ParameterError, match=r"width is no parameter of this notebook"):
        check_parameters({"seed": 0, "width": 128}, "seed")


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
