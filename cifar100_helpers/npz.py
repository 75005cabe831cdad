"""Arrays out of an .npz file that anyone may have made."""

import lzma
import zipfile
import zlib

import numpy as np

from .errors import in_one_line

_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError)
# What `zipfile` and NumPy raise for encrypted members, unknown compression and nonsense as shape.
_BROKEN += (RuntimeError, MemoryError, OverflowError, TypeError, AttributeError)


def load_arrays(file, names=None, *, most_bytes):
    """The arrays of these `names` in the .npz `file`, or all of them in its order, as a dict.

    Raises FileNotFoundError where there is no such file, and ValueError where it is damaged, lacks
    an array, holds objects or would take more than `most_bytes` in memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > most_bytes:
                raise ValueError(f"its arrays claim {size:,} bytes")
            names = names or [member.filename.removesuffix(".npy") for member in members]
            return {name: _read_array(archive, f"{name}.npy") for name in names}
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        raise ValueError(in_one_line(error)) from error


def _read_array(archive, member):
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"{member} is longer than its array")
    return array
