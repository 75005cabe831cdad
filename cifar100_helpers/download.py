"""Where Keras keeps CIFAR-100 on this machine, and how the official archive gets there."""

import contextlib
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from .errors import DatasetError, in_one_line
from .progress import progress_bar
from .unpacking import FILES, FOLDER, extract

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
OFFICIAL_MD5 = {
    "archive": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
BY_HAND = f"fetch {URL} by other means, unpack it, and name its folder by data_dir or CIFAR100_DIR"

# Keras 3.6 and later unpack into the first, `get_file(..., extract=True)` into the second,
# Keras 2 and early Keras 3 into the third, and some releases between into a folder inside it.
_CACHED_FOLDERS = (f"{FOLDER}-target", f"{FOLDER}_extracted", FOLDER)
_CACHED_ARCHIVES = (f"{FOLDER}-target_archive", f"{FOLDER}_archive", f"{FOLDER}.tar.gz")

# The archive has 169 MB: more than this is something else.
_MOST_BYTES = 200_000_000
_TIMEOUT_SECONDS = 60
_BLOCK_BYTES = 1 << 16
_SCRATCH = ".cifar-100-"


def locate(folder):
    """`folder`, or the `cifar-100-python` in it, whichever holds train, test and meta, or None."""
    for place in (Path(folder), Path(folder) / FOLDER):
        if all(os.path.isfile(place / name) for name in FILES):
            return place
    return None


def cache_folders():
    """The folders where Keras looks for data sets: below its home or, where it may not, /tmp."""
    home = os.path.expanduser(os.environ.get("KERAS_HOME") or os.path.join("~", ".keras"))
    spare = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
    # A user without a home keeps the tilde.
    return [Path(keras, "datasets") for keras in (home, spare) if not keras.startswith("~")]


def find_cached():
    """The folder of the three files in Keras's cache, unpacked first if need be, or None.

    An archive counts only if its MD5 is the official one, so a half-written one is passed over.
    Raises `DatasetError` if an archive cannot be unpacked.
    """
    caches = cache_folders()
    for folder in (cache / name for cache in caches for name in _CACHED_FOLDERS):
        if place := locate(folder):
            return place
    for archive in (cache / name for cache in caches for name in _CACHED_ARCHIVES):
        if _is_official(archive):
            return _unpack(archive, _writable(caches))
    return None


def fetch():
    """Download the official archive into Keras's cache and unpack it there; return the folder.

    Archive and files appear under their final names only when whole and verified, whatever
    interrupts; of several processes one downloads, and the others wait. Raises `DatasetError`
    without a network, for other bytes than the official ones and for a folder that cannot be
    written.
    """
    cache = _writable(cache_folders())
    archive = cache / _CACHED_ARCHIVES[0]
    try:
        with _scratch_folder(cache) as scratch:
            if not _is_official(archive):  # another process may have been faster
                _download(Path(scratch, "archive"))
                os.replace(Path(scratch, "archive"), archive)
    except OSError as error:
        raise _not_written(cache, error) from error
    return _unpack(archive, cache)


def _writable(folders):
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise DatasetError(f"CIFAR-100 is not here, and {folders[0]} cannot be written: {BY_HAND}.")


@contextlib.contextmanager
def _scratch_folder(cache):
    """A temporary folder in `cache`, for one process at a time; what dead ones left is removed."""
    with _lock(cache) as locked:
        for abandoned in cache.glob(f"{_SCRATCH}*") if locked else ():
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
            yield scratch


@contextlib.contextmanager
def _lock(folder):
    """Wait for the lock of `folder`, and hold it: true, or false where the system has no locks.

    The system takes it back from a process that dies, however it dies.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another process fetches CIFAR-100: waiting for it", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # some network file systems
        return False
    return True


def _not_written(cache, error):
    return DatasetError(
        f"CIFAR-100 could not be written to {cache} ({error.strerror or error}): make room "
        "there, or name another cache by KERAS_HOME."
    )


def _download(path):
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "wb") as file:
        for block in _blocks(URL):
            digest.update(block)
            file.write(block)
        size = file.tell()
    if digest.hexdigest() != OFFICIAL_MD5["archive"]:
        raise DatasetError(
            f"{URL} sent {size:,} bytes that are not the whole official archive (MD5 "
            f"{digest.hexdigest()}): try again, or {BY_HAND}."
        )


def _blocks(url):
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with progress_bar(total, "CIFAR-100", unit="B", unit_scale=True) as bar:
                while received <= _MOST_BYTES and (block := response.read(_BLOCK_BYTES)):
                    received += len(block)
                    bar.update(len(block))
                    yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = in_one_line(getattr(error, "reason", None) or error)
        raise DatasetError(
            f"CIFAR-100 is not on this machine, and its download from {url} failed ({reason}): "
            f"check the network and try again, or {BY_HAND}."
        ) from error


def _unpack(archive, cache):
    """Unpack the three files into `cache` in the layout of current Keras."""
    folder = cache / _CACHED_FOLDERS[0] / FOLDER
    try:
        with _scratch_folder(cache) as scratch:
            extract(archive, scratch)
            folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                os.replace(Path(scratch, name), folder / name)
    except OSError as error:
        raise _not_written(cache, error) from error
    return folder


def _is_official(archive):
    digest = hashlib.md5(usedforsecurity=False)
    try:
        if not os.path.isfile(archive):
            return False
        with open(archive, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == OFFICIAL_MD5["archive"]
