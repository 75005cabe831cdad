"""From a phase's settings to a compiled model: what is frozen, optimizer, loss and averages."""

import keras

from .features import layers_after


def compile_phase(model, phase, steps_per_epoch, *, on_features=False):
    """Freeze what `phase` freezes, compile with a new optimizer, and return what to fit.

    That is `model`, or, `on_features`, its layers after the frozen ones: see `frozen_features`. It
    takes one-hot labels.
    """
    frozen = count_frozen(model, phase)
    for number, layer in enumerate(model.layers):
        layer.trainable = number >= frozen
    part = layers_after(model, phase.frozen_until) if frozen and on_features else model
    part.compile(
        optimizer=_make_optimizer(phase, phase.epochs * steps_per_epoch),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=phase.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return part


def count_frozen(model, phase):
    """How many layers of `model`, from the first one on, `phase` freezes."""
    names = [layer.name for layer in model.layers]
    return names.index(phase.frozen_until) + 1 if phase.frozen_until else 0


def _make_optimizer(phase, steps):
    learning_rate = phase.learning_rate
    if phase.schedule == "one_cycle":
        warmup_steps = steps // 4
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
        )
    options = {"weight_decay": phase.weight_decay or None}
    if phase.ema:
        options |= {"use_ema": True, "ema_momentum": phase.ema}
    if phase.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, **options)
    else:
        optimizer = keras.optimizers.Adam(learning_rate, **options)
    if phase.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class AverageApart(keras.callbacks.SwapEMAWeights):
    """Validates with the averaged weights, and leaves them out of the network until `last`.

    Keras moves the averages into the network at the end of every `fit`. Training calls it epoch by
    epoch, and must go on from the weights themselves until the phase is over.
    """

    def __init__(self, last):
        super().__init__()
        self.last = last

    def on_epoch_begin(self, epoch, logs=None):
        self._averaging_optimizer().use_ema = True

    def on_epoch_end(self, epoch, logs=None):
        self._averaging_optimizer().use_ema = self.last

    def _averaging_optimizer(self):
        # Under mixed_float16 Keras wraps the optimizer into one that scales the loss.
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
