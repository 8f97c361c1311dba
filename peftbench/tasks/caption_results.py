"""COCO's result files, ``[{"image_id": ..., "caption": ...}]``, and their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CorruptAssetError, MissingAssetError
from ..files import write_text
from .caption_files import Id, Picture, read_coco, read_karpathy
from .caption_metrics import Scores, scores
from .captions import plain
from .listed import read_json


def coco_results(path: Path, captions: Mapping[Id, str]) -> None:
    """Write captions as a result file that the official evaluation reads, atomically.

    Args:
        path: the file.
        captions: one caption by the data set's own image id.

    """
    rows = [{"image_id": image, "caption": plain(text)} for image, text in captions.items()]
    write_text(path, json.dumps(rows, indent=0) + "\n")


def read_results(path: Path) -> dict[Id, str]:
    """Read a result file.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it is none, or an image has two captions; names the entry.

    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingAssetError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise CorruptAssetError(f"{path} is no result file: {error}") from error
    form = '[{"image_id": ..., "caption": ...}, ...] is needed'
    if not isinstance(rows, list) or not rows:
        raise CorruptAssetError(f"{path} is no result file: {form}")
    found: dict[Id, str] = {}
    for at, row in enumerate(rows):
        image = row.get("image_id") if isinstance(row, dict) else None
        text = row.get("caption") if isinstance(row, dict) else None
        if not isinstance(image, int | str) or not isinstance(text, str):
            raise CorruptAssetError(f"{path}: entry {at} is {json.dumps(row)[:80]}; {form}")
        if image in found:
            raise CorruptAssetError(f"{path}: entry {at}: image {image} has two captions")
        found[image] = text
    return found


def read_references(path: Path, part: str = "") -> dict[Id, tuple[str, ...]]:
    """Read people's captions from an annotation file of COCO's form or of Karpathy's.

    Args:
        path: the file.
        part: train, val or test of a file of Karpathy's; empty: all of them.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it is no such file, or no image is in the part.

    """
    is_coco = "annotations" in read_json(path)
    pictures, _ = read_coco(path, "") if is_coco else read_karpathy(path, "")

    def wanted(picture: Picture) -> bool:
        return is_coco or not part or picture.part == part

    found = {p.image_id: p.captions for p in pictures.where(wanted).found}
    if not found:
        raise CorruptAssetError(f"{path} has no captioned image{f' in {part!r}' if part else ''}")
    return found


def score_results(
    results: Path,
    annotations: Path,
    part: str = "",
    partial: bool = False,
    meteor: bool = True,
) -> Scores:
    """Score a result file against an annotation file.

    Args:
        results: the captions.
        annotations: people's captions.
        part: of a file of Karpathy's; see :func:`read_references`.
        partial: whether images of the annotation file may lack a caption. CIDEr-D of a part is not
            comparable with that of the whole.
        meteor: whether METEOR is wanted, where Java is installed.

    Raises:
        MissingAssetError: a file is missing, or the scorers are not installed.
        CorruptAssetError: a file is not in its form, or the images do not fit together.

    """
    found, wanted = read_results(results), read_references(annotations, part)
    _fits(results, annotations, "unknown to", list(found.keys() - wanted.keys()))
    if not partial:
        missing = list(wanted.keys() - found.keys())
        _fits(annotations, results, "without a caption in", missing)
    captions = {image: found[image] for image in wanted if image in found}
    return scores(captions, wanted, meteor)


def _fits(file: Path, other: Path, what: str, images: Sequence[Any]) -> None:
    if images:
        more = f" and {len(images) - 1:,} more" if len(images) > 1 else ""
        first = min(images, key=str)
        hint = "" if what == "unknown to" else "\n  partial=true scores those that are there"
        raise CorruptAssetError(f"{file}: image {first}{more}: {what} {other}{hint}")
