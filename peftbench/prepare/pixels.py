"""Pictures from encoded files or pixels, and their files in a task's folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from .. import pictures
from ..errors import CorruptAssetError
from .source import Picture

Format = Literal["original", "png", "jpeg"]
JPEG_QUALITY = 75
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


def opened(content: bytes, name: str) -> Image.Image:
    """Open an encoded picture; its pixels are decoded later.

    Raises:
        CorruptAssetError: Pillow does not know it; names it.

    """
    try:
        return Image.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptAssetError(f"the image {name} cannot be decoded: {error}") from error


def decoded(picture: Picture, name: str) -> Image.Image:
    """Return a picture in RGB, decoded and not turned: TensorFlow ignores an EXIF orientation.

    Raises:
        CorruptAssetError: it cannot be decoded; names it.

    """
    if isinstance(picture, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    try:
        pixels_3HW = pictures.decode(picture, upright=False)
    except pictures.UnreadableError as error:
        raise CorruptAssetError(f"the image {name} cannot be decoded: {error}") from error
    return Image.fromarray(np.ascontiguousarray(pixels_3HW.transpose(1, 2, 0)))


def save(picture: Picture, stem: Path, form: Format, name: str) -> Path:
    """Write a picture and return its file, ``stem`` with a suffix that tells its format.

    Args:
        picture: an encoded file or pixels.
        stem: path without suffix.
        form: ``original`` writes an encoded file byte for byte and pixels as PNG, ``png`` all as
            PNG, ``jpeg`` all as JPEG of quality 75 with Pillow's other defaults.
        name: what to call the picture in an error.

    Raises:
        CorruptAssetError: it cannot be decoded; names it.

    """
    if form == "original" and isinstance(picture, bytes):
        kind = opened(picture, name).format or ""
        if kind in SUFFIXES:
            path = stem.with_name(stem.name + SUFFIXES[kind])
            path.write_bytes(picture)
            return path
    image = decoded(picture, name)
    if form == "jpeg":
        path = stem.with_name(f"{stem.name}.jpg")
        image.save(path, "JPEG", quality=JPEG_QUALITY)
    else:
        path = stem.with_name(f"{stem.name}.png")
        image.save(path, "PNG")
    return path


def at_most(content: bytes, pixels: int, quality: int, name: str) -> bytes:
    """Return a picture as JPEG of that quality, shrunk if it has more than ``pixels`` pixels.

    Shrinking is bilinear without smoothing, by the square root of the ratio of areas, as OpenCV's
    ``resize`` does it with a factor.

    Shapes: H, W of the picture, h, w of the smaller one, C = 3 channels.
    """
    image = decoded(content, name)
    area = image.width * image.height
    if area > pixels:
        factor = (pixels / area) ** 0.5
        values_1CHW = torch.from_numpy(np.array(image)).double().permute(2, 0, 1)[None]
        rows_h, columns_w = (_places(n, factor) for n in values_1CHW.shape[2:])
        grid_hw2 = torch.stack(torch.meshgrid(columns_w, rows_h, indexing="xy"), -1)
        small_Chw = grid_sample(
            values_1CHW, grid_hw2[None], padding_mode="border", align_corners=False
        )[0]
        values_hwC = small_Chw.permute(1, 2, 0).round().to(torch.uint8)
        image = Image.fromarray(values_hwC.numpy())
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _places(size: int, factor: float) -> torch.Tensor:
    """Return where the centres of the smaller picture's pixels lie, as ``grid_sample`` counts."""
    centres = (torch.arange(round(size * factor), dtype=torch.float64) + 0.5) / factor
    return 2 * centres / size - 1
