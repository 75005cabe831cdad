"""Full disks, folders in use: nothing half-written is taken for whole."""

import contextlib
import io
import resource
from pathlib import Path

import filelock
import numpy as np
import pytest
from test_training import PARAMETERS, PHASES, tiny_model, tiny_run

from cifar100_helpers.errors import RunError
from cifar100_helpers.results import finish_run, load_run, save_run
from cifar100_helpers.training import Run

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


def record(folder, synthetic):
    """Record a run that is always correct."""
    state = {"parameters": {"dataset": "synthetic"}, "phases": [], "history": {"epoch": [1]}}
    state |= {"phase_seconds": [1.0], "petaflops": 0.1}
    save_run(folder, tiny_model(), state, synthetic, np.eye(100)[synthetic.y_test])


def test_record_on_a_full_disk_is_one_sentence_and_none_until_there_is_room(synthetic, tmp_path):
    with room_for(2_000), pytest.raises(RunError, match=r" cannot be written .*make room"):
        record(tmp_path, synthetic)
    assert not contents(tmp_path)
    record(tmp_path, synthetic)
    assert load_run(tmp_path).record["metrics"]["top1"] == 1


def test_folder_that_cannot_be_made_is_one_sentence(synthetic, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"features cannot be written \(.*choose another results_di"):
        tiny_run(synthetic, tmp_path / "file" / "run")
    run = Run(tmp_path / "file" / "run", PARAMETERS, PHASES[1:], petaflops=[0.1])
    with pytest.raises(RunError, match=r"run cannot be written \(.*choose another results_dir"):
        run.fit(tiny_model(), synthetic.x_train, synthetic.y_train, phase=PHASES[1])


def test_folder_in_use_is_refused_until_it_is_free(synthetic, tmp_path):
    model, run = tiny_run(synthetic, tmp_path / "run", phases=PHASES[:1])
    of_features = next((tmp_path / "features").glob("*.lock"))

    def train_again():
        tiny_run(synthetic, tmp_path / "run", phases=PHASES[:1])

    for lock, refused, sentence in (
        (of_features, train_again, "computes the same features in .*/features right now: wait"),
        (tmp_path / "run" / "lock", train_again, "trains in .*/run right now: wait"),
        (
            tmp_path / "run" / "lock",
            lambda: finish_run(run, model, synthetic),
            "works in .*/run right now: wait",
        ),
    ):
        with filelock.FileLock(lock), pytest.raises(RunError, match=f"Another process {sentence}"):
            refused()
        refused()
