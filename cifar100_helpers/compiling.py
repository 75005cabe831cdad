"""From a phase's settings to a compiled model: what is frozen, the optimizer and the loss."""

import keras

from .features import layers_after


def compile_phase(model, phase, steps_per_epoch, *, on_features=False):
    """Freeze what `phase` freezes, compile with a new optimizer, and return what to fit.

    That is `model`, or, `on_features`, its layers after the frozen ones: see `frozen_features`.
    """
    frozen = count_frozen(model, phase)
    for number, layer in enumerate(model.layers):
        layer.trainable = number >= frozen
    part = layers_after(model, phase.frozen_until) if frozen and on_features else model
    part.compile(
        optimizer=_make_optimizer(phase, phase.epochs * steps_per_epoch),
        loss=SmoothedCrossentropy(phase.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
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
