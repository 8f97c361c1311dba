"""How a sweep is carried out: by which launcher, and what a failure means; nothing of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .. import spec
from ..errors import ConfigError, unknown
from .clusters import Ray, Submitit
from .launchers import Launcher, Local, Parallel
from .search import Search
from .settings import ORDERS


@dataclass(frozen=True)
class Orders:
    """What the command says about carrying out its runs.

    Attributes:
        launcher: who executes.
        on_error: ``continue``: a failed run is kept with its error and the others go on.
            ``stop``: nothing is begun after a failure. ``retry``: a failed run is done again, after
            the others, up to ``retries`` times.
        retries: see ``on_error``.
        wait: whether to wait for runs that other processes work on, and to continue them where
            their processes die.
        search: what to search for before the runs; None: their settings are those of the command.

    """

    launcher: Any
    on_error: Literal["continue", "stop", "retry"] = "continue"
    retries: int = 2
    wait: bool = True
    search: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.launcher, Launcher):
            names = [c.__name__.lower() for c in (Local, Parallel, Submitit, Ray)]
            raise unknown("launcher", type(self.launcher).__name__, names, "launcher._target_")
        if self.search is not None and not isinstance(self.search, Search):
            raise unknown("search", type(self.search).__name__, ["optuna"], "search._target_")
        if self.retries < 0:
            raise ConfigError(f"retries: expected 0 or more, got {self.retries}")

    @property
    def attempts(self) -> int:
        """How often a run may fail before it counts as failed."""
        return 1 + (self.retries if self.on_error == "retry" else 0)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Orders:
        """Build the orders from a composed, plain configuration.

        Raises:
            ConfigError: wrong name, type or value.

        """
        return cls(**spec.check_fields(cls, {k: config[k] for k in ORDERS if k in config}))
