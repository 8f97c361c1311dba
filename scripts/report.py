"""Tables, figures and pages over finished runs.

python scripts/report.py runs=outputs                                 scores, ranks, ties, costs
python scripts/report.py runs=outputs html=report.html                the same as a page to look at
python scripts/report.py published suite=vtab1k                       what is published
python scripts/report.py published suite=vtab1k runs=outputs/STUDY    our rows beside it
python scripts/report.py paired runs=outputs/STUDY base=adapter       methods against each other
python scripts/report.py budget runs=outputs/STUDY by=method.selection scores by trained parameters
python scripts/report.py captions run=outputs/STUDY/RUN              captions of pictures, attention
runs    a folder that holds runs at any depth, or a run's; several with commas
html    (the first form, also called summary) a page in one file, with plots, that needs no network
methods, tasks  (summary) only these; several with commas
suite   vtab1k, fgvc, cifar100, pocket_vision (nothing is published for the last)
method  (published) one method: ours (lora), a label of ours, or a published name
by      (budget) settings whose values make lines of their own; several with commas
base    (paired) the method that the others are compared with
format  text (default), markdown, latex (booktabs), csv (all figures unrounded)
run     (captions) a finished run's directory; pictures=24 split=test (val, train) are its others
out     (captions) the page; by default analysis/captions_SPLIT.html in the run's directory
figure  a PNG to draw as well
labels  other names for our rows: labels='{"gist[mu_kl=0]": "adapter + token"}'

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from peftbench import arguments
from peftbench.errors import ConfigError, PeftbenchError, unknown

Format = Literal["text", "markdown", "latex", "csv"]


@dataclass(frozen=True)
class Summary:
    """Settings of ``summary``; see the top of this file."""

    runs: str
    methods: str | None = None
    tasks: str | None = None
    format: Format = "text"
    html: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Published:
    """Settings of ``published``; see the top of this file."""

    suite: str
    runs: str | None = None
    method: str | None = None
    format: Format = "text"
    figure: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Paired:
    """Settings of ``paired``; see the top of this file."""

    runs: str
    base: str
    format: Format = "text"
    figure: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Budget:
    """Settings of ``budget``; see the top of this file."""

    runs: str
    by: str | None = None
    format: Format = "text"
    figure: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Captions:
    """Settings of ``captions``; see the top of this file."""

    run: str
    pictures: int = 24
    split: Literal["test", "val", "train"] = "test"
    out: str | None = None


def summary(settings: Summary) -> None:
    """Print scores, ranks, ties and costs of all runs; write them as a page if asked."""
    from peftbench.reports import page, summary_tables, tables
    from peftbench.reports.collect import collect
    from peftbench.reports.summary import summarise

    page.check_path(settings.html)
    runs = collect(split(settings.runs))
    runs = runs.only("methods", split(settings.methods)) if settings.methods else runs
    runs = runs.only("tasks", split(settings.tasks)) if settings.tasks else runs
    report = summarise(runs, read_labels(settings.labels))
    records = summary_tables.records(report) if settings.format == "csv" else []
    print(tables.render(summary_tables.tables(report), records, settings.format), end="")
    if settings.html:
        page.write(report, settings.html)
        print(f"page: {settings.html}", file=sys.stderr)


def published(settings: Published) -> None:
    """Print our rows of a suite beside the published ones."""
    from peftbench.reports import compare, compare_tables, figures, tables
    from peftbench.reports.collect import Collection, collect
    from peftbench.reports.published import suite
    from peftbench.reports.variants import variants

    figures.check_path(settings.figure)
    wanted = suite(settings.suite)
    runs = Collection(())
    if settings.runs is not None:
        runs = collect(split(settings.runs)).of_suite(wanted.name)
        if not runs.runs:
            print(f"note: {settings.runs} holds no run on {wanted.title}", file=sys.stderr)
    found = variants(runs.runs, read_labels(settings.labels))
    report = compare.beside(wanted.name, found, runs, settings.method)
    figure = figures.draw_published(report) if settings.figure else None
    print(
        tables.render(compare_tables.tables(report), compare.records(report), settings.format),
        end="",
    )
    if figure is not None:
        figures.save(figure, str(settings.figure))
        print(f"figure: {settings.figure}", file=sys.stderr)


def paired(settings: Paired) -> None:
    """Print methods against each other on the same tasks and seeds."""
    from peftbench.reports import figures, tables
    from peftbench.reports import paired as reports
    from peftbench.reports.collect import collect
    from peftbench.reports.variants import variants

    figures.check_path(settings.figure)
    runs = collect(split(settings.runs))
    found = variants(runs.runs, read_labels(settings.labels))
    report = reports.compare(runs, found, settings.base)
    print(tables.render(reports.tables(report), reports.records(report), settings.format), end="")
    if settings.figure:
        figures.save(figures.draw_paired(report), settings.figure)
        print(f"figure: {settings.figure}", file=sys.stderr)


def budget(settings: Budget) -> None:
    """Print scores against the number of trained parameters."""
    from peftbench.reports import budget as reports
    from peftbench.reports import figures, tables
    from peftbench.reports.collect import collect

    figures.check_path(settings.figure)
    runs = collect(split(settings.runs))
    found = reports.points(
        runs, split(settings.by) if settings.by else (), read_labels(settings.labels)
    )
    table = reports.table(found, runs.missing())
    print(tables.render([table], reports.records(found), settings.format), end="")
    if settings.figure:
        figures.save(reports.draw(found), settings.figure)
        print(f"figure: {settings.figure}", file=sys.stderr)


def captions(settings: Captions) -> None:
    """Write a page of pictures with references, our captions and their attention."""
    from pathlib import Path

    from peftbench.analysis.captions import measure
    from peftbench.analysis.opened import open_run
    from peftbench.reports import caption_page

    caption_page.check_path(settings.out)
    opened = open_run(settings.run)
    out = settings.out or opened.path / "analysis" / f"captions_{settings.split}.html"
    caption_page.write(measure(opened, settings.pictures, settings.split), Path(out))
    print(f"page: {out}")


def split(text: str) -> list[str]:
    """Return the places in ``a,b`` or ``[a,b]``."""
    places = [place.strip() for place in text.strip("[]").split(",") if place.strip()]
    if not places:
        raise ConfigError("runs: name a folder of runs, for example runs=outputs/default")
    return places


def read_labels(text: str | None) -> dict[str, str]:
    """Return what ``labels`` says as a mapping."""
    try:
        given = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"labels: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise ConfigError("""labels: expected labels='{"gist[mu_kl=0]": "adapter + token"}'""")
    return {str(key): value for key, value in given.items()}


KINDS = {
    "summary": (Summary, summary),
    "published": (Published, published),
    "paired": (Paired, paired),
    "budget": (Budget, budget),
    "captions": (Captions, captions),
}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        if "=" in words[0]:
            words.insert(0, "summary")
        if words[0] not in KINDS:
            raise unknown("report", words[0], KINDS)
        settings, make = KINDS[words[0]]
        make(arguments.read(settings, words[1:]))  # type: ignore[operator]
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
