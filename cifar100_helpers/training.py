"""Training phase by phase, with a checkpoint after every epoch that a later call goes on from."""

import json
import time
from pathlib import Path

import keras
import numpy as np

from .errors import ParameterError, RunError, explain_interrupt
from .inference import forward_flops, frozen_features, layers_after
from .recipes import compile_phase
from .resnet import downscale_images
from .runtime import describe, device_count, progress_bar
from .storage import atomic_path, exclusive_lock, load_arrays, write_json

STATE_FILE = "checkpoint.json"
HOUR = 3600  # seconds; a longer phase is announced
TIMED_SECONDS = 10  # after the first step, which compiles


@explain_interrupt("run this again, and training goes on after the last whole epoch.")
def train(model, x, y, phases, *, run_dir, parameters, batch_size, seed, validation_data=None):
    """Train `model` phase by phase and return the state of the run, a dict.

    Prints one line per epoch and writes a checkpoint after each into `run_dir`. If `run_dir`
    already holds epochs of a run with the same `parameters` (a JSON-able dict) and `phases`,
    training goes on after them, and on a CPU ends with the same weights, bit for bit, as an
    uninterrupted run. A phase with frozen layers trains the others on features that are computed
    once and cached in the folder "features" beside `run_dir`, without random transforms.

    `x`: uint8 (n, height, width, 3); `y`: int (n,); `validation_data`: (x, y) or None. The state
    has `history` (lists by epoch), `phase_seconds`, which include those of computing features, and
    `petaflops`: forward operations of convolutions and dense layers, times 3 if they learn, times
    the images seen. Raises RunError if `run_dir` holds another run, ParameterError if batches
    cannot be divided among the devices.
    """
    run_dir = Path(run_dir)
    _check_division(len(x), batch_size)
    if validation_data:
        _check_division(len(validation_data[0]), batch_size)
    with exclusive_lock(run_dir / "lock", "trains in"):
        state = _load_state(run_dir, parameters, phases) or _fresh_state(parameters, phases)
        before = model.get_weights()
        try:
            _train(model, x, y, phases, state, run_dir, batch_size, seed, validation_data)
        except BaseException:
            # A run stopped in its first epoch and started again begins with its first weights.
            model.set_weights(before)
            raise
    return state


def _train(model, x, y, phases, state, run_dir, batch_size, seed, validation_data):
    """Bring `state`, the weights of `model` and the checkpoint in `run_dir` to the last epoch."""
    plan = [number for number, phase in enumerate(phases) for _ in range(phase.epochs)]
    steps, first = -(-len(x) // batch_size), state["epochs_done"]
    if first:
        part = compile_phase(model, phases[plan[first - 1]], steps)
        _load_weights(run_dir, part, state)
        print("\n".join(epoch_lines(state["history"], len(plan))))
        print(f"(trained before; {len(plan) - first} epochs to go)")

    for epoch in range(first, len(plan)):
        number, phase = plan[epoch], phases[plan[epoch]]
        new_phase = epoch == 0 or number != plan[epoch - 1]
        if new_phase:
            part = compile_phase(model, phase, steps)
        if new_phase or epoch == first:
            inputs, validation, cost = _inputs(model, x, validation_data, phase, run_dir)
        if new_phase:
            state["phase_seconds"][number] += cost["seconds"]
            state["petaflops"] += cost["petaflops"]
        start = time.perf_counter()
        done = epoch - plan.index(number)  # epochs of this phase
        downscale_images(part, phase.image_size(done))
        costs = [_share_of_pixels(phase, later, x) for later in range(done, phase.epochs)]
        batches = ShuffledBatches(inputs, y, batch_size, (seed, epoch), part.output_shape[-1])
        # Closed even if the stop button is pressed: Keras does not tell its callbacks.
        with progress_bar(len(batches), f"epoch {epoch + 1}", "step") as bar:
            left = sum(costs) / costs[0] if new_phase or epoch == first else 0
            logs = _fit_epoch(part, batches, epoch, seed, validation, EpochProgress(bar, left))
        state["phase_seconds"][number] += time.perf_counter() - start
        state["petaflops"] += 3 * costs[0] * forward_flops(part) * len(x) / 1e15
        for name, value in ({"epoch": epoch + 1, "phase": number + 1} | logs).items():
            state["history"].setdefault(name, []).append(value)
        state["epochs_done"] = epoch + 1
        _save_checkpoint(run_dir, part, state)
        print(epoch_lines(state["history"], len(plan))[-1], flush=True)


def _check_division(images, batch_size):
    parts = device_count()
    if batch_size % parts or images % batch_size % parts:
        raise ParameterError(
            f"{images:,} images in batches of {batch_size} cannot be divided evenly among {parts} "
            "devices: choose another batch_size, train_limit or validation_size, or use one GPU "
            "(CUDA_VISIBLE_DEVICES=0)."
        )


def _share_of_pixels(phase, epoch, images):
    """What an epoch of `phase`, from 0, costs beside one on whole images."""
    side = phase.image_size(epoch)
    return (side / images.shape[1]) ** 2 if side else 1.0


def _inputs(model, x, validation_data, phase, run_dir):
    """What `phase` trains and is validated on, images or features, and what computing it cost."""
    cost = {"seconds": 0.0, "petaflops": 0.0}
    classes = model.output_shape[-1]

    def features(images):
        folder = run_dir.parent / "features"
        computed, seconds = frozen_features(model, images, phase.frozen_until, folder)
        frozen = forward_flops(model) - forward_flops(layers_after(model, phase.frozen_until))
        cost["seconds"] += seconds
        cost["petaflops"] += frozen * len(images) / 1e15
        return computed

    prepare = features if phase.frozen_until else np.asarray
    if validation_data is None:
        return prepare(x), None, cost
    images, labels = validation_data
    return prepare(x), (prepare(images), one_hot(labels, classes)), cost


def _fit_epoch(model, batches, epoch, seed, validation_data, progress):
    _seed_epoch(model, seed, epoch)
    fitted = model.fit(
        batches,
        shuffle=False,
        initial_epoch=epoch,
        epochs=epoch + 1,
        validation_data=validation_data,
        validation_batch_size=batches.batch_size,
        verbose=0,
        callbacks=[progress],
    )
    return {name: float(values[0]) for name, values in fitted.history.items()}


def _seed_epoch(model, seed, epoch):
    # Dropout and random transforms start every epoch from a seed of its own: a resumed run then
    # draws as the uninterrupted one, though saved weights do not hold these states.
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    seeds = np.random.SeedSequence([seed, epoch]).generate_state(len(states)) % 2**31
    for state, start in zip(states, seeds, strict=True):
        state.assign([start, 0])


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of `x` (n, …) and one-hot `y`, in an order that `seed`, a tuple of ints, decides.

    Keras shuffles in another order under every backend.
    """

    def __init__(self, x, y, batch_size, seed, classes):
        super().__init__()
        self.x, self.y, self.batch_size, self.classes = x, y, batch_size, classes
        self.order = np.random.default_rng(seed).permutation(len(x))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number):
        chosen = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        return self.x[chosen], one_hot(self.y[chosen], self.classes)


def one_hot(labels, classes):
    """Return int `labels` (n,) as float32 (n, `classes`)."""
    return np.eye(classes, dtype=np.float32)[labels]


# Messages


def epoch_lines(history, epochs):
    """Return one line for each epoch in `history`, of `epochs` in all, without timings."""
    width = len(str(epochs))
    measured = [name for name in history if name not in ("epoch", "phase")]
    return [
        f"epoch {epoch:{width}d}/{epochs}"
        + "".join(f"  {name} {history[name][i]:.4f}" for name in measured)
        for i, epoch in enumerate(history["epoch"])
    ]


class EpochProgress(keras.callbacks.Callback):
    """Moves `bar` with the steps of an epoch, and says how long `epochs` take if they take long."""

    def __init__(self, bar, epochs):
        super().__init__()
        self.bar, self.epochs = bar, epochs

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if self.epochs:
            float(logs["loss"])  # waits for the device, which may run behind
            if batch == 0:
                self.start = time.perf_counter()
            elif (seconds := time.perf_counter() - self.start) > TIMED_SECONDS:
                announce_duration(seconds / batch * self.params["steps"] * self.epochs)
                self.epochs = 0


def announce_duration(seconds):
    """Print how long a phase takes, if that is more than an hour, and what would be faster."""
    if seconds <= HOUR:
        return
    advice = (
        ""
        if describe()["gpus"]
        else "; for a machine without a GPU there are the profiles "
        "half_hour and laptop (papermill -f notebooks/laptop/…)"
    )
    print(f"this phase takes about {seconds / HOUR:.1f} hours here{advice}", flush=True)


# Checkpoints: the last whole epoch, whatever happens


def _fresh_state(parameters, phases):
    return {
        "parameters": parameters,
        "phases": [vars(phase) for phase in phases],
        "epochs_done": 0,
        "history": {},
        "phase_seconds": [0.0] * len(phases),
        "petaflops": 0.0,
    }


def _save_checkpoint(run_dir, model, state):
    """Write weights and optimizer of `model`, then the `state` that names their file.

    The weights get a new name and the state replaces the old one in one step: a run killed anywhere
    in between goes on from the checkpoint before.
    """
    weights_file = f"epoch_{state['epochs_done']:03d}.npz"
    # Not by Keras: its HDF5 writer takes the process down when the disk is full.
    with atomic_path(run_dir / weights_file) as unfinished:
        np.savez(unfinished, *map(keras.ops.convert_to_numpy, _variables(model)))
    write_json(run_dir / STATE_FILE, state | {"weights_file": weights_file})
    for pattern in ("epoch_[0-9]*.npz", "unfinished_epoch_[0-9]*.npz"):
        for other in run_dir.glob(pattern):
            if other.name != weights_file:
                other.unlink()


def _variables(model):
    return model.weights + model.optimizer.variables


def _load_state(run_dir, parameters, phases):
    """Return the state of the run in `run_dir`, or None if there is none.

    Raises RunError if it belongs to other `parameters` or `phases`, if it is damaged, and if the
    record of a finished run is there without its checkpoint.
    """
    file = run_dir / STATE_FILE
    if not file.exists():
        if (run_dir / "run.json").exists():
            raise RunError(
                f"{run_dir} holds the record of a finished run: choose another run_name."
            )
        return None
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        theirs, their_phases = dict(state["parameters"]), state["phases"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(file) from None
    differing = [
        f"{key} is {json.dumps(theirs.get(key))} there and {json.dumps(parameters.get(key))} here"
        for key in sorted(theirs | parameters)
        if theirs.get(key) != parameters.get(key)
    ]
    # A recipe's name is among the parameters, but what it stands for may have changed.
    if not differing and their_phases != [vars(phase) for phase in phases]:
        differing = ["its recipe was another when it began"]
    if differing:
        raise RunError(
            f"{run_dir} holds a run with other parameters ({'; '.join(differing)}): "
            "choose another run_name, or delete that folder."
        )
    return state


def _load_weights(run_dir, model, state):
    """Load the weights and optimizer variables that `state` names into the compiled `model`."""
    model.optimizer.build(model.trainable_variables)
    variables, file = _variables(model), run_dir / state["weights_file"]
    try:
        values = list(load_arrays(file).values())
    except (OSError, ValueError):
        raise _damaged(file) from None
    if [(v.shape, v.dtype.name) for v in values] != [(v.shape, v.dtype) for v in variables]:
        raise _damaged(file)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _damaged(file):
    return RunError(f"{file} is missing or damaged: delete its folder to start the run anew.")
