"""The loop that trains phase by phase, reports, checkpoints and resumes."""

import time
from pathlib import Path

import keras
import numpy as np

from .checkpoint import load_state, load_weights, save_checkpoint
from .progress import progress_bar

HOUR = 3600  # seconds; a longer training is announced
WARMUP_STEPS = 4  # compilation, and first steps that allocate memory
TIMED_STEPS = 20  # or as many as go into TIMED_SECONDS
TIMED_SECONDS = 10


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
    plan = [number for number, phase in enumerate(phases) for _ in range(phase.epochs)]
    steps = -(-len(x) // batch_size)
    state = load_state(run_dir, parameters) or _fresh_state(parameters, phases)
    first = state["epochs_done"]
    if first:
        compile_phase(model, phases[plan[first - 1]], steps)
        load_weights(run_dir, model, state)
        print("\n".join(_epoch_lines(state["history"], len(plan))))
        print(f"(trained before; {len(plan) - first} epochs to go)")

    for epoch in range(first, len(plan)):
        number = plan[epoch]
        if epoch == 0 or number != plan[epoch - 1]:
            compile_phase(model, phases[number], steps)
        start = time.perf_counter()
        progress = EpochProgress(len(plan) - epoch, announce=epoch == first)
        logs = _fit_epoch(model, x, y, epoch, batch_size, seed, validation_data, progress)
        state["phase_seconds"][number] += time.perf_counter() - start
        _append(state["history"], {"epoch": epoch + 1, "phase": number + 1} | logs)
        state["epochs_done"] = epoch + 1
        save_checkpoint(run_dir, model, state)
        print(_epoch_lines(state["history"], len(plan))[-1], flush=True)
    return state


def _fresh_state(parameters, phases):
    return {
        "parameters": parameters,
        "epochs_done": 0,
        "history": {},
        "phase_seconds": [0.0] * len(phases),
    }


def compile_phase(model, phase, steps_per_epoch):
    """Freeze what `phase` freezes and compile `model` with a new optimizer."""
    for layer in model.layers:
        layer.trainable = layer.name not in phase.frozen
    model.compile(
        optimizer=_make_optimizer(phase, phase.epochs * steps_per_epoch),
        loss=SmoothedCrossentropy(phase.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def _make_optimizer(phase, steps):
    learning_rate = phase.learning_rate
    if phase.schedule == "one_cycle":
        warmup_steps = steps // 4
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
        )
    weight_decay = phase.weight_decay or None
    if phase.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    else:
        optimizer = keras.optimizers.Adam(learning_rate, weight_decay=weight_decay)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels, a part `smoothing` of each spread over all classes.

    Source: Szegedy et al., "Rethinking the Inception Architecture", 2016.
    """

    def __init__(self, smoothing):
        super().__init__(name="loss")
        self.smoothing = smoothing

    def call(self, labels, probabilities):
        if not self.smoothing:
            return keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        classes = keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32")
        one_hot = keras.ops.one_hot(classes, probabilities.shape[-1])
        return keras.losses.categorical_crossentropy(
            one_hot, probabilities, label_smoothing=self.smoothing
        )


def _fit_epoch(model, x, y, epoch, batch_size, seed, validation_data, progress):
    def start_from_seed(*_):
        _seed_epoch(model, seed, epoch)

    # TensorFlow takes the seed of its order before the epoch begins; JAX and PyTorch draw theirs
    # when it begins, after a draw more where the model was compiled anew.
    start_from_seed()
    fitted = model.fit(
        x,
        y,
        batch_size=batch_size,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=validation_data,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=start_from_seed), progress],
    )
    return {name: float(values[0]) for name, values in fitted.history.items()}


def _seed_epoch(model, seed, epoch):
    # Shuffling, dropout and random transforms start every epoch from a seed of its own: a resumed
    # run then draws as the uninterrupted one, though saved weights do not hold these states.
    keras.utils.set_random_seed((1_000 * seed + epoch) % 2**32)
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    seeds = np.random.SeedSequence([seed, epoch]).generate_state(len(states)) % 2**31
    for state, start in zip(states, seeds, strict=True):
        state.assign([start, 0])


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
        if self.announce and batch >= WARMUP_STEPS:
            float(logs["loss"])  # waits for the device, which may run behind
            self._time_step(batch - WARMUP_STEPS)

    def _time_step(self, timed_steps):
        if timed_steps == 0:
            self.start = time.perf_counter()
            return
        seconds = time.perf_counter() - self.start
        if timed_steps == TIMED_STEPS or seconds > TIMED_SECONDS:
            self.announce = False
            _announce_duration(seconds / timed_steps * self.params["steps"] * self.epochs)

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


def _epoch_lines(history, epochs):
    width = len(str(epochs))
    measured = [name for name in history if name not in ("epoch", "phase")]
    return [
        f"epoch {epoch:{width}d}/{epochs}"
        + "".join(f"  {name} {history[name][i]:.4f}" for name in measured)
        for i, epoch in enumerate(history["epoch"])
    ]
