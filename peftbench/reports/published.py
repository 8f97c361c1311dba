"""Published figures, as the tables print them, and the names under which they meet ours.

The figures are data (``published/*.csv``): each row keeps the paper, the table and the place where
it was read. What our methods, tasks and backbones are called there is data too (``names.yaml``).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import CorruptAssetError, unknown

FOLDER = Path(__file__).parent / "published"
KINDS = ("vision", "nlp", "multimodal")
DELTA = "delta_"
"""How the name of a metric begins that is a difference between two methods."""


@dataclass(frozen=True)
class Row:
    """One published figure.

    Attributes:
        paper: where it was published.
        table: which table of it.
        method: the method's name there.
        backbone: the network's name there.
        pretrain: what the network was pretrained on; empty where the source is silent.
        dataset: ``vtab1k/<task>``, ``vtab1k/mean_*``, ``fgvc/<set>``, ``cifar100_full``, ...
        metric: what the value is; ``*_derived`` was averaged from the row, not printed.
        value: percent for the top-1 metrics.
        trainable_params_m: trained parameters in millions, None where the source is silent.
        source: where the figure was read.

    """

    paper: str
    table: str
    method: str
    backbone: str
    pretrain: str
    dataset: str
    metric: str
    value: float
    trainable_params_m: float | None
    source: str

    @property
    def is_difference(self) -> bool:
        """Whether the value is a difference between two methods, and no score."""
        return self.metric.startswith(DELTA)


@dataclass(frozen=True)
class Suite:
    """The tasks of one suite, under the published keys and under ours.

    Attributes:
        name: ``vtab1k``, ...
        title: for a person.
        modules: modules of the data specs whose runs belong to the suite.
        groups: group -> published keys of its tasks.
        ours: our name of a task -> its published key.
        means: published key of a mean -> a group, ``tasks`` or ``groups``.

    """

    name: str
    title: str
    modules: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    ours: Mapping[str, str]
    means: Mapping[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Published keys of all tasks in the order of the tables."""
        return tuple(task for members in self.groups.values() for task in members)

    def members(self, mean: str) -> tuple[str, ...]:
        """Return the tasks that a mean is made of."""
        return self.groups.get(self.means[mean], self.tasks)

    def key_of(self, row: Row) -> str | None:
        """Return the task or mean of this suite that a row gives, None if it is of another."""
        prefix, _, rest = row.dataset.rpartition("/")
        if row.is_difference:
            return None
        if prefix == self.name and (rest in self.means or rest in self.tasks):
            return rest
        return row.dataset if not prefix and row.dataset in self.tasks else None


@dataclass(frozen=True)
class Network:
    """A published network and the pretraining texts that mean one checkpoint of ours.

    Attributes:
        network: its published name.
        same: texts that mean our checkpoint.
        unsaid: texts that leave open which checkpoint it was.
        settings: settings (by key below ``backbone``) without which it is another network.

    """

    network: str
    same: tuple[str, ...]
    unsaid: tuple[str, ...]
    settings: Mapping[str, Any]


@functools.cache
def rows(kind: str = "vision") -> tuple[Row, ...]:
    """Return the published figures of a field: ``vision``, ``nlp`` or ``multimodal``.

    Raises:
        ConfigError: there is no such field.
        CorruptAssetError: a line cannot be read; names file and line.

    """
    if kind not in KINDS:
        raise unknown("kind of published figures", kind, KINDS)
    path = FOLDER / f"{kind}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return tuple(_row(line, f"{path}, line {reader.line_num}") for line in reader)


def _row(line: Mapping[str, str], where: str) -> Row:
    """Return one line as a row; a column that a field does not have is empty."""
    try:
        params = line["trainable_params_m"]
        return Row(
            line["paper"],
            line["table"],
            line["method"],
            line["backbone"],
            line.get("pretrain", ""),
            line["dataset"],
            line["metric"],
            float(line["value"]),
            float(params) if params else None,
            line["source"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptAssetError(f"{where}: no published figure ({error!r})") from error


@functools.cache
def _names() -> dict[str, Any]:
    names: dict[str, Any] = yaml.safe_load((FOLDER / "names.yaml").read_text(encoding="utf-8"))
    return names


@functools.cache
def suites() -> dict[str, Suite]:
    """Return every suite by name."""
    return {name: _suite(name, entry) for name, entry in _names()["suites"].items()}


def _suite(name: str, entry: Mapping[str, Any]) -> Suite:
    groups = entry["groups"]
    ours = {o: key for g in groups.values() for key, names in g.items() for o in names}
    members = {group: tuple(tasks) for group, tasks in groups.items()}
    return Suite(name, entry["title"], tuple(entry["data"]), members, ours, entry["means"])


def suite(name: str) -> Suite:
    """Return one suite.

    Raises:
        ConfigError: there is no suite of that name.

    """
    if name not in suites():
        raise unknown("suite", name, suites(), "suite")
    return suites()[name]


def names_of(method: str) -> tuple[str, ...]:
    """Return what the tables call our method; nothing if they do not have it."""
    return tuple(_names()["methods"].get(method, ()))


def methods() -> tuple[str, ...]:
    """Return our methods that have a published name."""
    return tuple(_names()["methods"])


def network_of(backbone: str) -> Network | None:
    """Return the published network that our backbone is, None if it is none."""
    entry = _names()["backbones"].get(backbone)
    if entry is None:
        return None
    return Network(
        entry["network"], tuple(entry["same"]), tuple(entry["unsaid"]), entry["settings"]
    )


def differences(name: str) -> list[Row]:
    """Return what is published for a suite as a difference between two methods."""
    return [r for r in rows() if r.is_difference and r.dataset.partition("/")[0] == name]


def find(name: str, method: str | None = None) -> list[tuple[str, Row]]:
    """Return (task or mean, row) of the scores published for a suite.

    Args:
        name: of the suite.
        method: a published name of a method; None for all.

    """
    wanted = suite(name)
    found = ((wanted.key_of(r), r) for r in rows() if method is None or r.method == method)
    return [(key, row) for key, row in found if key is not None]
