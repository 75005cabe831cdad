import contextlib
import io
import os
import re
import shutil
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
from tqdm import tqdm

from cifar100_helpers import runtime, training
from cifar100_helpers.augment import RandomTransforms
from cifar100_helpers.errors import RunError, Stopped
from cifar100_helpers.inference import forward_flops
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.training import EpochProgress, ShuffledBatches, announce_duration, train

pytestmark = pytest.mark.usefixtures("fresh_keras")

PARAMETERS = {"dataset": "synthetic", "width": 2, "seed": 3}
PHASES = (
    Phase(2, 0.01, frozen_until="pool"),
    Phase(
        2,
        0.02,
        "muon",
        "one_cycle",
        weight_decay=0.01,
        label_smoothing=0.1,
        image_sizes=[16, 32],
    ),
)
IMAGES, VALIDATION = 120, 30


def tiny_network():
    keras.utils.set_random_seed(3)
    return build_resnet((1,), width=2, augmentation=RandomTransforms(seed=3))


def tiny_run(data, run_dir, *, model=None, phases=PHASES, parameters=PARAMETERS):
    """Train a network with dropout and random transforms, two steps an epoch."""
    model = model or tiny_network()
    state = train(
        model,
        data.x_train[:IMAGES],
        data.y_train[:IMAGES],
        phases,
        run_dir=run_dir,
        parameters=parameters,
        batch_size=70,
        seed=3,
        validation_data=(data.x_test[:VALIDATION], data.y_test[:VALIDATION]),
    )
    return model, state


@pytest.fixture(scope="module")
def whole_run(synthetic, tmp_path_factory):
    """An uninterrupted run: its folder, its network, its state and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        model, state = tiny_run(synthetic, folder)
    return folder, model, state, said.getvalue()


@pytest.fixture
def run_dir(whole_run, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(whole_run[0], tmp_path / "runs" / "copy")


def assert_same_run(model, state, whole_run):
    _, whole_model, whole_state, _ = whole_run
    for ours, theirs in zip(model.get_weights(), whole_model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert state["history"] == whole_state["history"]
    assert state["petaflops"] == whole_state["petaflops"]


class Killed(BaseException):
    pass


@pytest.mark.every_backend
def test_run_killed_in_every_epoch_ends_bit_for_bit_as_the_uninterrupted(
    synthetic, whole_run, tmp_path, monkeypatch, capsys
):
    """Each epoch is trained, lost before its checkpoint, and trained again by another network."""
    (tmp_path / "run" / "epoch_plots").mkdir(parents=True)
    (tmp_path / "run" / "model_epoch_10.keras").touch()
    fit_epoch = training._fit_epoch
    for lost in range(4):

        def fit_until(model, batches, epoch, *rest, lost=lost):
            logs = fit_epoch(model, batches, epoch, *rest)
            if epoch == lost:
                raise Killed
            return logs

        monkeypatch.setattr(training, "_fit_epoch", fit_until)
        with pytest.raises(Killed):
            tiny_run(synthetic, tmp_path / "run")
    monkeypatch.undo()
    capsys.readouterr()
    assert_same_run(*tiny_run(synthetic, tmp_path / "run"), whole_run)
    *lines, note, last = capsys.readouterr().out.splitlines()
    assert note == "(trained before; 1 epochs to go)"
    assert [*lines, last] == whole_run[3].splitlines()[2:]  # after two lines on features
    left = ["checkpoint.json", "epoch_004.npz", "epoch_plots", "lock", "model_epoch_10.keras"]
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == left


def test_finished_run_is_loaded_from_wherever_it_was_moved(synthetic, whole_run, run_dir, capsys):
    assert_same_run(*tiny_run(synthetic, run_dir), whole_run)
    assert capsys.readouterr().out.endswith("(trained before; 0 epochs to go)\n")


def test_stop_button_leaves_a_run_that_goes_on_when_its_cell_runs_again(
    synthetic, whole_run, tmp_path, monkeypatch
):
    """With the same network, which has been trained for half an epoch."""
    monkeypatch.setenv("JPY_SESSION_NAME", "a person watches")
    model, update = tiny_network(), EpochProgress.on_train_batch_end
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
                tiny_run(synthetic, tmp_path, model=model)
            (sentence,) = caught.value._render_traceback_()  # all that a notebook shows
            assert sentence.startswith("Stopped: run this again, and training goes on after")
            assert not tqdm._instances, "the interrupted epoch's bar is still there"
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert_same_run(*tiny_run(synthetic, tmp_path, model=model), whole_run)


# Folders of other runs, and damaged ones


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": PARAMETERS | {"width": 8}}, r"\(width is 2 there and 8 here\): choose an"),
        ({"parameters": {"seed": 3, "width": 2}}, r'dataset is "synthetic" there and null here'),
        ({"phases": (PHASES[0], replace(PHASES[1], learning_rate=0.1))}, "recipe was another"),
    ],
)
def test_other_run_is_refused_and_stays_as_it_is(synthetic, run_dir, change, sentence):
    before = {file.name: file.read_bytes() for file in run_dir.iterdir()}
    with pytest.raises(RunError, match=sentence):
        tiny_run(synthetic, run_dir, **change)
    assert {file.name: file.read_bytes() for file in run_dir.iterdir()} == before


def test_finished_record_without_checkpoint_is_not_overwritten(synthetic, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="record of a finished run: choose another run_name"):
        tiny_run(synthetic, tmp_path)


@pytest.mark.parametrize("name", ["checkpoint.json", "epoch_004.npz"])
def test_damaged_checkpoint_is_one_sentence(synthetic, run_dir, name):
    content = (run_dir / name).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = [b"", content[:-3], content[:middle]] + [flipped] * name.endswith("npz")
    for other in damaged:
        (run_dir / name).write_bytes(other)
        with pytest.raises(RunError, match=f"{name} is missing or damaged: delete its folder"):
            tiny_run(synthetic, run_dir)


# The order of images


def batches_of(x, y, size, *, seed=(0, 0), classes=100):
    batches = ShuffledBatches(x, y, size, seed, classes)
    return [batches[number] for number in range(len(batches))]


def test_every_image_is_in_one_batch_with_its_label_as_one_hot(synthetic):
    x = synthetic.x_train[:100]
    drawn = batches_of(x, np.arange(100), 64)
    assert [labels.shape for _, labels in drawn] == [(64, 100), (36, 100)]
    images, labels = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels[labels.argmax(axis=1).argsort()], np.identity(100))
    np.testing.assert_array_equal(images, x[labels.argmax(axis=1)])


def test_order_follows_from_the_seed_alone():
    def drawn(*seed):
        np.random.seed(len(seed))  # noqa: NPY002, whatever else was drawn
        parts = batches_of(np.arange(100), np.arange(100), 9, seed=seed)
        return tuple(np.concatenate([x for x, _ in parts]))

    assert drawn(3, 1) == drawn(3, 1)
    assert len({drawn(*seed) for seed in ((3, 1), (3, 2), (4, 1))}) == 3


# What it says and counts


@pytest.mark.every_backend
def test_training_learns(synthetic, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_resnet((1,), width=8, dropout_rate=0.0)
    options = {"run_dir": tmp_path, "parameters": {}, "batch_size": 50, "seed": 0}
    state = train(model, synthetic.x_train, synthetic.y_train, (Phase(3, 0.01),), **options)
    assert state["history"]["accuracy"][-1] > 0.05  # chance is 0.01


def test_one_line_per_epoch_without_timings(whole_run):
    _, _, state, said = whole_run
    history = state["history"]
    assert history["epoch"] == [1, 2, 3, 4] and history["phase"] == [1, 1, 2, 2]
    assert len(state["phase_seconds"]) == 2 and min(state["phase_seconds"]) > 0
    *features, _, _, _, _ = lines = said.splitlines()
    assert features == [f"computing the features of {n} images, once" for n in (120, 30)]
    for number, line in enumerate(lines[2:]):
        expected = f"epoch {number + 1}/4"
        for name in ("accuracy", "loss", "val_accuracy", "val_loss"):
            expected += f"  {name} {history[name][number]:.4f}"
        assert line == expected


def flops_by_hand(num_blocks_list, width, side):
    """Operations of the convolutions for one image, and those of the dense layer."""
    convolutions, inputs = 2 * side**2 * 9 * 3 * width, width
    for stage, blocks in enumerate(num_blocks_list):
        filters = width * 2**stage
        for _ in range(blocks):
            weights = 9 * inputs * filters + 9 * filters * filters + inputs * filters
            convolutions += 2 * (side // 2**stage) ** 2 * weights
            inputs = filters
    return convolutions, 2 * inputs * 100


def test_petaflops_equal_an_independent_count(whole_run):
    """Frozen layers once; the others three times an image and epoch, by the images' size."""
    network = build_resnet((2, 1, 2), width=3)
    assert forward_flops(network) == sum(flops_by_hand((2, 1, 2), 3, side=32))

    small, large = (sum(flops_by_hand((1,), 2, side)) for side in (16, 32))
    frozen, head = flops_by_hand((1,), 2, side=32)
    expected = (IMAGES + VALIDATION) * frozen + IMAGES * 3 * (2 * head + small + large)
    assert whole_run[2]["petaflops"] == pytest.approx(expected / 1e15, rel=2e-3)


def test_phase_without_sizes_trains_on_whole_images_again(synthetic, tmp_path):
    small_first = (Phase(1, 0.01, image_sizes=[16]), Phase(1, 0.01))
    model = tiny_run(synthetic, tmp_path, phases=small_first)[0]
    assert model.get_layer("stem_downscale").side is None


def test_long_phase_is_announced_within_a_minute(monkeypatch, capsys):
    """Steps take 16 seconds, by a clock of our own; three epochs of 1,000 such steps are left."""
    bar = runtime.progress_bar(1000, "epoch 1")
    progress = EpochProgress(bar, 3)
    progress.set_params({"steps": 1000})
    announced = []
    for batch in range(20):
        monkeypatch.setattr(training.time, "perf_counter", lambda batch=batch: 16.0 * (batch + 1))
        progress.on_train_batch_end(batch, {"loss": 1.0})
        said = capsys.readouterr().out
        announced += [(16 * (batch + 1), said)] if said else []
    ((seconds, said),) = announced
    assert seconds <= 60 and "this phase takes about 13.3 hours here" in said


def test_announcement_names_profiles_that_suit_the_machine(monkeypatch, capsys):
    announce_duration(3000)
    assert capsys.readouterr().out == ""
    for gpus, advice in ((0, "; .* profiles half_hour and laptop .*"), (1, "")):
        monkeypatch.setattr(training, "describe", lambda gpus=gpus: {"gpus": gpus})
        announce_duration(7200)
        said = capsys.readouterr().out
        assert re.fullmatch(f"this phase takes about 2.0 hours here{advice}\n", said)


def test_announcement_comes_before_the_first_epoch_is_over(
    synthetic, tmp_path, monkeypatch, capsys
):
    for name in ("HOUR", "TIMED_SECONDS"):
        monkeypatch.setattr(training, name, 1e-9)
    tiny_run(synthetic, tmp_path, phases=(Phase(2, 0.01),))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("this phase takes about")
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
