"""What a study is expected to give: the block ``expected`` in the header of its configuration.

The header is a comment, so that a person reads it first; the block in it is YAML. Every figure is
held to its source each time it is read: the published tables (``published/*.csv``) or a document of
this project. So none can drift away from where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import CorruptAssetError
from .published import Row, names_of, rows

HEAD = "# expected:"


@dataclass(frozen=True)
class Expected:
    """One figure that a study should come near to.

    Attributes:
        method: ours.
        theirs: name of the row in the source.
        dataset: data set, mean or column there.
        value: as printed there.
        low: lowest figure that the tables here have for the same (a published row), or the lower
            end of the 95% interval (a document's).
        high: the highest, or the upper end.
        source: paper and table, or the document.

    """

    method: str
    theirs: str
    dataset: str
    value: float
    low: float
    high: float
    source: str


def expected(path: Path) -> tuple[Expected, ...]:
    """Return what the header of a study's configuration expects; nothing if it has no such block.

    Raises:
        CorruptAssetError: the block cannot be read, or a figure is not what its source has.

    """
    try:
        tables = _block(path.read_text(encoding="utf-8"))
        return tuple(figure for table in tables for figure in _figures(table, path))
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise CorruptAssetError(f"{path}: its header has no readable '{HEAD}' ({error})") from error


def _block(text: str) -> list[Mapping[str, Any]]:
    lines = iter(text.splitlines())
    head = next((line for line in lines if line.startswith(HEAD)), None)
    if head is None:
        return []
    block = [head.removeprefix("# ")]
    for line in lines:
        if not line.startswith("# "):
            break
        block.append(line.removeprefix("# "))
    found = yaml.safe_load("\n".join(block))["expected"]
    return list(found)


def _figures(table: Mapping[str, Any], path: Path) -> Iterator[Expected]:
    for method, theirs, dataset, value, low, high in table["figures"]:
        if "document" in table:
            source, known = str(table["document"]), _in_document
        else:
            source, known = f"{table['paper']}, {table['table']}", _in_tables
        found = Expected(method, str(theirs), dataset, value, low, high, source)
        if not known(found, table, path):
            raise CorruptAssetError(
                f"{path}: {source} does not have {value} [{low}, {high}] for '{theirs}' on "
                f"'{dataset}'"
            )
        yield found


def _in_tables(figure: Expected, table: Mapping[str, Any], path: Path) -> bool:
    """Tell whether the published tables have the figure, and no other range for the same."""
    names = {figure.theirs, *names_of(figure.method)}
    alike = [
        row
        for row in rows(table["published"])
        if (row.backbone, row.dataset) == (table["backbone"], figure.dataset)
    ]
    own = [row for row in alike if (row.paper, row.table) == (table["paper"], table["table"])]
    row = next((r for r in own if r.method == figure.theirs and r.value == figure.value), None)
    if row is None:
        return False
    unit = _unit(row)
    values = [r.value for r in alike if r.method in names and _unit(r) == unit]
    return (min(values), max(values)) == (figure.low, figure.high)


def _unit(row: Row) -> str:
    """Return what a value measures; ``_derived`` says that it was averaged here."""
    return row.metric.removesuffix("_derived")


def _in_document(figure: Expected, table: Mapping[str, Any], path: Path) -> bool:
    """Tell whether a table of the document has the figure in a row with the cell ``theirs``."""
    text = (path.resolve().parents[2] / table["document"]).read_text(encoding="utf-8")
    cell = f"{figure.value} [{figure.low}, {figure.high}]"
    for line in text.splitlines():
        cells = [part.strip() for part in line.split("|")]
        if figure.theirs in cells and any(part.startswith(cell) for part in cells):
            return True
    return False
