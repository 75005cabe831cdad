"""Training and inference of the ResNet in this project and in PyTorch, at PyTorch's best.

    python benchmarks/pytorch.py [widths, 16 and 128 by default]

Needs PyTorch (pip install torch) beside this project's own backend. Model, batches, optimizer and
images are the same; PyTorch runs channels-last, its faster layout, with and without torch.compile,
and the faster counts. The contestants take turns, each in a process of its own, as the threads of
one library slow the other; a speed is the median of the rounds. On a GPU, both use it. Writes
results/pytorch.md; about a quarter of an hour on two cores.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

# The process of each contestant imports this file, and then only its own library.

RECORD = Path(__file__).resolve().parent.parent / "results" / "pytorch.md"
BATCH_SIZE, ROUNDS = 128, 3
WAYS = ("channels last", "channels last, compiled")
HEAD = "| width | precision | | ours | PyTorch, at its best | ratio |\n" + 6 * "| --- " + "|\n"


class Ours:
    def __init__(self, width, precision):
        from cifar100_helpers import recipes, resnet, runtime

        runtime.configure(precision=precision)
        self.model = resnet.build_resnet(width=width, dropout_rate=0.0)
        optimizer = recipes.make_optimizer(recipes.Phase(1, 0.05, optimizer="sgd"), 1)
        self.model.compile(optimizer, loss="sparse_categorical_crossentropy")
        self.parameters = sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def training(self, x, y):
        self.model.train_on_batch(x, y)

    def inference(self, x, y):
        self.model.predict_on_batch(x)


class PyTorch:
    def __init__(self, width, precision, way):
        import torch

        self.torch, self.mixed = torch, precision == "mixed_bfloat16"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = torch_resnet(width).to(self.device, memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if "compiled" in way else self.model
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)
        self.parameters = sum(parameter.numel() for parameter in parameters)

    def training(self, x, y):
        self.model.train()
        labels = self.torch.from_numpy(y).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.torch.nn.functional.cross_entropy(self.logits(x).float(), labels)
        loss.backward()
        self.optimizer.step()
        loss.item()  # waits for the GPU

    def inference(self, x, y):
        self.model.eval()
        with self.torch.inference_mode():
            self.logits(x).cpu()

    def logits(self, images):
        scaled = self.torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        scaled = scaled.contiguous(memory_format=self.torch.channels_last)
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.mixed):
            return self.forward(scaled)


def torch_resnet(width):
    from torch import nn

    def conv(inputs, filters, size, stride=1):
        convolution = nn.Conv2d(inputs, filters, size, stride, padding=size // 2)
        return nn.Sequential(convolution, nn.BatchNorm2d(filters))

    class Block(nn.Module):
        def __init__(self, inputs, filters, stride):
            super().__init__()
            first, second = conv(inputs, filters, 3, stride), conv(filters, filters, 3)
            self.main = nn.Sequential(first, nn.ReLU(inplace=True), second)
            self.shortcut = conv(inputs, filters, 1, stride)

        def forward(self, x):
            return (self.main(x) + self.shortcut(x)).relu()

    layers, inputs = [conv(3, width, 3), nn.ReLU(inplace=True)], width
    for stage in range(4):
        for stride in (2 if stage else 1, 1):
            layers.append(Block(inputs, width * 2**stage, stride))
            inputs = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 100))


def begin(kind, *options):
    global contestant  # the one of this process
    contestant = kind(*options)


def count_parameters():
    return contestant.parameters


def images_per_second(work, batches):
    """Return the contestant's speed in "training" or "inference", after a batch that wakes it."""
    rng, act = np.random.default_rng(0), getattr(contestant, work)
    x = rng.integers(0, 256, (batches, BATCH_SIZE, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 100, (batches, BATCH_SIZE))
    act(x[0], y[0])
    start = time.perf_counter()
    for images, labels in zip(x, y, strict=True):
        act(images, labels)
    return batches * BATCH_SIZE / (time.perf_counter() - start)


def compare(width, precision):
    """Yield two rows of the table: training and inference of the model of `width`."""
    kinds, spawn = (
        [(Ours,), *((PyTorch, way) for way in WAYS)],
        multiprocessing.get_context("spawn"),
    )
    everyone = [
        ProcessPoolExecutor(1, spawn, begin, (kind, width, precision, *way)) for kind, *way in kinds
    ]

    def take_turns(*task):
        return [one.submit(*task).result() for one in everyone]

    assert len(set(take_turns(count_parameters))) == 1
    batches = max(1, 8192 // width**2)  # about as much work at every width
    for work in ("training", "inference"):
        speeds = [take_turns(images_per_second, work, batches) for _ in range(1 + ROUNDS)]
        ours, *theirs = np.median(speeds[1:], axis=0)  # the first round compiles
        best, way = max(zip(theirs, WAYS, strict=True))
        cells = (width, precision.removeprefix("mixed_"), work, f"{ours:,.0f}")
        yield f"| {' | '.join(map(str, cells))} | {best:,.0f}, {way} | {ours / best:.2f} |"
    for one in everyone:
        one.shutdown()


def main():
    from cifar100_helpers import runtime

    auto, machine = runtime.configure(precision="auto"), runtime.describe()
    backend = machine["backend"]
    text = (
        f"Images per second in batches of {BATCH_SIZE}; {machine['device']}, {machine['cores']} "
        f"cores, {backend} {machine['versions'][backend]}, PyTorch {version('torch')}:\n\n{HEAD}"
    )
    for width in map(int, sys.argv[1:] or (16, 128)):
        for precision in dict.fromkeys(("float32", auto)):  # bfloat16 if the hardware has it
            for row in compare(width, precision):
                print(row, flush=True)
                text += f"{row}\n"
    RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
