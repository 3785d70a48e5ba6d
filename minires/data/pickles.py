"""Reading CIFAR's Python batches without trusting them.

A pickle is a program: loading one may call any function that it names.  The official batches name three, and rebuild a
dict of lists, strings and one array of bytes.  Here nothing but those names is known to the reader.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from ..errors import DataError


def load_pickle(raw: bytes, where: str) -> object:
    """Read a pickle made of dicts, lists, tuples, strings, bytes, numbers and NumPy arrays of whole numbers.

    Keys written by Python 2, as the official ones are, come back as bytes.

    Args:
        raw: the pickle.
        where: names the file in the sentence of an error.

    Raises:
        DataError: the pickle asks for anything else, or is broken.
    """
    try:
        return _Reader(io.BytesIO(raw), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where} {error}") from None
    except Exception as error:  # a broken pickle can fail in any way
        detail = str(error) or type(error).__name__
        raise DataError(f"{where} is truncated or not a pickle ({detail}); copy or download it again.") from None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ADMITTED:
            raise DataError(
                f"asks to run {module}.{name}, which a CIFAR batch never needs, and was not read further; it may be "
                "malicious: delete it, and download the official file."
            )
        return _ADMITTED[module, name]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """_codecs.encode, by which Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise DataError(f"asks for the codec {encoding!r}, and only latin1 is expected; download the official file.")
    return text.encode("latin1")


def _dtype(name: str | bytes, *_: object) -> np.dtype:
    """numpy.dtype for whole numbers.  The other arguments, align and copy, do not matter to them."""
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if name.lstrip("<>|=")[:1] not in ("i", "u"):
        raise DataError(f"holds an array of {name!r}, and only whole numbers are expected; download the official file.")
    return np.dtype(name)


_reconstruct: Any = np.empty(0).__reduce__()[0]  # wherever this version of NumPy keeps it

_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
