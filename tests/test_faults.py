"""Kills, full disks, folders in use: nothing half-written is taken for whole."""

import contextlib
import io
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cifar100_helpers import training
from cifar100_helpers.data import load_synthetic
from cifar100_helpers.errors import RunError, Stopped
from cifar100_helpers.inference import frozen_features
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import load_run, save_network, save_run
from cifar100_helpers.training import train

pytestmark = pytest.mark.usefixtures("fresh_keras")


# Kills at every change of a file, simulated


class Kill(BaseException):
    pass


class Killer:
    """Lets files in `folder` change so many times, then never again, as if the process were dead.

    A file that would be written anew at that moment is left with half of a word in it.
    """

    def __init__(self):
        self.folder = None
        sys.addaudithook(self)  # for good, so that there is only one

    @contextlib.contextmanager
    def after(self, changes, folder):
        self.left, self.folder = changes, str(folder)
        try:
            yield
        finally:
            self.folder = None

    def __call__(self, event, arguments):
        if self.folder is None or not self.changes_a_file(event, arguments):
            return
        self.left -= 1
        if self.left < 0:
            if event == "open" and self.left == -1 and "w" in arguments[1]:
                folder, self.folder = self.folder, None
                Path(arguments[0]).write_text("hal")
                self.folder = folder
            raise Kill

    def changes_a_file(self, event, arguments):
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
            return False
        reads = event == "open" and not set(arguments[1] or "") & set("wax+")
        return not reads and str(arguments[0]).startswith(self.folder)


@pytest.fixture(scope="session")
def killer():
    return Killer()


def killed_at_every_change(killer, work, tmp_path, prepare=Path.mkdir):
    """Yield the folders that `work(folder)` was given, killed there one change later each time."""
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        prepare(folder)
        try:
            with killer.after(changes, folder):
                work(folder)
        except Kill:
            yield folder
        else:
            assert changes >= 7, "not every change was seen"
            return


def names(folder):
    return sorted(file.name for file in folder.iterdir())


PHASES = (Phase(1, 0.01, frozen_until="pool"), Phase(2, 0.01, optimizer="muon"))


class Training:
    """Trains on features and then on images, without the arithmetic, which would take minutes.

    An epoch changes every variable in a way that depends on what it was.
    """

    def __init__(self, data, monkeypatch):
        self.x, self.y = data.x_train[:20], data.y_train[:20]
        self.network, self.fitted = build_resnet((1,), width=2), []
        monkeypatch.setattr(training, "_fit_epoch", self.fit)
        monkeypatch.setattr(keras.Model, "predict", self.predict)

    def fit(self, model, batches, epoch, *_):
        if epoch == self.epochs:
            raise KeyboardInterrupt
        assert batches.x[0].shape == ((2,) if epoch == 0 else (32, 32, 3))
        self.fitted.append(epoch)
        model.optimizer.build(model.trainable_variables)
        for variable in model.weights + model.optimizer.variables:
            variable.assign(3 * variable.numpy() + epoch + 1)
        return {"loss": float(epoch)}

    @staticmethod
    def predict(model, images, **_):
        return keras.ops.convert_to_numpy(model(images, training=False))

    def __call__(self, folder, epochs=3):
        """Train up to so many epochs; return the weights, the history and the epochs of now."""
        self.epochs = epochs
        for number, variable in enumerate(self.network.weights):
            variable.assign(np.full(variable.shape, number / 100))
        del self.fitted[:]
        options = {"run_dir": folder / "run", "parameters": {}, "batch_size": 10, "seed": 0}
        state = train(self.network, self.x, self.y, PHASES, **options)
        return self.network.get_weights(), state["history"], list(self.fitted)


@pytest.fixture
def work(synthetic, monkeypatch):
    return Training(synthetic, monkeypatch)


def assert_same(ours, theirs):
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours[1] == theirs[1]


def test_training_killed_at_any_change_ends_as_the_uninterrupted(killer, work, tmp_path):
    """No finished epoch is trained again, and nothing unfinished is left."""
    whole, todo = work(tmp_path / "whole"), []
    for folder in killed_at_every_change(killer, work, tmp_path):
        resumed = work(folder)
        assert_same(resumed, whole)
        todo.append(len(resumed[2]))
        left = names(folder / "run")
        # The checkpoint before is left if it was about to be deleted after the last epoch.
        assert left == ["checkpoint.json", "epoch_003.npz", "lock"] or not resumed[2]
        assert len(list((folder / "features").glob("*.npz"))) == 1
        assert not list(folder.glob("*/unfinished*"))
    assert todo == sorted(todo, reverse=True) and set(todo) == {3, 2, 1, 0}


NETWORKS, DATA = {}, load_synthetic(train_size=100, test_size=100)


def record(folder, hits=True):
    """Record a run whose network, of 1 or 0 in every weight, is always right or always wrong."""
    network = NETWORKS.setdefault(hits, build_resnet((1,), width=2))
    network.set_weights([np.full(weight.shape, float(hits)) for weight in network.get_weights()])
    stock = save_network(network, folder / "tiny")
    state = {"parameters": {"dataset": "synthetic"}, "phases": [], "history": {"epoch": [1]}}
    state |= {"phase_seconds": [1.0], "petaflops": 0.1}
    probabilities = np.roll(np.eye(100)[DATA.y_test], not hits, axis=1)
    save_run(folder / "tiny", stock, state, DATA, probabilities)


def record_misses(folder):
    (folder / "tiny").mkdir(parents=True)
    record(folder, hits=False)


def found_record(folder):
    """What the record, whose parts must belong together, and the network are: 0, 1 or None."""
    network = keras.saving.load_model(folder / "tiny" / "model.keras")
    (weights,) = {float(weight) for array in network.get_weights() for weight in array.flat}
    try:
        run = load_run(folder / "tiny")
    except RunError as error:
        assert "holds no finished run" in str(error)
        return None, weights
    top1 = np.mean(run.probabilities.argmax(axis=1) == run.labels)
    assert top1 == run.record["metrics"]["top1"]
    return top1, weights


def test_record_killed_at_any_change_is_the_old_one_or_the_new_one_or_none(killer, tmp_path):
    found = []
    for folder in killed_at_every_change(killer, record, tmp_path, record_misses):
        found.append(found_record(folder))
        assert names(folder / "tiny")[:2] == ["lock", "model.keras"]
    record(folder)
    assert names(folder / "tiny") == ["lock", "model.keras", "predictions.npz", "run.json"]
    assert [key for key, _ in itertools.groupby(found)] == [(0, 0), (0, 1), (None, 1), (1, 1)]


def test_every_file_is_on_the_disk_before_it_gets_its_name(work, tmp_path, monkeypatch):
    """Or a power cut could leave the name with nothing behind it."""
    synced, renamed = set(), []
    fsync, replace = os.fsync, os.replace

    def noting(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.add((status.st_ino, status.st_size))

    def checking(source, target):
        status = os.stat(source)
        assert (status.st_ino, status.st_size) in synced
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    work(tmp_path)
    record_misses(tmp_path)
    epochs = [name for n in (1, 2, 3) for name in (f"epoch_00{n}.npz", "checkpoint.json")]
    assert renamed[1:] == [*epochs, "model.keras", "predictions.npz", "run.json"]


# A process killed


def small_run(folder):
    keras.utils.set_random_seed(3)
    model, phases = build_resnet((1,), width=2), (Phase(3, 0.05, "sgd", "one_cycle"),)
    options = {"run_dir": folder, "parameters": {}, "batch_size": 30, "seed": 3}
    state = train(model, DATA.x_train, DATA.y_train, phases, **options)
    return model.get_weights(), state["history"]


def die_within_epoch_2(folder):
    update, steps = training.EpochProgress.on_train_batch_end, itertools.count(1)

    def deadly(*arguments, **logs):
        update(*arguments, **logs)
        if next(steps) == 4 + 2:
            os.kill(os.getpid(), signal.SIGKILL)

    training.EpochProgress.on_train_batch_end = deadly
    small_run(folder)


def test_run_killed_in_another_process_ends_bit_for_bit_as_the_uninterrupted(tmp_path, capsys):
    code = "import sys, test_faults; test_faults.die_within_epoch_2(sys.argv[1])"
    command = [sys.executable, "-c", code, tmp_path / "killed"]
    here = Path(__file__).parent
    killed = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout.count("epoch ") == 1
    assert_same(small_run(tmp_path / "killed"), small_run(tmp_path / "whole"))
    assert "(trained before; 2 epochs to go)" in capsys.readouterr().out


# Full disks, folders that cannot be written, two at once


@contextlib.contextmanager
def room_for(size):
    """Let no file grow beyond `size` bytes meanwhile: what a full disk does, for root as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it may be a file as well
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 300, 5000])
def test_checkpoint_on_a_full_disk_is_one_sentence_and_the_old_one_stays(work, tmp_path, size):
    """There is room for nothing, for the head's checkpoint or for part of the network's."""
    whole = work(tmp_path / "whole")
    with pytest.raises(Stopped):
        work(tmp_path, epochs=2)
    before = names(tmp_path / "run")
    with room_for(size), pytest.raises(RunError, match=r"run cannot be written \(.*make room"):
        work(tmp_path)
    assert names(tmp_path / "run") == before
    resumed = work(tmp_path)
    assert_same(resumed, whole)
    assert resumed[2] == [2]


@pytest.mark.parametrize("size", [0, 100])
def test_features_on_a_full_disk_are_one_sentence(work, tmp_path, size):
    with room_for(size), pytest.raises(RunError, match=r"features cannot be written .*make room"):
        work(tmp_path)
    assert [Path(name).suffix for name in names(tmp_path / "features")] == [".lock"]


@pytest.mark.parametrize("size", [0, 500, 20_000])
def test_record_on_a_full_disk_is_one_sentence_and_the_old_one_stays(tmp_path, size):
    record_misses(tmp_path)
    before = names(tmp_path / "tiny")
    with room_for(size), pytest.raises(RunError, match=r"tiny cannot be written .*make room"):
        record(tmp_path)
    assert names(tmp_path / "tiny") == before and found_record(tmp_path) == (0, 0)


def test_folder_that_cannot_be_made_is_one_sentence(work, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run cannot be written \(.*choose another results_dir"):
        work(tmp_path / "file")
    with pytest.raises(RunError, match=r"tiny cannot be written \(.*choose another results_dir"):
        record(tmp_path / "file")


HOLD = """
import filelock, sys, time
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_process_is_refused_until_the_first_is_dead(work, tmp_path):
    whole = work(tmp_path / "whole")
    with pytest.raises(Stopped):
        work(tmp_path, epochs=1)
    (tmp_path / "tiny").mkdir()
    folder = tmp_path / "features"
    (of_features,) = folder.glob("*.lock")
    for lock, refused, sentence in (
        (
            of_features,
            lambda _: frozen_features(work.network, work.x, "pool", folder),
            "computes the same features in .*/features right now: wait",
        ),
        (tmp_path / "run" / "lock", work, "trains in .*/run right now: wait"),
        (tmp_path / "tiny" / "lock", record, "works in .*/tiny right now: wait"),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                assert other.stdout.readline() == "held\n"
                with pytest.raises(RunError, match=f"Another process {sentence}"):
                    refused(tmp_path)
            finally:
                other.kill()
        refused(tmp_path)
    assert_same(work(tmp_path), whole)
