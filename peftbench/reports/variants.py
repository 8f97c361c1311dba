"""Which runs are the same thing but for task and seed, and what to call each such thing.

Two runs of one method's name may have been made with other settings. They are told apart by the
settings in which they differ, and those settings make the label: ``gist[lambda_ce=0,mu_kl=0]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, unknown
from ..runs.identity import VOLATILE, lasting
from ..runs.states import note_of
from ..runs.store import RunDir
from .collect import Run

CHOSEN = ("backbone", "trainer", "protocol")
"""Groups besides the method: told apart by the choice first, then by settings within a choice."""
WHOLE = ("backbone", "protocol")
"""Keys (and all below ``protocol``) that never differ inside a variant, whatever the task."""
WEIGHTS = "backbone.sha256"
"""The first digits of the network's hash, shown where no setting tells two networks apart."""


@dataclass(frozen=True)
class Variant:
    """One method with one group of settings.

    Attributes:
        label: for tables; unique.
        method: the name under which the method was chosen.
        runs: all its runs, unfinished ones too.
        per_task: settings that differ from task to task and are fixed within each.

    """

    label: str
    method: str
    runs: tuple[Run, ...]
    per_task: tuple[str, ...] = ()
    _by_place: Mapping[tuple[str, int], Run] = field(init=False, repr=False, compare=False)

    @property
    def searched(self) -> list[str]:
        """What was spent on choosing its settings, one text per search that its runs name."""
        found: dict[str, str] = {}
        for run in self.runs:
            note = note_of(RunDir(run.path))
            if note is not None:
                spent = note["spent"]
                text = (
                    f"settings searched on val: {spent['trials']} trials, {spent['seconds']:.0f} s"
                )
                found[note["search"]] = text
        return sorted(set(found.values()))

    def __post_init__(self) -> None:
        places: dict[tuple[str, int], Run] = {}
        for run in self.runs:
            other = places.setdefault((run.task, run.seed), run)
            if other is not run:
                raise ConfigError(
                    f"runs: {other.path} and {run.path} are both {self.label} on {run.task} with "
                    f"seed {run.seed}, of other data or another version of the code; a report "
                    "takes one of them: name runs or studies that do not hold both"
                )
        object.__setattr__(self, "_by_place", places)

    @property
    def seeds(self) -> list[int]:
        """Every seed that a run of it has."""
        return sorted({run.seed for run in self.runs})

    def scores(self, task: str) -> dict[int, Run]:
        """Return the finished runs on a task by seed."""
        places = sorted(self._by_place.items())
        return {s: run for (t, s), run in places if t == task and run.result is not None}

    @property
    def finished(self) -> list[Run]:
        """Runs that have a result."""
        return [run for run in self.runs if run.result is not None]


def variants(
    runs: Iterable[Run],
    labels: Mapping[str, str] | None = None,
    superseded: list[Run] | None = None,
) -> list[Variant]:
    """Group runs that differ in nothing but task, seed and settings fixed by the task.

    Args:
        runs: any runs.
        labels: own label -> label to show instead.
        superseded: takes the older of two runs of one variant, task and seed (of other data or
            another version of the code); None refuses such runs.

    Returns:
        Variants in the order of method names, then labels.

    Raises:
        ConfigError: a label to rename is not there, two end up alike, or two runs are the same
            variant on the same task and seed.

    """
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    made = [
        v for method in sorted(by_method) for v in _split(method, by_method[method], superseded)
    ]
    return renamed(made, labels or {})


def pick(found: Sequence[Variant], name: str, key: str) -> Variant:
    """Return the variant with a label, or the only one of a method.

    Raises:
        ConfigError: there is none, or the method has several; ``key`` is the setting to mend.

    """
    for variant in found:
        if variant.label == name:
            return variant
    same = [v for v in found if v.method == name]
    if len(same) == 1:
        return same[0]
    if same:
        listed = "\n    ".join(v.label for v in same)
        raise ConfigError(f"{key}: '{name}' has several settings; name one:\n    {listed}")
    raise unknown("method of these runs", name, [v.label for v in found], key)


def _newest(runs: Sequence[Run], superseded: list[Run]) -> list[Run]:
    """Return the newest finished run of every task and seed; the others go to ``superseded``."""
    kept: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda r: (r.result is not None, r.written, r.path.name)):
        place = (run.task, run.seed)
        if place in kept:
            superseded.append(kept[place])
        kept[place] = run
    return list(kept.values())


def _split(method: str, runs: Sequence[Run], superseded: list[Run] | None = None) -> list[Variant]:
    known: dict[int, dict[str, str]] = {}
    flat = [_flat(run, known) for run in runs]
    keys = sorted({key for one in flat for key in one}, key=_order)
    apart = [key for key in keys if _tells_apart(key, runs, flat)]
    groups = _grouped(flat, [key for key in apart if key != WEIGHTS])
    if WEIGHTS in apart and len(_grouped(flat, apart)) > len(groups):
        groups = _grouped(flat, apart)  # nothing but the weights tells these apart
    out = []
    for settings, members in sorted(groups.items()):
        inside, own = [flat[i] for i in members], [runs[i] for i in members]
        varying = [k for k in keys if len({one[k] for one in inside if k in one}) > 1]
        shown = ",".join(f"{k}={v}" for k, v in settings)
        out.append(
            Variant(
                f"{method}[{shown}]" if shown else method,
                method,
                tuple(own if superseded is None else _newest(own, superseded)),
                tuple(k for k in varying if k != WEIGHTS and not k.startswith("data")),
            )
        )
    return out


def _grouped(
    flat: Sequence[Mapping[str, str]], keys: Sequence[str]
) -> dict[tuple[tuple[str, str], ...], list[int]]:
    """Return places in ``flat`` by the values of some keys."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, one in enumerate(flat):
        groups.setdefault(tuple((k, one[k]) for k in keys if k in one), []).append(i)
    return groups


def _order(key: str) -> tuple[int, str]:
    """Settings of the method first."""
    head = key.partition(".")[0]
    return ((*CHOSEN, "data").index(head) + 1 if head in (*CHOSEN, "data") else 0, key)


def _tells_apart(key: str, runs: Sequence[Run], flat: Sequence[Mapping[str, str]]) -> bool:
    """Whether two runs with this setting differ in it where nothing else explains it.

    The task may explain it (then it is a setting per task), or that the group to which the setting
    belongs was another choice, which is told apart by its name.
    """
    head, dot, _ = key.partition(".")
    whole = key in WHOLE or (head == "protocol" and dot)
    values: dict[tuple[str, str], set[str]] = {}
    for run, one in zip(runs, flat, strict=True):
        if key in one:
            choice = one[head] if dot and head in CHOSEN else ""
            values.setdefault(("" if whole else run.task, choice), set()).add(one[key])
    return any(len(seen) > 1 for seen in values.values())


def _flat(run: Run, known: dict[int, dict[str, str]]) -> dict[str, str]:
    """Return the settings that can change a result as text, without task and seed.

    Args:
        run: whose settings.
        known: text of groups of settings by identity; runs that are read share equal groups.

    """
    names = run.config["names"]
    out: dict[str, str] = {}
    for group, value in run.config.items():
        if isinstance(value, Mapping) and group not in VOLATILE:
            if id(value) not in known:
                plain = lasting({group: value})[group]
                known[id(value)] = _leaves(plain, "" if group == "method" else f"{group}.")
            out |= known[id(value)]
    out |= {group: str(names.get(group, "")) for group in CHOSEN}
    if run.result is not None and "backbone_sha256" in run.result:
        out[WEIGHTS] = str(run.result["backbone_sha256"])[:8]
    return out


def _leaves(value: Mapping[str, Any], prefix: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            out |= _leaves(inner, f"{prefix}{name}.")
        elif name == "_target_":
            out[prefix.rstrip(".") or "class"] = str(inner).rpartition(".")[2]
        else:
            out[prefix + name] = _text(inner)
    return out


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def renamed(found: Sequence[Variant], labels: Mapping[str, str]) -> list[Variant]:
    """Return variants under other labels.

    Raises:
        ConfigError: a label is not there, or two variants end up alike.

    """
    own = [v.label for v in found]
    for label in labels:
        if label not in own:
            raise unknown("method of these runs", label, own, "labels")
    out = [Variant(labels.get(v.label, v.label), v.method, v.runs, v.per_task) for v in found]
    shown = [v.label for v in out]
    for label in shown:
        if shown.count(label) > 1:
            raise ConfigError(f"labels: two methods would be called '{label}'")
    return out
