"""Training recipes as data, and the optimizers and the loss that they name."""

import math
import textwrap
from dataclasses import dataclass, field, replace
from numbers import Real

import keras
import numpy as np
from keras import ops

from .errors import ParameterError
from .inference import forward_flops

CHOICES = {"optimizer": ("adam", "sgd", "muon"), "schedule": ("constant", "one_cycle")}
NUMBERS = {  # and what they must stay below
    "learning_rate": math.inf,
    "weight_decay": math.inf,
    "label_smoothing": 1,
    "warmup": 1,
}


@dataclass(frozen=True)
class Phase:
    """Epochs trained with one freshly compiled optimizer.

    `optimizer`: "adam"; "sgd" with Nesterov momentum 0.9 (Sutskever et al., 2013); or "muon", see
    `Muon`. `schedule`: "constant", or "one_cycle": up to `learning_rate` in the first `warmup` of
    the phase's steps, then down to zero along a cosine (after Smith and Topin, "Super-Convergence",
    2018, whose rate falls in a line). `weight_decay`: per unit of learning rate, apart from the
    gradient (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), not on biases
    and batch normalization. `label_smoothing`: the part of every label that is divided among all
    classes (Szegedy et al., 2016). `image_sizes`: sides in pixels, each for an equal part of the
    epochs; small images first save operations (Howard, "Training Imagenet in 3 hours", 2018); []
    leaves the images as they are. Raises ParameterError if a value does not fit.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    warmup: float = 0.25
    image_sizes: list = field(default_factory=list)

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ParameterError(f"{name} of a phase must be one of {', '.join(choices)}.")
        for name, below in NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < below:
                limit = f" and below {below}" if below < math.inf else ""
                text = " (YAML reads 1e-3 as text: write 0.001)" if isinstance(value, str) else ""
                raise ParameterError(
                    f"{name} of a phase must be a number of at least 0{limit}, not {value!r}{text}."
                )
        sizes = self.image_sizes
        if type(sizes) is not list or not all(type(s) is int and 8 <= s <= 32 for s in sizes):
            raise ParameterError("image_sizes must be a list of whole numbers from 8 to 32.")

    def image_size(self, epoch):
        """Return the side of the images in `epoch` of this phase, from 0; None: as they are."""
        sizes = self.image_sizes or [None]
        return sizes[epoch * len(sizes) // self.epochs]


RESNET_RECIPES = {
    # How the published 26 epochs split over the three learning rates is not known; this is ours.
    "published": (Phase(16, 1e-3), Phase(6, 1e-4), Phase(4, 5e-5)),
    # Near those of CIFAR-100 speedruns (CerovazS/Cifar100Speedrun); chosen by validation images.
    "modern": (
        Phase(
            26,
            0.03,
            optimizer="muon",
            schedule="one_cycle",
            warmup=0.4,
            weight_decay=0.05,
            label_smoothing=0.1,
            image_sizes=[16, 24, 32],
        ),
    ),
}

# The head first, on a frozen base; then everything. Published are 20 + 26 epochs, and 45 in all.
XCEPTION_RECIPES = {
    "published": (Phase(20, 2e-4), Phase(16, 5e-6), Phase(10, 2e-6)),
    "modern": (
        Phase(6, 2e-3, schedule="one_cycle", weight_decay=0.05, label_smoothing=0.1),
        Phase(4, 3e-4, schedule="one_cycle", weight_decay=0.05, label_smoothing=0.1),
    ),
}


def resnet_phases(recipe, epochs, *, changes=None):
    """Return the phases of the named ResNet `recipe`, scaled to `epochs` in all.

    `changes`, a dict such as {"label_smoothing": 0.0}, replaces settings of every phase. Raises
    ParameterError if there is no such recipe or setting.
    """
    settings = [*CHOICES, *NUMBERS, "image_sizes"]
    return scale_epochs(_find(recipe, RESNET_RECIPES, settings, changes), epochs)


def xception_phases(recipe, frozen_epochs, finetune_epochs, *, changes=None):
    """Return the phases of the named Xception `recipe`, the head alone first, then everything.

    They take `frozen_epochs` and `finetune_epochs`. `changes` and errors as in `resnet_phases`.
    """
    head, *finetuning = _find(recipe, XCEPTION_RECIPES, [*CHOICES, *NUMBERS], changes)
    return scale_epochs((head,), frozen_epochs) + scale_epochs(finetuning, finetune_epochs)


def _find(recipe, recipes, settings, changes):
    if recipe not in recipes:
        known = ", ".join(recipes)
        raise ParameterError(f"recipe {recipe!r} does not exist: choose one of {known}.")
    for name in changes or {}:
        if name not in settings:
            known = ", ".join(settings)
            raise ParameterError(f"{name} is no setting of a recipe: choose among {known}.")
    return tuple(replace(phase, **changes or {}) for phase in recipes[recipe])


def scale_epochs(phases, epochs):
    """Scale `phases` to `epochs` in all, in proportion, each at least 1 if the total allows.

    A phase with fewer epochs than `image_sizes` leaves out the smallest, those at the beginning.
    """
    if not epochs:
        return ()
    phases = phases[:epochs]
    planned = np.cumsum([0, *(phase.epochs for phase in phases)])
    counts = np.diff(np.rint(epochs * planned / planned[-1]).astype(int))
    while counts.min() < 1:
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return tuple(
        replace(phase, epochs=count, image_sizes=phase.image_sizes[-count:])
        for phase, count in zip(phases, counts.tolist(), strict=True)
    )


def describe_schedule(phases, petaflops):
    """Return in words, for each phase, its epochs, optimizer, other settings and cost.

    `petaflops`: the cost of each phase in 10¹⁵ operations.
    """
    lines, first = [], 1
    for number, phase in enumerate(phases):
        last = first + phase.epochs - 1
        parts = [f"{phase.optimizer}, {phase.schedule} learning rate {phase.learning_rate:g}"]
        if phase.schedule == "one_cycle":
            parts[0] += f" after {phase.warmup:.0%} warm-up"
        parts += [
            f"{name} {getattr(phase, name):g}"
            for name in ("weight_decay", "label_smoothing")
            if getattr(phase, name)
        ]
        if phase.image_sizes:
            parts.append(f"images of {', '.join(map(str, phase.image_sizes))} pixels")
        parts.append(f"{petaflops[number]:.2g} PFLOP")
        line = f"phase {number + 1}: epochs {first}–{last}, {', '.join(parts)}"
        lines.append(textwrap.fill(line, 90, subsequent_indent="    "))
        first = last + 1
    return "\n".join(lines)


def training_petaflops(model, phase, images):
    """Return the operations, in 10¹⁵, of training `model` for `phase` on so many `images`.

    Those of convolutions and dense layers in the forward pass, three times: the gradients of an
    output and of a kernel cost as much each.
    """
    return sum(epoch_petaflops(model, phase, images))


def epoch_petaflops(model, phase, images):
    """Return the operations, in 10¹⁵, of each epoch of `phase`, a list: small images cost less.

    Exact for sides that halve evenly; an epoch at 20 pixels costs a few percent more.
    """
    whole, side = 3 * forward_flops(model) * images / 1e15, model.input_shape[1]
    sides = [phase.image_size(epoch) or side for epoch in range(phase.epochs)]
    return [whole * (small / side) ** 2 for small in sides]


# What a phase is compiled with


def learning_rate(phase, steps):
    """Return the learning rate of a `phase` of so many `steps`: a number, or a one-cycle schedule.

    The schedule is a Keras one: it takes the step, from 0.
    """
    if phase.schedule == "constant":
        return phase.learning_rate
    warmup_steps = int(steps * phase.warmup)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=steps - warmup_steps,
        warmup_target=phase.learning_rate,
        warmup_steps=warmup_steps,
    )


def make_optimizer(phase, steps):
    """Return the optimizer of a `phase` of so many `steps`, a new one."""
    options = {
        "learning_rate": learning_rate(phase, steps),
        "weight_decay": phase.weight_decay or None,
    }
    if phase.optimizer == "adam":
        optimizer = keras.optimizers.Adam(**options)
    elif phase.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **options)
    else:
        optimizer = Muon(momentum=0.93, nesterov=True, **options)
    if phase.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


@keras.saving.register_keras_serializable("cifar100_helpers")
class SparseCategoricalCrossentropy(keras.losses.Loss):
    """Keras's loss of this name, on integer labels, with `label_smoothing`, which Keras's lacks."""

    def __init__(self, label_smoothing=0.0, **options):
        super().__init__(**options)
        self.label_smoothing = label_smoothing

    def get_config(self):
        return super().get_config() | {"label_smoothing": self.label_smoothing}

    def call(self, y_true, y_pred):
        if not self.label_smoothing:
            return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        one_hot = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            one_hot, y_pred, label_smoothing=self.label_smoothing
        )


@keras.saving.register_keras_serializable("cifar100_helpers")
class Muon(keras.optimizers.SGD):
    """Orthogonal updates for convolution kernels, Nesterov momentum for all other variables.

    A kernel's momentum, as a matrix of (height · width · in) × out, is replaced by a matrix close
    to it with orthogonal columns or rows, so every direction in it moves by about `learning_rate`.
    The other variables learn by SGD at `other_rate` times that. Keras's own `Muon` gives all
    four-dimensional kernels to AdamW. Source: Keller Jordan et al., "Muon: An optimizer for
    hidden layers in neural networks", 2024.
    """

    other_rate, steps = 10.0, 3  # the author takes three steps for CIFAR-10, else five

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) != 4:
            super().update_step(gradient, variable, learning_rate * self.other_rate)
            return
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, momentum * self.momentum + gradient)
        *_, fan_out = variable.shape
        matrix = ops.reshape(momentum * self.momentum + gradient, (-1, fan_out))
        scale = max(1, fan_out / matrix.shape[0]) ** 0.5
        update = ops.reshape(orthogonalized(matrix, self.steps), variable.shape)
        self.assign_sub(variable, update * (learning_rate * scale))


def orthogonalized(matrix, steps):
    """Return `matrix` with its singular values brought close to 1, by Newton–Schulz iteration.

    Every step multiplies by a polynomial of the Gram matrix, with the coefficients of the author.
    These matrices are small and commute, so they are multiplied among themselves first, and the
    tall matrix only once.
    """
    rows, columns = matrix.shape
    if rows < columns:
        return ops.transpose(orthogonalized(ops.transpose(matrix), steps))
    matrix = matrix / (ops.norm(matrix) + 1e-7)
    gram = ops.transpose(matrix) @ matrix
    product = ops.eye(columns, dtype=matrix.dtype)
    for _ in range(steps):
        factor = (
            3.4445 * ops.eye(columns, dtype=matrix.dtype) + gram @ (2.0315 * gram) - 4.775 * gram
        )
        product, gram = product @ factor, factor @ gram @ factor
    return matrix @ product
