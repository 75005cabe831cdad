"""Training and inference of the ResNet in this project and in PyTorch, at PyTorch's best.

    python benchmarks/pytorch.py [--widths 16 128] [--compile]

Needs PyTorch (pip install torch) beside this project's own backend. Same network, batch, optimizer
and images; PyTorch in float32 and in bfloat16, with its own and with channels-last layout and, with
--compile, through torch.compile; its fastest is the one compared with. The contestants take turns
in one process, and a speed is the median of the rounds. On a GPU, both use it.
"""

import argparse
import time

import numpy as np

from cifar100_helpers import build_resnet, configure, describe, predict
from cifar100_helpers.batches import ShuffledBatches
from cifar100_helpers.compiling import compile_phase
from cifar100_helpers.recipes import Phase

import torch  # isort: skip  (after the package, which loads its own backend quietly)
from torch import nn  # isort: skip

BATCH_SIZE, ROUNDS = 128, 3
PHASE = Phase(1, 0.05, optimizer="sgd")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, padding=1),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, stride), nn.BatchNorm2d(filters)
        )

    def forward(self, x):
        return torch.relu(self.main(x) + self.shortcut(x))


def torch_resnet(width):
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    filters = width
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers.append(Block(filters, width * 2**stage, stride))
            filters = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 100))


class Theirs:
    def __init__(self, width, precision, layout, compiled):
        self.name = f"{precision} {layout}" + (" compiled" if compiled else "")
        self.format = getattr(torch, layout)
        self.bfloat16 = precision == "bfloat16"
        self.model = torch_resnet(width).to(DEVICE, memory_format=self.format)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, nesterov=True
        )

    def train(self, x, y):
        self.model.train()
        for start in range(0, len(x), BATCH_SIZE):
            logits = self._logits(x[start : start + BATCH_SIZE])
            labels = torch.from_numpy(y[start : start + BATCH_SIZE]).to(DEVICE)
            self.optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            self.optimizer.step()
        self._wait()

    def infer(self, x):
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(x), BATCH_SIZE):
                self._logits(x[start : start + BATCH_SIZE])
        self._wait()

    def _logits(self, images):
        channels_first = torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2)
        scaled = (channels_first.float() / 255).contiguous(memory_format=self.format)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.bfloat16):
            return self.forward(scaled)

    def _wait(self):
        if DEVICE == "cuda":
            torch.cuda.synchronize()


class Ours:
    name = "ours"

    def __init__(self, width):
        self.model = build_resnet(width=width, dropout_rate=0.0)
        compile_phase(self.model, PHASE, 1)

    def train(self, x, y):
        self.model.fit(ShuffledBatches(x, y, BATCH_SIZE, (0,), classes=100), verbose=0)

    def infer(self, x):
        predict(self.model, x)


def median_speeds(contestants, work, images):
    """Images per second of each, taking turns, after a round that compiles."""
    seconds = []
    for _ in range(1 + ROUNDS):
        seconds.append([])
        for contestant in contestants:
            start = time.perf_counter()
            work(contestant)
            seconds[-1].append(time.perf_counter() - start)
    return images / np.median(seconds[1:], axis=0)


def compare(width, precision, compiled):
    configure(precision="mixed_bfloat16" if precision == "bfloat16" else "float32")
    torch.manual_seed(0)
    ways = [(layout, False) for layout in ("contiguous_format", "channels_last")]
    if compiled:
        ways.append(("channels_last", True))
    contestants = [Ours(width), *(Theirs(width, precision, *way) for way in ways)]
    count = sum(parameter.numel() for parameter in contestants[1].model.parameters())
    assert count == sum(np.prod(v.shape) for v in contestants[0].model.trainable_variables)
    rng = np.random.default_rng(0)
    steps = max(2, 256 // width)
    x = rng.integers(0, 256, (BATCH_SIZE * steps, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 100, len(x))
    for kind, work in (
        ("training", lambda contestant: contestant.train(x, y)),
        ("inference", lambda contestant: contestant.infer(x)),
    ):
        ours, *theirs = median_speeds(contestants, work, len(x))
        best = int(np.argmax(theirs))
        print(
            f"{width:<7}{precision:<10}{kind:<11}{ours:>9.1f}{theirs[best]:>10.1f}"
            f"{ours / theirs[best]:>7.2f}  {contestants[1 + best].name}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    arguments = parser.parse_args()
    machine = describe()
    print(f"{machine['device']}, {machine['backend']}; PyTorch {torch.__version__}")
    print(f"images per second, batches of {BATCH_SIZE}")
    print(f"{'width':<7}{'precision':<10}{'':<11}{'ours':>9}{'PyTorch':>10}{'ratio':>7}  at")
    for width in arguments.widths:
        for precision in ("float32", "bfloat16"):
            compare(width, precision, arguments.compile)


if __name__ == "__main__":
    main()
