"""Training recipes as data: phases of epochs, each with an optimizer of its own."""

import math
from dataclasses import dataclass, replace
from numbers import Real

from .errors import ParameterError

CHOICES = {"optimizer": ("adam", "sgd"), "schedule": ("constant", "one_cycle")}
NUMBERS = {  # and what they must stay below
    "learning_rate": math.inf,
    "weight_decay": math.inf,
    "label_smoothing": 1,
    "mixup": math.inf,
    "cutmix": math.inf,
    "ema": 1,
}


@dataclass(frozen=True)
class Phase:
    """Epochs trained with one freshly compiled optimizer.

    `optimizer`: "adam", or "sgd" with Nesterov momentum 0.9 (Sutskever et al., 2013). `schedule`:
    "constant", or "one_cycle": up to `learning_rate` in a quarter of the phase's steps, then down
    to zero along a cosine (Smith and Topin, "Super-Convergence", 2018).

    `weight_decay`: per unit of learning rate, apart from the gradient (Loshchilov and Hutter,
    "Decoupled Weight Decay Regularization", 2019), not on biases and batch normalization.
    `label_smoothing`: the part of every label that is spread over all classes (Szegedy et al.,
    2016). `mixup` and `cutmix`: alpha of the Beta distribution that says in which proportion two
    images are mixed, see `batches`. `ema`: decay of a moving average of the weights, which takes
    their place when the phase is over (Polyak and Juditsky, 1992). 0 leaves an ingredient out.

    The layers up to and including the one named `frozen_until` do not learn. Raises ParameterError
    where a value does not fit.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    frozen_until: str = ""

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ParameterError(f"{name} of a phase must be one of {', '.join(choices)}.")
        for name, below in NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < below:
                limit = f" and below {below}" if below < math.inf else ""
                raise ParameterError(
                    f"{name} of a phase must be a number of at least 0{limit}, not {value!r}."
                )


RESNET_RECIPES = {
    # How the published 26 epochs split over the three learning rates is not known; this is ours.
    "published": (Phase(16, 1e-3), Phase(6, 1e-4), Phase(4, 5e-5)),
    "modern": (
        Phase(
            26,
            0.3,
            optimizer="sgd",
            schedule="one_cycle",
            weight_decay=5e-3,
            label_smoothing=0.1,
        ),
    ),
}


# The head first, on a frozen base; then everything. 20 + 26 epochs, of which 45 were published.
XCEPTION_RECIPES = {
    "published": (
        Phase(20, 2e-4, frozen_until="pool"),
        Phase(16, 5e-6),
        Phase(10, 2e-6),
    ),
    "modern": (
        Phase(
            20,
            2e-3,
            schedule="one_cycle",
            weight_decay=0.05,
            label_smoothing=0.1,
            frozen_until="pool",
        ),
        Phase(26, 4e-4, schedule="one_cycle", weight_decay=0.05, label_smoothing=0.1),
    ),
}


def resnet_phases(recipe, epochs, *, changes=None):
    """The phases of the named ResNet `recipe`, scaled to a total of `epochs`.

    `changes` replaces settings of every phase: see `change_phases`.
    """
    return scale_epochs(change_phases(_find(recipe, RESNET_RECIPES), changes or {}), epochs)


def xception_phases(recipe, frozen_epochs, finetune_epochs, *, frozen_blocks=0, changes=None):
    """The phases of the named Xception `recipe`, with so many epochs for the head and after it.

    With `frozen_blocks`, the first blocks of the base are frozen in every phase, see
    `build_xception`. `changes` replaces settings of every phase: see `change_phases`.
    """
    head, *finetuning = change_phases(_find(recipe, XCEPTION_RECIPES), changes or {})
    frozen_until = "frozen_blocks" if frozen_blocks else ""
    finetuning = tuple(replace(phase, frozen_until=frozen_until) for phase in finetuning)
    return scale_epochs((head,), frozen_epochs) + scale_epochs(finetuning, finetune_epochs)


def _find(recipe, recipes):
    if recipe not in recipes:
        known = ", ".join(recipes)
        raise ParameterError(f"recipe {recipe!r} does not exist: choose one of {known}.")
    return recipes[recipe]


def change_phases(phases, changes):
    """Return `phases` with `changes`, a dict such as {"mixup": 0.2}, made to each of them.

    Raises ParameterError where `changes` names something else than a phase's own settings.
    """
    for name in changes:
        if name not in {**CHOICES, **NUMBERS}:
            known = ", ".join({**CHOICES, **NUMBERS})
            raise ParameterError(f"{name} is no setting of a recipe: choose among {known}.")
    return tuple(replace(phase, **changes) for phase in phases)


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
    return tuple(replace(phase, epochs=count) for phase, count in zip(phases, counts, strict=True))


def describe_schedule(phases):
    """One line per phase: its epochs, optimizer and other settings, and what is frozen."""
    lines, first = [], 1
    for number, phase in enumerate(phases, start=1):
        last = first + phase.epochs - 1
        rate = f"{phase.optimizer}, {phase.schedule} learning rate {phase.learning_rate:g}"
        extras = [
            f", {name} {getattr(phase, name):g}"
            for name in NUMBERS
            if name != "learning_rate" and getattr(phase, name)
        ]
        frozen = f", frozen up to {phase.frozen_until}" if phase.frozen_until else ""
        lines.append(f"phase {number}: epochs {first}–{last}, {rate}{''.join(extras)}{frozen}")
        first = last + 1
    return "\n".join(lines)
