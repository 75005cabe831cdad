"""Training recipes as data: phases of epochs, each with an optimizer of its own."""

from dataclasses import dataclass, replace

from .errors import ParameterError


@dataclass(frozen=True)
class Phase:
    """Epochs trained with one freshly compiled optimizer.

    `schedule` is "constant" or "one_cycle": up to `learning_rate` in a quarter of the phase's
    steps, then down to zero along a cosine (Smith and Topin, "Super-Convergence", 2018).
    `weight_decay` per unit of learning rate, not on biases and batch normalization. The layers up
    to and including the one named `frozen_until` do not learn.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    frozen_until: str = ""


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


def resnet_phases(recipe, epochs):
    """The phases of the named ResNet `recipe`, scaled to a total of `epochs`."""
    return scale_epochs(_find(recipe, RESNET_RECIPES), epochs)


def xception_phases(recipe, frozen_epochs, finetune_epochs, *, frozen_blocks=0):
    """The phases of the named Xception `recipe`, with so many epochs for the head and after it.

    With `frozen_blocks`, the first blocks of the base are frozen in every phase, see
    `build_xception`.
    """
    head, *finetuning = _find(recipe, XCEPTION_RECIPES)
    frozen_until = "frozen_blocks" if frozen_blocks else ""
    finetuning = tuple(replace(phase, frozen_until=frozen_until) for phase in finetuning)
    return scale_epochs((head,), frozen_epochs) + scale_epochs(finetuning, finetune_epochs)


def _find(recipe, recipes):
    if recipe not in recipes:
        known = ", ".join(recipes)
        raise ParameterError(f"recipe {recipe!r} does not exist: choose one of {known}.")
    return recipes[recipe]


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
    """One line per phase: its epochs, optimizer and learning rate, and what is frozen."""
    lines, first = [], 1
    for number, phase in enumerate(phases, start=1):
        last = first + phase.epochs - 1
        rate = f"{phase.optimizer}, {phase.schedule} learning rate {phase.learning_rate:g}"
        frozen = f", frozen up to {phase.frozen_until}" if phase.frozen_until else ""
        lines.append(f"phase {number}: epochs {first}–{last}, {rate}{frozen}")
        first = last + 1
    return "\n".join(lines)
