import ast
import math
import shutil

import nbformat
import papermill
import pytest
import yaml

from cifar100_helpers import parameters
from cifar100_helpers.errors import ParameterError
from cifar100_helpers.parameters import PROFILES, RULES, load_profile, resolve

NOTEBOOKS = {path.stem: path for path in (PROFILES.parent).glob("0*.ipynb")}
BAD = {
    "batch_size": [-1, 0],
    "copies": ["2", -1, 11],
    "cutout": [-1, 64],
    "data_dir": [3],
    "dataset": ["cifar10", ["cifar100"]],
    "dropout_rate": [1.0, -0.1, math.nan, "0.5", False],
    "epochs": [0, "abc", 2.5, True],
    "finetune_epochs": [-1],
    "first_run": [1],
    "freeze_statistics": [0],
    "frozen_epochs": [0],
    "galleries": ["False"],
    "hidden_units": [0],
    "hours": [0, "24", True],
    "image_size": [70, 300],
    "interpolation": ["nearest"],
    "num_blocks": [[], [2, 0], [1] * 6, "[1, 1]"],
    "picture": [3],
    "precision": ["float8"],
    "random_transforms": ["true", 1],
    "recipe": [3],
    "recipe_changes": ["label_smoothing=0"],
    "results_dir": [3],
    "run_name": ["../elsewhere", "", "a/b", 2024],
    "second_run": [1],
    "seed": [-1, 2**32],
    "train_limit": [-1],
    "validation_size": [0.1],
    "weights": [3],
    "width": [0],
}


def ran(*cells):
    """What the namespace of a notebook holds after these cells."""
    namespace = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


PARAMETERS_CELL = 'profile = "laptop"\nepochs = None\nwidth = None'


def test_every_parameter_has_a_rule_and_is_tested_here():
    sections = yaml.safe_load((PROFILES / "published.yaml").read_text()).values()
    assert {name for section in sections for name in section} == RULES.keys() == BAD.keys()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_parameters_cell_has_the_parameters_of_the_published_profile(notebook):
    own = papermill.inspect_notebook(str(NOTEBOOKS[notebook]))
    assert list(own) == ["profile", *load_profile("published", notebook)]


@pytest.mark.parametrize("file", sorted(PROFILES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_profile_resolves_in_the_notebooks_that_it_names(file):
    for notebook, section in yaml.safe_load(file.read_text()).items():
        settings = resolve({"profile": file.stem}, notebook)
        assert settings.profile == file.stem and settings.changed == {}
        assert section.items() <= vars(settings).items()


def test_parameter_that_is_given_beats_the_profile():
    """Also with the published value, and papermill's cell beats the parameters cell."""
    settings = resolve(ran(PARAMETERS_CELL, "# Parameters\nepochs = 26"), "03_resnet")
    laptop = load_profile("laptop", "03_resnet")
    assert (settings.epochs, settings.width) == (26, laptop["width"])
    assert settings.changed == {"epochs": laptop["epochs"]}
    assert f"epochs             26  (the profile: {laptop['epochs']})" in str(settings)


def test_record_of_a_run_leaves_out_where_it_lies_and_how_long_it_may_take():
    recorded = resolve({"profile": "laptop", "hours": 3}, "03_resnet").of_the_run()
    assert recorded["epochs"] == load_profile("laptop", "03_resnet")["epochs"]
    left_out = {"data_dir", "results_dir", "run_name", "hours", "profile", "changed"}
    assert not recorded.keys() & left_out


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_value_is_one_sentence_that_names_it(name, value):
    section = next(n for n in NOTEBOOKS if name in load_profile("published", n))
    with pytest.raises(ParameterError) as caught:
        resolve({"profile": "published", name: value}, section)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} must be ") and repr(value) in sentence
    assert caught.value._render_traceback_() == [f"ParameterError: {sentence}"]


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("recipe_changes", "{label_smoothing: 0.0}", "papermill: -y 'recipe_changes: {"),
        ("num_blocks", "[1, 1]", "papermill: -y 'num_blocks: ["),
        ("run_name", 2024, "papermill: -r run_name 2024 passes it as text"),
        ("random_transforms", "true", "papermill: -p random_transforms True"),
        ("precision", 16, ", not 16."),  # text would not do either
    ],
)
def test_papermills_guess_of_a_type_is_refused_with_the_way_out(name, value, way_out):
    with pytest.raises(ParameterError) as caught:
        resolve({"profile": "published", name: value}, "03_resnet")
    assert way_out in str(caught.value)


@pytest.mark.parametrize("name", ["labtop", "overnight", 3])
def test_profile_that_this_notebook_lacks_is_refused_with_the_others(name):
    hint = "did you mean laptop" if name == "labtop" else "there are .*half_hour.*published"
    with pytest.raises(ParameterError, match=f"profile '?{name}'? does not exist here: {hint}"):
        resolve({"profile": name}, "04_xception")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("03_resnet: {epcohs: 3}", r"epcohs in mine\.yaml is no parameter of 03_.* mean epochs"),
        ("03_resnet: [", r"mine\.yaml is not YAML \(.*line 1.*\): correct it"),
        ("03_resnet: {3: 4}", r"3 in mine\.yaml is no parameter of 03_resnet: there are "),
        ("03_resnet", r"mine\.yaml must name notebooks, and below each its parameters"),
        ("03_resnet: epochs=3", r"mine\.yaml must name notebooks, and below each its parameters"),
        ("", r"profile 'mine' does not exist here: there are .*published"),
        ("# für mich", r"mine\.yaml is not YAML \(.*\): correct it"),
    ],
)
def test_profile_of_ones_own_that_does_not_fit_is_one_sentence(
    tmp_path, monkeypatch, content, sentence
):
    for file in PROFILES.glob("*.yaml"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(parameters, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text(content, encoding="latin-1")
    with pytest.raises(ParameterError, match=sentence):
        resolve({"profile": "mine"}, "03_resnet")


def test_parameter_counts_in_whatever_cell_it_is_assigned():
    """As in the exercises: first a profile with changes, then more changes in a cell below."""
    blocks = "num_blocks = [1 for _ in range(4)]"
    own = ['profile = "half_hour"\nepochs = 2', f'recipe = "published"\n{blocks}']
    settings = resolve(ran(PARAMETERS_CELL, *own), "03_resnet")
    assert (settings.profile, settings.epochs) == ("half_hour", 2)
    assert (settings.recipe, settings.num_blocks) == ("published", [1, 1, 1, 1])


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_no_other_cell_assigns_a_parameter(path):
    """It would count as one when the cell of the settings is run again."""
    cells = nbformat.read(path, as_version=4).cells
    code = [
        c for c in cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", ())
    ]
    nodes = ast.walk(ast.parse("\n".join(cell.source for cell in code)))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assert not stored & load_profile("published", path.stem).keys()


@pytest.mark.parametrize(
    "cell", ["{} = 3", "{}, width = 3, 8", "{}: int = 3", "# Parameters\n{} = 3"]
)
def test_unknown_parameter_is_refused_until_its_cell_is_corrected(cell):
    """However it is assigned, in the same kernel, in which the misspelt name lives on."""
    wrong, corrected = (cell.format(name) + '\nprofile = "laptop"' for name in ("epcohs", "epochs"))
    with pytest.raises(ParameterError, match=r"epcohs is no parameter .*: did you mean epochs"):
        resolve(ran(PARAMETERS_CELL, wrong, 'profile = "half_hour"'), "03_resnet")
    assert resolve(ran(PARAMETERS_CELL, wrong, "a = [1]", corrected), "03_resnet").epochs == 3
