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
from fuzzing import frugal

from cifar100_helpers import download, unpacking
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


class Answering(BaseHTTPRequestHandler):
    """Its path says how the server answers."""

    def do_GET(self):
        self.server.asked.append(self.path)
        path, archive = self.path[1:], self.server.archive
        size, half = len(archive), archive[: len(archive) // 2]
        if path in ("404", "500"):
            return self.send_error(int(path))
        if path == "silent":
            return self.server.stop.wait(30)
        if path == "nonsense":
            return self.wfile.write(b"220 this is another protocol\r\n" * 100)
        self.send_response(302 if path == "loop" else 200)
        if path == "loop":
            self.send_header("Location", f"/{path}")
        if path == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif path != "unsized":
            lengths = {"too long": size + 9, "too short": size - 9, "negative": -1, "word": "many"}
            self.send_header("Content-Length", str(lengths.get(path.replace("%20", " "), size)))
        self.end_headers()
        if path == "chunked":
            self.wfile.write(b"%x\r\n%b\r\nxx\r\n" % (len(half), half))
        elif path.startswith("cut"):
            self.wfile.write(archive[: int(path[3:])])
        elif path == "slow":
            for start in range(0, size, size // 8 + 1):
                self.server.stop.wait(0.3)
                self.wfile.write(archive[start : start + size // 8 + 1])
        elif path == "hang":
            self.wfile.write(half)
            self.server.stop.wait(30)
        else:
            self.wfile.write(b"x" * size if path == "wrong" else archive)

    def log_message(self, *_):
        pass


@pytest.fixture
def serving(archive):
    """A server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.archive, server.stop, server.asked = archive, threading.Event(), []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.stop.set()
        server.shutdown()


@pytest.fixture
def server(serving):
    """Its address."""
    return f"http://127.0.0.1:{serving.server_port}"


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
        origin=f"{server}/404",
        extract=True,
        file_hash=hashlib.sha256(archive).hexdigest(),
        cache_dir=cache.parent,
    )
    assert sorted(FILES) == [name for name in names_in(Path(folder, FOLDER)) if name in FILES]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        *((f"cut{size}", rf"sent {size:,} bytes that are not the whole") for size in (0, 1, 40000)),
        ("too%20short", r"sent [\d,]+ bytes that are not the whole official archive"),
        ("wrong", r"sent [\d,]+ bytes that are not the whole official archive"),
        ("404", r"download from .*/404 failed \(Not Found\): check the network"),
        ("500", r"download from .*/500 failed \(Internal Server Error\): check the network"),
        ("loop", r"failed \(.*redirect error that would lead to an infinite loop.*\): check"),
        ("nonsense", r"failed \(220 this is another protocol\): check the network"),
        ("chunked", r"failed \(IncompleteRead.*\): check the network"),
        ("hang", r"failed \(.*timed out\): check the network"),
        ("silent", r"failed \(.*timed out\): check the network"),
        (None, r"download from .*closed failed \(.*refused\): check the network"),
    ],
)
def test_a_failed_download_is_one_error_and_leaves_nothing(
    cache, server, monkeypatch, answer, message
):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 1)
    if answer:
        monkeypatch.setattr(download, "URL", f"{server}/{answer}")
    with pytest.raises(DatasetError, match=message) as caught:
        load_cifar100()
    assert "\n" not in str(caught.value)
    assert names_in(cache) == []


@pytest.mark.parametrize("answer", ["unsized", "too%20long", "negative", "slow"])
def test_the_right_bytes_are_taken_however_they_are_announced_and_come(
    cache, server, monkeypatch, answer
):
    """Slowly, too: all of them later than the time that one piece may take."""
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(download, "URL", f"{server}/{answer}")
    assert len(load_cifar100().y_train) == 200


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
import itertools, os, sys, types
package = types.ModuleType("cifar100_helpers")
package.__path__ = [sys.argv[1]]
sys.modules["cifar100_helpers"] = package
from pathlib import Path
from cifar100_helpers import data, download
download.URL = sys.argv[2]
download.cache_folders = lambda: [Path(sys.argv[3])]
download.OFFICIAL_MD5.update(zip(("archive", "train", "test", "meta"), sys.argv[5:]))
replace, calls = os.replace, itertools.count()
def replace_or_die(*files):
    if next(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), 9)
    replace(*files)
os.replace = replace_or_die
print(len(data.load_cifar100().y_train))
"""


@pytest.fixture
def loading(cache):
    """Starts another process that loads from the cache, with the reader alone, not Keras.

    It is killed before it gives the file of the number `dies_at` its name.
    """
    md5 = [OFFICIAL_MD5[name] for name in ("archive", "train", "test", "meta")]

    def start(url, dies_at=-1):
        package = Path(download.__file__).parent
        command = [sys.executable, "-c", LOAD, package, url, cache, str(dies_at), *md5]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


def test_of_several_processes_one_downloads_and_all_load(cache, serving, server, loading):
    processes = [loading(f"{server}/good") for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [output.splitlines()[-1] for output in outputs] == ["200"] * 3
    assert serving.asked == ["/good"]
    assert names_in(cache) == [f"{FOLDER}-target", f"{FOLDER}-target_archive"]


def test_a_process_that_waits_for_another_says_so(cache, server, loading):
    with download._lock(cache):
        process = loading(f"{server}/good")
        assert process.stdout.readline() == "another process fetches CIFAR-100: waiting for it\n"
    assert process.communicate(timeout=60)[0] == "200\n"


def test_killed_downloads_are_not_taken_for_whole_ones_and_leave_nothing_for_ever(
    cache, server, loading
):
    for _ in range(2):
        process = loading(f"{server}/hang")
        while not any(cache.glob(".cifar-100-*/archive")) and process.poll() is None:
            threading.Event().wait(0.05)
        process.kill()
        assert process.communicate()[0] == ""
        assert [name.startswith(".cifar-100-") for name in names_in(cache)] == [True]
    assert loading(f"{server}/good").communicate(timeout=60)[0] == "200\n"
    assert names_in(cache) == [f"{FOLDER}-target", f"{FOLDER}-target_archive"]


@pytest.mark.parametrize("dies_at", range(4))
def test_killed_before_any_file_has_its_name_it_is_done_the_next_time(
    cache, server, loading, dies_at
):
    process = loading(f"{server}/good", dies_at)
    assert process.communicate(timeout=60)[0] == "" and process.returncode == -9
    assert loading(f"{server}/good").communicate(timeout=60)[0] == "200\n"
    assert names_in(cache) == [f"{FOLDER}-target", f"{FOLDER}-target_archive"]


@pytest.mark.parametrize("locks", ["no locks in the system", "none on this disk"])
def test_where_there_are_no_locks_nobody_waits_and_what_others_write_is_left(
    cache, server, monkeypatch, locks
):
    def refuse(*_):
        raise OSError(37, "No locks available")

    if locks == "no locks in the system":
        monkeypatch.setattr(download, "fcntl", None)
    else:
        monkeypatch.setattr(download.fcntl, "flock", refuse)
    (cache / ".cifar-100-of-another").mkdir()
    monkeypatch.setattr(download, "URL", f"{server}/good")
    assert len(load_cifar100().y_train) == 200
    assert names_in(cache)[0] == ".cifar-100-of-another"


def link(kind, target):
    info = tarfile.TarInfo(f"{FOLDER}/link")
    info.type, info.linkname = kind, target
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
    "a file twice": [(f"{FOLDER}/train", b"")],
    "a file twice, spelled otherwise": [(f"{FOLDER}//./train", b"")],
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


def header(kind, size, name="train"):
    """The header of a member that claims `size` bytes."""
    info = tarfile.TarInfo(f"{FOLDER}/{name}")
    info.type, info.size = kind, size
    return info.tobuf()


EIGHT_GIB = (1 << 33) - 1  # what eleven octal digits can say
ZEROS = gzip.compress(bytes(1 << 20))
PAX = header(tarfile.XHDTYPE, 0)
# A sparse file whose map goes on and on: 21 pieces in each block of 512 bytes.
MAP = (b"%011o\0" % 1 * 42 + b"\1").ljust(512, b"\0")
SPARSE = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
SPARSE[482] = 1
SPARSE[148:156] = b" " * 8
SPARSE[148:156] = b"%06o\0 " % sum(SPARSE)
BOMBS = {
    "a member of a terabyte": gzip.compress(header(tarfile.REGTYPE, 1 << 40)),
    "a member too large": gzip.compress(header(tarfile.REGTYPE, 9 << 20)) + 20 * ZEROS,
    "more in all than CIFAR-100": b"".join(
        gzip.compress(header(tarfile.REGTYPE, 5 << 20, name)) + 5 * ZEROS for name in FILES
    ),
    "a header of gigabytes": gzip.compress(header(tarfile.XHDTYPE, EIGHT_GIB)) + 100 * ZEROS,
    "a long name of gigabytes": gzip.compress(header(tarfile.GNUTYPE_LONGNAME, EIGHT_GIB)) + ZEROS,
    "headers of headers": gzip.compress(PAX * 5_000),
    "a map of gigabytes": gzip.compress(bytes(SPARSE)) + 100 * gzip.compress(MAP * 1_000),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_fills_memory_or_disk(tmp_path, monkeypatch, content):
    monkeypatch.setattr(unpacking, "_MOST_BYTES", 8 << 20)
    monkeypatch.setattr(unpacking, "_MOST_READS", 2_000)
    path = tmp_path / "archive"
    path.write_bytes(content)
    with (
        frugal(20_000_000),
        pytest.raises(DatasetError, match=r"archive (cannot be|holds '.*)"),
    ):
        extract(path, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < len(content) + (9 << 20)


def test_broken_archives_are_refused(tmp_path, archive):
    path = tmp_path / "archive"
    damaged = archive[:20] + b"damage" + archive[26:]
    sparse = tarfile.TarInfo(f"{FOLDER}/train")
    sparse.pax_headers = {"GNU.sparse.map": "no number"}
    half = archive[: len(archive) // 2]
    for content in (b"", b"no archive", half, damaged, tar([(sparse, b"")])):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"archive (cannot be unpacked|lacks)"):
            extract(path, tmp_path)
    path.write_bytes(tar([(f"{FOLDER}/train", b""), (f"{FOLDER}/sub/test", b"")]))
    with pytest.raises(DatasetError, match="lacks the files meta, test of CIFAR-100"):
        extract(path, tmp_path)


def test_a_hostile_archive_leaves_nothing_in_the_cache(cache, serving, server, monkeypatch):
    """Were it the official one: its name is that of an archive, whatever is in it."""
    serving.archive = tar([(f"{FOLDER}/train", b"half"), (link(tarfile.SYMTYPE, "/etc"), b"")])
    monkeypatch.setitem(OFFICIAL_MD5, "archive", hashlib.md5(serving.archive).hexdigest())
    monkeypatch.setattr(download, "URL", f"{server}/good")
    with pytest.raises(DatasetError, match="no part of CIFAR-100"):
        load_cifar100()
    assert names_in(cache) == [f"{FOLDER}-target_archive"]
