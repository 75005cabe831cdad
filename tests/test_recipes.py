import math

import keras
import numpy as np
import pytest

from cifar100_helpers.errors import ParameterError
from cifar100_helpers.recipes import (
    Phase,
    SparseCategoricalCrossentropy,
    describe_schedule,
    make_optimizer,
    resnet_phases,
    scale_epochs,
    xception_phases,
)
from cifar100_helpers.resnet import build_resnet

pytestmark = pytest.mark.usefixtures("fresh_keras")


def plan(phases):
    return [(phase.epochs, phase.learning_rate) for phase in phases]


def test_published_schedules():
    resnet, xception = resnet_phases("published", 26), xception_phases("published", 20, 26)
    assert plan(resnet) == [(16, 1e-3), (6, 1e-4), (4, 5e-5)]
    assert plan(xception) == [(20, 2e-4), (16, 5e-6), (10, 2e-6)]
    for phase in resnet + xception:
        assert (phase.optimizer, phase.schedule) == ("adam", "constant")
        assert phase.weight_decay == phase.label_smoothing == 0


def test_scaled_schedule_keeps_the_total_and_the_proportions():
    for epochs in range(1, 120):
        counts = [phase.epochs for phase in resnet_phases("published", epochs)]
        assert sum(counts) == epochs and min(counts) >= 1
        if epochs >= 7:  # with fewer, no phase can have its exact share
            np.testing.assert_allclose(counts, np.array([16, 6, 4]) * epochs / 26, atol=1)
    assert [phase.epochs for phase in scale_epochs((Phase(26, 0.3),), 3)] == [3]


@pytest.mark.parametrize(("epochs", "sizes"), [(1, [32]), (2, [24, 32]), (5, [16, 24, 32])])
def test_few_epochs_still_end_on_whole_images(epochs, sizes):
    (phase,) = scale_epochs((Phase(26, 0.1, image_sizes=[16, 24, 32]),), epochs)
    assert phase.image_sizes == sizes


def test_either_part_of_the_xception_schedule_may_be_left_out():
    assert plan(xception_phases("published", 3, 0)) == [(3, 2e-4)]
    assert plan(xception_phases("published", 0, 13)) == [(8, 5e-6), (5, 2e-6)]


def test_schedule_is_described():
    head = Phase(3, 2e-4, weight_decay=0.05, label_smoothing=0.1)
    small_first = Phase(6, 5e-6, "muon", "one_cycle", warmup=0.4, image_sizes=[16, 32])
    described = describe_schedule((head, small_first), [0.125, 25.0])
    assert max(map(len, described.splitlines())) <= 90  # wider text breaks within words
    assert " ".join(described.split()) == (
        "phase 1: epochs 1–3, adam, constant learning rate 0.0002, weight_decay 0.05, "
        "label_smoothing 0.1, 0.12 PFLOP "
        "phase 2: epochs 4–9, muon, one_cycle learning rate 5e-06 after 40% warm-up, "
        "images of 16, 32 pixels, 25 PFLOP"
    )


def test_image_sizes_share_the_epochs():
    phase = Phase(7, 0.1, image_sizes=[16, 24, 32])
    assert [phase.image_size(epoch) for epoch in range(7)] == [16, 16, 16, 24, 24, 32, 32]
    assert Phase(2, 0.1).image_size(1) is None


def test_changes_are_made_to_every_phase():
    changed = resnet_phases("published", 26, changes={"label_smoothing": 0.1})
    assert [phase.label_smoothing for phase in changed] == [0.1] * 3
    assert plan(changed) == plan(resnet_phases("published", 26))


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        ("nonsense", {}, r"'nonsense' does not exist: choose one of published"),
        ("modern", {"mixing": 0.2}, "mixing is no setting of a recipe.*label_smoothing"),
        ("modern", {"epochs": 3}, "epochs is no setting"),
        ("modern", {"label_smoothing": 1.0}, "a number of at least 0 and below 1, not 1.0"),
        ("modern", {"weight_decay": -1}, "weight_decay .* not -1"),
        ("modern", {"learning_rate": "0.1"}, "learning_rate .* not '0.1'"),
        ("modern", {"label_smoothing": True}, "label_smoothing .* not True"),
        ("modern", {"learning_rate": math.nan}, "learning_rate .* not nan"),
        ("modern", {"optimizer": "lion"}, "optimizer .* adam, sgd, muon"),
        ("modern", {"schedule": ["one_cycle"]}, "schedule .* constant, one_cycle"),
        ("modern", {"image_sizes": [16, 0]}, "image_sizes must be .* from 8 to 32"),
        ("modern", {"image_sizes": 16}, "image_sizes must be .* from 8 to 32"),
    ],
)
def test_what_does_not_fit_is_one_sentence(recipe, changes, sentence):
    with pytest.raises(ParameterError, match=sentence):
        resnet_phases(recipe, 3, changes=changes)


def test_small_images_first_are_for_the_resnet_alone():
    with pytest.raises(ParameterError, match="image_sizes is no setting of a recipe"):
        xception_phases("modern", 1, 1, changes={"image_sizes": [24]})


# What a phase compiles to


@pytest.mark.every_backend
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_on_integer_labels_equals_its_definition(synthetic, smoothing):
    labels = synthetic.y_train[:20]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(100), 20).astype("float32")
    target = np.full((20, 100), smoothing / 100)
    target[np.arange(20), labels] += 1 - smoothing
    loss = SparseCategoricalCrossentropy(label_smoothing=smoothing)
    saved = keras.losses.deserialize(keras.losses.serialize(loss))
    expected = -(target * np.log(probabilities)).sum(axis=1).mean()
    for one in (loss, saved):
        assert float(one(labels, probabilities)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adam", keras.optimizers.Adam(0.1)),
        ("sgd", keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_optimizer_is_the_one_that_its_name_says(name, plain):
    ours, theirs = (keras.Variable([1.0, 2.0]) for _ in range(2))
    optimizer = make_optimizer(Phase(1, 0.1, optimizer=name), steps=3)
    for step in range(3):
        gradient = keras.ops.array([0.5, step])
        optimizer.apply([gradient], [ours])
        plain.apply([gradient], [theirs])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_weight_decay_spares_biases_and_batch_normalization(name):
    """Without gradients, one step shrinks the kernels by learning rate times weight decay."""
    model = build_resnet((1,), width=2)
    phase = Phase(1, 0.1, optimizer=name, weight_decay=0.5)
    optimizer = make_optimizer(phase, steps=10)
    before = {v.path: np.full(v.shape, 2.0) for v in model.trainable_variables}
    for variable in model.trainable_variables:
        variable.assign(before[variable.path])
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    for variable in model.trainable_variables:
        shrunk = 0.95 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(variable.numpy(), before[variable.path] * shrunk, rtol=1e-5)


# Muon


@pytest.mark.every_backend
@pytest.mark.parametrize(("height", "scale"), [(3, 1), (1, 3**0.5)])
def test_muon_steps_equal_their_definition(height, scale):
    """Orthogonal steps of the kernel, Nesterov's of the bias; in NumPy, by singular values."""
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(height, height, 2, 6)), rng.normal(size=6)
    variables = [keras.Variable(start, dtype="float32") for start in (kernel, bias)]
    optimizer = make_optimizer(Phase(1, 0.02, optimizer="muon"), steps=1)
    momentum, other_rate = optimizer.momentum, optimizer.other_rate
    optimizer.build(variables)
    momenta = [np.zeros(kernel.shape), np.zeros(bias.shape)]
    for _ in range(3):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([keras.ops.array(g) for g in gradients], variables)
        momenta = [momentum * m + g for m, g in zip(momenta, gradients, strict=True)]
        ahead = [momentum * m + g for m, g in zip(momenta, gradients, strict=True)]
        left, strengths, right = np.linalg.svd(ahead[0].reshape(-1, 6), full_matrices=False)
        strengths /= np.linalg.norm(strengths)
        for _ in range(optimizer.steps):
            strengths = 3.4445 * strengths - 4.7750 * strengths**3 + 2.0315 * strengths**5
        kernel = kernel - 0.02 * scale * (left * strengths @ right).reshape(kernel.shape)
        bias = bias - 0.02 * other_rate * ahead[1]
    for variable, expected in zip(variables, (kernel, bias), strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-5)
