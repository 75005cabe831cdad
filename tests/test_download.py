"""Keras's cache in all its layouts, and the download into it, against a server on this machine."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cifar100_helpers import download
from cifar100_helpers.data import load_cifar100
from cifar100_helpers.download import FILES, OFFICIAL_MD5, extract, fetch
from cifar100_helpers.errors import DatasetError
from cifar100_helpers.synthetic import write_synthetic

FOLDER = "cifar-100-python"


def tar(members):
    """A gzipped archive of `members`, pairs of a `TarInfo` or a name and the content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contents")
    write_synthetic(folder, train_size=200, test_size=100)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def archive(contents):
    members = [(f"{FOLDER}/{name}", content) for name, content in contents.items()]
    return tar([(f"{FOLDER}/file.txt~", b"a backup"), *members])


@pytest.fixture
def cache(contents, archive, monkeypatch, tmp_path):
    """An empty Keras cache; the small archive and its files are the official ones."""
    for name, content in {**contents, "archive": archive}.items():
        monkeypatch.setitem(OFFICIAL_MD5, name, hashlib.md5(content).hexdigest())
    cache = tmp_path / "datasets"
    cache.mkdir()
    monkeypatch.setattr(download, "cache_folders", lambda: [cache])
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/closed")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CIFAR100_DIR", raising=False)
    return cache


@pytest.fixture
def server(archive):
    """The address of a server whose paths are kinds of answers."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing":
                return self.send_error(404)
            self.send_response(200)
            if self.path != "/unsized":
                self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            if self.path in ("/cut", "/hang"):
                self.wfile.write(archive[: len(archive) // 2])
                if self.path == "/hang":
                    stop.wait(30)
            else:
                self.wfile.write(b"x" * len(archive) if self.path == "/wrong" else archive)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        stop.set()
        server.shutdown()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "layout",
    [
        f"{FOLDER}-target/{FOLDER}",
        f"{FOLDER}_extracted/{FOLDER}",
        FOLDER,
        f"{FOLDER}/{FOLDER}",
    ],
)
def test_every_layout_of_keras_is_found(cache, contents, layout):
    (cache / layout).mkdir(parents=True)
    for name, content in contents.items():
        (cache / layout / name).write_bytes(content)
    assert len(load_cifar100().y_train) == 200


@pytest.mark.parametrize(
    "name", [f"{FOLDER}-target_archive", f"{FOLDER}_archive", f"{FOLDER}.tar.gz"]
)
def test_an_archive_is_unpacked(cache, archive, contents, name):
    (cache / name).write_bytes(archive)
    assert len(load_cifar100().y_train) == 200
    assert names_in(cache) == sorted([name, f"{FOLDER}-target"])
    unpacked = cache / f"{FOLDER}-target" / FOLDER
    assert {name: (unpacked / name).read_bytes() for name in names_in(unpacked)} == contents


def test_a_half_unpacked_folder_is_completed(cache, archive, contents):
    folder = cache / f"{FOLDER}-target" / FOLDER
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(contents["train"][:1000])
    (cache / f"{FOLDER}-target_archive").write_bytes(archive)
    assert len(load_cifar100().y_train) == 200


def test_a_damaged_file_in_the_cache_is_named(cache, contents):
    (cache / FOLDER).mkdir()
    for name, content in contents.items():
        (cache / FOLDER / name).write_bytes(content[:-1])
    with pytest.raises(DatasetError, match=r"cifar-100-python/train is damaged.*delete its folder"):
        load_cifar100()


def test_cache_is_where_keras_has_it(monkeypatch, tmp_path):
    from keras.src.backend.config import keras_home

    if "KERAS_HOME" not in os.environ and os.access(Path.home(), os.W_OK):
        assert download.cache_folders()[0] == Path(keras_home(), "datasets")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert download.cache_folders()[0] == tmp_path / "datasets"
    monkeypatch.setenv("KERAS_HOME", "~nobody-of-this-name/keras")
    assert len(download.cache_folders()) == 1


def test_download_is_verified_unpacked_and_found_again(cache, contents, monkeypatch, server):
    monkeypatch.setattr(download, "URL", f"{server}/good")
    assert len(load_cifar100().y_train) == 200
    assert names_in(cache) == [f"{FOLDER}-target", f"{FOLDER}-target_archive"]
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/closed")
    assert len(load_cifar100().y_train) == 200


def test_keras_finds_the_download_too(cache, archive, monkeypatch, server):
    from keras.utils import get_file

    monkeypatch.setattr(download, "URL", f"{server}/unsized")
    fetch()
    folder = get_file(
        fname=f"{FOLDER}-target",
        origin=f"{server}/missing",
        extract=True,
        file_hash=hashlib.sha256(archive).hexdigest(),
        cache_dir=cache.parent,
    )
    assert sorted(FILES) == [name for name in names_in(Path(folder, FOLDER)) if name in FILES]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("cut", r"sent [\d,]+ bytes that are not the whole official archive"),
        ("wrong", r"sent [\d,]+ bytes that are not the whole official archive"),
        ("missing", r"download from .*/missing failed \(Not Found\): check the network"),
        ("hang", r"failed \(.*timed out\): check the network"),
        (None, r"download from .*closed failed \(.*refused\): check the network"),
    ],
)
def test_a_failed_download_is_one_error_and_leaves_nothing(
    cache, server, monkeypatch, answer, message
):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 1)
    if answer:
        monkeypatch.setattr(download, "URL", f"{server}/{answer}")
    with pytest.raises(DatasetError, match=message):
        load_cifar100()
    assert names_in(cache) == []


def test_a_download_without_an_end_is_given_up(cache, server, monkeypatch):
    monkeypatch.setattr(download, "URL", f"{server}/wrong")
    monkeypatch.setattr(download, "_MOST_BYTES", 1_000)
    monkeypatch.setattr(download, "_BLOCK_BYTES", 600)
    with pytest.raises(DatasetError, match="sent 1,200 bytes"):
        load_cifar100()


def test_a_half_written_archive_of_keras_is_replaced(cache, archive, monkeypatch, server):
    (cache / f"{FOLDER}-target_archive").write_bytes(archive[:1000])
    with pytest.raises(DatasetError, match="check the network"):
        load_cifar100()
    monkeypatch.setattr(download, "URL", f"{server}/good")
    assert len(load_cifar100().y_train) == 200
    assert (cache / f"{FOLDER}-target_archive").read_bytes() == archive


def test_a_cache_that_cannot_be_written(cache, server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "URL", f"{server}/good")
    (tmp_path / "file").touch()
    spare = [tmp_path / "file" / "datasets", cache]
    monkeypatch.setattr(download, "cache_folders", lambda: spare)
    assert fetch().is_relative_to(cache)
    monkeypatch.setattr(download, "cache_folders", lambda: spare[:1])
    with pytest.raises(DatasetError, match="cannot be written: fetch"):
        fetch()


def test_a_full_disk(cache, server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "URL", f"{server}/good")
    monkeypatch.setattr(download.os, "replace", full)
    with pytest.raises(DatasetError, match=r"\(No space left on device\): make room"):
        load_cifar100()
    assert names_in(cache) == []


LOAD = """
import sys, types
package = types.ModuleType("cifar100_helpers")
package.__path__ = [sys.argv[1]]
sys.modules["cifar100_helpers"] = package
from pathlib import Path
from cifar100_helpers import data, download
download.URL = sys.argv[2]
download.cache_folders = lambda: [Path(sys.argv[3])]
download.OFFICIAL_MD5.update(zip(("archive", "train", "test", "meta"), sys.argv[4:]))
print(len(data.load_cifar100().y_train))
"""


@pytest.fixture
def loading(cache):
    """Starts another process that loads from the cache, with the reader alone, not Keras."""
    md5 = [OFFICIAL_MD5[name] for name in ("archive", "train", "test", "meta")]

    def start(url):
        package = Path(download.__file__).parent
        command = [sys.executable, "-c", LOAD, package, url, cache, *md5]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


def test_two_processes_at_once(cache, server, loading):
    both = [loading(f"{server}/good") for _ in range(2)]
    assert [process.communicate(timeout=60)[0][-4:] for process in both] == ["200\n", "200\n"]
    assert names_in(cache) == [f"{FOLDER}-target", f"{FOLDER}-target_archive"]


def test_a_killed_download_is_not_taken_for_a_whole_one(cache, server, loading):
    process = loading(f"{server}/hang")
    for _ in range(200):
        if any(cache.glob(".cifar-100-*/archive")):
            break
        threading.Event().wait(0.05)
    process.kill()
    process.communicate()
    assert not any(name.startswith("cifar") for name in names_in(cache))
    assert loading(f"{server}/good").communicate(timeout=60)[0] == "200\n"


def link(kind, target):
    info = tarfile.TarInfo(f"{FOLDER}/train")
    info.type, info.linkname = kind, target
    return info


def giant():
    info = tarfile.TarInfo(f"{FOLDER}/train")
    info.size = 1 << 40
    return info


HOSTILE = {
    "absolute path": [("/tmp/cifar-100-python/train", b"")],
    "parent": [(f"{FOLDER}/../../train", b"")],
    "parent first": [("../train", b"")],
    "another folder": [("train", b"")],
    "symbolic link": [(link(tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "hard link": [(link(tarfile.LNKTYPE, f"{FOLDER}/test"), b"")],
    "device": [(link(tarfile.CHRTYPE, ""), b"")],
    "pipe": [(link(tarfile.FIFOTYPE, ""), b"")],
    "too many": [(f"{FOLDER}/{number}", b"") for number in range(17)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path, contents, members):
    good = [(f"{FOLDER}/{name}", content) for name, content in contents.items()]
    (tmp_path / "archive").write_bytes(tar([*good, *members]))
    (tmp_path / "target").mkdir()
    with pytest.raises(DatasetError, match="which is no part of CIFAR-100: delete the archive"):
        extract(tmp_path / "archive", tmp_path / "target")
    assert set(names_in(tmp_path / "target")) <= set(FILES)
    assert names_in(tmp_path) == ["archive", "target"]


def test_a_bomb_and_broken_archives_are_refused(tmp_path, archive):
    path = tmp_path / "archive"
    path.write_bytes(gzip.compress(giant().tobuf() + bytes(10_000)))
    with pytest.raises(DatasetError, match="no part of CIFAR-100"):
        extract(path, tmp_path)
    damaged = archive[:20] + b"damage" + archive[26:]
    for content in (b"", b"no archive", archive[: len(archive) // 2], damaged):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"archive (cannot be unpacked|lacks)"):
            extract(path, tmp_path)
    path.write_bytes(tar([(f"{FOLDER}/train", b""), (f"{FOLDER}/sub/test", b"")]))
    with pytest.raises(DatasetError, match="lacks the files meta, test of CIFAR-100"):
        extract(path, tmp_path)
