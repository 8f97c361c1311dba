"""Scores of written captions against people's, as COCO's evaluation counts them.

BLEU-1 to 4 (Papineni et al., 2002), ROUGE-L (Lin, 2004; beta 1.2) and CIDEr-D (Vedantam et al.,
arXiv:1411.5726) by ``pycocoevalcap``'s scorers over the words of :mod:`peftbench.tasks.ptb`; METEOR
1.5 (Denkowski and Lavie, 2014) by the official Java program. CIDEr-D weighs words by how many of
the images that are scored together they describe: a split is scored at once, and values of
different image sets are not comparable. Values are as the scorers return them; tables print them
times 100. SPICE is not offered: its parser cannot be had from a package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import CorruptAssetError, MissingAssetError
from .ptb import tokens

Id = TypeVar("Id", bound=Hashable)
BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METEOR = "METEOR"
NAMES = (*BLEU, "ROUGE-L", "CIDEr-D", METEOR)
"""What is scored, in the order of the tables."""


@dataclass(frozen=True)
class Scores:
    """Scores of a whole set of captions.

    Attributes:
        values: by name; METEOR is None where Java is not installed.
        each: by name, one score per caption in the order of the candidates. BLEU and METEOR of the
            set are no means of these.

    """

    values: dict[str, float | None]
    each: dict[str, list[float]]


def check() -> None:
    """Refuse to score where the scorers are not installed; call it before anything is trained.

    Raises:
        MissingAssetError: names the command that installs them.

    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise MissingAssetError(
            "scoring captions needs pycocoevalcap: pip install 'peftbench[captions]' (104 MB)\n"
            "  data.written=null trains without writing captions, and reports their perplexity"
        )


def score(
    candidates: Mapping[Id, str], references: Mapping[Id, Sequence[str]], meteor: bool = True
) -> dict[str, float | None]:
    """Return the scores of a whole set of captions; see :func:`scores`."""
    return scores(candidates, references, meteor).values


def scores(
    candidates: Mapping[Id, str], references: Mapping[Id, Sequence[str]], meteor: bool = True
) -> Scores:
    """Score one caption per image against people's captions of it.

    Args:
        candidates: caption by image; plain text, may be empty.
        references: all captions of at least these images; of other images none is looked at.
        meteor: whether METEOR is wanted; its program takes half a minute to start.

    Raises:
        MissingAssetError: the scorers are not installed, or METEOR's program does not run.
        CorruptAssetError: no candidate, or one of an image without references.

    """
    check()
    if not candidates:
        raise CorruptAssetError("there is no caption to score")
    lost = [key for key in candidates if not references.get(key)]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise CorruptAssetError(f"image {lost[0]}{more}: a caption without references")
    wanted = {key: [" ".join(tokens(c)) for c in references[key]] for key in candidates}
    found = {key: [" ".join(tokens(c))] for key, c in candidates.items()}
    return score_tokens(found, wanted, meteor)


def score_tokens(
    found: Mapping[Id, list[str]], wanted: Mapping[Id, list[str]], meteor: bool
) -> Scores:
    """Score captions whose words are joined by blanks; see :func:`scores`.

    Args:
        found: a list of one caption by image.
        wanted: the references of the same images in the same order.
        meteor: whether METEOR is wanted.

    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    values: dict[str, float | None] = {}
    each: dict[str, list[float]] = {}
    totals, lists = Bleu(4).compute_score(wanted, found, verbose=0)
    for name, total, own in zip(BLEU, totals, lists, strict=True):
        values[name], each[name] = float(total), [float(v) for v in own]
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr-D", Cider())):
        total, own = scorer.compute_score(wanted, found)
        values[name], each[name] = float(total), [float(v) for v in own]
    if meteor:
        values[METEOR] = None
        if shutil.which("java"):
            values[METEOR], each[METEOR] = _meteor(found, wanted)
    return Scores(values, each)


def table(values: Mapping[str, float | None]) -> str:
    """Return the scores times 100 as lines of text; ``n/a`` where there is none."""
    lines = []
    for name in NAMES:
        if name in values:
            value = values[name]
            lines.append(f"{name:8} {'n/a' if value is None else f'{100 * value:.2f}':>7}")
    return "\n".join(lines)


def _meteor(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> tuple[float, list[float]]:
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    try:
        total, own = program.compute_score(wanted, found)
    except (OSError, ValueError) as error:
        words = program.meteor_p.stderr.read(400) if program.meteor_p.poll() else b""
        raise MissingAssetError(
            f"METEOR's program does not run: {words.decode(errors='replace').strip() or error}"
        ) from error
    finally:
        if program.lock.locked():  # left so by a failure, and the program's end waits for it
            program.lock.release()
        with contextlib.suppress(OSError):
            program.meteor_p.stdin.close()
    return float(total), [float(v) for v in own]
