"""Training, features and records killed at random moments: nothing is lost, nothing torn is used.

    python benchmarks/kill_campaign.py [--kills 20] [--seed 0]

Each of the three is worked on in child processes on synthetic data. A child is killed by SIGKILL,
half of them at a random moment and half as soon as a file is being written, and what it leaves is
compared with an uninterrupted run. Then the next child goes on, until enough have died. Needs a
system that forks; takes some ten minutes on two cores.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from cifar100_helpers import build_resnet, configure, features, load_synthetic, predict, training
from cifar100_helpers.errors import RunError
from cifar100_helpers.recipes import Phase
from cifar100_helpers.results import load_run, save_run

EPOCHS = 12
PHASES = (
    Phase(8, 0.05, optimizer="sgd", schedule="one_cycle", ema=0.9, mixup=0.2),
    Phase(4, 1e-3),
)
DATA = load_synthetic(train_size=1_000, test_size=200, seed=0)
PRINTED = "printed.txt"


class Training:
    """A run of two phases and its record."""

    kill_within = 0.3  # seconds: about an epoch and its checkpoint

    def work(self, folder):
        configure(seed=0)
        model = build_resnet((1,), width=8)
        options = {"parameters": {"dataset": "synthetic"}, "batch_size": 50, "seed": 0}
        state = training.train(
            model, DATA.x_train, DATA.y_train, PHASES, run_dir=folder / "run", **options
        )
        probabilities = predict(model, DATA.x_test)
        save(folder / "run", model, state, probabilities)

    def work_uninterrupted(self, folder):
        """The same, and every epoch's weights are kept."""
        save_checkpoint = training.save_checkpoint

        def keep(run_dir, model, state):
            save_checkpoint(run_dir, model, state)
            file = f"epoch_{state['epochs_done']:03d}.npz"
            shutil.copyfile(run_dir / file, folder / file)

        training.save_checkpoint = keep
        self.work(folder)

    def steps(self, folder):
        return printed_epochs(folder)

    def check(self, folder, whole):
        """What a killed child left: every epoch that it printed, and no other weights."""
        state_file = folder / "run" / "checkpoint.json"
        state = json.loads(state_file.read_text()) if state_file.exists() else {"epochs_done": 0}
        epochs = state["epochs_done"]
        assert epochs >= printed_epochs(folder), "a printed epoch is lost"
        if epochs:
            name = state["weights_file"]
            assert same_bytes(folder / "run" / name, whole / name), "a checkpoint is torn"
        saved = {f"epoch_{epochs:03d}.npz"} - {"epoch_000.npz"}
        return {file.name for file in (folder / "run").glob("*epoch_*")} != saved

    def check_end(self, folder, whole):
        ours, theirs = ({**load_run(at / "run").record} for at in (folder, whole))
        for timed in ("phase_seconds", "machine"):
            del ours[timed], theirs[timed]
        assert ours == theirs, "the records differ"
        for name in ("predictions.npz", f"epoch_{EPOCHS:03d}.npz"):
            assert same_bytes(folder / "run" / name, whole / "run" / name), f"{name} differs"


class Features:
    """What two cuts through a network give, in small pieces."""

    kill_within = 0.2

    def work(self, folder):
        configure(seed=0)
        features.ROWS = 32
        network = build_resnet((1,), width=16)
        features.frozen_features(network, DATA.x_train, ["stem_relu", "pool"], folder / "run")

    work_uninterrupted = work

    def steps(self, folder):
        notes = (folder / "run").glob("[!u]*.json")  # no unfinished ones
        return sum(json.loads(note.read_text())["rows"] // 32 for note in notes)

    def check(self, folder, whole):
        for file in (folder / "run").glob("*.npy"):
            assert same_bytes(file, whole / "run" / file.name), "features differ"
        return any((folder / "run").glob("unfinished_*"))

    def check_end(self, folder, whole):
        names = {file.name for file in (whole / "run").glob("*.npy")}
        assert {file.name for file in (folder / "run").glob("*.npy")} == names
        self.check(folder, whole)


class Records:
    """The record of all misses and that of all hits, in turn, in one folder."""

    kill_within = 0.1

    def work(self, folder):
        configure(seed=0)
        model = build_resnet((1,), width=2)
        state = {"parameters": {"dataset": "synthetic"}, "history": {"epoch": [1]}}
        for count in range(10):
            probabilities = np.roll(np.eye(100)[DATA.y_test], 1 - count % 2, axis=1)
            save(folder / "run", model, state | {"phase_seconds": [1.0]}, probabilities)
            print("saved", flush=True)

    work_uninterrupted = work

    def steps(self, folder):
        return (folder / PRINTED).read_text().count("saved")

    def check(self, folder, whole):
        try:
            run = load_run(folder / "run")
        except RunError as error:
            assert "holds no finished run" in str(error), error
            return True
        top1 = np.mean(run.probabilities.argmax(axis=1) == run.labels)
        assert top1 == run.record["metrics"]["top1"] and top1 in (0, 1), "parts of two records"
        return any((folder / "run").glob("unfinished_*"))

    def check_end(self, folder, whole):
        self.check(folder, whole)
        assert same_bytes(*(at / "run" / "predictions.npz" for at in (folder, whole)))


def save(run_dir, model, state, probabilities):
    save_run(
        run_dir,
        model=model,
        state=state,
        phases=PHASES,
        probabilities=probabilities,
        labels=DATA.y_test,
        near_duplicate=np.zeros(len(DATA.y_test), bool),
        coarse_of_fine=DATA.coarse_of_fine,
    )


def printed_epochs(folder):
    """How many lines of an epoch the children have printed, each counted once."""
    printed = (folder / PRINTED).read_text().splitlines()
    return len({line for line in printed if line.startswith("epoch")})


def same_bytes(ours, theirs):
    return ours.read_bytes() == theirs.read_bytes()


def started(work, folder):
    """The number of a child process that does `work(folder)`; what it prints goes into a file."""
    child = os.fork()
    if child:
        return child
    try:
        sys.stdout = open(folder / PRINTED, "a")  # noqa: SIM115 (until the child dies)
        work(folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child, options=0):
    """True where `child` has done its work, false while it works or where it was killed."""
    number, status = os.waitpid(child, options)
    if number and status not in (0, signal.SIGKILL):
        raise AssertionError("a child failed: see above")
    return bool(number) and status == 0


def killed(work, folder, rng):
    """Start `work`, kill it some steps later, and return false where it was done before that."""
    while_saving, steps = rng.random() < 0.5, work.steps(folder) + rng.integers(3)
    child = started(work.work, folder)
    deadline = None
    while deadline is None or time.perf_counter() < deadline:
        if ended(child, os.WNOHANG):
            return False
        if deadline is None and work.steps(folder) >= steps:
            if not while_saving:
                deadline = time.perf_counter() + rng.uniform(0, work.kill_within)
            elif any((folder / "run").glob("unfinished_*")):
                deadline = 0.0
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    return not ended(child)


def campaign(work, kills, rng, scratch):
    """Counts of what happened until `kills` children were killed and the last run is at its end."""
    counts, whole = collections.Counter(), scratch / "whole"
    whole.mkdir()
    (whole / PRINTED).touch()
    ended(started(work.work_uninterrupted, whole))
    while counts["kills"] < kills:
        counts["runs"] += 1
        folder = scratch / str(counts["runs"])
        folder.mkdir()
        (folder / PRINTED).touch()
        while counts["kills"] < kills and killed(work, folder, rng):
            counts["kills"] += 1
            counts["while saving"] += work.check(folder, whole)
        ended(started(work.work, folder))
        work.check_end(folder, whole)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind of work")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for work in (Training(), Features(), Records()):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            counts = campaign(work, arguments.kills, rng, Path(scratch))
        print(
            f"{type(work).__name__:<9} {counts['kills']} kills, {counts['while saving']} of them "
            f"while saving; {counts['runs']} runs, all bit for bit as the uninterrupted one; "
            f"0 torn files, 0 finished steps lost; {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        assert counts["while saving"], "no kill met a file being written: run it with more kills"


if __name__ == "__main__":
    main()
