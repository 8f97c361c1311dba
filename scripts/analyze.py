"""Look into a finished run: numbers as JSON and figures as PNG.

python scripts/analyze.py similarity run=outputs/STUDY/RUN      logits of class and Gist token over
                                                                training (repeats the first fit)
python scripts/analyze.py attention run=... images=4            attention to and from the Gist token
python scripts/analyze.py scales run=...                        learned scales of U-Tuning by layer

run     a finished run's directory
out     where the files go; by default the folder 'analysis' in the run's directory
images  (attention) pictures for which maps are drawn

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench import arguments
from peftbench.errors import PeftbenchError, unknown

if TYPE_CHECKING:
    from peftbench.analysis.opened import Opened


@dataclass(frozen=True)
class Look:
    """Settings of ``similarity`` and ``scales``; see the top of this file."""

    run: str
    out: str | None = None


@dataclass(frozen=True)
class LookAtAttention(Look):
    """Settings of ``attention``; see the top of this file."""

    images: int = 4


def similarity(opened: Opened, settings: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and figures of the logits over training."""
    from peftbench.analysis import similarity as look

    numbers = look.measure(opened)
    off = numbers["largest_difference_to_record"]
    if off is not None and off > 0:
        print(
            f"warning: the repeated fit differs from the record by {100 * off:.2f} points of val "
            "accuracy (another machine, device or version?)",
            file=sys.stderr,
        )
    return numbers, {"similarity": look.draw(numbers, opened.title)}


def attention(opened: Opened, settings: LookAtAttention) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and figures of the attention."""
    from peftbench.analysis import attention as look

    numbers, pictures = look.measure(opened, settings.images)
    heads = look.draw_heads(numbers, opened.title)
    return numbers, {
        "attention": heads,
        "attention_maps": look.draw_maps(numbers, pictures, opened.title),
    }


def scales(opened: Opened, settings: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and the figure of the learned scales."""
    from peftbench.analysis import scales as look

    numbers = look.measure(opened)
    return numbers, {"scales": look.draw(numbers, opened.title)}


LOOKS: dict[str, tuple[type, Any]] = {
    "similarity": (Look, similarity),
    "attention": (LookAtAttention, attention),
    "scales": (Look, scales),
}


def analyze(name: str, words: Sequence[str]) -> None:
    """Measure, draw and write."""
    kind, look = LOOKS[name]
    settings = arguments.read(kind, words)
    from peftbench.analysis.opened import open_run
    from peftbench.files import write_json
    from peftbench.reports.figures import need_matplotlib, save

    need_matplotlib(name)
    opened = open_run(settings.run)
    numbers, figures = look(opened, settings)
    folder = Path(settings.out) if settings.out else opened.path / "analysis"
    write_json(folder / f"{name}.json", numbers)
    print(folder / f"{name}.json")
    for stem, figure in figures.items():
        save(figure, folder / f"{stem}.png")
        print(folder / f"{stem}.png")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        if words[0] not in LOOKS:
            raise unknown("analysis", words[0], LOOKS)
        analyze(words[0], words[1:])
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
