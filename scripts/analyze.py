"""Look into a finished run, or into a network and a task: numbers as JSON, figures as PNG.

Of a finished run:

python scripts/analyze.py similarity run=outputs/STUDY/RUN      logits of class and Gist token over
                                                                training (repeats the first fit)
python scripts/analyze.py attention run=... images=4            attention to and from the Gist token
python scripts/analyze.py scales run=...                        learned scales of U-Tuning by layer

Of one or more finished runs, or of whole studies:

python scripts/analyze.py gates run=outputs/STUDY               PEMT's gates, target by source and
                                                                block by block, and prompts

Of a run, or of anything that train.py could train, said with the same words (backbone=... data=...
method=... trainer.batch_size=...):

python scripts/analyze.py sparsity backbone=dinov2_small data=digits method=sift
                            how few entries hold the gradient, pretrained and with random weights

python scripts/analyze.py overlap backbone=... data=... method=sift trainer.max_steps=100 every=5
                            how well SIFT's entries hold the gradient while training goes on

python scripts/analyze.py landscape run=outputs/STUDY/RUN1,outputs/STUDY/RUN2
                            the loss along lines and over a plane, random, pretrained and tuned

python scripts/analyze.py pac_bayes run=outputs/STUDY/FULL,outputs/STUDY/LORA,outputs/STUDY/SIFT
                            distances from pretrained and random weights, and PAC-Bayes terms

run        a finished run's directory; several with commas (landscape, pac_bayes, gates)
out        where the files go; by default the folder 'analysis' in the run's directory, or
           outputs/analysis/BACKBONE-DATA without a run
images     (attention) pictures for which maps are drawn
batches    (sparsity) training batches whose gradients are taken, 8 by default
points     (landscape) of a line, 51 by default; directions=3 grid=25 are its others
head       (landscape) trained: that of the first run everywhere (default with a run); random
samples    (landscape, pac_bayes) training samples, 256 by default; pac_bayes: draws=3 rise=0.05
every      (overlap) steps between records, 1 by default

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftbench import arguments
from peftbench.errors import ConfigError, PeftbenchError, unknown

if TYPE_CHECKING:
    from peftbench.analysis.opened import Opened
    from peftbench.analysis.scene import Scene


@dataclass(frozen=True)
class Look:
    """Settings of ``similarity`` and ``scales``; see the top of this file."""

    run: str
    out: str | None = None


@dataclass(frozen=True)
class LookAtAttention(Look):
    """Settings of ``attention``; see the top of this file."""

    images: int = 4


@dataclass(frozen=True)
class Findings:
    """What an analysis found: numbers, figures by name, and tables (lines of cells) by name."""

    numbers: dict[str, Any]
    figures: dict[str, Any]
    tables: dict[str, list[Sequence[Any]]]


@dataclass(frozen=True)
class Study:
    """Settings of every analysis that works without a run; see the top of this file."""

    run: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Sparsity(Study):
    """Settings of ``sparsity``; see the top of this file."""

    batches: int = 8


@dataclass(frozen=True)
class Overlap(Study):
    """Settings of ``overlap``; see the top of this file."""

    every: int = 1


@dataclass(frozen=True)
class Landscape(Study):
    """Settings of ``landscape``; see the top of this file."""

    points: int = 51
    directions: int = 3
    grid: int = 25
    samples: int = 256
    head: Literal["trained", "random"] | None = None


@dataclass(frozen=True)
class PacBayes(Study):
    """Settings of ``pac_bayes``; see the top of this file."""

    samples: int = 256
    draws: int = 3
    rise: float = 0.05
    delta: float = 0.05


def similarity(opened: Opened, settings: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and figures of the logits over training."""
    from peftbench.analysis import similarity as measured

    numbers = measured.measure(opened)
    off = numbers["largest_difference_to_record"]
    if off is not None and off > 0:
        print(
            f"warning: the repeated fit differs from the record by {100 * off:.2f} points of val "
            "accuracy (another machine, device or version?)",
            file=sys.stderr,
        )
    return numbers, {"similarity": measured.draw(numbers, opened.title)}


def attention(opened: Opened, settings: LookAtAttention) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and figures of the attention."""
    from peftbench.analysis import attention as measured

    numbers, pictures = measured.measure(opened, settings.images)
    heads = measured.draw_heads(numbers, opened.title)
    return numbers, {
        "attention": heads,
        "attention_maps": measured.draw_maps(numbers, pictures, opened.title),
    }


def scales(opened: Opened, settings: Look) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return numbers and the figure of the learned scales."""
    from peftbench.analysis import scales as measured

    numbers = measured.measure(opened)
    return numbers, {"scales": measured.draw(numbers, opened.title)}


def sparsity(scene: Scene, settings: Sparsity) -> Findings:
    """Return the concentration of gradients, as numbers, figures and a table."""
    from peftbench.analysis import sparsity as study
    from peftbench.analysis.sparsity_figures import draw_curves, draw_map

    numbers = study.measure(scene, settings.batches)
    print(study.table(numbers))
    figures = {
        "sparsity": draw_curves(numbers, scene.title),
        "sparsity_map": draw_map(numbers, scene.title),
    }
    return Findings(numbers, figures, {"sparsity": [study.COLUMNS, *study.rows(numbers)]})


def overlap(scene: Scene, settings: Overlap) -> Findings:
    """Return how well the chosen entries hold the gradient over training."""
    from peftbench.analysis import overlap as study

    numbers = study.measure(scene, settings.every)
    print(study.table(numbers))
    return Findings(numbers, {"overlap": study.draw(numbers, scene.title)}, {})


def landscape(scenes: list[Scene], settings: Landscape) -> Findings:
    """Return the loss around a network."""
    from peftbench.analysis import landscape as study
    from peftbench.analysis.landscape_figures import draw_lines, draw_plane

    if settings.head == "trained" and settings.run is None:
        raise ConfigError("head: trained needs run=...; without a run the head is random")
    head = settings.head or ("trained" if settings.run else "random")
    own = (settings.points, settings.directions, settings.grid, settings.samples, head)
    numbers = study.measure(scenes, study.Walk(*own))
    print(study.table(numbers))
    title = scenes[0].title
    figures = {"landscape": draw_lines(numbers, title)}
    if settings.grid:
        figures["landscape_plane"] = draw_plane(numbers, title)
    return Findings(numbers, figures, {})


def pac_bayes(scenes: list[Scene], settings: PacBayes) -> Findings:
    """Return distances and bounds of runs."""
    from peftbench.analysis import pac_bayes as study

    if settings.run is None:
        raise ConfigError("run: pac_bayes needs finished runs (run=outputs/STUDY/RUN)")
    terms = study.Terms(settings.samples, settings.draws, settings.rise, settings.delta)
    numbers = study.measure(scenes, terms)
    print(study.table(numbers))
    lines = [study.COLUMNS, *([row[c] for c in study.COLUMNS] for row in numbers["rows"])]
    return Findings(numbers, {}, {"pac_bayes": lines})


STUDIES: dict[str, tuple[type, Any]] = {
    "sparsity": (Sparsity, sparsity),
    "overlap": (Overlap, overlap),
    "landscape": (Landscape, landscape),
    "pac_bayes": (PacBayes, pac_bayes),
}

SEVERAL = {"landscape", "pac_bayes"}
"""Studies that put several runs into one result."""

LOOKS: dict[str, tuple[type, Any]] = {
    "similarity": (Look, similarity),
    "attention": (LookAtAttention, attention),
    "scales": (Look, scales),
}


def gates(words: Sequence[str]) -> None:
    """Measure, draw and write what sources some runs lean on."""
    settings = arguments.read(Look, words)
    from peftbench.analysis import gates as study
    from peftbench.reports.figures import need_matplotlib

    need_matplotlib("gates")
    opened = study.runs_in([p for p in settings.run.split(",") if p])
    numbers = study.measure(opened)
    print(study.table(numbers))
    figures = {"gates": study.draw(numbers), "gates_blocks": study.draw_blocks(numbers["runs"][0])}
    folder = Path(settings.out) if settings.out else opened[0].path / "analysis"
    lines = [study.COLUMNS, *study.rows(numbers)]
    write(folder, "gates", Findings(numbers, figures, {"gates": lines}))


def look(name: str, words: Sequence[str]) -> None:
    """Measure, draw and write what a finished run shows."""
    kind, found = LOOKS[name]
    settings = arguments.read(kind, words)
    from peftbench.analysis.opened import open_run
    from peftbench.reports.figures import need_matplotlib

    need_matplotlib(name)
    opened = open_run(settings.run)
    numbers, figures = found(opened, settings)
    folder = Path(settings.out) if settings.out else opened.path / "analysis"
    write(folder, name, Findings(numbers, figures, {}))


def study(name: str, words: Sequence[str]) -> None:
    """Measure, draw and write what a network and a task show."""
    kind, found = STUDIES[name]
    own = {f.name for f in fields(kind)}
    mine = [word for word in words if word.partition("=")[0] in own]
    settings = arguments.read(kind, mine)
    from peftbench.analysis.scene import open_scene
    from peftbench.reports.figures import need_matplotlib

    need_matplotlib(name)
    rest = [word for word in words if word not in mine]
    runs = settings.run.split(",") if settings.run else [None]
    several = name in SEVERAL
    if len(runs) > 1 and not several:
        raise ConfigError(f"run: {name} looks at one run; allowed with several: {sorted(SEVERAL)}")
    scenes = [open_scene(run, rest) for run in runs]
    findings = found(scenes if several else scenes[0], settings)
    write(Path(settings.out) if settings.out else scenes[0].folder, name, findings)


def write(folder: Path, name: str, findings: Findings) -> None:
    """Write everything found; print the names of the files."""
    from peftbench.files import write_csv, write_json
    from peftbench.reports.figures import save

    write_json(folder / f"{name}.json", findings.numbers)
    print(folder / f"{name}.json")
    for stem, lines in findings.tables.items():
        write_csv(folder / f"{stem}.csv", lines)
        print(folder / f"{stem}.csv")
    for stem, figure in findings.figures.items():
        save(figure, folder / f"{stem}.png")
        print(folder / f"{stem}.png")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        if words[0] == "gates":
            gates(words[1:])
        elif words[0] in LOOKS:
            look(words[0], words[1:])
        elif words[0] in STUDIES:
            study(words[0], words[1:])
        else:
            raise unknown("analysis", words[0], ["gates", *LOOKS, *STUDIES])
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
