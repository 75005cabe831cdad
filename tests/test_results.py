import io
import json
import pickle
import runpy
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import frugal

from cifar100_helpers import results
from cifar100_helpers.errors import RunError
from cifar100_helpers.evaluation import evaluate
from cifar100_helpers.recipes import Phase
from cifar100_helpers.resnet import build_resnet
from cifar100_helpers.results import load_run, load_runs, project_path, results_table, save_run

COARSE = np.arange(100) // 5
STATE = {
    "parameters": {"dataset": "synthetic", "seed": 0},
    "history": {"epoch": [1, 2], "loss": [4.5, 4.25]},
    "phase_seconds": [12.345, 20.0],
    "feature_seconds": {"of one cut": 1.0, "of the next": 2.0},
}


@pytest.fixture
def run_dir(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_run(
        folder,
        model=build_resnet((1,), width=2),
        state=STATE,
        phases=(Phase(2, 1e-3),),
        probabilities=rng.dirichlet(np.full(100, 0.1), 200).astype("float32"),
        labels=rng.integers(0, 100, 200),
        near_duplicate=np.arange(200) % 10 == 0,
        coarse_of_fine=COARSE,
        validation=(rng.dirichlet(np.ones(100), 30).astype("float32"), np.arange(30)),
    )
    return folder


def test_record_says_what_ran_and_comes_back(run_dir):
    run = load_run(run_dir)
    assert run.record["name"] == "tiny"
    assert run.record["dataset"] == "synthetic"
    assert run.record["model"] == "resnet"
    assert run.record["parameter_count"] == build_resnet((1,), width=2).count_params()
    assert run.record["history"] == STATE["history"]
    assert run.record["phases"][0]["learning_rate"] == 1e-3
    assert run.record["phase_seconds"] == [15.3, 20.0]  # with what frozen layers took
    assert {"device", "backend", "versions"} <= run.record["machine"].keys()
    assert run.probabilities.shape == (200, 100) and run.labels.shape == (200,)
    np.testing.assert_array_equal(np.flatnonzero(run.near_duplicate), np.arange(0, 200, 10))
    assert run.validation_probabilities.shape == (30, 100)
    np.testing.assert_array_equal(run.validation_labels, np.arange(30))


def test_run_that_held_nothing_out_has_empty_validation(tmp_path):
    run = save_run(
        tmp_path,
        model=build_resnet((1,), width=2),
        state={key: STATE[key] for key in STATE if key != "feature_seconds"},
        phases=(Phase(2, 1e-3),),
        probabilities=np.eye(100, dtype="float32"),
        labels=np.arange(100),
        near_duplicate=np.zeros(100, bool),
        coarse_of_fine=COARSE,
    )
    assert run.validation_probabilities.shape == (0, 100) and run.validation_labels.shape == (0,)
    assert run.record["phase_seconds"] == [12.3, 20.0]


def test_metrics_are_those_of_the_stored_predictions(run_dir):
    run = load_run(run_dir)
    assert (
        evaluate(run.probabilities, run.labels, COARSE, run.near_duplicate) == run.record["metrics"]
    )


def test_nothing_unfinished_is_left(run_dir):
    left = sorted(file.name for file in run_dir.iterdir())
    assert left == ["lock", "predictions.npz", "run.json"]


def test_record_holds_no_path(run_dir):
    assert str(run_dir.parent) not in (run_dir / "run.json").read_text()


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
def test_missing_file_is_named(run_dir, file):
    (run_dir / file).unlink()
    with pytest.raises(RunError, match=file):
        load_run(run_dir)


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_truncated_file_is_one_sentence(run_dir, file, kept):
    content = (run_dir / file).read_bytes()
    (run_dir / file).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(RunError, match="tiny"):
        load_run(run_dir)


def test_pickled_predictions_are_not_loaded(run_dir):
    np.savez(run_dir / "predictions.npz", probabilities=np.array([{}]), labels=np.arange(1))
    with pytest.raises(RunError, match="tiny"):
        load_run(run_dir)


RECORD_TEXTS = {
    "not UTF-8": b'{"name": "\xff"}',
    "nested deep": b"[" * 100_000,
    "nested deep in an object": b'{"a":' * 100_000,
    "a number of 10,000 digits": b'{"schema": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "nothing": b"null",
}


@pytest.mark.parametrize("text", RECORD_TEXTS.values(), ids=RECORD_TEXTS)
def test_text_that_is_no_record_is_one_short_sentence(run_dir, text):
    (run_dir / "run.json").write_bytes(text)
    with pytest.raises(RunError, match=r"tiny (cannot be read|is not sound)") as caught:
        load_run(run_dir)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_record_that_says_two_things_is_not_believed(run_dir):
    text = (run_dir / "run.json").read_text()
    (run_dir / "run.json").write_text(text.replace('"top1":', '"top1": 0.99, "top1":'))
    with pytest.raises(RunError, match="a name stands twice"):
        load_run(run_dir)


@pytest.mark.parametrize("file", ["run.json", "predictions.npz"])
def test_folder_in_the_place_of_a_file_is_one_sentence(run_dir, file):
    (run_dir / file).unlink()
    (run_dir / file).mkdir()
    with pytest.raises(RunError, match=r"tiny cannot be read \(.*directory"):
        load_run(run_dir)


METRICS = {
    "top1": 0.5,
    "top1_interval": [0.4, 0.6],
    "top1_without_duplicates": None,
    "top5": 0.9,
    "superclass_top1": 0.7,
    "loss": 1.5,
    "calibration_error": 0.1,
}


def rewrite(run_dir, **changes):
    record = json.loads((run_dir / "run.json").read_text())
    record |= changes
    record = {key: value for key, value in record.items() if value is not None}
    (run_dir / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 1}, "schema"),
        ({"schema": 3}, "schema"),
        ({"metrics": None}, "metrics"),
        ({"metrics": {"top1": 0.5}}, "metrics has no calibration_error, loss, superclass_top1"),
        ({"machine": {"device": "a"}}, "machine has no cores, gpus"),
        ({"phase_seconds": "long"}, "phase_seconds"),
        ({"name": "other"}, "other"),
        ({"parameter_count": True}, "parameter_count is of another type"),
        ({"parameter_count": 10**400}, "parameter_count is no number"),
        ({"phase_seconds": [1.0, "2"]}, "phase_seconds is of another type"),
        ({"phase_seconds": [float("nan")]}, "phase_seconds is no number"),
        ({"phases": [1]}, "phases is of another type"),
        ({"history": {"epoch": [1, 2.5]}}, "epoch is of another type"),
        ({"metrics": METRICS | {"loss": float("inf")}}, "loss is no number"),
        ({"metrics": METRICS | {"top1_interval": [0.5]}}, "top1_interval is of another length"),
        ({"metrics": METRICS | {"top5": None}}, "top5 is of another type"),
    ],
)
def test_unsound_record_is_one_sentence(run_dir, changes, problem):
    rewrite(run_dir, **changes)
    with pytest.raises(RunError, match=problem) as caught:
        load_run(run_dir)
    assert "tiny" in str(caught.value)


def test_record_of_another_schema_need_not_have_todays_predictions(run_dir):
    rewrite(run_dir, schema=1)
    np.savez(run_dir / "predictions.npz", labels=np.arange(3))
    with pytest.raises(RunError, match="schema is not"):
        load_run(run_dir)


def repack(run_dir, **changes):
    with np.load(run_dir / "predictions.npz") as arrays:
        np.savez(run_dir / "predictions.npz", **{**arrays, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": np.arange(7)}, "differ in number"),
        ({"probabilities": np.full((200, 100), np.nan)}, "finite"),
        ({"probabilities": np.full((200, 100), 0.5)}, "sum to 1"),
        ({"probabilities": np.ones(200)}, "table"),
        ({"probabilities": np.tile([-1.0, 2.0], (200, 50)) / 50}, "below 0 or above 1"),
        ({"probabilities": np.eye(200, 100, dtype=bool)}, "the probabilities are no numbers"),
        ({"probabilities": np.eye(200, 100, dtype=complex)}, "the probabilities are no numbers"),
        ({"labels": np.full(200, -1)}, "no number of a class"),
        ({"labels": np.full(200, 100)}, "no number of a class"),
        ({"labels": np.full(200, 0.5)}, "no number of a class"),
        ({"near_duplicate": np.zeros(7, bool)}, "near_duplicate is of another length"),
        ({"near_duplicate": np.zeros(200)}, "near_duplicate is not true or false"),
        ({"validation_labels": np.arange(7)}, "differ in number"),
        ({"validation_probabilities": np.full((30, 100), np.inf)}, "finite"),
    ],
)
def test_unsound_predictions_are_one_sentence(run_dir, changes, problem):
    repack(run_dir, **changes)
    with pytest.raises(RunError, match=problem):
        load_run(run_dir)


def test_record_whose_duplicates_leave_nothing_is_sound(run_dir):
    rewrite(run_dir, metrics=METRICS)
    assert load_run(run_dir).record["metrics"] == METRICS


def test_as_many_classes_as_an_empty_table_may_claim_take_no_memory(run_dir):
    nothing = np.zeros((0, 1 << 40), np.float16)
    repack(run_dir, validation_probabilities=nothing, validation_labels=np.arange(0))
    with frugal(10_000_000):
        load_run(run_dir)


def packed(*members, method=zipfile.ZIP_STORED):
    """A zip file of `members`, pairs of a name and its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(shape, content=b"", description="<f2"):
    header = repr({"descr": description, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def encrypted(raw):
    """The zip file `raw` with its first member marked as encrypted."""
    raw = bytearray(raw)
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    return bytes(raw)


def hostile(shape, content=b"", description="<f2"):
    return packed(("probabilities.npy", npy(shape, content, description)))


PREDICTIONS = {
    "claims more than memory": hostile((1 << 31, 100), bytes(200)),
    "claims more than addresses": hostile((1 << 62, 1 << 62)),
    "claims nothing of nothing": hostile((1 << 62,), description="|V0"),
    "objects": hostile((1,), pickle.dumps([print]), "|O"),
    "deep header": packed(("probabilities.npy", npy(()).replace(b"()", b"-" * 5_000 + b"1"))),
    "huge header": hostile("x" * 60_000),
    "later version": hostile((1,), bytes(2)).replace(b"NUMPY\x01\x00", b"NUMPY\x03\x00"),
    "encrypted": encrypted(hostile((1,), bytes(2))),
    "other names": packed(("/etc/passwd", b""), ("../../probabilities.npy", b"")),
    "an array alone": npy((1,), bytes(2)),
    "an array, then an archive": npy((1,)) + hostile((1,)),
    "a pickle": pickle.dumps({"probabilities": 1}),
}


@pytest.mark.parametrize("content", PREDICTIONS.values(), ids=PREDICTIONS)
def test_hostile_predictions_are_one_sentence_and_take_little_memory(run_dir, content):
    (run_dir / "predictions.npz").write_bytes(content)
    with frugal(10_000_000), pytest.raises(RunError, match="tiny cannot be read") as caught:
        load_run(run_dir)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_predictions_that_claim_more_bytes_than_any_are_not_read(run_dir, monkeypatch):
    monkeypatch.setattr(results, "MOST_BYTES", 40_000)
    with pytest.raises(RunError, match=r"tiny cannot be read \(its arrays claim 48,\d\d\d bytes"):
        load_run(run_dir)


def test_predictions_compressed_by_a_method_that_takes_memory_are_not_read(run_dir):
    with zipfile.ZipFile(run_dir / "predictions.npz") as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    (run_dir / "predictions.npz").write_bytes(packed(*members))
    load_run(run_dir)
    (run_dir / "predictions.npz").write_bytes(packed(*members, method=zipfile.ZIP_LZMA))
    with pytest.raises(RunError, match="compressed by another method than NumPy's"):
        load_run(run_dir)


def test_other_members_of_an_archive_are_left_alone(run_dir):
    with zipfile.ZipFile(run_dir / "predictions.npz", "a") as archive:
        archive.writestr("/tmp/absolute.npy", b"")
        archive.writestr("../above.npy", npy((1,), pickle.dumps([print]), "|O"))
    assert load_run(run_dir).labels.shape == (200,)


def test_array_that_is_missing_is_named(run_dir):
    with np.load(run_dir / "predictions.npz") as arrays:
        kept = {name: arrays[name] for name in arrays if name != "near_duplicate"}
    np.savez(run_dir / "predictions.npz", **kept)
    with pytest.raises(RunError, match=r"tiny cannot be read.*near_duplicate"):
        load_run(run_dir)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damage_in_the_middle_is_one_sentence(run_dir, place):
    content = bytearray((run_dir / "predictions.npz").read_bytes())
    start = int(len(content) * place)
    content[start : start + 64] = bytes(64)
    (run_dir / "predictions.npz").write_bytes(content)
    with pytest.raises(RunError, match="tiny"):
        load_run(run_dir)


def test_all_records_of_a_folder_are_read(run_dir):
    (run_dir.parent / "no_run").mkdir()
    assert [run.record["name"] for run in load_runs(run_dir.parent)] == ["tiny"]


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_folder_without_records_says_how_to_make_one(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=rf"{folder} holds no record of a run: run 03_"):
        load_runs(tmp_path / folder)


def test_relative_folders_start_at_the_project_root(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert project_path("runs") == tmp_path / "runs"
    assert project_path(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_path("~/runs") == tmp_path / "runs"


def test_readme_shows_the_table_of_the_committed_records():
    root = Path(__file__).parent.parent
    readme = (root / "README.md").read_text()
    shown = readme.partition("<!-- results -->\n")[2].partition("\n<!-- end of results -->")[0]
    assert shown == results_table(root / "results")


def test_readme_shows_what_the_benchmarks_recorded():
    root = Path(__file__).parent.parent
    readme = (root / "README.md").read_text()
    ablation = runpy.run_path(str(root / "benchmarks" / "ablation.py"))
    assert ablation["table"](json.loads(ablation["RECORD"].read_text())) in readme
    assert (root / "results" / "pytorch.md").read_text() in readme


def test_table_leaves_synthetic_runs_out(run_dir):
    without = results_table(run_dir.parent)
    assert "tiny" not in without and "65.49 %" in without
    rewrite(run_dir, dataset="cifar100")
    top1 = load_run(run_dir).record["metrics"]["top1"]
    assert f"| tiny | {100 * top1:.2f} % ± " in results_table(run_dir.parent)
