"""A training run in its folder: `model.fit` with a checkpoint after every epoch, and resume."""

import json
import math
import threading
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from .errors import ParameterError, RunError, explain_interrupt
from .inference import cached_features, forward_flops
from .recipes import epoch_petaflops
from .resnet import downscale_images
from .runtime import Batches, describe, device_count, prefetch, progress_bar
from .storage import atomic_path, exclusive_lock, load_arrays

CHECKPOINT = "checkpoint.npz"
HOUR = 3600  # seconds; a longer run is announced
TIMED_SECONDS = 10  # after the first step, which compiles
SMALL_PART = 0.05  # of a run's operations: their pace says little about the others


class Run:
    """A training run that lives in a folder: its phases are fitted there, one after the other.

    `run_dir`: the folder. `parameters`: a JSON-able dict with `batch_size` and `seed` among others.
    `phases`: those of `recipes`; `petaflops`: the operations of each, in 10¹⁵. A run that would
    take more than `hours` on this machine stops soon after its start. `state` has the `history`, a
    dict of lists by epoch, and `phase_seconds`. Raises RunError if `run_dir` holds another run.
    """

    def __init__(self, run_dir, parameters, phases, *, petaflops, hours=24):
        self.run_dir, self.parameters, self.phases = Path(run_dir), parameters, tuple(phases)
        self.petaflops, self.hours = petaflops, hours
        self.feature_seconds = 0.0
        self.fitted = 0  # phases that the model of this process has behind it
        self.trained = None  # the model of the last of them
        self.state = self._load_state()

    @property
    def recorded(self):
        """Whether the folder holds the record of this run, finished and tested."""
        return (self.run_dir / "run.json").exists()

    def has_trained(self, model):
        """Return whether all phases were fitted here, and the last one with weights of `model`."""
        own = {id(weight) for weight in model.weights}
        return self.fitted == len(self.phases) and all(id(w) in own for w in self.trained.weights)

    def features(self, frozen, images):
        """Return what the model `frozen` makes of uint8 `images`, computed once and cached.

        The cache is the folder "features" beside the run's. The seconds count for the first phase.
        Raises RunError if the run would take more than `hours`, if another process computes the
        same features, or if they cannot be written.
        """
        pace = Pace(self, sum(self.petaflops) / (len(images) * forward_flops(frozen) / 1e15))
        # Once epochs are behind it, the pace of the next one tells more.
        after_batch = None if self.state["epochs_done"] else pace.step
        features, seconds = cached_features(
            frozen, images, self.run_dir.parent / "features", after_batch=after_batch
        )
        self.feature_seconds += seconds
        return features

    @explain_interrupt("run this again, and training goes on after the last whole epoch.")
    def fit(self, model, x, y, *, phase, validation_data=None):
        """Train the compiled `model` for `phase`: `model.fit`, with a checkpoint after every epoch.

        Prints one line per epoch. Epochs that the folder holds are not trained again: a run that
        goes on ends with the same weights, on a CPU bit for bit, as an uninterrupted one. `x`:
        (n, …), `y`: int (n,), `validation_data`: (x, y) or None. Raises RunError if another process
        trains in the folder, if that holds another run or a damaged one or cannot be written, if
        the run would take more than `hours`, if an earlier phase was not fitted or if the loss is
        not finite, and ParameterError if batches cannot be divided among the devices.
        """
        number = self._number(phase)
        for images in (x, *(validation_data or ())[:1]):
            _check_division(len(images), self.parameters["batch_size"])
        with exclusive_lock(self.run_dir / "lock", "trains in"):
            self.state = self._load_state()
            before = model.get_weights()
            try:
                self._fit(model, x, y, number, validation_data)
            except BaseException:
                # A run stopped in its first epoch and started again begins with its first weights.
                model.set_weights(before)
                raise
        self.fitted, self.trained = number + 1, model

    def _number(self, phase):
        """The place of `phase` among those of the run, from 0; RunError before its turn."""
        ready = self.phases[: self.fitted + 1]
        for number, known in enumerate(ready):
            if known is phase:
                return number
        raise RunError(
            "The phases of a run are trained in their order: run the notebook again, from the cell "
            "that makes them."
        )

    def _fit(self, model, x, y, number, validation_data):
        phase = self.phases[number]
        first = sum(known.epochs for known in self.phases[:number])
        # Before Keras would, in its first step: TensorFlow then traces that step once, not twice.
        model.optimizer.build(model.trainable_variables)
        done = min(max(0, self.state["epochs_done"] - first), phase.epochs)
        if done:
            self._go_on(model, first, done, phase.epochs)
        elif number == 0:
            self.state["phase_seconds"][0] += self.feature_seconds

        for epoch in range(done, phase.epochs):
            start = time.perf_counter()
            downscale_images(model, phase.image_size(epoch))
            if epoch == done or phase.image_size(epoch) != phase.image_size(epoch - 1):
                pace = self._pace(model, x, number, epoch)
            logs = self._fit_epoch(model, x, y, first + epoch, validation_data, pace)
            if not math.isfinite(logs["loss"]):
                raise RunError(
                    f"The loss of epoch {first + epoch + 1} is not finite: choose a smaller "
                    "learning rate, or the precision float32."
                )
            self.state["phase_seconds"][number] += time.perf_counter() - start
            for name, value in ({"epoch": first + epoch + 1, "phase": number + 1} | logs).items():
                self.state["history"].setdefault(name, []).append(value)
            self.state["epochs_done"] += 1
            self._save_checkpoint(model)
            print(self._lines()[-1], flush=True)

    def _go_on(self, model, first, done, epochs):
        """Print the `done` epochs of a phase; load the weights if they are the run's last ones."""
        print("\n".join(self._lines()[first : first + done]), flush=True)
        if self.state["epochs_done"] == first + done:
            todo = f"; {epochs - done} epochs to go" if done < epochs else ""
            print(f"(trained before{todo})", flush=True)
            self._load_weights(model)

    def _fit_epoch(self, model, x, y, epoch, validation_data, pace):
        batch_size, seed = self.parameters["batch_size"], self.parameters["seed"]
        _seed_epoch(model, seed, epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(x))
        batches = prefetch(Batches(x, y, batch_size=batch_size, order=order))
        if validation_data:
            validation_data = prefetch(Batches(*validation_data, batch_size=batch_size))
        # Closed even if the stop button is pressed: Keras does not tell its callbacks.
        with progress_bar(len(batches), f"epoch {epoch + 1}", "step") as bar:
            fitted = model.fit(
                batches,
                shuffle=False,
                initial_epoch=epoch,
                epochs=epoch + 1,
                validation_data=validation_data,
                verbose=0,
                callbacks=[EpochProgress(bar, pace)],
            )
        return {name: float(values[0]) for name, values in fitted.history.items()}

    def _lines(self):
        """One line for each epoch of the history, without timings."""
        history, epochs = self.state["history"], sum(phase.epochs for phase in self.phases)
        measured = [name for name in history if name not in ("epoch", "phase")]
        return [
            f"epoch {epoch:{len(str(epochs))}d}/{epochs}"
            + "".join(f"  {name} {history[name][i]:.4f}" for name in measured)
            for i, epoch in enumerate(history["epoch"])
        ]

    def _pace(self, model, x, number, epoch):
        """The `Pace` of `epoch` in the phase `number`; None if little of the run is left in it."""
        costs = epoch_petaflops(model, self.phases[number], len(x))[epoch:]
        if sum(costs) < SMALL_PART * sum(self.petaflops):
            return None
        return Pace(self, (sum(costs) + sum(self.petaflops[number + 1 :])) / costs[0])

    def judge(self, seconds):
        """Print how many `seconds` the run takes in all, if many; stop it if they are too many."""
        if seconds > self.hours * HOUR:
            suitable = "modern" if describe()["gpus"] else "quick, half_hour and laptop"
            enough = math.ceil(1.5 * seconds / HOUR)  # other work may slow it down
            raise RunError(
                f"This run would take about {seconds / HOUR:.1f} hours on this machine, and the "
                f"parameter hours allows {self.hours}: choose a profile that suits the machine "
                f"({suitable}), or set hours to {enough} to run it anyway."
            )
        if seconds > HOUR:
            tqdm.write(f"this run takes about {seconds / HOUR:.1f} hours in all on this machine")

    # Checkpoints: the last whole epoch, whatever happens

    def _save_checkpoint(self, model):
        # Not by Keras: its HDF5 writer takes the process down when the disk is full.
        with atomic_path(self.run_dir / CHECKPOINT) as unfinished:
            values = map(keras.ops.convert_to_numpy, _variables(model))
            np.savez(unfinished, *values, state=json.dumps(self.state))

    def _load_weights(self, model):
        """Load weights and optimizer of the checkpoint into the compiled `model`."""
        file = self.run_dir / CHECKPOINT
        if self.recorded and not file.exists():
            print("(from its record: the trained weights are not in this folder)", flush=True)
            return
        variables, stored = _variables(model), _load_checkpoint(file)
        values = [stored.get(f"arr_{number}") for number in range(len(variables))]
        for variable, value in zip(variables, values, strict=True):
            if value is None or value.shape != tuple(variable.shape):
                raise _damaged(file)
            variable.assign(value)

    def _load_state(self):
        """Return the state that the folder holds, or a fresh one; RunError if it is another's."""
        file = self.run_dir / CHECKPOINT
        if self.recorded:
            state = _state_of_record(self.run_dir / "run.json")
        elif file.exists():
            state = json.loads(str(_load_checkpoint(file, "state")["state"]))
        else:
            return {
                "parameters": self.parameters,
                "phases": [vars(phase) for phase in self.phases],
                "epochs_done": 0,
                "history": {},
                "phase_seconds": [0.0] * len(self.phases),
                "petaflops": sum(self.petaflops),
            }
        self._refuse_other(state)
        return state

    def _refuse_other(self, state):
        theirs, ours = state["parameters"], self.parameters
        differing = [
            f"{key} is {json.dumps(theirs.get(key))} there and {json.dumps(ours.get(key))} here"
            for key in sorted(theirs | ours)
            if theirs.get(key) != ours.get(key)
        ]
        # A recipe's name is among the parameters, but what it stands for may have changed.
        if not differing and state["phases"] != [vars(phase) for phase in self.phases]:
            differing = ["its recipe was another when it began"]
        if differing:
            raise RunError(
                f"{self.run_dir} holds a run with other parameters ({'; '.join(differing)}): "
                "choose another run_name, or delete that folder."
            )


def _state_of_record(file):
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        names = ("parameters", "phases", "history", "phase_seconds", "petaflops")
        state = {name: record[name] for name in names}
        return state | {"epochs_done": len(state["history"]["epoch"])}
    except (ValueError, KeyError, TypeError):
        raise _damaged(file) from None


def _load_checkpoint(file, *names):
    try:
        return load_arrays(file, *names)
    except (FileNotFoundError, ValueError):
        raise _damaged(file) from None


def _damaged(file):
    return RunError(f"{file} is missing or damaged: delete its folder to start the run anew.")


def _variables(model):
    return model.weights + model.optimizer.variables


def _check_division(images, batch_size):
    devices = device_count()
    if batch_size % devices or images % batch_size % devices:
        raise ParameterError(
            f"{images:,} images in batches of {batch_size} cannot be divided evenly among "
            f"{devices} devices: choose another batch_size, train_limit or validation_size, or use "
            "one GPU (CUDA_VISIBLE_DEVICES=0)."
        )


def _seed_epoch(model, seed, epoch):
    # Dropout and random transforms start every epoch from a seed of its own: a resumed run then
    # draws as the uninterrupted one, though saved weights do not hold these states.
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    seeds = np.random.SeedSequence([seed, epoch]).generate_state(len(states)) % 2**31
    for state, start in zip(states, seeds, strict=True):
        state.assign([start, 0])


# Progress


class Pace:
    """Times the first steps of some work, and lets `run` judge how long all of it will take.

    `left`: the operations that the run has left, as a multiple of those of this work.
    """

    def __init__(self, run, left):
        self.run, self.left, self.steps = run, left, 0

    def step(self, of_steps):
        """Count a step that ended, one of `of_steps` that the work consists of."""
        now = time.perf_counter()
        if self.steps == 0:
            self.start = now  # the first step compiles
        elif self.left and now - self.start > TIMED_SECONDS:
            before = sum(self.run.state["phase_seconds"])
            work = (now - self.start) / self.steps * of_steps
            left, self.left = self.left, None
            self.run.judge(before + work * left)
        self.steps += 1


class EpochProgress(keras.callbacks.Callback):
    """Moves `bar` with the steps of an epoch, and counts them for a `pace`, if there is one."""

    # Keras then does not wait for the device in every step. It calls from several threads.
    async_safe = True

    def __init__(self, bar, pace):
        super().__init__()
        self.bar, self.pace, self.lock = bar, pace, threading.Lock()

    def on_train_batch_end(self, batch, logs=None):
        with self.lock:
            self.bar.update()
            if self.pace and self.pace.left:
                float(logs["loss"])  # waits for the device, which may run behind
                self.pace.step(self.params["steps"])
