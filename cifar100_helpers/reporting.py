"""What long work says while it runs: progress bars, an estimate, one line per epoch."""

import time

import keras
import numpy as np

from .errors import stoppable
from .progress import progress_bar
from .runtime import batch_parts

HOUR = 3600  # seconds; a longer phase is announced
WARMUP_STEPS = 4  # compilation, and first steps that allocate memory
TIMED_STEPS = 20  # or as many as go into TIMED_SECONDS
TIMED_SECONDS = 10


class EpochProgress(keras.callbacks.Callback):
    """Moves `bar` over the steps of an epoch; with `announce`, says how long `epochs` take."""

    def __init__(self, bar, epochs, *, announce):
        super().__init__()
        self.bar = bar
        self.epochs = epochs
        self.announce = announce

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


def _announce_duration(seconds):
    if seconds > HOUR:
        print(
            f"this phase takes about {seconds / HOUR:.1f} hours on this machine; two cores are "
            "what the laptop profile is for (papermill -f notebooks/laptop/…)",
            flush=True,
        )


def epoch_lines(history, epochs):
    """One line for each epoch in `history`, of `epochs` in all, without timings."""
    width = len(str(epochs))
    measured = [name for name in history if name not in ("epoch", "phase")]
    return [
        f"epoch {epoch:{width}d}/{epochs}"
        + "".join(f"  {name} {history[name][i]:.4f}" for name in measured)
        for i, epoch in enumerate(history["epoch"])
    ]


@stoppable("run this again, and predicting starts anew.")
def predict(model, images, *, batch_size=128):
    """Return what `model` gives for uint8 `images` (n, height, width, 3), behind a progress bar."""
    with progress_bar(len(images), "predicting", "image") as bar:
        count = keras.callbacks.LambdaCallback()
        count.on_predict_batch_end = lambda batch, logs=None: bar.update(batch_size)
        return predict_quietly(model, images, batch_size=batch_size, callbacks=[count])


def predict_quietly(model, images, *, batch_size, callbacks=()):
    """As `predict`, without a progress bar; `images` may be features as well."""
    parts = batch_parts()
    # Repeated at the end where every device must get the same number; the surplus is cut off.
    filled = np.resize(images, (-(-len(images) // parts) * parts, *images.shape[1:]))
    predicted = model.predict(
        filled, batch_size=batch_size - batch_size % parts, verbose=0, callbacks=list(callbacks)
    )
    return predicted[: len(images)]
