"""Training and inference of the ResNet in this project and in PyTorch, at PyTorch's best.

    python benchmarks/pytorch.py [--widths 16 128] [--compile]

Needs PyTorch (pip install torch) beside this project's own backend. Same network, batch, optimizer
and images, batch by batch; PyTorch in float32 and in bfloat16, with its own and with channels-last
layout and, with --compile, through torch.compile; its fastest is the one compared with. The
contestants take turns, each in a process of its own: in one, the threads of both libraries would
slow each other. A speed is the median of the rounds. On a GPU, both use it.

The last columns are the floating-point operations of our convolutions and dense layers per second,
and their share of what PyTorch reaches here in the product of two large matrices. The table is kept
in results/pytorch.md. About twenty minutes on two cores.
"""

import argparse
import multiprocessing
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

# Neither the package nor PyTorch is imported here: every contestant's process imports its own.

RECORD = Path(__file__).resolve().parent.parent / "results" / "pytorch.md"
BATCH_SIZE, ROUNDS = 128, 3


class Ours:
    def __init__(self, width, precision):
        from cifar100_helpers import build_resnet, configure
        from cifar100_helpers.batches import one_hot
        from cifar100_helpers.compiling import compile_phase
        from cifar100_helpers.recipes import Phase

        configure(precision="mixed_bfloat16" if precision == "bfloat16" else "float32")
        self.model = build_resnet(width=width, dropout_rate=0.0)
        compile_phase(self.model, Phase(1, 0.05, optimizer="sgd"), 1)
        self.one_hot = one_hot

    def train(self, x, y):
        for start in range(0, len(x), BATCH_SIZE):
            labels = self.one_hot(y[start : start + BATCH_SIZE], 100)
            self.model.train_on_batch(x[start : start + BATCH_SIZE], labels)

    def infer(self, x):
        for start in range(0, len(x), BATCH_SIZE):
            self.model.predict_on_batch(x[start : start + BATCH_SIZE])

    def describe(self):
        from cifar100_helpers import describe

        return describe()

    def parameters(self):
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def forward_operations(self):
        """Floating-point operations of the convolutions and dense layers for one image."""
        kernels = [layer for layer in self.model.layers if hasattr(layer, "kernel")]
        # A kernel is applied at every place of a convolution's output, once in a dense layer.
        return sum(
            2 * int(np.prod(k.kernel.shape)) * int(np.prod(k.output.shape[1:-1])) for k in kernels
        )


def theirs(*options):
    from torch_resnet import Theirs

    return Theirs(*options)


def serve(connection, build, options):
    contestant = build(*options)
    for method, arguments in iter(connection.recv, None):
        start = time.perf_counter()
        answer = getattr(contestant, method)(*arguments)
        connection.send((time.perf_counter() - start, answer))


class Contestant:
    """A network in a process of its own, which does what it is asked."""

    def __init__(self, name, build, *options):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=serve, args=(far_end, build, options), daemon=True)
        self.process.start()
        far_end.close()

    def ask(self, method, *arguments):
        """What the method named so answers."""
        return self._ask(method, arguments)[1]

    def seconds(self, method, *arrays):
        """How long the method named so takes, after one batch that gets what slept back to work."""
        self._ask(method, [array[:BATCH_SIZE] for array in arrays])
        return self._ask(method, arrays)[0]

    def _ask(self, method, arguments):
        self.connection.send((method, arguments))
        return self.connection.recv()

    def leave(self):
        self.connection.send(None)
        self.process.join()


def median_seconds(contestants, method, *arrays):
    """How long the method named so takes each contestant; they take turns."""
    for contestant in contestants:  # compiles
        contestant.ask(method, *(array[:BATCH_SIZE] for array in arrays))
    rounds = range(ROUNDS)
    seconds = [[c.seconds(method, *arrays) for c in contestants] for _ in rounds]
    return np.median(seconds, axis=0)


def compare(width, precision, compiled):
    """Two rows of the table: training and inference of the network of `width` in `precision`."""
    ours = Contestant("", Ours, width, precision)
    ways = [("contiguous_format", False), ("channels_last", False)]
    ways += [("channels_last", True)] if compiled else []
    contestants = [ours]
    for layout, by_compiler in ways:
        name = layout.replace("_", " ") + (", compiled" if by_compiler else "")
        options = (width, BATCH_SIZE, precision, layout, by_compiler)
        contestants.append(Contestant(name, theirs, *options))
    assert len({contestant.ask("parameters") for contestant in contestants}) == 1

    rng = np.random.default_rng(0)
    images = BATCH_SIZE * max(1, 8192 // width**2)  # about as much work at every width
    x = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 100, images)
    forward = ours.ask("forward_operations")
    side = 8192 if ours.ask("describe")["gpus"] else 2048
    reachable = 2 * side**3 / contestants[1].ask("multiply_seconds", side)
    # The gradients of an output and of a kernel cost as much as a forward pass each.
    works = (("training", ("train", x, y), 3), ("inference", ("infer", x), 1))
    for kind, work, passes in works:
        speeds = len(work[1]) / median_seconds(contestants, *work)
        best = 1 + int(np.argmax(speeds[1:]))
        achieved = speeds[0] * passes * forward
        yield (
            f"| {width} | {precision} | {kind} | {speeds[0]:,.0f} | {speeds[best]:,.0f}, "
            f"{contestants[best].name} | {speeds[0] / speeds[best]:.2f} | "
            f"{achieved / 1e9:,.0f} | {achieved / reachable:.0%} |"
        )
    for contestant in contestants:
        contestant.leave()


def headline():
    """What computes here, by a process that ends before the measuring."""
    contestant = Contestant("", Ours, 16, "float32")
    machine = contestant.ask("describe")
    contestant.leave()
    backend = machine["backend"]
    return (
        f"Images per second in batches of {BATCH_SIZE}; {machine['device']}, {machine['cores']} "
        f"cores, {backend} {machine['versions'][backend]}, PyTorch {version('torch')}:"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    arguments = parser.parse_args()
    lines = [
        headline(),
        "",
        "| width | precision | | ours | PyTorch, at its best | ratio | GFLOP/s | of a matmul's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for width in arguments.widths:
        for precision in ("float32", "bfloat16"):
            for row in compare(width, precision, arguments.compile):
                print(row, flush=True)
                lines.append(row)
    RECORD.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
