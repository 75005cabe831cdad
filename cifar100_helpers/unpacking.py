"""The three files of CIFAR-100 out of an archive that anyone may have made."""

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from .errors import DatasetError, in_one_line

FOLDER = "cifar-100-python"
FILES = ("train", "test", "meta")

# The archive has 187 MB unpacked: more than this is something else.
_MOST_BYTES = 200_000_000
_MOST_MEMBERS = 16
_BLOCK_BYTES = 1 << 16
_MOST_READS = 30_000
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
# What else `tarfile` raises for numbers that are none, and for headers of headers of headers.
_BROKEN += (ValueError, RecursionError)


def extract(archive, folder):
    """Write train, test and meta from the tar file `archive`, gzipped, into `folder`, nothing else.

    Raises `DatasetError` if a file is missing or unreadable, for any member that has no place in
    CIFAR-100 (a link, a device, an absolute path, one with `..`, too large, too many, a file
    twice), and where more is packed than CIFAR-100 has.
    """
    found = set()
    try:
        with _Unpacked(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as members:
            for count, member in enumerate(members, start=1):
                name = _checked_name(member, archive)
                if name in found or count > _MOST_MEMBERS:
                    raise _no_part(member, archive)
                if name in FILES and member.isreg():
                    found.add(name)
                    with open(Path(folder, name), "wb") as target:
                        shutil.copyfileobj(members.extractfile(member), target, _BLOCK_BYTES)
    except _BROKEN as error:
        raise DatasetError(
            f"{archive} cannot be unpacked ({in_one_line(error)}): delete it."
        ) from error
    if missing := set(FILES) - found:
        raise DatasetError(
            f"{archive} lacks the files {', '.join(sorted(missing))} of CIFAR-100: delete it."
        )


class _Unpacked(gzip.GzipFile):
    """A gzipped file that ends in an error before a bomb can fill memory or disk."""

    reads = 0

    def read(self, size=-1):
        # `tarfile` reads files in blocks, and headers whole, of whatever number and size.
        self.reads += 1
        if not 0 <= size <= _BLOCK_BYTES or self.reads > _MOST_READS or self.tell() > _MOST_BYTES:
            raise tarfile.ReadError("it holds more than CIFAR-100")
        return super().read(size)


def _checked_name(member, archive):
    """The name of a member inside `cifar-100-python/`."""
    path = PurePosixPath(member.name)
    if (
        not (member.isreg() or member.isdir())
        or path.parts[:1] != (FOLDER,)
        or ".." in path.parts
        or not 0 <= member.size <= _MOST_BYTES
    ):
        raise _no_part(member, archive)
    return "/".join(path.parts[1:])


def _no_part(member, archive):
    return DatasetError(
        f"{archive} holds {member.name[:100]!r}, which is no part of CIFAR-100: delete the archive."
    )
