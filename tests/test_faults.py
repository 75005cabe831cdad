"""A killed process, full disks, folders in use: nothing half-written is taken for whole."""

import contextlib
import io
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_training import PHASES, assert_same_run, tiny_model, tiny_run

from cifar100_helpers import training
from cifar100_helpers.data import load_synthetic
from cifar100_helpers.errors import RunError
from cifar100_helpers.results import load_run, save_run

pytestmark = pytest.mark.usefixtures("fresh_keras")


def small_run(folder):
    return tiny_run(load_synthetic(train_size=200, test_size=100), folder)


def die_within_epoch_3(folder):
    update, steps = training.EpochProgress.on_train_batch_end, itertools.count(1)

    def deadly(*arguments, **logs):
        update(*arguments, **logs)
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    training.EpochProgress.on_train_batch_end = deadly
    small_run(folder)


def test_run_killed_in_another_process_ends_bit_for_bit_as_the_uninterrupted(tmp_path, capsys):
    code = "import sys, test_faults; test_faults.die_within_epoch_3(sys.argv[1])"
    command = [sys.executable, "-c", code, tmp_path / "killed"]
    here = Path(__file__).parent
    killed = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout.count("epoch ") == 2
    whole = small_run(tmp_path / "whole")
    capsys.readouterr()
    assert_same_run(*small_run(tmp_path / "killed"), (None, *whole, None))
    assert "(trained before)" in capsys.readouterr().out


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


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_checkpoint_on_a_full_disk_is_one_sentence_and_the_old_one_stays(synthetic, tmp_path):
    """The head's checkpoint has room, the whole model's has not."""
    whole = tiny_run(synthetic, tmp_path / "whole")
    tiny_run(synthetic, tmp_path / "head", phases=PHASES[:1])
    sizes = [(tmp_path / name / "checkpoint.npz").stat().st_size for name in ("head", "whole")]
    with (
        room_for(sum(sizes) // 2),
        pytest.raises(RunError, match=r"full cannot be written \(.*make room"),
    ):
        tiny_run(synthetic, tmp_path / "full")
    assert sorted(contents(tmp_path / "full")) == ["checkpoint.npz", "lock"]
    assert_same_run(*tiny_run(synthetic, tmp_path / "full"), (None, *whole, None))


def test_features_on_a_full_disk_are_one_sentence(synthetic, tmp_path):
    with room_for(100), pytest.raises(RunError, match=r"features cannot be written .*make room"):
        tiny_run(synthetic, tmp_path / "run")
    assert {Path(name).suffix for name in contents(tmp_path / "features")} == {".lock"}


def record(folder, synthetic, top1):
    """Record a run that is always correct, or never."""
    state = {"parameters": {"dataset": "synthetic"}, "phases": [], "history": {"epoch": [1]}}
    state |= {"phase_seconds": [1.0], "petaflops": 0.1}
    probabilities = np.roll(np.eye(100)[synthetic.y_test], 1 - top1, axis=1)
    save_run(folder, tiny_model(), state, synthetic, probabilities)


@pytest.mark.parametrize("size", [0, 500])
def test_record_on_a_full_disk_is_one_sentence_and_the_old_one_stays(synthetic, tmp_path, size):
    record(tmp_path / "tiny", synthetic, top1=0)
    before = contents(tmp_path / "tiny")
    with room_for(size), pytest.raises(RunError, match=r"tiny cannot be written .*make room"):
        record(tmp_path / "tiny", synthetic, top1=1)
    assert contents(tmp_path / "tiny") == before
    record(tmp_path / "tiny", synthetic, top1=1)
    assert load_run(tmp_path / "tiny").record["metrics"]["top1"] == 1


def test_folder_that_cannot_be_made_is_one_sentence(synthetic, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"features cannot be written \(.*choose another results_di"):
        tiny_run(synthetic, tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"tiny cannot be written \(.*choose another results_dir"):
        record(tmp_path / "file" / "tiny", synthetic, top1=1)


HOLD = """
import filelock, sys, time
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_process_is_refused_until_the_first_is_dead(synthetic, tmp_path):
    tiny_run(synthetic, tmp_path / "run", phases=PHASES[:1])
    (tmp_path / "tiny").mkdir()
    of_features = next((tmp_path / "features").glob("*.lock"))

    def train_again():
        tiny_run(synthetic, tmp_path / "run", phases=PHASES[:1])

    for lock, refused, sentence in (
        (of_features, train_again, "computes the same features in .*/features right now: wait"),
        (tmp_path / "run" / "lock", train_again, "trains in .*/run right now: wait"),
        (
            tmp_path / "tiny" / "lock",
            lambda: record(tmp_path / "tiny", synthetic, top1=1),
            "works in .*/tiny right now: wait",
        ),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                assert other.stdout.readline() == "held\n"
                with pytest.raises(RunError, match=f"Another process {sentence}"):
                    refused()
            finally:
                other.kill()
        refused()
