"""Finding, fetching, verifying, reading and splitting CIFAR-100, and its near-duplicates."""

import hashlib
import io
import os
import pickle
import runpy
import socket
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.datasets.cifar import load_batch

from cifar100_helpers import data, storage
from cifar100_helpers.data import COARSE_OF_FINE, load_cifar100, train_validation_split
from cifar100_helpers.errors import DatasetError, ParameterError

CLOSED = "http://127.0.0.1:9/closed"  # nobody listens there
CACHE = Path("keras", "datasets")
CACHED = CACHE / "cifar-100-python-target" / "cifar-100-python"
ARCHIVE = CACHE / "cifar-100-python-target_archive"


def batch(size, seed):
    """A small file train or test with the keys of the official ones."""
    rng = np.random.default_rng(seed)
    fine = rng.permutation(np.arange(size) % 100)
    pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
    labels = {b"fine_labels": fine.tolist(), b"coarse_labels": COARSE_OF_FINE[fine].tolist()}
    return pickle.dumps({b"data": pixels, **labels})


CONTENTS = {"train": batch(200, 1), "test": batch(100, 2)}


def archived(contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


OFFICIAL = archived(CONTENTS)


@pytest.fixture
def put(monkeypatch, tmp_path):
    """Makes the small files the official ones, with an empty cache and without a network.

    Returns a function that writes them, or the changed ones it is given, into a folder.
    """
    for name, content in {**CONTENTS, "archive": OFFICIAL}.items():
        monkeypatch.setitem(data.OFFICIAL_MD5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(data, "URL", CLOSED)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CIFAR100_DIR", raising=False)

    def put(folder, **changed):
        folder = tmp_path / folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**CONTENTS, **changed}.items():
            if content is not None:
                (folder / name).write_bytes(content)
        return folder

    return put


class Answering(BaseHTTPRequestHandler):
    """The path says how the server answers."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/404":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(OFFICIAL)))
        self.end_headers()
        half = OFFICIAL[: len(OFFICIAL) // 2]
        body = {"/short": half, "/silent": half, "/wrong": b"x" * len(OFFICIAL)}
        self.wfile.write(body.get(self.path, OFFICIAL))
        if self.path == "/silent":
            self.wfile.flush()
            self.server.stop.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(put, monkeypatch):
    """The official archive is to be had again."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.stop, server.asked = threading.Event(), []
        server.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(data, "URL", f"{server.url}/good")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.stop.set()
        server.shutdown()


def test_real_arrays_equal_those_of_keras(real_data, real_data_dir):
    folder = next(Path(real_data_dir).glob("**/train")).parent
    for split in ("train", "test"):
        for key, labels in (("fine_labels", f"y_{split}"), ("coarse_labels", f"coarse_{split}")):
            planes, expected = load_batch(str(folder / split), label_key=key)
            np.testing.assert_array_equal(getattr(real_data, labels), expected)
        assert np.array_equal(getattr(real_data, f"x_{split}").transpose(0, 3, 1, 2), planes)
    meta = pickle.loads((folder / "meta").read_bytes())
    assert list(real_data.fine_names) == meta["fine_label_names"]
    assert list(real_data.coarse_names) == meta["coarse_label_names"]
    of_fine = real_data.coarse_of_fine[real_data.y_train]
    np.testing.assert_array_equal(of_fine, real_data.coarse_train)


def test_arrays_are_contiguous_typed_and_read_only(put):
    loaded = load_cifar100(put("here"))
    np.testing.assert_array_equal(loaded.coarse_train, COARSE_OF_FINE[loaded.y_train])
    for array in (value for value in vars(loaded).values() if isinstance(value, np.ndarray)):
        assert array.dtype == (np.uint8 if array.ndim == 4 else np.int64)
        assert array.flags.c_contiguous and not array.flags.writeable
    assert repr(loaded) == "<Cifar100 'cifar100': 200 training and 100 test images>"


@pytest.mark.parametrize("cwd", ["project", "project/notebooks", "elsewhere"])
def test_a_folder_is_found_from_wherever_the_notebook_runs(put, monkeypatch, tmp_path, cwd):
    """It may be named by itself or by the one above, from its root, from a home or from here."""
    folder = put("project/above · 日本/cifar-100-python")
    put("elsewhere/above · 日本")
    (tmp_path / "project" / "pyproject.toml").touch()
    (tmp_path / cwd).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / cwd)
    monkeypatch.setenv("HOME", str(tmp_path / "project"))
    for name in (folder, folder.parent, "~/above · 日本", "above · 日本"):
        assert len(load_cifar100(name).y_train) == 200


@pytest.mark.parametrize("source", ["data_dir", "CIFAR100_DIR"])
def test_a_named_folder_without_the_data_is_an_error(put, monkeypatch, tmp_path, source):
    put(CACHED)  # is no substitute for what was named
    put("project/notebooks/partial", test=None)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "project" / "notebooks")

    def load(named):
        monkeypatch.setenv("CIFAR100_DIR", named)
        return load_cifar100(named if source == "data_dir" else "")

    with pytest.raises(
        DatasetError, match=rf"^{source} is 'partial', but .*train and test"
    ) as caught:
        load("partial")
    for place in ("project/notebooks/partial", "project/partial"):
        assert str(tmp_path / place) in str(caught.value)
    with pytest.raises(DatasetError, match="files train and test of"):
        load("~nobody_here/cifar")


def test_argument_before_environment_before_cache_before_download(put, monkeypatch, server):
    argument, environment, cached = put("argument"), put("environment"), put(CACHED)
    read, found = [], data._official_files
    monkeypatch.setattr(data, "_official_files", lambda f: read.append(f) or found(f))
    monkeypatch.setenv("CIFAR100_DIR", str(environment))
    load_cifar100(argument)
    load_cifar100("")
    monkeypatch.setenv("CIFAR100_DIR", "")
    load_cifar100()
    assert read == [argument, environment, cached] and not server.asked
    cached.rename(cached.parents[1] / "cifar-100-python")  # where older versions of Keras put it
    load_cifar100()
    assert not server.asked
    (cached.parents[1] / "cifar-100-python" / "test").unlink()
    load_cifar100()
    assert server.asked == ["/good"]


class Bomb:
    """Leaves a mark if it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_file_that_is_not_the_official_one_is_refused_and_never_unpickled(put, tmp_path, name):
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    folder = put("here", **{name: bomb})
    with pytest.raises(DatasetError, match=r"not the official file .*MD5.*replace") as caught:
        load_cifar100(folder)
    assert str(folder / name) in str(caught.value)
    put(CACHED, **{name: bomb})
    with pytest.raises(DatasetError, match="is not on this machine"):
        load_cifar100()
    assert not (tmp_path / "mark").exists()
    pickle.loads(bomb)
    assert (tmp_path / "mark").exists()


def test_keras_reads_what_the_quiet_download_leaves(put, server, monkeypatch, capfd, tmp_path):
    loaded = load_cifar100()
    assert capfd.readouterr() == ("", "") and socket.getdefaulttimeout() is None
    md5, get_file = data.OFFICIAL_MD5["archive"], keras.utils.get_file
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setattr(
        "keras.src.datasets.cifar100.get_file",
        lambda **given: get_file(**given | {"origin": CLOSED, "file_hash": md5}),
    )
    (x_train, y_train), (x_test, y_test) = keras.datasets.cifar100.load_data()
    np.testing.assert_array_equal(loaded.x_train, x_train)
    np.testing.assert_array_equal(loaded.y_train, y_train[:, 0])
    np.testing.assert_array_equal(loaded.x_test, x_test)
    np.testing.assert_array_equal(loaded.y_test, y_test[:, 0])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("404", "404 -- Not Found"),
        ("short", "retrieval incomplete"),
        ("wrong", "Incomplete or corrupted file"),
        ("silent", "timed out"),
        (None, "Connection refused"),
    ],
)
def test_a_failed_download_is_one_sentence_and_the_next_one_succeeds(
    put, server, monkeypatch, answer, reason
):
    monkeypatch.setattr(storage, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(data, "URL", f"{server.url}/{answer}" if answer else CLOSED)
    with pytest.raises(DatasetError, match=rf"download from http.* failed \(.*{reason}") as caught:
        load_cifar100()
    assert "\n" not in str(caught.value) and "check the network" in str(caught.value)
    monkeypatch.setattr(data, "URL", f"{server.url}/good")
    assert len(load_cifar100().y_train) == 200


def test_without_a_home_the_spare_cache_is_used(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "_caches", lambda: [tmp_path / "file" / "home", tmp_path / "spare"])
    for _ in range(2):
        assert len(load_cifar100().y_train) == 200
    assert server.asked == ["/good"]


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_what_was_killed_or_damaged_is_done_again(put, server, share):
    """Killed while downloading or unpacking; without the archive, the files are damaged."""
    put(CACHED, train=b"", test=None).parents[1].joinpath(ARCHIVE.name).write_bytes(
        OFFICIAL[: int(share * len(OFFICIAL))]
    )
    assert len(load_cifar100().y_train) == 200
    assert len(server.asked) == (share < 1)


def test_of_several_at_once_one_downloads_and_all_load(server):
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load_cifar100(), range(4)))
    assert [len(cifar.y_train) for cifar in loaded] == [200] * 4
    assert server.asked == ["/good"] and socket.getdefaulttimeout() is None


def test_notebooks_load_what_their_parameters_name(put):
    assert len(data.load("cifar100", put("here"), small=True).x_train) == 200
    small = data.load("synthetic", "no folder", seed=3, small=True)
    assert (small.name, len(small.y_train), len(small.y_test)) == ("synthetic", 5_000, 200)
    assert not np.array_equal(small.x_test, data.load("synthetic", small=True).x_test)


def test_listed_pairs_are_in_order_complete_and_of_one_class(real_data):
    pairs = data.near_duplicates()
    assert len(np.unique(pairs[["test_index", "train_index"]])) == len(pairs) == 813
    assert np.all(np.diff(pairs["distance"]) >= 0) and pairs["distance"][-1] <= 0.18
    marked = data.mark_near_duplicates(real_data)
    assert marked.shape == (10_000,) and marked.sum() == 538
    training = {image.tobytes(): index for index, image in enumerate(real_data.x_train)}
    twins = [training.get(image.tobytes()) for image in real_data.x_test]
    exact = pairs[["test_index", "train_index"]][pairs["distance"] == 0]
    expected = {test: twin for test, twin in enumerate(twins) if twin is not None}
    assert dict(exact.tolist()) == expected
    # The finder never sees a label; pictures of one shot nearly always have the same.
    same = real_data.y_test[pairs["test_index"]] == real_data.y_train[pairs["train_index"]]
    assert same.mean() > 0.9


def test_the_finder_still_finds_the_listed_pairs(real_data):
    finder = runpy.run_path(Path(__file__).parents[1] / "scripts" / "find_near_duplicates.py")
    found = finder["find"](real_data.x_test[:500], real_data.x_train)
    found = {(int(test), int(train)): distance for test, train, distance in found}
    listed = {(t, n): distance for t, n, distance in data.near_duplicates().tolist() if t < 500}
    # Processors round differently, which may move a pair over the threshold.
    assert len(found.keys() ^ listed.keys()) <= 2
    assert max(abs(found[pair] - listed[pair]) for pair in found.keys() & listed.keys()) < 1e-3


LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 50))


def test_split_is_stratified_sorted_disjoint_and_by_seed():
    train, validation = train_validation_split(LABELS, 100, train_limit=200, seed=3)
    assert np.bincount(LABELS[train]).tolist() == [20] * 10
    assert np.bincount(LABELS[validation]).tolist() == [10] * 10
    assert not np.intersect1d(train, validation).size
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)
    again = train_validation_split(LABELS, 100, train_limit=200, seed=3)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([train, validation]))
    np.testing.assert_array_equal(validation, train_validation_split(LABELS, 100, seed=3)[1])
    assert not np.array_equal(validation, train_validation_split(LABELS, 100, seed=4)[1])
    assert len(train_validation_split(LABELS, 490, train_limit=10)[0]) == 10  # all there are


@pytest.mark.parametrize("size", [-10, 15, 510])
@pytest.mark.parametrize("parameter", ["validation_size", "train_limit"])
def test_sizes_that_do_not_give_every_class_the_same_number_are_refused(parameter, size):
    with pytest.raises(ParameterError, match=rf"^{parameter} is .* multiple of 10, .* below 500,"):
        train_validation_split(LABELS, **{"validation_size": 0, parameter: size})
