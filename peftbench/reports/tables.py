"""Tables of text, and the four forms in which a report is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from ..errors import unknown
from .stats import Estimate

FORMATS = ("text", "markdown", "latex", "csv")
MISSING = "missing"


@dataclass
class Table:
    """A title, a head, rows of text, and what a reader must know about them.

    Attributes:
        title: what the table shows, with units.
        head: names of the columns.
        rows: as many cells each.
        notes: sentences under the table.
        words: columns of words, which stand to the left as the first column does.

    """

    title: str
    head: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    words: Sequence[str] = ()

    def left(self, column: int) -> bool:
        """Whether a column stands to the left."""
        return column == 0 or self.head[column] in self.words


def render(tables: Sequence[Table], records: Sequence[Mapping[str, Any]], form: str) -> str:
    """Return a report as ``text``, ``markdown``, ``latex`` or ``csv``.

    Args:
        tables: for a person.
        records: the same figures unrounded, one mapping with equal keys per line of the CSV.
        form: one of :data:`FORMATS`.

    Raises:
        ConfigError: there is no such form.

    """
    if form == "text":
        return "\n".join(_text(t) for t in tables)
    if form == "markdown":
        return "\n".join(_markdown(t) for t in tables)
    if form == "latex":
        return "\n".join(_latex(t) for t in tables)
    if form == "csv":
        return _csv(records)
    raise unknown("format", form, FORMATS, "format")


def _text(table: Table) -> str:
    grid = RichTable(box=SIMPLE_HEAD)
    for i, name in enumerate(table.head):
        grid.add_column(Text(name), justify="left" if table.left(i) else "right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    out = io.StringIO()
    console = Console(file=out, width=10_000, highlight=False)
    width = max(80, Measurement.get(console, console.options, grid).maximum)
    console = Console(file=out, width=width, highlight=False)
    console.print(Text(table.title, style="bold"))
    console.print(grid)
    for note in table.notes:
        console.print(Text(note))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rule = ["---" if table.left(i) else "---:" for i in range(len(table.head))]
    lines = [f"**{table.title}**", "", line(table.head), line(rule)]
    lines += [line(row) for row in table.rows]
    lines += ["", *(f"* {note}" for note in table.notes), ""]
    return "\n".join(lines)


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",
    "]": "{]}",
}
"""What stands for a character in LaTeX; brackets so that none follows a line's end as an option."""


def latex(text: str) -> str:
    """Write text so that LaTeX prints it as it is."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def _latex(table: Table) -> str:
    """Return a table for the package booktabs, its notes under it."""

    def line(cells: Iterable[str]) -> str:
        return "  " + " & ".join(latex(cell) for cell in cells) + r" \\"

    columns = "".join("l" if table.left(i) else "r" for i in range(len(table.head)))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(table.head), r"\midrule"]
    lines += [line(row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = "\\par\n".join(latex(note) for note in table.notes)
        lines += [r"\par\medskip\footnotesize\raggedright", notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    if records:
        writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return out.getvalue()


def score(estimate: Estimate) -> str:
    """Write a score: value and interval, with the number of seeds; ``b`` marks a binomial one."""
    text = f"{estimate.value:.1f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.1f}, {estimate.high:.1f}]"
    return f"{text} ({'b' if estimate.kind.startswith('binomial') else estimate.n})"


def difference(estimate: Estimate) -> str:
    """Write a difference with its sign, its interval and the number of pairs."""
    text = f"{estimate.value:+.2f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{text} ({estimate.n})"


def flat(estimate: Estimate | None) -> dict[str, Any]:
    """Return an estimate as columns of a CSV; empty where there is none."""
    if estimate is None:
        return {"value": "", "low": "", "high": "", "n": 0, "interval": MISSING}
    return {
        "value": estimate.value,
        "low": "" if estimate.low is None else estimate.low,
        "high": "" if estimate.high is None else estimate.high,
        "n": estimate.n,
        "interval": estimate.kind,
    }
