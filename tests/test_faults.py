"""Full disks, folders in use: nothing half-written is taken for whole."""

import contextlib
import io
import resource
from pathlib import Path

import filelock
import numpy as np
import pytest
from test_training import PHASES, tiny_model, tiny_run

from cifar100_helpers.errors import RunError
from cifar100_helpers.results import load_run, save_run

pytestmark = pytest.mark.usefixtures("fresh_keras")


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


def test_checkpoint_on_a_full_disk_is_one_sentence_and_the_old_one_stays(
    synthetic, tmp_path, capsys
):
    """The head's checkpoint, of 8,100 bytes, has room; the whole model's, of 18,700, has not."""
    with room_for(12_000), pytest.raises(RunError, match=r"full cannot be written \(.*make room"):
        tiny_run(synthetic, tmp_path / "full")
    assert sorted(contents(tmp_path / "full")) == ["checkpoint.npz", "lock"]
    tiny_run(synthetic, tmp_path / "full")
    assert "(trained before)" in capsys.readouterr().out


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


def test_folder_in_use_is_refused_until_it_is_free(synthetic, tmp_path):
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
        with filelock.FileLock(lock), pytest.raises(RunError, match=f"Another process {sentence}"):
            refused()
        refused()
