"""What a trained captioner says of held-out pictures, and where it looks while it says it.

Attention is computed from the queries and keys of every attention call of the decoder, heads
averaged, as :mod:`peftbench.analysis.attention` does for images.

Shape legend: B pictures, L layers, H heads, T queries, K keys, P places of the picture, W tokens of
a caption, I parts that a reader can point at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..edits.sites import Handles
from ..errors import ConfigError, CorruptAssetError, IncompatibleError
from ..reports.caption_page import Page, Picture, Reference
from ..tasks.captioned import CAPTIONS, pictured
from ..tasks.captions import Captions, CaptionTask
from ..train.describer import Describer, Seen
from ..train.reader import Writing
from .attention import own_places, watch
from .opened import Opened

LONGEST = 30
"""Tokens of a caption that is written now because the run wrote none."""
BATCH = 8


@dataclass
class Looks:
    """Attention to the picture, layer by layer, of one forward pass over captions.

    Attributes:
        describer: its network.
        kept: per layer (B, 1 + W, P): of the picture's last place, then of each token.

    """

    describer: Describer
    kept: dict[int, Tensor] = field(default_factory=dict)

    def see(self, layer: int, weights_BHTK: Tensor) -> None:
        """Keep what one attention call gives to the picture; mean over heads."""
        queries, keys = weights_BHTK.shape[-2:]
        own = own_places(self.describer.model, queries)
        extra = keys - queries  # learned keys, which stand in front
        last = int(self.describer.backbone.model.places)  # type: ignore[arg-type]
        places = [extra + at for at in own[1 : 1 + last]]
        mean_BTK = weights_BHTK.mean(1)
        self.kept[layer] = mean_BTK[:, own[last:]][..., places].cpu()


def attention(describer: Describer, seen: Seen, captions: Sequence[Sequence[int]]) -> Tensor:
    """Return how much attention goes to each place of the picture, (B, L, 1 + W, P), fp32.

    Row 0 is the picture's last place, which predicts the first token; row w is token w, counted
    from 1, which predicts the next. Behind a shorter caption's end rows have no meaning. A row adds
    up to at most 1: the rest goes to the begin token, to earlier words and to learned keys.

    Args:
        describer: the captioner.
        seen: one row per caption.
        captions: ids of B captions, without end tokens.

    """
    looks = Looks(describer)
    handles = Handles()
    ended = [[*ids, describer.codec.end] for ids in captions]
    try:
        handles = watch(describer.model, looks)
        describer.losses(seen, ended)
    finally:
        handles.remove()
    return torch.stack([looks.kept[layer] for layer in sorted(looks.kept)], dim=1)


def of_parts(rows_LWP: Tensor, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return attention of the parts of a caption, two of (L, I, P): own, and of what predicted it.

    Args:
        rows_LWP: (L, 1 + W, P) of one picture.
        counts: tokens of each part; attention of a part is the mean over its tokens.

    """
    ends = np.cumsum([0, *counts])
    spans = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))

    def means(shift: int) -> np.ndarray:
        parts = [rows_LWP[:, a + shift : b + shift].mean(1) for a, b in spans]
        empty = rows_LWP[:, :0]
        return (torch.stack(parts, dim=1) if parts else empty).numpy()

    return means(1), means(0)


def measure(opened: Opened, count: int = 24, split: str = "test") -> Page:
    """Look at some pictures of a split.

    Args:
        opened: a finished run of a caption task.
        count: of pictures; at even distances in the split's order.
        split: ``test``, ``val`` or ``train``.

    Raises:
        ConfigError: the run is of another task, or ``count`` is no number of pictures.

    """
    if count < 1:
        raise ConfigError(f"pictures: {count} is too small; allowed: 1 and above")
    if opened.settings.data.takes != "captions":
        raise ConfigError(
            f"run: {opened.path} is no run on captioned pictures (its data: "
            f"{opened.result['data']}); captions needs one of backbone=captioner"
        )
    task: Any = opened.task()
    assert isinstance(task, CaptionTask)
    part = task.splits[split]
    rows = [i * len(part) // count for i in range(count)] if count < len(part) else None
    chosen = part.take(range(len(part)) if rows is None else rows)
    accelerator = opened.accelerator()
    stored, how, told = manner(opened, task, split)
    if stored is not None and rows is not None:
        stored = [stored[row] for row in rows]
    model = opened.model(accelerator)
    try:
        describer = Describer(model, how)
        with accelerator.autocast():
            pictures = _pictures(describer, chosen, stored, task.longest_target)
    finally:
        model.release()
    return Page(
        run=opened.path,
        split=split,
        total=len(part),
        layers=len(model.backbone.anatomy.stacks[0].blocks),
        side=_side(describer),
        written=told,
        learned=split in _last_fit(opened),
        pictures=tuple(pictures),
    )


def manner(
    opened: Opened, task: CaptionTask, split: str
) -> tuple[Sequence[str] | None, Writing, str]:
    """Return the captions that the run left, how others are written, and that in words.

    The run's own captions of a split are of the stored adapter where the last fit did not learn
    from it; otherwise captions are written now.

    Raises:
        CorruptAssetError: what the run left is not of these pictures.

    """
    path = opened.path / CAPTIONS / f"{split}.json"
    how = Writing(task.written or min(LONGEST, task.longest_target), beams=task.beams)
    words = "greedy" if how.beams == 1 else f"{how.beams} beams"
    manner = f"{words}, at most {how.longest} tokens"
    if split not in _last_fit(opened) and path.is_file():
        return left(path, task.splits[split]), how, f"Captions were written by the run ({manner})."
    why = "the run wrote none" if task.written is None else "those of the run are of another fit"
    return None, how, f"Captions were written for this page ({manner}): {why}."


def left(path: Path, part: Captions) -> list[str]:
    """Return the captions that a run left of a split, in the split's order.

    Raises:
        CorruptAssetError: the file is not of these pictures in this order.

    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [(row["image_id"], str(row["caption"])) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptAssetError(f"{path} holds no captions ({error!r})") from error
    if [image_id for image_id, _ in found] != list(part.image_ids):
        raise CorruptAssetError(f"{path} is not of the pictures of this split in their order")
    return [caption for _, caption in found]


def _last_fit(opened: Opened) -> Sequence[str]:
    """Return the splits that the stored adapter learned from."""
    fit: Sequence[str] = opened.result["selection"]["phases"][-1]["fit"]
    return fit


def _side(describer: Describer) -> int:
    places = int(describer.backbone.model.places)  # type: ignore[arg-type]
    side = math.isqrt(places)
    if side * side != places:
        raise IncompatibleError(f"run: {places} places are no square picture")
    return side


def _pictures(
    describer: Describer, chosen: Captions, stored: Sequence[str] | None, longest: int
) -> list[Picture]:
    preprocess = describer.backbone.preprocess
    assert preprocess is not None
    found = []
    for rows in torch.arange(len(chosen)).split(BATCH):
        some = chosen.take(rows.tolist())
        images = [some.images.image(i) for i in range(len(some))]
        pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] for image in images]
        seen = describer.see(torch.cat([preprocess(image) for image in pixels]))
        if stored is None:
            captions = [told.caption for told in describer.write(seen)]
        else:
            captions = [stored[row] for row in rows.tolist()]
        references = _references(describer, seen, some, longest)
        ids = describer.codec.ids(captions)
        looks_BLWP = attention(describer, seen, ids)
        for i, image in enumerate(images):
            parts = describer.codec.pieces(ids[i])
            own, before = of_parts(looks_BLWP[i], [tokens for _, tokens in parts])
            found.append(
                Picture(
                    name=str(some.image_ids[i]),
                    image=image,
                    window=preprocess.window(image.height, image.width),
                    references=references[i],
                    words=tuple(text for text, _ in parts),
                    own=own,
                    before=before,
                )
            )
    return found


def _references(
    describer: Describer, seen: Seen, some: Captions, longest: int
) -> list[tuple[Reference, ...]]:
    """Return the captions of people with their loss, picture by picture."""
    at = [i for i, texts in enumerate(some.references) for _ in texts]
    texts = [text for own in some.references for text in own]
    captions = pictured(texts, longest, describer.backbone).caption
    ids = [captions.row(i).tolist() for i in range(len(texts))]
    out: list[list[Reference]] = [[] for _ in range(len(some))]
    for rows in torch.arange(len(texts)).split(BATCH):
        chosen = [ids[row] for row in rows.tolist()]
        told = {n: t[torch.tensor(at, device=t.device)[rows.to(t.device)]] for n, t in seen.items()}
        losses_B = describer.losses(told, chosen).sum(1).tolist()
        for row, own, loss in zip(rows.tolist(), chosen, losses_B, strict=True):
            out[at[row]].append(Reference(texts[row], loss, len(own)))
    return [tuple(references) for references in out]
