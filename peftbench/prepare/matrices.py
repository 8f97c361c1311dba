"""Numbers in the file formats that data sets come in."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..archives import UNREADABLE
from ..errors import CorruptAssetError, MissingAssetError

NORB_TYPES: dict[int, np.dtype[Any]] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
"""Magic number -> type of a NORB matrix; the rest of the file is little-endian."""


def norb_matrix(path: Path) -> np.ndarray:
    """Read a matrix of smallNORB's ``.mat`` files (not Matlab's), packed by gzip or not.

    The file holds a magic number (its bytes are 55 4C 3D 1E for bytes, 54 4C 3D 1E for integers),
    the number of dimensions, at least three sizes, and the numbers; integers are little-endian.
    Source: the data set's page.

    Raises:
        CorruptAssetError: no such matrix, or cut short; names the file.

    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, dimensions = struct.unpack_from("<Ii", content)
        kind = NORB_TYPES[magic]
        sizes = struct.unpack_from(f"<{max(3, dimensions)}i", content, 8)
        numbers = np.frombuffer(content, kind, offset=8 + 4 * len(sizes))
        return numbers.reshape(sizes[:dimensions])
    except (KeyError, struct.error, *UNREADABLE) as error:
        raise CorruptAssetError(f"{path} is no whole NORB matrix: {error}") from error


def matlab(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read variables of a Matlab file (version 5).

    Raises:
        CorruptAssetError: it cannot be read or lacks one of ``names``.

    """
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=list(names))
    except Exception as error:  # a damaged file may raise anything
        raise CorruptAssetError(f"{path} is no whole Matlab file: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise CorruptAssetError(f"{path} has no variable {', '.join(missing)}")
    return {name: found[name] for name in names}


def npz_array(path: Path, name: str) -> np.ndarray:
    """Read one array of numbers out of an ``.npz`` file; objects in it are not touched.

    Raises:
        CorruptAssetError: it cannot be read or has no such array.

    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (KeyError, *UNREADABLE) as error:
        raise CorruptAssetError(f"{path} has no whole array '{name}': {error}") from error


def npz_rows(path: Path, name: str, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield row number and row of an array in an ``.npz`` file, in rising order, reading it once.

    The array is never held whole: that of dSprites has 3 GB.

    Raises:
        CorruptAssetError: it cannot be read, or is shorter than its header says.

    """
    wanted = sorted(rows)
    try:
        with zipfile.ZipFile(path) as packed, packed.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read_header: Any = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, kind = read_header(file)
            if fortran or kind.hasobject:
                raise ValueError("its rows do not lie one behind the other")
            size, at = int(np.prod(shape[1:])) * kind.itemsize, 0
            for row in wanted:
                _skip(file, (row - at) * size)
                content = file.read(size)
                if len(content) != size:
                    raise EOFError(f"it ends before row {row}")
                at = row + 1
                yield row, np.frombuffer(content, kind).reshape(shape[1:])
    except (KeyError, *UNREADABLE) as error:
        raise CorruptAssetError(f"{path} has no whole array '{name}': {error}") from error


def _skip(file: Any, count: int) -> None:
    while count:
        step = len(file.read(min(count, 1 << 22)))
        if not step:
            raise EOFError("it is cut short")
        count -= step


def h5_dataset(path: Path, name: str) -> Any:
    """Open a data set of an HDF5 file; rows are read when they are asked for.

    Raises:
        MissingAssetError: h5py is not installed.
        CorruptAssetError: it cannot be read or has no such data set.

    """
    try:
        import h5py
    except ImportError as error:
        raise MissingAssetError(
            "reading .h5 files needs h5py: pip install 'peftbench[data]'"
        ) from error
    try:
        return h5py.File(path, "r")[name]
    except (KeyError, OSError) as error:
        raise CorruptAssetError(f"{path} has no data set '{name}': {error}") from error
