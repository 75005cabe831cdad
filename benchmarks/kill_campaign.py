"""Runs killed at random moments: nothing finished is lost, and nothing unfinished is used.

    python benchmarks/kill_campaign.py [kills, 30 by default] [seed, 0 by default]

A run on synthetic data computes features, trains in two phases, saves its network and writes its
record several times, in child processes. Each is killed by SIGKILL, half of them as soon as a file
is being written and half at a random moment. What it leaves is compared with an uninterrupted run,
and the next child goes on from there. Needs a system that forks; about ten minutes on two cores.
"""

import collections
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np

from cifar100_helpers import inference, recipes, resnet, results, runtime, synthetic, training
from cifar100_helpers.storage import load_arrays

import keras  # isort: skip  (after the package, which loads it quietly)

PHASES = (
    recipes.Phase(3, 1e-3, frozen_until="pool"),
    recipes.Phase(6, 0.05, optimizer="sgd", schedule="one_cycle", weight_decay=5e-3),
)
RECORDS = 6  # written one after the other in each run
CIFAR = synthetic.load_synthetic(train_size=1_000, test_size=200, seed=0)
OF_THE_TEST_SET = {
    "labels": CIFAR.y_test,
    "near_duplicate": np.zeros(len(CIFAR.y_test), bool),
    "coarse_of_fine": CIFAR.coarse_of_fine,
}


def work(folder):
    runtime.configure(seed=0)
    model, run_dir = resnet.build_resnet((1,), width=8), folder / "run"
    options = {"parameters": {"dataset": "synthetic"}, "batch_size": 50, "seed": 0}
    state = training.train(model, CIFAR.x_train, CIFAR.y_train, PHASES, run_dir=run_dir, **options)
    network = results.save_network(model, run_dir)
    loaded = keras.saving.load_model(run_dir / "model.keras")
    perfect, predicted = np.eye(100)[CIFAR.y_test], inference.predict(loaded, CIFAR.x_test)
    for number in range(RECORDS):
        probabilities = predicted if number % 2 else perfect
        results.save_run(
            run_dir, network=network, state=state, probabilities=probabilities, **OF_THE_TEST_SET
        )
        print(f"record {number}", flush=True)


def work_uninterrupted(folder):
    """The same, and the weights of every epoch are kept."""
    save_checkpoint = training._save_checkpoint

    def keep(run_dir, model, state):
        save_checkpoint(run_dir, model, state)
        file = f"epoch_{state['epochs_done']:03d}.npz"
        shutil.copyfile(run_dir / file, folder / file)

    training._save_checkpoint = keep
    work(folder)


def printed(folder):
    """Return the lines that the children of `folder` have printed, each counted once."""
    return set((folder / "printed.txt").read_text().splitlines())


def check(folder, whole):
    """Check what a child left behind."""
    run_dir, epochs = folder / "run", 0
    if (run_dir / "checkpoint.json").exists():
        state = json.loads((run_dir / "checkpoint.json").read_text())
        epochs, weights = state["epochs_done"], state["weights_file"]
        assert same_bytes(run_dir / weights, whole / weights), "a checkpoint is torn"
    assert epochs >= sum(line.startswith("epoch") for line in printed(folder)), "an epoch is lost"
    for file in (folder / "features").glob("[!u]*.npz"):
        ours, theirs = (load_arrays(at / "features" / file.name) for at in (folder, whole))
        np.testing.assert_array_equal(ours["features"], theirs["features"])
    if (run_dir / "model.keras").exists():
        assert zipfile.ZipFile(run_dir / "model.keras").testzip() is None, "a model is torn"
    if (run_dir / "run.json").exists():
        run = results.load_run(run_dir)
        top1 = np.mean(run.probabilities.argmax(axis=1) == run.labels)
        assert run.record["metrics"]["top1"] == top1, "parts of two records"


def check_end(folder, whole):
    check(folder, whole)
    ours, theirs = (dict(results.load_run(at / "run").record) for at in (folder, whole))
    del ours["phase_seconds"], theirs["phase_seconds"]
    assert ours == theirs, "the records differ"
    for name in ("predictions.npz", "epoch_009.npz"):
        assert same_bytes(folder / "run" / name, whole / "run" / name), f"{name} differs"


def same_bytes(ours, theirs):
    return ours.read_bytes() == theirs.read_bytes()


def started(task, folder):
    """Return the number of a child process that does `task(folder)` and prints into a file."""
    folder.mkdir(exist_ok=True)
    (folder / "printed.txt").touch()
    child = os.fork()
    if child:
        return child
    try:
        sys.stdout = open(folder / "printed.txt", "a", buffering=1)  # noqa: SIM115
        task(folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child, options=0):
    """Return true if `child` has finished its work, false if it still works or was killed."""
    number, status = os.waitpid(child, options)
    assert not number or status in (0, signal.SIGKILL), "a child failed: see above"
    return bool(number) and status == 0


def killed(folder, rng):
    """Start a child and kill it some lines later.

    Returns whether it was writing a file, or None if it finished before that.
    """
    while_writing, leftovers = rng.random() < 0.5, set(folder.rglob("unfinished_*"))
    child, lines = started(work, folder), len(printed(folder)) + rng.integers(3)
    deadline = None
    while deadline is None or time.perf_counter() < deadline:
        if ended(child, os.WNOHANG):
            return None
        if deadline is None and len(printed(folder)) >= lines:
            if not while_writing:
                deadline = time.perf_counter() + rng.uniform(0, 0.3)
            elif set(folder.rglob("unfinished_*")) - leftovers:
                deadline = 0.0
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    return None if ended(child) else bool(set(folder.rglob("unfinished_*")) - leftovers)


def main():
    kills, seed = [*map(int, sys.argv[1:]), *(30, 0)[len(sys.argv) - 1 :]]
    rng, counts = np.random.default_rng(seed), collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        ended(started(work_uninterrupted, whole))
        while counts["kills"] < kills:
            counts["runs"] += 1
            folder = Path(scratch) / f"run_{counts['runs']}"
            while counts["kills"] < kills and (writing := killed(folder, rng)) is not None:
                counts["kills"] += 1
                counts["while writing"] += writing
                check(folder, whole)
            ended(started(work, folder))
            check_end(folder, whole)
    print(
        f"{counts['kills']} kills, {counts['while writing']} of them while a file was written; "
        f"{counts['runs']} runs, each bit for bit as the uninterrupted one; nothing torn or lost"
    )


if __name__ == "__main__":
    main()
