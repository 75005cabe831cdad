import errno
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from cifar100_helpers import checkpoint, reporting, training
from cifar100_helpers.compiling import compile_phase
from cifar100_helpers.errors import ParameterError, RunError
from cifar100_helpers.recipes import Phase, describe_schedule, resnet_phases, scale_epochs
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.training import train

pytestmark = pytest.mark.usefixtures("fresh_keras")

PARAMETERS = {"dataset": "synthetic", "width": 4, "seed": 3}
PHASES = (
    Phase(2, 0.05, optimizer="sgd", schedule="one_cycle", weight_decay=0.01, label_smoothing=0.1),
    Phase(2, 1e-3),
)


def epochs_of(phases):
    return [phase.epochs for phase in phases]


def test_published_schedule():
    phases = resnet_phases("published", 26)
    assert epochs_of(phases) == [16, 6, 4]
    assert [phase.learning_rate for phase in phases] == [1e-3, 1e-4, 5e-5]
    assert {phase.optimizer for phase in phases} == {"adam"}


def test_scaled_schedule_keeps_the_total_and_the_proportions():
    for epochs in range(1, 120):
        counts = epochs_of(resnet_phases("published", epochs))
        assert sum(counts) == epochs
        assert min(counts) >= 1
        assert len(counts) == min(3, epochs)
        if epochs >= 7:  # from where on no share is below one
            np.testing.assert_allclose(counts, np.array([16, 6, 4]) * epochs / 26, atol=1)


def test_schedule_is_described():
    head = Phase(3, 2e-4, weight_decay=0.05, label_smoothing=0.1, frozen_until="pool")
    text = describe_schedule((head, Phase(1, 5e-6)))
    assert text.splitlines() == [
        "phase 1: epochs 1–3, adam, constant learning rate 0.0002, weight_decay 0.05, "
        "label_smoothing 0.1, frozen up to pool",
        "phase 2: epochs 4–4, adam, constant learning rate 5e-06",
    ]


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(ParameterError, match=r"'nonsense'.*published"):
        resnet_phases("nonsense", 26)


def test_changes_are_made_to_every_phase():
    changed = resnet_phases("published", 26, changes={"label_smoothing": 0.1, "mixup": 0.2})
    assert [(phase.label_smoothing, phase.mixup) for phase in changed] == [(0.1, 0.2)] * 3
    assert [phase.learning_rate for phase in changed] == [1e-3, 1e-4, 5e-5]
    assert describe_schedule(changed).count(", mixup 0.2") == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixing": 0.2}, "mixing is no setting of a recipe.*mixup"),
        ({"epochs": 3}, "epochs is no setting"),
        ({"ema": 1.0}, "ema of a phase must be a number of at least 0 and below 1, not 1.0"),
        ({"weight_decay": -1}, "weight_decay .* not -1"),
        ({"learning_rate": "0.1"}, "learning_rate .* not '0.1'"),
        ({"label_smoothing": True}, "label_smoothing .* not True"),
        ({"learning_rate": math.nan}, "learning_rate .* not nan"),
        ({"optimizer": "lion"}, "optimizer .* adam, sgd"),
        ({"schedule": ["one_cycle"]}, "schedule .* constant, one_cycle"),
    ],
)
def test_change_that_does_not_fit_is_one_sentence(changes, sentence):
    with pytest.raises(ParameterError, match=sentence):
        resnet_phases("modern", 3, changes=changes)


def tiny_run(data, run_dir, *, phases=PHASES, parameters=PARAMETERS, **options):
    keras.utils.set_random_seed(3)
    model = build_resnet((1,), width=4)
    x, y = data.x_train[:200], data.y_train[:200]
    options = {"batch_size": 64, "seed": 3} | options
    state = train(model, x, y, phases, run_dir=run_dir, parameters=parameters, **options)
    return model, state


class Interrupt(Exception):
    pass


@pytest.fixture(scope="module")
def whole_run(synthetic, tmp_path_factory):
    return tiny_run(synthetic, tmp_path_factory.mktemp("runs") / "whole")


def assert_same_run(ours, theirs):
    for a, b in zip(ours[0].get_weights(), theirs[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours[1]["history"] == theirs[1]["history"]


def failing_after(epochs_before):
    fit_epoch = training._fit_epoch

    def fit_until(model, batches, epoch, *rest):
        logs = fit_epoch(model, batches, epoch, *rest)
        if epoch == epochs_before:  # trained, but killed before its checkpoint
            raise Interrupt
        return logs

    return fit_until


@pytest.mark.parametrize("epochs_before", [0, 1, 2, 3, 4])
def test_resumed_run_ends_bit_for_bit_as_the_uninterrupted(
    synthetic, whole_run, tmp_path, monkeypatch, epochs_before
):
    """Interrupted within an epoch, in either phase and between them."""
    monkeypatch.setattr(training, "_fit_epoch", failing_after(epochs_before))
    if epochs_before < 4:
        with pytest.raises(Interrupt):
            tiny_run(synthetic, tmp_path)
    else:
        tiny_run(synthetic, tmp_path)
    monkeypatch.undo()
    assert_same_run(tiny_run(synthetic, tmp_path), whole_run)


def test_kill_between_weights_and_state_goes_on_from_the_epoch_before(
    synthetic, whole_run, tmp_path, monkeypatch
):
    write_json = training.save_checkpoint.__globals__["write_json"]

    def killed(file, content):
        if content["epochs_done"] == 2:
            raise Interrupt
        write_json(file, content)

    monkeypatch.setitem(training.save_checkpoint.__globals__, "write_json", killed)
    with pytest.raises(Interrupt):
        tiny_run(synthetic, tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epochs_done"] == 1
    assert_same_run(tiny_run(synthetic, tmp_path), whole_run)
    assert len(list(tmp_path.glob("epoch_*"))) == 1


TRAIN_ONCE = """
import hashlib, tempfile
from cifar100_helpers import RandomTransforms, build_resnet, configure, load_synthetic, train
from cifar100_helpers.recipes import Phase
configure(seed=5)
data = load_synthetic(train_size=500, test_size=100, seed=0)
model = build_resnet((1,), width=4, augmentation=RandomTransforms(seed=5))
with tempfile.TemporaryDirectory() as folder:
    train(model, data.x_train, data.y_train, [Phase(2, 0.05, optimizer="sgd", mixup=0.2)],
          run_dir=folder, parameters={}, batch_size=64, seed=5)
print(hashlib.md5(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""


@pytest.mark.every_backend
def test_same_seed_gives_the_same_weights_in_every_process():
    command = [sys.executable, "-c", TRAIN_ONCE]
    said = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    (*_, first), (*_, second) = (run.stdout.splitlines() for run in said)
    assert len(first) == 32 and first == second


@pytest.mark.every_backend
def test_another_seed_gives_other_weights(synthetic, whole_run, tmp_path):
    model, _ = tiny_run(synthetic, tmp_path, seed=4)
    assert not np.array_equal(model.get_weights()[0], whole_run[0].get_weights()[0])


def test_other_parameters_are_refused_and_named(synthetic, tmp_path):
    tiny_run(synthetic, tmp_path, phases=(Phase(1, 1e-3),))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"width is 4 there and 8 here.*run_name"):
        tiny_run(synthetic, tmp_path, parameters=PARAMETERS | {"width": 8})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_finished_record_without_checkpoint_is_not_overwritten(synthetic, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="choose another run_name"):
        tiny_run(synthetic, tmp_path)


def test_second_process_in_the_same_folder_is_refused(synthetic, whole_run, tmp_path):
    """The first one is killed, which frees the folder."""
    hold = (
        "import sys, time; from cifar100_helpers.checkpoint import alone\n"
        "with alone(sys.argv[1], 'trains in'): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "lock"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"Another process trains in .* choose another run_name"):
            tiny_run(synthetic, tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]
        other.kill()
    assert_same_run(tiny_run(synthetic, tmp_path), whole_run)


def test_run_goes_on_where_the_file_system_knows_no_locks(
    synthetic, whole_run, tmp_path, monkeypatch
):
    def unsupported(stream, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(checkpoint.fcntl, "flock", unsupported)
    assert_same_run(tiny_run(synthetic, tmp_path), whole_run)


def test_epochs_of_a_changed_recipe_are_not_gone_on_from(synthetic, tmp_path):
    _, before = tiny_run(synthetic, tmp_path)
    changed = (*PHASES[:-1], replace(PHASES[-1], learning_rate=1e-5))
    with pytest.raises(RunError, match="holds epochs of other phases than these"):
        tiny_run(synthetic, tmp_path, phases=changed)
    assert tiny_run(synthetic, tmp_path)[1]["history"] == before["history"]


def test_files_of_the_users_own_stay(synthetic, tmp_path):
    (tmp_path / "model_epoch_10.keras").touch()
    (tmp_path / "epoch_plots").mkdir()
    tiny_run(synthetic, tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "checkpoint.json",
        "epoch_004.npz",
        "epoch_plots",
        "lock",
        "model_epoch_10.keras",
    ]


def test_damaged_checkpoint_is_one_sentence(synthetic, tmp_path):
    (tmp_path / "checkpoint.json").write_text('{"epochs_done": 1, "par')
    with pytest.raises(RunError, match="damaged"):
        tiny_run(synthetic, tmp_path)


def test_history_and_epoch_lines(synthetic, tmp_path, capsys):
    validation = (synthetic.x_test[:50], synthetic.y_test[:50])
    _, state = tiny_run(synthetic, tmp_path, validation_data=validation)
    history = state["history"]
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["phase"] == [1, 1, 2, 2]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert len(history[name]) == 4 and all(map(math.isfinite, history[name]))
    assert len(state["phase_seconds"]) == 2 and min(state["phase_seconds"]) > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/4" for n in (1, 2, 3, 4)]
    assert f"val_accuracy {history['val_accuracy'][0]:.4f}" in lines[0]


@pytest.mark.every_backend
def test_training_learns(synthetic, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_resnet((1, 1), width=8, dropout_rate=0.0)
    options = {"run_dir": tmp_path, "parameters": {}, "batch_size": 50, "seed": 0}
    state = train(model, synthetic.x_train, synthetic.y_train, (Phase(3, 3e-3),), **options)
    assert state["history"]["accuracy"][-1] > 0.05  # chance is 0.01


@pytest.mark.every_backend
def test_frozen_layers_stand_still_and_the_others_move(synthetic, tmp_path):
    keras.utils.set_random_seed(3)
    before = build_resnet((1,), width=4)
    phases = (Phase(1, 1e-2, frozen_until="stem_relu"),)
    model, _ = tiny_run(synthetic, tmp_path, phases=phases)
    for layer in before.layers:
        now = model.get_layer(layer.name).get_weights()
        unmoved = [np.array_equal(*pair) for pair in zip(layer.get_weights(), now, strict=True)]
        if layer.name.startswith("stem_") and "dropout" not in layer.name:
            assert all(unmoved)
        elif unmoved and "dropout" not in layer.name:
            assert not all(unmoved), layer.name


def test_freezing_what_was_trained_is_refused(synthetic, tmp_path):
    phases = (Phase(1, 1e-3), Phase(1, 1e-3, frozen_until="stem_relu"))
    with pytest.raises(ValueError, match="order them otherwise"):
        tiny_run(synthetic, tmp_path, phases=phases)


@pytest.mark.every_backend
def test_loss_and_accuracy_of_a_phase_equal_their_definitions(synthetic):
    model = build_resnet((1,), width=4)
    x, labels = synthetic.x_train[:20], synthetic.y_train[:20]
    compile_phase(model, Phase(1, 0.1, label_smoothing=0.1), steps_per_epoch=1)
    loss, accuracy = model.evaluate(x, np.identity(100)[labels], verbose=0)
    probabilities = model.predict(x, verbose=0)
    target = np.full((20, 100), 0.1 / 100)
    target[np.arange(20), labels] += 0.9
    expected = -(target * np.log(probabilities)).sum(axis=1).mean()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert accuracy == np.mean(probabilities.argmax(axis=1) == labels)


@pytest.mark.every_backend
def test_averaged_weights_take_their_place_when_the_phase_is_over(synthetic, tmp_path, monkeypatch):
    """One step an epoch, so that the weights after every step are seen."""
    seen, save = [], training.save_checkpoint

    def watch(run_dir, model, state):
        seen.append(model.get_weights())
        save(run_dir, model, state)

    monkeypatch.setattr(training, "save_checkpoint", watch)
    for name, ema in (("raw", 0.0), ("averaged", 0.6)):
        phases = (Phase(3, 0.05, optimizer="sgd", ema=ema),)
        model, _ = tiny_run(synthetic, tmp_path / name, phases=phases, batch_size=200)
    (first, second, third), averaged = seen[:3], seen[3:]
    trained = [weight.trainable for weight in model.weights]
    for position, weights in enumerate(zip(first, second, third, strict=True)):
        a, b, c = weights
        expected = 0.6 * (0.6 * a + 0.4 * b) + 0.4 * c if trained[position] else c
        np.testing.assert_array_equal(averaged[1][position], b)  # training goes on from these
        np.testing.assert_allclose(averaged[2][position], expected, rtol=1e-5, atol=1e-6)


def test_validation_sees_the_averaged_weights(synthetic, tmp_path):
    x, y = synthetic.x_train[:200], synthetic.y_train[:200]
    phases = (Phase(3, 0.05, optimizer="sgd", ema=0.6),)
    model, state = tiny_run(synthetic, tmp_path, phases=phases, validation_data=(x, y))
    loss = -np.log(model.predict(x, verbose=0)[np.arange(200), y]).mean()
    assert state["history"]["val_loss"][-1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("epochs_before", [pytest.param(1, marks=pytest.mark.every_backend), 3])
def test_run_with_averages_and_mixing_resumes_bit_for_bit(
    synthetic, tmp_path, monkeypatch, epochs_before
):
    phases = (Phase(3, 0.05, optimizer="sgd", ema=0.6, mixup=0.4, cutmix=1.0), Phase(1, 1e-3))
    whole = tiny_run(synthetic, tmp_path / "whole", phases=phases)
    monkeypatch.setattr(training, "_fit_epoch", failing_after(epochs_before))
    with pytest.raises(Interrupt):
        tiny_run(synthetic, tmp_path / "resumed", phases=phases)
    monkeypatch.undo()
    assert_same_run(tiny_run(synthetic, tmp_path / "resumed", phases=phases), whole)


@pytest.mark.every_backend
def test_weight_decay_spares_biases_and_batch_normalization():
    model = build_resnet((1,), width=4)
    compile_phase(model, Phase(1, 0.1, optimizer="sgd", weight_decay=0.1), steps_per_epoch=10)
    decayed = {v.path for v in model.trainable_variables if model.optimizer._use_weight_decay(v)}
    assert decayed == {v.path for v in model.trainable_variables if v.path.endswith("kernel")}


@pytest.mark.every_backend
def test_one_cycle_rises_for_a_quarter_and_ends_at_zero():
    model = build_resnet((1,), width=4)
    compile_phase(model, Phase(2, 0.3, optimizer="sgd", schedule="one_cycle"), steps_per_epoch=50)
    schedule = model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in range(101)]
    assert rates[0] == 0 and max(rates) == pytest.approx(0.3) and rates.index(max(rates)) == 25
    assert rates[-1] == pytest.approx(0, abs=1e-7)


def test_long_phases_are_announced_once_each(synthetic, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporting, "HOUR", 1e-9)
    monkeypatch.setattr(reporting, "WARMUP_STEPS", 0)
    monkeypatch.setattr(reporting, "TIMED_STEPS", 2)
    tiny_run(synthetic, tmp_path)
    assert capsys.readouterr().out.count("this phase takes about") == len(PHASES)


def test_short_training_is_not_announced(synthetic, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporting, "WARMUP_STEPS", 0)
    monkeypatch.setattr(reporting, "TIMED_STEPS", 2)
    tiny_run(synthetic, tmp_path)
    assert "takes about" not in capsys.readouterr().out


def test_scaling_one_phase():
    assert epochs_of(scale_epochs((Phase(26, 0.3),), 3)) == [3]


def test_folder_moved_elsewhere_resumes(synthetic, whole_run, tmp_path):
    tiny_run(synthetic, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_same_run(tiny_run(synthetic, tmp_path / "there"), whole_run)
