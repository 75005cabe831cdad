"""The loop that trains phase by phase, checkpoints and resumes."""

import time
from pathlib import Path

import numpy as np

from .batches import ShuffledBatches, one_hot
from .checkpoint import alone, load_state, load_weights, save_checkpoint
from .compiling import AverageApart, compile_phase, count_frozen
from .errors import ParameterError, RunError, stoppable
from .features import frozen_features
from .progress import progress_bar
from .reporting import EpochProgress, epoch_lines
from .runtime import batch_parts


@stoppable("run this again, and training goes on after the last whole epoch.")
def train(
    model,
    x,
    y,
    phases,
    *,
    run_dir,
    parameters,
    batch_size,
    seed,
    validation_data=None,
    features_dir=None,
):
    """Train `model` phase by phase and return the run's state: `history` and `phase_seconds`.

    Prints one line per epoch and checkpoints each into `run_dir`. Where `run_dir` already holds
    epochs of a run with the same `parameters` (a JSON-able dict), training goes on after them, and
    on a CPU ends with the same weights, bit for bit, as if never interrupted. Epochs by other
    `phases` are not gone on from.

    With `features_dir`, what the frozen layers of a phase give is computed once and kept in that
    folder; the phase then trains the other layers on it. That saves their passes in every epoch;
    the frozen layers' own random transforms, if any, rest. The seconds it took are counted in the
    first phase that needs it, in whichever run they were spent.

    `x`: uint8 (n, height, width, 3); `y`: int (n,); `validation_data`: (x, y) or None. `history`
    has lists with one entry per epoch. Raises RunError where `run_dir` holds another run,
    ParameterError where batches cannot be divided among the devices, ValueError where a phase would
    freeze layers that an earlier one trains.
    """
    run_dir = Path(run_dir)
    _check_freezing(model, phases)
    _check_division(len(x), batch_size)
    if validation_data:
        images, labels = validation_data
        _check_division(len(images), batch_size)
        validation_data = (images, one_hot(labels, model.output_shape[-1]))
    with alone(run_dir / "lock", "trains in"):
        state = load_state(run_dir, parameters) or _fresh_state(parameters, phases)
        _check_recipe(state, phases, run_dir)
        before = model.get_weights()
        try:
            _train(
                model, x, y, phases, state, run_dir, batch_size, seed, validation_data, features_dir
            )
        except BaseException:
            # Stopped in its first epoch and started again, it must not go on from half of one.
            model.set_weights(before)
            raise
    return state


def _train(model, x, y, phases, state, run_dir, batch_size, seed, validation_data, features_dir):
    """Bring `state`, the weights of `model` and the checkpoint in `run_dir` to the last epoch."""
    plan = [number for number, phase in enumerate(phases) for _ in range(phase.epochs)]
    steps, on_features = -(-len(x) // batch_size), bool(features_dir)
    first = state["epochs_done"]
    if first:
        part = compile_phase(model, phases[plan[first - 1]], steps, on_features=on_features)
        load_weights(run_dir, part, state)
        print("\n".join(epoch_lines(state["history"], len(plan))))
        print(f"(trained before; {len(plan) - first} epochs to go)")

    for epoch in range(first, len(plan)):
        number = plan[epoch]
        new_phase = epoch == 0 or number != plan[epoch - 1]
        if new_phase:
            part = compile_phase(model, phases[number], steps, on_features=on_features)
        if new_phase or epoch == first:
            ahead = phases[number:]
            inputs, validation = _inputs(model, x, validation_data, ahead, features_dir, state)
        start = time.perf_counter()
        batches = _batches(inputs, y, batch_size, (seed, epoch), model, phases[number])
        left = plan[epoch:].count(number)
        # Closed also when the stop button is pressed: Keras tells its callbacks nothing of that.
        with progress_bar(len(batches), f"epoch {epoch + 1}", "step") as bar:
            callbacks = [EpochProgress(bar, left, announce=new_phase or epoch == first)]
            if phases[number].ema:
                callbacks.append(AverageApart(last=left == 1))
            logs = _fit_epoch(part, batches, epoch, seed, validation, callbacks)
        state["phase_seconds"][number] += time.perf_counter() - start
        _append(state["history"], {"epoch": epoch + 1, "phase": number + 1} | logs)
        state["epochs_done"] = epoch + 1
        save_checkpoint(run_dir, part, state)
        print(epoch_lines(state["history"], len(plan))[-1], flush=True)


def _fresh_state(parameters, phases):
    return {
        "parameters": parameters,
        "phases": [vars(phase) for phase in phases],
        "epochs_done": 0,
        "history": {},
        "phase_seconds": [0.0] * len(phases),
        "feature_seconds": {},
    }


def _check_recipe(state, phases, run_dir):
    # A recipe's name is among the parameters, but what it stands for may have changed since.
    if state.get("phases") != [vars(phase) for phase in phases]:
        raise RunError(
            f"{run_dir} holds epochs of other phases than these: choose another run_name, or "
            "delete that folder."
        )


def _check_freezing(model, phases):
    frozen = [count_frozen(model, phase) for phase in phases]
    if frozen != sorted(frozen, reverse=True):
        raise ValueError("A phase freezes layers that an earlier one trains: order them otherwise.")


def _check_division(images, batch_size):
    parts = batch_parts()
    if batch_size % parts or images % batch_size % parts:
        raise ParameterError(
            f"{images:,} images in batches of {batch_size} cannot be divided evenly among {parts} "
            "devices: choose another batch_size, train_limit or validation_size, or let one GPU be "
            "seen (CUDA_VISIBLE_DEVICES=0)."
        )


def _cuts(model, phases):
    """The layers until which these `phases` freeze `model`, the first phase's last."""
    frozen = {count_frozen(model, phase) for phase in phases} - {0}
    return [model.layers[count - 1].name for count in sorted(frozen)]


def _inputs(model, x, validation_data, phases, folder, state):
    """What the first of `phases` trains and is validated on: images, or their features."""
    if not folder or not phases[0].frozen_until:
        return x, validation_data

    def features(images):
        computed, seconds = frozen_features(model, images, _cuts(model, phases), folder)
        state["feature_seconds"].update(seconds)
        return computed

    validation = validation_data and (features(validation_data[0]), validation_data[1])
    return features(x), validation


def _batches(x, y, batch_size, seed, model, phase):
    mixes = {"mixup": phase.mixup, "cutmix": phase.cutmix}
    return ShuffledBatches(x, y, batch_size, seed, classes=model.output_shape[-1], **mixes)


def _fit_epoch(model, batches, epoch, seed, validation_data, callbacks):
    _seed_epoch(model, seed, epoch)
    fitted = model.fit(
        batches,
        shuffle=False,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=validation_data,
        validation_batch_size=batches.batch_size,
        verbose=0,
        callbacks=callbacks,
    )
    return {name: float(values[0]) for name, values in fitted.history.items()}


def _seed_epoch(model, seed, epoch):
    # Dropout and random transforms start every epoch from a seed of its own: a resumed run then
    # draws as the uninterrupted one, though saved weights do not hold these states.
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    seeds = np.random.SeedSequence([seed, epoch]).generate_state(len(states)) % 2**31
    for state, start in zip(states, seeds, strict=True):
        state.assign([start, 0])


def _append(history, logs):
    for name, value in logs.items():
        history.setdefault(name, []).append(value)
