"""Images that are decoded when they are asked for, for data sets that do not fit in memory.

A split holds either all its images as one uint8 tensor or an ``Images``; sizes may then differ from
image to image, and whoever loads them resizes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import pictures
from ..errors import CorruptAssetError, MissingAssetError

if TYPE_CHECKING:
    from PIL.Image import Image


class Images(ABC):
    """N images in order. Small, and cheap to send to another process."""

    @abstractmethod
    def __len__(self) -> int:
        """Return N."""

    @abstractmethod
    def image(self, index: int) -> Image:
        """Return image ``index`` decoded, in RGB and in its own size.

        Raises:
            MissingAssetError: it is not there; names it.
            CorruptAssetError: it cannot be decoded; names it.

        """

    @abstractmethod
    def take(self, index: Sequence[int]) -> Images:
        """Return the images at ``index``, in its order."""

    def stamp(self) -> str:
        """Return a hash that changes where a picture does."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            picture = self.image(index)
            digest.update(f"{picture.size}".encode())
            digest.update(picture.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageFiles(Images):
    """Images in files of any format that Pillow reads.

    Attributes:
        paths: one file per image.
        upright: turn a picture as its EXIF orientation says; published pipelines of data sets
            do not.

    """

    paths: tuple[Path, ...]
    upright: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image:
        """Decode one file; transparency is laid over white."""
        return decode(self.paths[index], self.upright)

    def take(self, index: Sequence[int]) -> ImageFiles:
        """Return the files at ``index``."""
        return ImageFiles(tuple(self.paths[i] for i in index), self.upright)

    def stamp(self) -> str:
        """Return a hash over paths, sizes and times of change; the files are not read.

        Raises:
            MissingAssetError: one is not there; names it.

        """
        digest = hashlib.sha256(str(self.upright).encode())
        for path in self.paths:
            try:
                about = path.stat()
            except FileNotFoundError as error:
                raise MissingAssetError(f"there is no image {path}") from error
            text = f"\n{path.absolute()}\n{about.st_size}\n{about.st_mtime_ns}"
            digest.update(text.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Joined(Images):
    """Several collections one behind the other.

    Attributes:
        parts: the collections.

    """

    parts: tuple[Images, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def image(self, index: int) -> Image:
        """Decode one image of the part that it falls in."""
        for part in self.parts:
            if index < len(part):
                return part.image(index)
            index -= len(part)
        raise IndexError(f"{len(self)} images, and none at {index + len(self)}")

    def take(self, index: Sequence[int]) -> Images:
        """Return the images at ``index``."""
        return Taken(self, tuple(int(i) for i in index))


@dataclass(frozen=True)
class Taken(Images):
    """A choice of another collection's images.

    Attributes:
        base: the collection.
        index: positions in it.

    """

    base: Images
    index: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.index)

    def image(self, index: int) -> Image:
        """Decode one image."""
        return self.base.image(self.index[index])

    def take(self, index: Sequence[int]) -> Images:
        """Return the images at ``index``, counted within this choice."""
        return Taken(self.base, tuple(self.index[i] for i in index))


@dataclass(frozen=True)
class PixelImages(Images):
    """Images that lie in memory in one size.

    Attributes:
        pixels: (N, 3, H, W) uint8.

    """

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image:
        """Return one image as a picture."""
        return picture(self.pixels[index].cpu().numpy())

    def take(self, index: Sequence[int]) -> PixelImages:
        """Return the images at ``index``."""
        return PixelImages(self.pixels[list(index)])


def decode(path: Path, upright: bool = True) -> Image:
    """Read one picture file as RGB, as :func:`peftbench.pictures.decode` does.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it cannot be decoded.

    """
    try:
        return picture(pictures.decode(path, upright))
    except FileNotFoundError as error:
        raise MissingAssetError(f"there is no image {path}") from error
    except pictures.UnreadableError as error:
        raise CorruptAssetError(f"the image {path} cannot be decoded: {error}") from error


def picture(pixels_CHW: NDArray[np.uint8]) -> Image:
    """Return uint8 RGB pixels (3, H, W) as a picture."""
    from PIL import Image as Pictures

    return Pictures.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))
