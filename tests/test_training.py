import contextlib
import io
import os
import shutil
import signal
from dataclasses import replace
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from tqdm import tqdm

from cifar100_helpers import training
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import RunError, Stopped
from cifar100_helpers.inference import forward_flops
from cifar100_helpers.recipes import (
    Phase,
    SparseCategoricalCrossentropy,
    make_optimizer,
    training_petaflops,
)
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.runtime import Batches, prefetch
from cifar100_helpers.training import EpochProgress, Run

pytestmark = pytest.mark.usefixtures("fresh_keras")

PARAMETERS = {"dataset": "synthetic", "width": 2, "seed": 3, "batch_size": 70}
PHASES = (
    Phase(2, 0.01),
    Phase(
        2, 0.02, "muon", "one_cycle", weight_decay=0.01, label_smoothing=0.1, image_sizes=[16, 32]
    ),
)
IMAGES, VALIDATION, STEPS = 120, 30, 2


def tiny_model():
    keras.utils.set_random_seed(3)
    return build_resnet((1,), width=2, augmentation=RandomTransforms(seed=3))


def compile_for(model, phase):
    model.compile(
        optimizer=make_optimizer(phase, phase.epochs * STEPS),
        loss=SparseCategoricalCrossentropy(label_smoothing=phase.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def tiny_run(data, run_dir, *, model=None, phases=PHASES, parameters=PARAMETERS, hours=24):
    """Train as the notebooks do, two steps an epoch: the head on features, then everything."""
    model = model or tiny_model()
    x, y = data.x_train[:IMAGES], data.y_train[:IMAGES]
    validation = data.x_test[:VALIDATION], data.y_test[:VALIDATION]
    petaflops = [training_petaflops(model, phase, IMAGES) for phase in phases]
    run = Run(run_dir, parameters, phases, petaflops=petaflops, hours=hours)
    pool = model.get_layer("pool").output
    frozen, head = keras.Model(model.input, pool), keras.Model(pool, model.output)
    first, *others = phases
    frozen.trainable = False
    of_validation = run.features(frozen, validation[0]), validation[1]
    compile_for(head, first)
    run.fit(head, run.features(frozen, x), y, phase=first, validation_data=of_validation)
    frozen.trainable = True
    for phase in others:
        compile_for(model, phase)
        run.fit(model, x, y, phase=phase, validation_data=validation)
    return model, run


@pytest.fixture(scope="module")
def whole_run(synthetic, tmp_path_factory):
    """An uninterrupted run: its folder, its model, the run and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        model, run = tiny_run(synthetic, folder)
    return folder, model, run, said.getvalue()


@pytest.fixture
def run_dir(whole_run, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(whole_run[0], tmp_path / "runs" / "copy")


def assert_same_run(model, run, whole_run):
    _, whole_model, whole, _ = whole_run
    for ours, theirs in zip(model.get_weights(), whole_model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert run.state["history"] == whole.state["history"]


class Killed(BaseException):
    pass


@pytest.mark.every_backend
def test_run_killed_in_every_epoch_ends_bit_for_bit_as_the_uninterrupted(
    synthetic, whole_run, tmp_path, monkeypatch, capsys
):
    """Each epoch is trained, lost before its checkpoint, and trained again by another model."""
    fit_epoch = Run._fit_epoch
    for lost in range(4):

        def fit_until(self, model, x, y, epoch, *rest, lost=lost):
            logs = fit_epoch(self, model, x, y, epoch, *rest)
            if epoch == lost:
                raise Killed
            return logs

        monkeypatch.setattr(Run, "_fit_epoch", fit_until)
        with pytest.raises(Killed):
            tiny_run(synthetic, tmp_path / "run")
    monkeypatch.undo()
    capsys.readouterr()
    assert_same_run(*tiny_run(synthetic, tmp_path / "run"), whole_run)
    *lines, note, last = capsys.readouterr().out.splitlines()
    assert note == "(trained before; 1 epochs to go)"
    assert [*lines, last] == whole_run[3].splitlines()[2:]  # after two lines on features
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["checkpoint.npz", "lock"]


def test_cell_that_runs_again_trains_nothing_again(synthetic, whole_run, run_dir, capsys):
    """In the same kernel, with the same model, or in another one."""
    model = tiny_model()
    for _ in range(2):
        assert_same_run(*tiny_run(synthetic, run_dir, model=model), whole_run)
        assert capsys.readouterr().out.endswith("(trained before)\n")
        model.set_weights(tiny_model().get_weights())


def test_stop_button_leaves_a_run_that_goes_on_when_its_cell_runs_again(
    synthetic, whole_run, tmp_path, monkeypatch
):
    """With the same model, which has been trained for half an epoch."""
    monkeypatch.setenv("JPY_SESSION_NAME", "a person watches")
    model, update = tiny_model(), EpochProgress.on_train_batch_end
    # A shell that starts these tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for epoch in (1, 4):

            def press(self, batch, logs=None, epoch=epoch):
                update(self, batch, logs)
                if self.bar.desc == f"epoch {epoch}":
                    os.kill(os.getpid(), signal.SIGINT)

            monkeypatch.setattr(EpochProgress, "on_train_batch_end", press)
            with pytest.raises(Stopped) as caught:
                tiny_run(synthetic, tmp_path / "run", model=model)
            (sentence,) = caught.value._render_traceback_()  # all that a notebook shows
            assert sentence.startswith("Stopped: run this again, and training goes on after")
            assert not tqdm._instances, "the interrupted epoch's bar is still there"
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert_same_run(*tiny_run(synthetic, tmp_path / "run", model=model), whole_run)


# Folders of other runs, and damaged ones


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": PARAMETERS | {"width": 8}}, r"\(width is 2 there and 8 here\): choose an"),
        ({"phases": (PHASES[0], replace(PHASES[1], learning_rate=0.1))}, "recipe was another"),
    ],
)
def test_other_run_is_refused_and_stays_as_it_is(synthetic, run_dir, change, sentence):
    before = {file.name: file.read_bytes() for file in run_dir.iterdir()}
    with pytest.raises(RunError, match=sentence):
        tiny_run(synthetic, run_dir, **change)
    assert {file.name: file.read_bytes() for file in run_dir.iterdir()} == before


def test_phase_before_its_turn_and_phase_of_another_run_are_one_sentence(synthetic, tmp_path):
    """In a notebook whose cells ran in another order."""
    model, run = tiny_model(), Run(tmp_path, PARAMETERS, PHASES, petaflops=[0.1, 0.2])
    for phase in (PHASES[1], replace(PHASES[0])):
        compile_for(model, phase)
        with pytest.raises(RunError, match="trained in their order: run the notebook again, from"):
            run.fit(model, synthetic.x_train[:70], synthetic.y_train[:70], phase=phase)
    assert not list(tmp_path.iterdir())


def test_damaged_checkpoint_or_record_is_one_sentence(synthetic, run_dir):
    file = run_dir / "checkpoint.npz"
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    of_another_shape, arrays = io.BytesIO(), dict(np.load(file))
    np.savez(of_another_shape, **arrays | {"arr_0": arrays["arr_0"][..., :1]})
    for damaged in (b"", content[:-3], content[:middle], flipped, of_another_shape.getvalue()):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"checkpoint\.npz is missing or damaged: delete its fo"):
            tiny_run(synthetic, run_dir)
    (run_dir / "run.json").write_text('{"parameters": {}}')
    with pytest.raises(RunError, match=r"run\.json is missing or damaged: delete its folder"):
        tiny_run(synthetic, run_dir)


def test_checkpoint_for_which_memory_is_short_is_not_called_damaged(
    synthetic, run_dir, monkeypatch
):
    """That sentence tells people to delete it."""
    monkeypatch.setattr(np, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        tiny_run(synthetic, run_dir)


# The order of images


@pytest.mark.every_backend
def test_every_image_is_in_one_batch_with_its_label(synthetic):
    x, order = synthetic.x_train[:100], np.random.default_rng(0).permutation(100)
    drawn = list(prefetch(Batches(x, np.arange(100), batch_size=64, order=order)))
    images, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    assert [len(labels) for _, labels in drawn] == [64, 36]
    np.testing.assert_array_equal(labels, order)
    np.testing.assert_array_equal(images, x[order])


# What it says and counts


@pytest.mark.every_backend
def test_head_on_features_equals_head_in_the_model(synthetic, tmp_path):
    """The same batches by plain Keras, on images, with the other layers frozen."""
    ours, plain = (build_resnet((1,), width=2, dropout_rate=0.0) for _ in range(2))
    plain.set_weights(ours.get_weights())
    _, run = tiny_run(synthetic, tmp_path / "run", model=ours, phases=PHASES[:1])

    x, y = synthetic.x_train[:IMAGES], synthetic.y_train[:IMAGES]
    options = {"validation_data": (synthetic.x_test[:VALIDATION], synthetic.y_test[:VALIDATION])}
    for layer in plain.layers[:-1]:
        layer.trainable = False
    compile_for(plain, PHASES[0])
    losses = []
    for epoch in range(2):
        order = np.random.default_rng((3, epoch)).permutation(IMAGES)
        batches = Batches(x, y, batch_size=70, order=order)
        logs = plain.fit(batches, shuffle=False, verbose=0, **options).history
        losses.append([logs["loss"][0], logs["val_loss"][0]])
    history = run.state["history"]
    np.testing.assert_allclose(
        np.transpose([history["loss"], history["val_loss"]]), losses, rtol=1e-4
    )
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_one_line_per_epoch_without_timings(whole_run):
    _, _, run, said = whole_run
    state, history = run.state, run.state["history"]
    assert history["epoch"] == [1, 2, 3, 4] and history["phase"] == [1, 1, 2, 2]
    assert len(state["phase_seconds"]) == 2 and min(state["phase_seconds"]) > 0
    lines = said.splitlines()
    assert lines[:2] == [f"computing the features of {n} images, once" for n in (30, 120)]
    for number, line in enumerate(lines[2:]):
        expected = f"epoch {number + 1}/4"
        for name in ("accuracy", "loss", "val_accuracy", "val_loss"):
            expected += f"  {name} {history[name][number]:.4f}"
        assert line == expected


def flops_by_hand(num_blocks, width, side):
    """Operations of the convolutions for one image, and those of the dense layer."""
    convolutions, inputs = 2 * side**2 * 9 * 3 * width, width
    for stage, blocks in enumerate(num_blocks):
        filters = width * 2**stage
        for _ in range(blocks):
            weights = 9 * inputs * filters + 9 * filters * filters + inputs * filters
            convolutions += 2 * (side // 2**stage) ** 2 * weights
            inputs = filters
    return convolutions, 2 * inputs * 100


def test_petaflops_equal_an_independent_count():
    """Three times a forward pass for each image and epoch, by the images' size."""
    model = build_resnet((2, 1, 2), width=3)
    assert forward_flops(model) == sum(flops_by_hand((2, 1, 2), 3, side=32))
    small, large = (sum(flops_by_hand((2, 1, 2), 3, side)) for side in (16, 32))
    phase = Phase(4, 0.01, image_sizes=[16, 32])
    expected = 3 * 120 * (2 * small + 2 * large) / 1e15
    assert training_petaflops(model, phase, 120) == pytest.approx(expected, rel=2e-3)


@pytest.mark.every_backend
def test_training_on_downscaled_images_equals_training_on_small_ones(synthetic, tmp_path):
    """By plain Keras: from four equal pixels, downscaling makes one. Without sizes, on whole."""
    small, y = synthetic.x_train[:IMAGES, ::2, ::2], synthetic.y_train[:IMAGES]
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    phases = Phase(2, 0.1, image_sizes=[32, 16]), Phase(1, 0.1)

    def model_for(images, weights):
        model = build_resnet((1,), width=2, dropout_rate=0.0, input_shape=images.shape[1:])
        model.set_weights(weights or model.get_weights())
        return model

    def compile_again(model):  # an optimizer without a state of its own
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")

    model = model_for(large, None)
    weights, losses = model.get_weights(), []
    run = Run(tmp_path / "run", PARAMETERS, phases, petaflops=[0.1, 0.1])
    for phase in phases:
        compile_again(model)
        run.fit(model, large, y, phase=phase)
    for epoch, images in enumerate((large, small, large)):
        plain = model_for(images, weights)
        compile_again(plain)
        order = np.random.default_rng((3, epoch)).permutation(IMAGES)
        batches = Batches(images, y, batch_size=70, order=order)
        losses += plain.fit(batches, shuffle=False, verbose=0).history["loss"]
        weights = plain.get_weights()
    np.testing.assert_allclose(run.state["history"]["loss"], losses, rtol=1e-4)


def test_loss_that_is_not_finite_is_one_sentence(synthetic, tmp_path):
    phases = (PHASES[0], replace(PHASES[1], learning_rate=1e30, schedule="constant"))
    with pytest.raises(RunError, match=r"loss of epoch \d is not finite: choose a smaller learn"):
        tiny_run(synthetic, tmp_path / "run", phases=phases)


@pytest.fixture
def slow_clock(monkeypatch):
    """Every step that is timed takes an hour."""
    steps, step = [], training.Pace.step

    def step_later(self, of_steps):
        steps.append(of_steps)
        step(self, of_steps)

    monkeypatch.setattr(training.Pace, "step", step_later)
    monkeypatch.setattr(training.time, "perf_counter", lambda: 3600.0 * len(steps))


def test_run_that_takes_too_long_stops_at_once_with_a_way_out(
    synthetic, tmp_path, monkeypatch, slow_clock
):
    """Two hours of features, two steps on small images, two that cost four times as much."""
    monkeypatch.setattr(training, "describe", lambda: {"gpus": 0})
    with pytest.raises(RunError) as caught:
        tiny_run(synthetic, tmp_path / "run", hours=0.5)
    sentence = str(caught.value)
    assert "would take about 12.0 hours on this machine" in sentence
    assert "choose a profile that suits the machine (quick, half_hour and laptop)" in sentence
    assert "or set hours to 18 to run it anyway" in sentence
    monkeypatch.setattr(training, "describe", lambda: {"gpus": 1})
    with pytest.raises(RunError, match=r"that suits the machine \(modern\)"):
        Run(tmp_path, PARAMETERS, PHASES, petaflops=[0.1, 0.2]).judge(1e6)


def test_short_epochs_are_timed_together(synthetic, tmp_path, monkeypatch, slow_clock):
    """Two epochs of two steps, of which the first of all is not timed."""
    monkeypatch.setattr(training, "TIMED_SECONDS", 2.5 * 3600)
    phases = (PHASES[0], replace(PHASES[1], image_sizes=[]))
    with pytest.raises(RunError, match="would take about"):
        tiny_run(synthetic, tmp_path / "run", phases=phases, hours=0.5)


def test_long_run_is_announced_again_when_images_grow(synthetic, tmp_path, capsys, slow_clock):
    tiny_run(synthetic, tmp_path / "run", hours=1e9)
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[-4:] == [
        "this run takes about 12.0 hours in all on this machine",
        "epoch 3/4",
        "this run takes about 6.0 hours in all on this machine",  # the large cost no more here
        "epoch 4/4",
    ]


def test_run_whose_features_take_too_long_stops_at_once(
    synthetic, tmp_path, monkeypatch, slow_clock
):
    """Three batches, of a run that costs five times as much; but not if epochs are behind it."""
    monkeypatch.setattr(training, "TIMED_SECONDS", 5000)  # two steps
    model, images = build_resnet((1,), width=2), synthetic.x_train[:300]
    cost = forward_flops(model) * len(images) / 1e15
    run = Run(tmp_path / "run", PARAMETERS, PHASES, petaflops=[cost, 4 * cost], hours=14)
    with pytest.raises(RunError, match=r"would take about 15\.0 hours on this"):
        run.features(model, images)
    run.state["epochs_done"] = 1
    assert run.features(model, images).shape == (300, 100)
