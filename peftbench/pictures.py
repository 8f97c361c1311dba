"""Picture files as pixels: one way to read them, for training and for prediction."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import PeftbenchError

if TYPE_CHECKING:
    from PIL import Image


class UnreadableError(PeftbenchError):
    """A file is no picture, or a damaged one."""


def decode(source: Path | bytes, upright: bool = True) -> NDArray[np.uint8]:
    """Return a picture as uint8 RGB (3, H, W): upright (EXIF), transparency on white, 8 bits.

    16-bit grey is divided by 257. Of an animation, the first picture counts.

    Args:
        source: a file, or the bytes of one.
        upright: turn it as its EXIF orientation says; False: as it is stored.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: no picture, or damaged, or of numbers without a known range.

    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            opened.load()
            picture = _eight_bits(opened)
            if upright:
                picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("RGB", "L") and "transparency" not in picture.info:
                rgb = np.asarray(picture.convert("RGB"))
                return np.ascontiguousarray(rgb.transpose(2, 0, 1))
            rgba = np.asarray(picture.convert("RGBA"), dtype=np.int64)
    except (UnreadableError, FileNotFoundError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"too large ({error})") from error
    except UnidentifiedImageError as error:
        raise UnreadableError("not a picture in a known format") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UnreadableError(str(error) or type(error).__name__) from error
    alpha = rgba[..., 3:]
    on_white = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return np.ascontiguousarray(on_white.transpose(2, 0, 1).astype(np.uint8))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return the picture in a mode that converts to RGBA without clipping."""
    from PIL import Image

    if picture.mode == "CMYK":
        return picture.convert("RGB")
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        if picture.mode == "F":
            raise UnreadableError("floating-point pixels have no known range; save it as 8 bits")
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableError("32-bit pixels have no known range; save it as 8 or 16 bits")
    small = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    small.info = dict(picture.info)
    small.getexif().update(picture.getexif())
    return small
