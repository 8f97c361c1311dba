"""Captions of held-out pictures as one HTML file: pictures, references, ours, and attention.

The page needs no network and no other file. Texts and figures are written here and can be read and
printed without a script; the script (``static/captions.js``) lays the attention of a word over its
picture and changes the order.

Shape legend: L layers, I parts of a caption that can be pointed at, P places of a picture.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import write_text
from . import page
from .collect import Run, read
from .commands import command
from .svg import esc

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 224
"""Longer side of an embedded picture, pixels."""
SCORES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D")


@dataclass(frozen=True)
class Reference:
    """What a person says of a picture.

    Attributes:
        text: the caption.
        loss: its summed cross-entropy, nats.
        tokens: of the caption, its end token among them.

    """

    text: str
    loss: float
    tokens: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with what was said of it.

    Attributes:
        name: the data set's own id.
        image: in its own size.
        window: the part that the network saw: left, top, width and height, shares of the picture.
        references: one or more.
        words: our caption in parts that can be pointed at; joined they are the caption.
        own: (L, I, P) attention of each part to each place, mean over heads.
        before: (L, I, P) attention of the tokens that predicted each part.

    """

    name: str
    image: Image
    window: tuple[float, float, float, float]
    references: tuple[Reference, ...]
    words: tuple[str, ...]
    own: NDArray[np.float32]
    before: NDArray[np.float32]

    @property
    def perplexity(self) -> float:
        """Of all references together, per token."""
        return perplexity(self.references)


@dataclass(frozen=True, eq=False)
class Page:
    """What a page shows.

    Attributes:
        run: its directory.
        split: that the pictures are of.
        total: pictures of the split.
        layers: L.
        side: places of a picture in a row, and in a column.
        written: how the captions came about, in words.
        learned: whether the stored adapter learned from the split.
        pictures: some of the split.

    """

    run: Path
    split: str
    total: int
    layers: int
    side: int
    written: str
    learned: bool
    pictures: tuple[Picture, ...]


def perplexity(references: tuple[Reference, ...]) -> float:
    """Return the perplexity per token of some captions together."""
    loss = sum(r.loss for r in references) / sum(r.tokens for r in references)
    return math.exp(min(loss, 700.0))


def check_path(path: str | None) -> None:
    """Refuse a name that is no page before anything is computed."""
    if path is not None and not path.endswith(".html"):
        raise ConfigError(f"out: '{path}' must end in .html")


def write(shown: Page, path: str | Path) -> None:
    """Write the page, atomically."""
    try:
        write_text(Path(path), render(shown))
    except OSError as error:
        raise ConfigError(f"out: {path} cannot be written ({error.strerror or error})") from error


def render(shown: Page) -> str:
    """Return the page as text; the easiest pictures (least perplexity) stand first."""
    style = "".join(
        (page.STATIC / name).read_text(encoding="utf-8") for name in ("page.css", "captions.css")
    )
    script = (page.STATIC / "captions.js").read_text(encoding="utf-8")
    run = read(shown.run)
    title = f"Captions: {run.method} on {run.config['names']['backbone']}, {run.task}"
    places = sorted(range(len(shown.pictures)), key=lambda i: shown.pictures[i].perplexity)
    items = "".join(_picture(shown.pictures[i], i) for i in places)
    data = {
        "layers": shown.layers,
        "side": shown.side,
        "looks": [_looks(p) for p in shown.pictures],
    }
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{esc(title)}</title><style>{style}</style>",
        "<noscript><style>.controls,.hint{display:none!important}</style></noscript></head><body>",
        _header(shown, run, title),
        _controls(shown),
        f'<main id="pictures">{items}</main>',
        f'<script type="application/json" id="data">{page.embeddable(data)}</script>',
        f"<script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _header(shown: Page, run: Run, title: str) -> str:
    assert run.result is not None
    result = run.result
    figures = result["metrics"].get(shown.split, {})
    which = "one" if len(shown.pictures) == 1 else f"{len(shown.pictures):,}"
    if len(shown.pictures) == shown.total:
        which = "all"
    facts = {
        "run": run.path.resolve().name,
        "pictures": f"{which} of {shown.total:,} of the split {shown.split}"
        + (", at even distances in its order" if which != "all" else ""),
        "parameters trained": f"{result['params']['trainable']:,} (method) and "
        f"{result['params']['head']:,} (map from picture to text)",
        "networks": str(result["backbone_source"]),
        "seed": str(run.seed),
        "protocol": f"{result['protocol']}, {result['selection']['rule']}",
        "finished": page.day(run.written),
    }
    items = "".join(f"<div><dt>{k}</dt><dd>{esc(v)}</dd></div>" for k, v in facts.items())
    learned = "The stored adapter learned from this split: nothing here is held out. "
    return (
        f"<header><h1>{esc(title)}</h1><dl class='scores'>{_scores(shown, result, figures)}</dl>"
        f"<dl>{items}</dl><details open><summary>Command line</summary>"
        f"<p class='line'><code>{esc(command(run))}</code></p></details>"
        f"<p>{learned if shown.learned else ''}{esc(shown.written)} Perplexities are per token of "
        "the references, the end token included.</p>"
        "<p class='hint'>Point at, tap or tab to a part of our caption: the picture shows how much "
        "attention that token gives to each place of the picture, mean over heads. This is "
        "attention, not an explanation: what a place hands on has been mixed in the layers below, "
        "and colours are scaled to the largest place of each map; the figures beside it are "
        "not.</p></header>"
    )


def _scores(shown: Page, result: Any, figures: Any) -> str:
    """Return the split's scores as terms; those of captions times 100."""
    found = {}
    if "perplexity" in figures:
        found["perplexity"] = f"{figures['perplexity']:.2f}"
        bounds = result["intervals"].get(shown.split, {}).get("perplexity")
        if bounds:
            found["perplexity"] += f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    found |= {name: f"{100 * figures[name]:.1f}" for name in SCORES if name in figures}
    whole = f"{shown.split}, {shown.total:,} pictures"
    return "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in found.items()
    ) + (f"<div><dt>measured on</dt><dd>{whole}, by the run</dd></div>" if found else "")


def _controls(shown: Page) -> str:
    layers = "".join(f'<option value="{i}">{i}</option>' for i in range(1, shown.layers + 1))
    return (
        '<form class="controls" id="controls" aria-label="View">'
        f'<label>Layer <select id="layer"><option value="0">mean of {shown.layers}</option>'
        f"{layers}</select></label>"
        '<label>Attention of <select id="from"><option value="own">the token itself</option>'
        '<option value="before">the place that predicted it</option></select></label>'
        '<label>Order <select id="order"><option value="up">least perplexity</option>'
        '<option value="down">most perplexity</option>'
        '<option value="split">as in the split</option></select></label>'
        '<span class="scale">no attention <i></i> largest place</span></form>'
    )


def _picture(shown: Picture, index: int) -> str:
    left, top, width, height = (f"{100 * share:.3f}%" for share in shown.window)
    source, (w, h) = embedded(shown.image)
    words = "".join(_word(word, i) for i, word in enumerate(shown.words))
    ours = words or '<span class="none">(an empty caption)</span>'
    people = "".join(
        f"<li>{esc(r.text)} <span class='sub'>{perplexity((r,)):,.1f}</span></li>"
        for r in shown.references
    )
    return (
        f'<section class="shot" data-i="{index}" data-v="{shown.perplexity:.6g}">'
        f'<figure><div class="view"><img src="{source}" width="{w}" height="{h}" '
        f'alt="{esc(shown.references[0].text)}">'
        f'<canvas style="left:{left};top:{top};width:{width};height:{height}" aria-hidden="true">'
        f"</canvas></div><figcaption>{esc(shown.name)}</figcaption></figure>"
        f'<div class="said"><p class="sub">ours</p><p class="ours">{ours}</p>'
        '<p class="told hint" aria-live="polite"></p>'
        f'<p class="sub">references, with the perplexity of each</p><ul>{people}</ul>'
        f'<p class="sub">perplexity <b>{shown.perplexity:,.1f}</b></p></div></section>'
    )


def _word(word: str, index: int) -> str:
    blanks = word[: len(word) - len(word.lstrip())] if word.strip() else ""
    shown = esc(word.removeprefix(blanks))
    return f'{blanks}<button type="button" class="word" data-w="{index}">{shown}</button>'


def embedded(image: Image) -> tuple[str, tuple[int, int]]:
    """Return a picture as a data URI, PNG or JPEG, whichever is smaller; and its size."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    found = []
    for kind, how in (("png", {"optimize": True}), ("jpeg", {"quality": 88})):
        stream = io.BytesIO()
        small.save(stream, kind, **how)
        found.append((len(stream.getvalue()), kind, stream.getvalue()))
    _, kind, data = min(found)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", small.size


def _looks(shown: Picture) -> dict[str, Any]:
    """Return the attention of one picture's parts, for the script."""
    return {"own": packed(shown.own), "before": packed(shown.before)}


def packed(rows_LIP: NDArray[np.float32]) -> dict[str, Any]:
    """Return attention in little room.

    Returns:
        ``bytes``: uint8 (1 + L, I, P) in base64, the mean over layers in front; 255 is the largest
        place of each map. ``most``: (1 + L, I) that largest place; ``sum``: all places together.

    """
    all_LIP = np.concatenate([rows_LIP.mean(0, keepdims=True), rows_LIP])
    most_LI = all_LIP.max(-1)
    scale = np.where(most_LI > 0, most_LI, 1)[..., None]
    whole = np.rint(255 * all_LIP / scale).astype(np.uint8)
    return {
        "bytes": base64.b64encode(whole.tobytes()).decode(),
        "most": _rounded(most_LI),
        "sum": _rounded(all_LIP.sum(-1)),
    }


def _rounded(values_LI: NDArray[np.float32]) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in values_LI.tolist()]
