"""A search for settings: where, how often and by which rule (:mod:`peftbench.runs.searching`)."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, unknown
from .clusters import need

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KINDS = ("log", "linear", "int", "log_int")
"""Ranges: real numbers on a logarithmic or linear scale, whole numbers likewise."""


@dataclass(frozen=True)
class Search:
    """What is tried for every method of a command before its runs.

    Attributes:
        space: settings by their names on the command line, each with a list of values or with
            ``{log: [LOW, HIGH]}`` (or another of ``KINDS``).
        own: further settings of single methods, by their names: ``{lora: {method.rank: ...}}``.
        trials: how many for every method.
        seconds: no trial is begun once the trials of a method took so long; None: no limit.
        sampler: ``tpe`` learns from earlier trials (Bergstra et al. 2011), ``random``, or ``grid``
            over lists (in random order, so that a part of it is a sample).
        seed: of the sampler.
        halving: None: every trial is a full run. N: trials begin with short runs, and about one in
            N goes on to a run N times as long (successive halving without waiting, Li et al. 2020).
        shortest: epochs of the first run of a trial, with ``halving``.

    """

    space: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 20
    seconds: float | None = None
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    seed: int = 0
    halving: int | None = None
    shortest: int = 1

    def __post_init__(self) -> None:
        need("optuna", "search", "search=optuna")
        least = {"trials": (self.trials, 1), "halving": (self.halving, 2)}
        least |= {"shortest": (self.shortest, 1), "seed": (self.seed, 0)}
        for name, (value, low) in least.items():
            if value is not None and value < low:
                raise ConfigError(f"search.{name}: expected {low} or more, got {value}")
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError(f"search.seconds: expected more than 0, got {self.seconds}")
        if not self.space and not self.own:
            raise ConfigError(
                "search.space: say what to search, for example "
                "'search.space={trainer.lr:{log:[1e-4,1e-1]}}'"
            )
        for method in ("", *self.own):
            self.dimensions(method)

    def dimensions(self, method: str) -> dict[str, tuple[str, Any]]:
        """Return kind (``values`` or one of ``KINDS``) and values of all settings of a method."""
        found = dict(_flat(self.space, "search.space"))
        if method in self.own:
            found |= _flat(self.own[method], f"search.own.{method}")
        for key, (kind, _) in found.items():
            if self.sampler == "grid" and kind != "values":
                raise ConfigError(f"search.space: sampler=grid needs a list of values for {key}")
            if self.halving and key == "trainer.epochs":
                raise ConfigError("search.halving: it sets trainer.epochs, which is in the space")
        return found

    def distributions(self, method: str) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions; values of a list are stood for by their JSON text."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        made: dict[str, BaseDistribution] = {}
        for key, (kind, values) in self.dimensions(method).items():
            if kind == "values":
                made[key] = CategoricalDistribution([json.dumps(v) for v in values])
            elif kind in ("int", "log_int"):
                made[key] = IntDistribution(values[0], values[1], log=kind == "log_int")
            else:
                made[key] = FloatDistribution(values[0], values[1], log=kind == "log")
        return made

    def grid(self, method: str) -> list[dict[str, str]]:
        """Return all points of a grid in the order in which they are tried."""
        sides = {k: [json.dumps(v) for v in vs] for k, (_, vs) in self.dimensions(method).items()}
        points = [dict(zip(sides, p, strict=True)) for p in itertools.product(*sides.values())]
        random.Random(self.seed).shuffle(points)
        return points

    def count(self, method: str) -> int:
        """Return how many trials a method has."""
        return min(self.trials, len(self.grid(method))) if self.sampler == "grid" else self.trials

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs of a trial's runs, from the shortest to the full one."""
        found = [epochs]
        while self.halving and found[0] // self.halving >= self.shortest:
            found.insert(0, found[0] // self.halving)
        return found


def _flat(space: Mapping[str, Any], where: str) -> Mapping[str, tuple[str, Any]]:
    """Return every setting of a space with its kind and values; settings may be nested by dots."""
    if not isinstance(space, Mapping):
        raise ConfigError(f"{where}: expected settings with their values, got {space!r}")
    found: dict[str, tuple[str, Any]] = {}
    for key, value in space.items():
        place = f"{where}.{key}"
        if isinstance(value, Mapping) and not set(value) & set(KINDS):
            if not any(isinstance(v, Mapping | Sequence) for v in value.values()):
                raise unknown("range", next(iter(value), ""), KINDS, place)
            inner = _flat(value, place)
            found |= {f"{key}.{name}": dimension for name, dimension in inner.items()}
        elif isinstance(value, Mapping):
            found[str(key)] = _range(value, place)
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value):
            found[str(key)] = ("values", list(value))
        else:
            raise ConfigError(f"{place}: expected a list or {{log: [LOW, HIGH]}}, got {value!r}")
    return found


def _range(value: Mapping[str, Any], where: str) -> tuple[str, tuple[float, float]]:
    (kind, bounds), *more = value.items()
    if more or kind not in KINDS:
        wrong = next((str(k) for k in value if k not in KINDS), "+".join(value))
        raise unknown("range", wrong, KINDS, where)
    whole = int if "int" in kind else (int, float)
    numbers = isinstance(bounds, Sequence) and all(
        isinstance(b, whole) and not isinstance(b, bool) for b in bounds
    )
    if not numbers or len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise ConfigError(f"{where}.{kind}: expected [LOW, HIGH], got {bounds!r}")
    if kind.startswith("log") and bounds[0] <= 0:
        raise ConfigError(f"{where}.{kind}: expected numbers above 0, got {bounds!r}")
    return kind, (bounds[0], bounds[1])
