"""A suite: several tasks that are run one by one and summed up together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError, unknown
from .base import DataSpec


@dataclass(frozen=True)
class Suite:
    """Data spec of several tasks.

    Attributes:
        name: name of the suite.
        members: data spec of every task by name.
        groups: tasks of every group, for means of groups; no task is in two groups.
        tasks: the tasks to run, or None for all.

    """

    name: str
    members: Mapping[str, DataSpec]
    groups: Mapping[str, tuple[str, ...]]
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError(f"data.members: suite '{self.name}' has no tasks")
        for group, names in self.groups.items():
            for name in names:
                if name not in self.members:
                    raise unknown(
                        f"task of {self.name}", name, self.members, f"data.groups.{group}"
                    )
        grouped = [name for names in self.groups.values() for name in names]
        if len(set(grouped)) != len(grouped):
            raise ConfigError(f"data.groups: a task of suite '{self.name}' is in two groups")
        for name in self.tasks or ():
            if name not in self.members:
                raise unknown(f"task of {self.name}", name, self.members, "data.tasks")
        if self.tasks is not None and not self.tasks:
            raise ConfigError("data.tasks: name at least one task, or null for all of them")
        if self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"data.tasks: a task is named twice in {list(self.tasks)}")

    def selected(self) -> dict[str, DataSpec]:
        """Return the chosen tasks, in the order of the choice."""
        return {name: self.members[name] for name in self.tasks or tuple(self.members)}


class SuiteSpec(ABC):
    """Data spec that stands for a suite and builds it from a few settings, a folder for one."""

    def __post_init__(self) -> None:
        self.selected()  # builds the suite, which checks the choice of tasks

    @property
    @abstractmethod
    def whole(self) -> Suite:
        """The suite itself."""

    @property
    def name(self) -> str:
        """Name of the suite."""
        return self.whole.name

    @property
    def members(self) -> Mapping[str, DataSpec]:
        """Data spec of every task by name."""
        return self.whole.members

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Tasks of every group."""
        return self.whole.groups

    def selected(self) -> dict[str, DataSpec]:
        """Return the chosen tasks, in the order of the choice."""
        return self.whole.selected()
