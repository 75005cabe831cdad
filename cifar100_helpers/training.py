"""Recipes as data, and the loop that trains, reports, checkpoints and resumes."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from .checkpoint import load_state, load_weights, save_checkpoint
from .errors import ParameterError
from .progress import progress_bar

HOUR = 3600  # seconds; a longer training is announced
TIMED_STEPS = 5


@dataclass(frozen=True)
class Phase:
    """Epochs trained with one freshly compiled optimizer; `frozen` layers do not learn."""

    epochs: int
    learning_rate: float
    frozen: tuple[str, ...] = ()


# How the published 26 epochs split over the three learning rates is not known; this split is ours.
RESNET_RECIPES = {
    "published": (Phase(16, 1e-3), Phase(6, 1e-4), Phase(4, 5e-5)),
}


def resnet_phases(recipe, epochs):
    """The phases of the named ResNet `recipe`, scaled to a total of `epochs`."""
    if recipe not in RESNET_RECIPES:
        known = ", ".join(RESNET_RECIPES)
        raise ParameterError(f"recipe {recipe!r} does not exist: choose one of {known}.")
    return scale_epochs(RESNET_RECIPES[recipe], epochs)


def scale_epochs(phases, epochs):
    """Scale `phases` to `epochs` in all, in proportion, each at least 1 where the total allows."""
    if epochs < len(phases):
        phases = phases[:epochs]
    total = sum(phase.epochs for phase in phases)
    shares = [epochs * phase.epochs / total for phase in phases]
    counts = [max(1, int(share)) for share in shares]
    while sum(counts) != epochs:
        step = 1 if sum(counts) < epochs else -1
        # The phase that is furthest from its share on the wrong side, never one that would vanish.
        candidates = [i for i in range(len(counts)) if counts[i] + step >= 1]
        furthest = max(candidates, key=lambda i: step * (shares[i] - counts[i]))
        counts[furthest] += step
    return tuple(
        Phase(**asdict(phase) | {"epochs": count})
        for phase, count in zip(phases, counts, strict=True)
    )


def describe_schedule(phases):
    """One line per phase: which epochs, at what learning rate, what stands still."""
    lines, first = [], 1
    for number, phase in enumerate(phases, start=1):
        last = first + phase.epochs - 1
        frozen = f", frozen: {', '.join(phase.frozen)}" if phase.frozen else ""
        lines.append(f"phase {number}: epochs {first}–{last}, Adam {phase.learning_rate:g}{frozen}")
        first = last + 1
    return "\n".join(lines)


def train(model, x, y, phases, *, run_dir, parameters, batch_size, seed, validation_data=None):
    """Train `model` phase by phase and return the run's state: `history` and `phase_seconds`.

    Prints one line per epoch and checkpoints each into `run_dir`. Where `run_dir` already holds
    epochs of a run with the same `parameters` (a JSON-able dict), training goes on after them, and
    on a CPU ends with the same weights, bit for bit, as if never interrupted.

    `x`: uint8 (n, height, width, 3); `y`: int (n,); `validation_data`: (x, y) or None. `history`
    has lists with one entry per epoch. Raises RunError where `run_dir` holds another run.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    state = load_state(run_dir, parameters)
    plan = [(number, phase) for number, phase in enumerate(phases) for _ in range(phase.epochs)]
    compiled = None
    if state is None:
        state = {"parameters": parameters, "epochs_done": 0, "history": {}}
        state["phase_seconds"] = [0.0] * len(phases)
    elif state["epochs_done"]:
        compiled, phase = plan[state["epochs_done"] - 1]
        compile_phase(model, phase)
        load_weights(run_dir, model, state)
        print(f"going on after epoch {state['epochs_done']}/{len(plan)}, from {run_dir.name}")

    first = state["epochs_done"]
    for epoch in range(first, len(plan)):
        number, phase = plan[epoch]
        if number != compiled:
            compile_phase(model, phase)
            compiled = number
        start = time.perf_counter()
        progress = EpochProgress(len(plan) - epoch, announce=epoch == first)
        logs = _fit_epoch(model, x, y, epoch, batch_size, seed, validation_data, progress)
        state["phase_seconds"][number] += time.perf_counter() - start
        _append(state["history"], {"epoch": epoch + 1, "phase": number + 1} | logs)
        state["epochs_done"] = epoch + 1
        save_checkpoint(run_dir, model, state)
        print(_epoch_line(epoch + 1, len(plan), logs), flush=True)
    return state


def compile_phase(model, phase):
    """Freeze what `phase` freezes and compile `model` with a new Adam at its learning rate."""
    for layer in model.layers:
        layer.trainable = layer.name not in phase.frozen
    model.compile(
        optimizer=keras.optimizers.Adam(phase.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def _fit_epoch(model, x, y, epoch, batch_size, seed, validation_data, progress):
    # One seed per epoch, so that a resumed run shuffles as the uninterrupted one; the seeds of
    # dropout and random transforms are variables and come back with the weights.
    keras.utils.set_random_seed(1_000 * seed + epoch)
    fitted = model.fit(
        x,
        y,
        batch_size=batch_size,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=validation_data,
        verbose=0,
        callbacks=[progress],
    )
    return {name: float(values[0]) for name, values in fitted.history.items()}


class EpochProgress(keras.callbacks.Callback):
    """A progress bar over the steps of one epoch; with `announce`, says how long `epochs` take."""

    def __init__(self, epochs, *, announce):
        super().__init__()
        self.epochs = epochs
        self.announce = announce

    def on_epoch_begin(self, epoch, logs=None):
        self.bar = progress_bar(self.params["steps"], f"epoch {epoch + 1}", unit="step")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if not self.announce or batch not in (0, TIMED_STEPS):
            return
        float(logs["loss"])  # waits for the device, which may run behind
        if batch == 0:  # timed from here on: the first step includes compilation
            self.start = time.perf_counter()
        else:
            seconds_per_step = (time.perf_counter() - self.start) / TIMED_STEPS
            _announce_duration(seconds_per_step * self.params["steps"] * self.epochs)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()


def _announce_duration(seconds):
    if seconds > HOUR:
        print(
            f"this training takes about {seconds / HOUR:.1f} hours on this machine; the laptop "
            "profile (papermill -f notebooks/laptop/…) takes less than one on two cores",
            flush=True,
        )


def _append(history, logs):
    for name, value in logs.items():
        history.setdefault(name, []).append(value)


def _epoch_line(epoch, epochs, logs):
    width = len(str(epochs))
    shown = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
    return f"epoch {epoch:{width}d}/{epochs}  {shown}"
