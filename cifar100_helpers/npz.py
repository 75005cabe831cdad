"""Arrays out of an .npz file that anyone may have made."""

import zipfile

import numpy as np

from .errors import in_one_line

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def load_arrays(file, names=None, *, most_bytes):
    """The arrays, read-only, of these `names` in the .npz `file`, or all of them, as a dict.

    Raises FileNotFoundError where there is no such file, and ValueError where it is damaged, lacks
    an array, holds objects or would take more than `most_bytes` in memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > most_bytes:
                raise ValueError(f"its arrays claim {size:,} bytes")
            if any(member.compress_type not in _METHODS for member in members):
                raise ValueError("it is compressed by another method than NumPy's")
            names = names or [member.filename.removesuffix(".npy") for member in members]
            return {name: _read_array(archive, f"{name}.npy") for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and NumPy raise what they find, even SyntaxError
        raise ValueError(in_one_line(error)) from error


def _read_array(archive, member):
    # Not by NumPy's own reader: it makes an array of the shape that is claimed before it reads.
    with archive.open(member) as stream:
        np.lib.format.read_magic(stream)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        values = np.frombuffer(stream.read(), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")
