"""What a command will do: every run once, by its identity, before anything is loaded.

Suites are their member runs; the sources of a transfer method are runs of their own and stand
before the runs that need them. Runs of one network, and of one task, stand together, so that a
process that keeps both in memory loads them once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PeftbenchError
from .compose import Combination
from .identity import canonical, lasting
from .launch import run_dir_of
from .local_files import has_local
from .settings import Settings
from .stages import named, stage_settings
from .store import RunDir


@dataclass(frozen=True)
class Planned:
    """One run that a command asks for.

    Attributes:
        run_id: its identity.
        path: its directory.
        plain: its settings as plain data.
        row: what tells its method and settings from those of other runs of the plan.
        needs: identities of the runs that it starts from.
        source: whether it is there for other runs to start from.

    """

    run_id: str
    path: str
    plain: Mapping[str, Any]
    row: str
    needs: tuple[str, ...] = ()
    source: bool = False

    @property
    def run_dir(self) -> RunDir:
        """Where it lies."""
        return RunDir(Path(self.path))

    @property
    def data(self) -> str:
        """The name of its task."""
        return str(self.plain["names"]["data"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.plain["seed"])

    @property
    def label(self) -> str:
        """The run in a few words."""
        return f"{'source ' if self.source else ''}{self.row}, {self.data}, seed {self.seed}"

    @property
    def like(self) -> str:
        """What runs that take about as long have in common: all but the seed."""
        rest = {k: v for k, v in lasting(self.plain).items() if k != "seed"}
        return hashlib.sha256(canonical(rest).encode()).hexdigest()[:12]

    def settings(self) -> Settings:
        """Build its settings, and make sure that they are those of its identity.

        Raises:
            ConfigError: the code or the data have changed since the plan was made.

        """
        made = Settings.of(self.plain)
        if run_dir_of(made).run_id != self.run_id:
            raise ConfigError(f"{self.label}: code or data have changed since this was planned")
        return made


@dataclass(frozen=True)
class Part:
    """A suite of the plan: its settings, and what each member became."""

    settings: Settings
    members: Mapping[str, str | None]


@dataclass(frozen=True)
class Plan:
    """The runs of a command.

    Attributes:
        runs: every run once, in the order in which they are tried.
        parts: suites, which are summed up when their members are done.
        refused: runs that cannot be, with the error of each.
        committed: whether the identities follow from command, code and configurations alone.

    """

    runs: tuple[Planned, ...]
    parts: tuple[Part, ...] = ()
    refused: tuple[tuple[str, Exception], ...] = ()
    committed: bool = False


class _Making:
    """Collects runs; the first to name one gives it its place."""

    def __init__(self) -> None:
        self.runs: dict[str, Planned] = {}
        self.kinds: dict[str, tuple[str, str]] = {}
        self.parts: list[Part] = []
        self.refused: list[tuple[str, Exception]] = []
        self.committed = True

    def job(self, words: Sequence[str], combination: Combination) -> None:
        """Add what one job of the command asks for."""
        try:
            settings = combination.settings()
        except PeftbenchError as error:
            self.refused.append((" ".join(words), error))
            return
        row = _row(settings, words)
        if not hasattr(settings.data, "selected"):
            self.run(settings, row)
            return
        members = {
            name: self.run(settings.for_task(data.name, data), row)
            for name, data in settings.data.selected().items()
        }
        self.parts.append(Part(settings, members))

    def run(self, settings: Settings, row: str, source: bool = False) -> str | None:
        """Add one run and the runs that it starts from; return its identity."""
        try:
            run_dir = run_dir_of(settings)
            needs = []
            for name, stage in stage_settings(settings).items():
                with named(name, settings):
                    needs.append(self.run(stage, stage.names["method"], source=True) or "")
        except PeftbenchError as error:
            label = f"{row}, {settings.names['data']}, seed {settings.seed}"
            self.refused.append((label, error))
            return None
        local = has_local(settings.backbone, settings.plain["backbone"])
        self.committed &= getattr(type(settings.data), "committed", False) and not local
        if run_dir.run_id not in self.runs:
            plain = dict(settings.plain)
            made = Planned(run_dir.run_id, str(run_dir.path), plain, row, tuple(needs), source)
            self.runs[made.run_id] = made
            groups = [canonical(plain[group]) for group in ("backbone", "data")]
            self.kinds[made.run_id] = (groups[0], groups[1])
        return run_dir.run_id

    def plan(self) -> Plan:
        """Return the plan: network by network, task by task, sources before all others."""
        networks = {kind[0]: n for n, kind in reversed(list(enumerate(self.kinds.values())))}
        tasks = {kind[1]: n for n, kind in reversed(list(enumerate(self.kinds.values())))}

        def place(run: Planned) -> tuple[int, int, int]:
            network, task = self.kinds[run.run_id]
            return (networks[network], not run.source, tasks[task])

        ordered = tuple(sorted(self.runs.values(), key=place))
        return Plan(ordered, tuple(self.parts), tuple(self.refused), self.committed)


def make_plan(combinations: Sequence[Combination]) -> Plan:
    """Return the plan of a command's combinations; nothing is read but manifests."""
    counts: dict[str, int] = {}
    for combination in combinations:
        for word in combination.words:
            counts[word] = counts.get(word, 0) + 1
    varied = [word for word, count in counts.items() if count < len(combinations)]
    making = _Making()
    for combination in combinations:
        making.job([w for w in combination.words if w in varied], combination)
    return making.plan()


def _row(settings: Settings, words: Sequence[str]) -> str:
    """Name a row of the study's table: the method, and what else the command varies."""
    known = ("method", "data", "seed")
    rest = [w for w in words if w.partition("=")[0].lstrip("+") not in known]
    return " ".join([settings.names["method"], *(w.lstrip("+") for w in rest)])
