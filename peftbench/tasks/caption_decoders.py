"""Turn the files of packages into captioned pictures; shape: N pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorruptAssetError
from .captions import plain
from .packed import member

STAMPS = "stamps."
"""What stands before a stamp's own path in the names of kept members."""
LEFT_OUT = ("Component", "Flags", "Symbols")
_ENGLISH = re.compile(r"en_\w+\.utf8=(.*)")
_SPOKEN = re.compile(r"[a-z]{3,}( [a-z]{2,})*")


@dataclass(frozen=True)
class Pictures:
    """A whole data set as its package holds it.

    Attributes:
        files: N names of kept members.
        captions: all captions of each picture.
        image_ids: what each picture is called in the package.
        stems: the part of a name that can be shared by pictures of one thing; may be empty.

    """

    files: list[str]
    captions: list[tuple[str, ...]]
    image_ids: list[str]
    stems: list[str]


def stamps(folder: Path | None) -> Pictures:
    """Decode Tux Paint's stamps: a picture, and beside it a text file of sentences.

    The first line is the English caption; lines ``en_GB.utf8=`` and ``en_AU.utf8=`` are further
    references where they differ. Mirrored pictures have no text file and stay out.
    """
    found = Pictures([], [], [], [])
    there = sorted(path.name for path in folder.iterdir()) if folder else []
    for name in (name for name in there if name.endswith(".png")):
        text = f"{name.removesuffix('.png')}.txt"
        if text not in there:
            continue
        try:
            lines = member(folder, text).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CorruptAssetError(f"pocket_captions: {text} is not UTF-8 ({error})") from error
        said = [lines[0] if lines else ""]
        said += [match[1] for line in lines[1:] if (match := _ENGLISH.fullmatch(line))]
        captions = different(c for c in map(plain, said) if c)
        if not captions:
            raise CorruptAssetError(f"pocket_captions: {text} holds no English sentence")
        own = (name.partition(STAMPS)[2] or name).removesuffix(".png")  # deep folders lose it
        found.files.append(name)
        found.captions.append(captions)
        found.image_ids.append(own)
        found.stems.append(own.rpartition(".")[2])
    if not found.files:
        raise CorruptAssetError(f"pocket_captions: no picture with a text file in {folder}")
    return found


def emoji_names(folder: Path | None) -> Pictures:
    """Decode emoji.json and its 64-pixel pictures: the official name, then other short names.

    Skin tones are variants of a picture and stay out, as do flags, symbols (letters, arrows,
    characters) and the parts for building pictures (category "Component").
    """
    entries: list[dict[str, Any]] = json.loads(
        member(folder, "emoji.json").read_text(encoding="utf-8")
    )
    used = [e for e in entries if e["category"] not in LEFT_OUT and e["has_img_google"]]
    used.sort(key=lambda e: str(e["unified"]))
    captions = []
    for entry in used:
        said = [plain(str(entry["name"]).lower())]
        for short in entry["short_names"]:
            words = re.sub(r"[_-]", " ", short)
            if _SPOKEN.fullmatch(words) and not words.startswith("flag "):
                said.append(words)
        captions.append(different(said))
    return Pictures(
        [str(e["image"]) for e in used],
        captions,
        [str(e["unified"]) for e in used],
        [""] * len(used),
    )


def different(captions: Iterable[str]) -> tuple[str, ...]:
    """Return the captions without those that repeat an earlier one's words in other signs."""
    first: dict[tuple[str, ...], str] = {}
    for caption in captions:
        first.setdefault(tuple(re.findall(r"\w+", caption.lower())), caption)
    return tuple(first.values())
