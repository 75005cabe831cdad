"""Kills, full disks, read-only folders: nothing half-written is taken for whole."""

import contextlib
import itertools
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tqdm import tqdm

from cifar100_helpers import features, progress, reporting, training
from cifar100_helpers.checkpoint import alone, load_state, load_weights, save_checkpoint
from cifar100_helpers.errors import DatasetError, RunError
from cifar100_helpers.features import frozen_features
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import load_run, save_run
from cifar100_helpers.synthetic import load_synthetic

pytestmark = pytest.mark.usefixtures("fresh_keras")

PUBLISH = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "publish.py"))
EPOCHS, STEPS = 4, 4


# Kills at every step, simulated


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


def killed_at_every_step(killer, work, tmp_path):
    """Yield the folders that `work(folder)` was given, killed there one change later each time."""
    for changes in itertools.count():
        folder = tmp_path / str(changes)
        folder.mkdir()
        work.prepare(folder)
        try:
            with killer.after(changes, folder):
                work(folder)
        except Kill:
            yield folder
        else:
            assert changes >= work.least_changes
            return


class Saving:
    """Saves the checkpoint of epoch 2 over that of epoch 1, every number of it 2 and 1."""

    least_changes = 7  # two files made and renamed, their unfinished names and one file removed

    def __init__(self):
        self.network = build_resnet((1,), width=2)
        self.network.compile("adam", "categorical_crossentropy")
        self.network.optimizer.build(self.network.trainable_variables)

    def variables(self):
        return self.network.weights + self.network.optimizer.variables

    def save(self, folder, epoch, **more):
        for variable in self.variables():
            variable.assign(np.full(variable.shape, epoch))
        save_checkpoint(folder, self.network, {"parameters": {}, "epochs_done": epoch} | more)

    def prepare(self, folder):
        self.save(folder, 1)

    def __call__(self, folder):
        self.save(folder, 2)

    def loaded_epoch(self, folder):
        state = load_state(folder, {})
        load_weights(folder, self.network, state)
        assert all(np.all(v.numpy() == state["epochs_done"]) for v in self.variables())
        return state["epochs_done"]


@pytest.fixture
def saving():
    return Saving()


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_checkpoint_killed_at_any_step_is_the_old_one_or_the_new_one(killer, saving, tmp_path):
    loaded = []
    for folder in killed_at_every_step(killer, saving, tmp_path):
        loaded.append(saving.loaded_epoch(folder))
        saving.save(folder, loaded[-1] + 1)
        assert names(folder) == ["checkpoint.json", f"epoch_{loaded[-1] + 1:03d}.npz"]
    assert loaded == sorted(loaded) and set(loaded) == {1, 2}


class Recording:
    """Saves a record of 100 hits over one of 100 misses."""

    least_changes = 7
    network = None

    def save(self, folder, shift):
        self.network = self.network or build_resnet((1,), width=2)
        save_run(
            folder / "tiny",
            model=self.network,
            state={"parameters": {"dataset": "synthetic"}, "history": {"epoch": [1]}}
            | {"phase_seconds": [1.0]},
            phases=(Phase(1, 1e-3),),
            probabilities=np.roll(np.eye(100, dtype="float32"), shift, axis=1),
            labels=np.arange(100),
            near_duplicate=np.zeros(100, bool),
            coarse_of_fine=np.arange(100) // 5,
        )

    def prepare(self, folder):
        self.save(folder, 1)

    def __call__(self, folder):
        self.save(folder, 0)


def found_record(run_dir):
    """ "hits" or "misses" where there is a record, whose parts must belong together, or None."""
    try:
        run = load_run(run_dir)
    except RunError as error:
        assert "holds no finished run" in str(error)
        return None
    top1 = np.mean(run.probabilities.argmax(axis=1) == run.labels)
    assert top1 == run.record["metrics"]["top1"]
    return "hits" if top1 == 1 else "misses"


def test_record_killed_at_any_step_is_the_old_one_or_the_new_one_or_none(killer, tmp_path):
    recording, found = Recording(), []
    for folder in killed_at_every_step(killer, recording, tmp_path):
        found.append(found_record(folder / "tiny"))
        recording(folder)
        assert found_record(folder / "tiny") == "hits"
        assert names(folder / "tiny") == ["lock", "predictions.npz", "run.json"]
    assert [key for key, _ in itertools.groupby(found)] == ["misses", None, "hits"]


class Publishing(Recording):
    """Publishes a record of 100 hits over one of 100 misses."""

    def __init__(self, monkeypatch):
        self.root = lambda root: monkeypatch.setitem(self.publish.__globals__, "ROOT", root)

    publish = staticmethod(PUBLISH["publish_record"])

    def prepare(self, folder):
        self.root(folder)
        for shift in (1, 0):
            self.save(folder, shift)
            if shift:
                self.publish(folder / "tiny")

    def __call__(self, folder):
        self.publish(folder / "tiny")


def test_published_record_killed_at_any_step_is_never_part_of_two(killer, monkeypatch, tmp_path):
    publishing, found = Publishing(monkeypatch), []
    for folder in killed_at_every_step(killer, publishing, tmp_path):
        found.append(found_record(folder / "results" / "tiny"))
        publishing(folder)
        assert names(folder / "results" / "tiny") == ["predictions.npz", "run.json"]
    assert [key for key, _ in itertools.groupby(found)] == ["misses", None, "hits"]


class Computing:
    """Computes features of 100 images in two pieces, where a `damaged` file may be in the way."""

    least_changes = 12

    def __init__(self, images, damaged=None):
        self.network = build_resnet((1,), width=2)
        self.images = images
        self.damaged = damaged

    def prepare(self, folder):
        if self.damaged:
            shutil.copytree(self.damaged, folder, dirs_exist_ok=True)

    def __call__(self, folder):
        return frozen_features(self.network, self.images, ["pool"], folder)[0]


@pytest.fixture
def eager(monkeypatch):
    """Features computed eagerly, in pieces of 64: tracing would take most of the time."""
    pieces = []

    def call(model, images, **_):
        pieces.append(len(images))
        return keras.ops.convert_to_numpy(model(images, training=False))

    monkeypatch.setattr(keras.Model, "predict", call)
    monkeypatch.setattr(features, "ROWS", 64)
    return pieces


@pytest.mark.parametrize("suffix", [None, ".npy", ".unfinished"])
def test_features_killed_at_any_step_are_the_same_in_the_end(
    killer, synthetic, eager, tmp_path, suffix
):
    """Also where a file is cut short, and its note of progress speaks of the whole one."""
    computing, whole = Computing(synthetic.x_train[:100]), tmp_path / "whole"
    expected = np.array(computing(whole))
    if suffix:
        (file,) = whole.glob("*.npy")
        os.truncate(file.rename(file.with_suffix(suffix)), 900)
        computing.damaged = whole
    for folder in killed_at_every_step(killer, computing, tmp_path):
        np.testing.assert_array_equal(computing(folder), expected)
        assert [file.suffix for file in sorted(folder.iterdir())] == [".json", ".lock", ".npy"]


def test_every_file_is_on_the_disk_before_it_gets_its_name(
    saving, synthetic, eager, tmp_path, monkeypatch
):
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
        renamed.append(Path(target).suffix)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    saving(tmp_path)
    Recording().save(tmp_path, 0)
    Computing(synthetic.x_train[:100])(tmp_path)
    assert renamed == [".npz", ".json"] * 2 + [".json"] * 3 + [".npy"]


def test_torn_or_flipped_weights_are_never_loaded(saving, tmp_path):
    saving(tmp_path)
    file = tmp_path / "epoch_002.npz"
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (b"", content[:-1], content[: len(content) // 2], bytes(flipped)):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"epoch_002.npz is missing or damaged: delete"):
            saving.loaded_epoch(tmp_path)


# Kills of a process, and the stop button


def small_network():
    keras.utils.set_random_seed(3)
    return build_resnet((1,), width=4)


def small_run(run_dir, model=None):
    data = load_synthetic(train_size=200, test_size=100)
    model = model or small_network()
    options = {"run_dir": run_dir, "parameters": {}, "batch_size": 200 // STEPS, "seed": 3}
    phases = (Phase(EPOCHS, 0.05, optimizer="sgd", schedule="one_cycle"),)
    return model, training.train(model, data.x_train, data.y_train, phases, **options)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("runs") / "whole")


def assert_same_run(ours, theirs):
    for a, b in zip(ours[0].get_weights(), theirs[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours[1]["history"] == theirs[1]["history"]


def send_signal_within(epoch, number):
    """Let this process get the signal `number` after the second batch of the `epoch`."""
    update, batches = reporting.EpochProgress.on_train_batch_end, itertools.count()

    def noticing(callback, batch, logs=None):
        update(callback, batch, logs)
        if next(batches) == (epoch - 1) * STEPS + 1:
            os.kill(os.getpid(), number)

    reporting.EpochProgress.on_train_batch_end = noticing


def die_within_epoch_2(run_dir):
    send_signal_within(2, signal.SIGKILL)
    small_run(run_dir)


def die_while_writing_epoch_3(run_dir):
    """By the signal that the system sends when a file grows too long."""
    save = training.save_checkpoint

    def limited(run_dir, model, state):
        if state["epochs_done"] == 3:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        save(run_dir, model, state)

    training.save_checkpoint = limited
    small_run(run_dir)


def in_a_process(function, run_dir):
    code = f"import sys, test_faults; test_faults.{function.__name__}(sys.argv[1])"
    command = [sys.executable, "-c", code, run_dir]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)


def test_run_killed_twice_ends_bit_for_bit_as_the_uninterrupted(whole_run, tmp_path, capsys):
    first = in_a_process(die_within_epoch_2, tmp_path)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert load_state(tmp_path, {})["epochs_done"] == first.stdout.count("epoch ") == 1

    second = in_a_process(die_while_writing_epoch_3, tmp_path)
    assert second.returncode == -signal.SIGXFSZ, second.stderr
    assert (tmp_path / "unfinished_epoch_003.npz").stat().st_size == 10_000
    assert load_state(tmp_path, {})["epochs_done"] == 2

    assert_same_run(small_run(tmp_path), whole_run)
    assert "(trained before; 2 epochs to go)" in capsys.readouterr().out
    assert names(tmp_path) == ["checkpoint.json", f"epoch_{EPOCHS:03d}.npz", "lock"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_stop_button_leaves_a_run_that_goes_on_when_its_cell_runs_again(
    whole_run, tmp_path, monkeypatch, epoch
):
    """With the same network, which has been trained for half an epoch."""
    monkeypatch.setattr(progress, "someone_watches", lambda: True)
    model = small_network()
    update = reporting.EpochProgress.on_train_batch_end
    # A shell that starts these tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    send_signal_within(epoch, signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path, model)
    finally:
        signal.signal(signal.SIGINT, before)
        reporting.EpochProgress.on_train_batch_end = update
    assert not tqdm._instances, "the interrupted epoch's bar is still there"
    assert_same_run(small_run(tmp_path, model), whole_run)


# Full disks, read-only folders, two at once


@contextlib.contextmanager
def room_for(size):
    """Let no file grow beyond `size` bytes meanwhile: what a full disk does, for root as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 1])
def test_checkpoint_on_a_full_disk_is_one_sentence_and_the_old_one_stays(saving, tmp_path, part):
    saving.save(tmp_path, 1)
    before = names(tmp_path)
    size = (tmp_path / "epoch_001.npz").stat().st_size
    with room_for(max(0, int(size * part) - 1)), pytest.raises(RunError, match=r"too large.*room"):
        saving.save(tmp_path, 2)
    assert names(tmp_path) == before
    assert saving.loaded_epoch(tmp_path) == 1


def test_checkpoint_whose_state_finds_no_room_is_the_old_one(saving, tmp_path):
    saving.save(tmp_path, 1)
    size = (tmp_path / "epoch_001.npz").stat().st_size
    with room_for(size), pytest.raises(RunError, match="make room"):
        saving.save(tmp_path, 2, history="x" * size)
    assert saving.loaded_epoch(tmp_path) == 1


@pytest.mark.parametrize("size", [0, 500])
def test_record_on_a_full_disk_is_one_sentence_and_the_old_one_stays(tmp_path, size):
    recording = Recording()
    recording.save(tmp_path, 1)
    before = names(tmp_path / "tiny")
    with room_for(size), pytest.raises(RunError, match=r"tiny cannot be written .*make room"):
        recording.save(tmp_path, 0)
    assert names(tmp_path / "tiny") == before
    assert found_record(tmp_path / "tiny") == "misses"


def test_features_on_a_full_disk_say_how_much_room_they_need(synthetic, eager, tmp_path):
    computing = Computing(synthetic.x_train[:100])
    with room_for(500), pytest.raises(RunError, match=r"need 0\.0 GB in .*too large.*make room"):
        computing(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".lock"}


def test_features_on_a_disk_that_fills_up_go_on_when_there_is_room(
    synthetic, eager, tmp_path, monkeypatch
):
    computing = Computing(synthetic.x_train[:100])
    call, limit = keras.Model.predict, contextlib.ExitStack()

    def filling(model, images, **options):
        if len(eager) == 1:
            limit.enter_context(room_for(300))
        return call(model, images, **options)

    monkeypatch.setattr(keras.Model, "predict", filling)
    with limit, pytest.raises(RunError, match=r"need 0\.0 GB in .*too large.*make room"):
        computing(tmp_path)
    monkeypatch.setattr(keras.Model, "predict", call)
    got = np.array(computing(tmp_path))
    assert eager == [64, 36, 36]
    np.testing.assert_array_equal(got, computing(tmp_path / "whole"))


def test_folder_that_cannot_be_made_is_one_sentence(saving, synthetic, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "runs"
    for work in (small_run, saving, Computing(synthetic.x_train[:100]), Recording()):
        with pytest.raises(RunError, match=r"cannot be written \(.*choose another results_dir"):
            work(folder)


def test_no_room_for_temporary_files_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(DatasetError, match=r"Synthetic data could not be written .*make room"):
        load_synthetic(train_size=100, test_size=100)


def test_record_is_neither_saved_nor_published_while_another_process_works_there(
    tmp_path, monkeypatch
):
    publishing = Publishing(monkeypatch)
    publishing.prepare(tmp_path)
    with alone(tmp_path / "tiny" / "lock", "works in"):
        for work in (publishing.prepare, publishing):
            with pytest.raises(RunError, match="Another process works in"):
                work(tmp_path)
    assert found_record(tmp_path / "tiny") == "hits"
    assert found_record(tmp_path / "results" / "tiny") == "misses"
