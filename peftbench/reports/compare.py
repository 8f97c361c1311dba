"""Our rows beside the published ones of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import unknown
from . import published
from .collect import Collection, Missing, Run
from .paired import mean_score, task_score
from .published import Network, Row, Suite
from .stats import Estimate
from .variants import Variant


@dataclass(frozen=True)
class Source:
    """The rows of one method in one published table.

    Attributes:
        rows: task or mean -> row.
        standing: why a difference to it says little, or what to know of it; empty if nothing.
        comparable: whether a difference to it is judged.

    """

    rows: Mapping[str, Row]
    standing: str
    comparable: bool

    @property
    def about(self) -> Row:
        """Any of the rows; paper, table, method and backbone are the same in all."""
        return next(iter(self.rows.values()))


@dataclass(frozen=True)
class Ours:
    """One of our methods on a suite.

    Attributes:
        variant: its runs.
        scores: task or mean -> estimate, percent; None where something is missing.
        lacking: task or mean -> what is missing, in words.
        odd: task or mean -> in what its data differ from the published ones.

    """

    variant: Variant
    scores: Mapping[str, Estimate | None]
    lacking: Mapping[str, str]
    odd: Mapping[str, str]

    @property
    def about(self) -> Run:
        """Any of the runs; backbone and protocol are the same in all."""
        return self.variant.runs[0]

    @property
    def made(self) -> str:
        """How the rows were made, in words."""
        run = self.about
        config, results = run.config, [r.result for r in self.variant.finished if r.result]
        names, weights = config["names"], config["backbone"].get("weights")
        source = results[0].get("backbone_source", "") if results else ""
        parts = [f"backbone {names['backbone']}" + (f" ({source})" if source else "")]
        if weights:
            parts.append("weights from a local file, taken on trust")
        rules = sorted({r["primary"].get("selection", "") for r in results} - {""})
        label = f"protocol {config['protocol']['name']}" + (f", {rules[0]}" if rules else "")
        if config["protocol"]["name"] == "paper":
            label += " (the epoch is chosen on the test split)"
        return "; ".join([*parts, label])


@dataclass(frozen=True)
class Block:
    """One of our methods, or none, beside the tables that have it.

    Attributes:
        ours: our rows; None if there are no runs of it.
        sources: what is published for it.

    """

    ours: Ours | None
    sources: tuple[Source, ...]

    @property
    def title(self) -> str:
        """The method."""
        return self.ours.variant.label if self.ours else self.sources[0].about.method


@dataclass(frozen=True)
class Beside:
    """The whole report.

    Attributes:
        suite: which tasks and means.
        blocks: one per method of ours, then one per published method, if it was asked for.
        everything: all published sources of the suite, for the table of means.
        missing: results that should be there.

    """

    suite: Suite
    blocks: tuple[Block, ...]
    everything: tuple[Source, ...]
    missing: tuple[Missing, ...]

    @property
    def keys(self) -> list[str]:
        """Tasks, then means."""
        return [*self.suite.tasks, *self.suite.means]


def beside(
    suite_name: str, found: Sequence[Variant], collection: Collection, method: str | None = None
) -> Beside:
    """Put our rows on a suite beside the published ones.

    Args:
        suite_name: of the suite.
        found: variants of the runs on that suite.
        collection: these runs, for what is missing.
        method: ours (``lora``), a label of ours, or a published name; None for all.

    Raises:
        ConfigError: there is no such suite or method.

    """
    suite = published.suite(suite_name)
    everything = sources(suite)
    ours = [score_suite(suite, v) for v in found]
    if method is not None:
        names = published.names_of(method) or (method,)
        ours = [o for o in ours if method in (o.variant.label, o.variant.method)]
        kept = [s for s in everything if s.about.method in names]
        if not ours and not kept and method not in published.methods():
            known = {s.about.method for s in everything} | {*published.methods()}
            raise unknown("method", method, known | {v.label for v in found}, "method")
        everything = kept if kept or not ours else everything
    blocks = [Block(o, _beside(o, everything)) for o in ours]
    if method is not None and not ours and everything:
        blocks = [Block(None, tuple(everything))]
    return Beside(suite, tuple(blocks), tuple(everything), tuple(collection.missing()))


def sources(suite: Suite) -> list[Source]:
    """Return everything that is published for a suite, by table and method."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for key, row in published.find(suite.name):
        place = (row.paper, row.table, row.method, row.backbone, row.pretrain)
        groups.setdefault(place, {})[key] = row
    return [Source(rows, "", True) for rows in groups.values()]


def _beside(ours: Ours, everything: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources that have a method of ours, each with its standing."""
    names = published.names_of(ours.variant.method)
    network = published.network_of(str(ours.about.config["names"]["backbone"]))
    out = []
    for source in everything:
        if source.about.method not in names:
            continue
        if network is None or network.network == source.about.backbone:
            out.append(Source(source.rows, *standing(ours.about, network, source.about)))
    return tuple(out)


def standing(run: Run, network: Network | None, row: Row) -> tuple[str, bool]:
    """Say whether a run's network may be compared with a published row's: (words, comparable)."""
    backbone = run.config["backbone"]
    if network is None:
        name = run.config["names"]["backbone"]
        return f"not comparable: {name} is no network of the published tables", False
    odd = [
        f"backbone.{key}={backbone.get(key)}, there {value}"
        for key, value in network.settings.items()
        if backbone.get(key, value) != value
    ]
    if odd:
        return f"not comparable: {'; '.join(odd)}", False
    if row.pretrain in network.same:
        return "", True
    if row.pretrain in network.unsaid:
        return "its source does not say which ImageNet-21k checkpoint", True
    return f"not comparable: another checkpoint ({row.pretrain})", False


def score_suite(suite: Suite, variant: Variant) -> Ours:
    """Score a variant on every task and mean of a suite; a mean needs all of its tasks."""
    named: dict[str, str] = {}
    for run in variant.runs:
        named[suite.ours[run.task.rpartition("/")[2]]] = run.task
    scores: dict[str, Estimate | None] = {}
    lacking: dict[str, str] = {}
    for key in suite.tasks:
        scores[key] = task_score(variant, named[key]) if key in named else None
        if scores[key] is None:
            lacking[key] = "missing"
    for mean, kind in suite.means.items():
        members = suite.members(mean)
        absent = [key for key in members if scores[key] is None]
        if absent:
            lacking[mean] = f"missing ({len(members) - len(absent)} of {len(members)})"
            scores[mean] = None
            continue
        weights = _weights(suite, members, kind)
        scores[mean] = mean_score(variant, [named[key] for key in members], weights)
        if scores[mean] is None:
            lacking[mean] = f"missing (no seed has all {len(members)})"
    return Ours(variant, scores, lacking, _odd(suite, variant, named))


def _odd(suite: Suite, variant: Variant, named: Mapping[str, str]) -> dict[str, str]:
    """Return what runs say of data that are not the published ones, by task and mean."""
    odd: dict[str, str] = {}
    for key, task in named.items():
        manifests = [r.result["data_manifest"] for r in variant.scores(task).values() if r.result]
        found = [text for m in manifests for text in m.get("deviations", ())]
        if found:
            odd[key] = "; ".join(dict.fromkeys(map(str, found)))
    for mean in suite.means:
        within = [key for key in suite.members(mean) if key in odd]
        if within:
            odd[mean] = f"of {', '.join(within)}"
    return odd


def _weights(suite: Suite, members: Sequence[str], kind: str) -> list[float]:
    """Return the share of each task in a mean: alike, or alike within groups that are alike."""
    if kind != "groups":
        return [1 / len(members)] * len(members)
    sizes = {key: len(group) for group in suite.groups.values() for key in group}
    return [1 / (len(suite.groups) * sizes[key]) for key in members]


def verdict(ours: Ours | None, source: Source, key: str) -> str:
    """Say in one word how a published figure lies to ours."""
    estimate = ours.scores[key] if ours else None
    if ours is None or estimate is None or key not in source.rows:
        return ""
    if not source.comparable or key in ours.odd:
        return "not comparable"
    inside = estimate.holds(source.rows[key].value)
    if inside is None:
        return "no interval"
    return "inside" if inside else "outside"


def records(report: Beside) -> list[dict[str, Any]]:
    """Return every figure unrounded, one line per task or mean and published row."""
    out = []
    for block in report.blocks:
        for key in report.keys:
            out += [_record(report, block, key, s) for s in block.sources if key in s.rows]
            if not any(key in s.rows for s in block.sources):
                out.append(_record(report, block, key, None))
    if not report.blocks:
        for source in report.everything:
            empty = Block(None, (source,))
            out += [_record(report, empty, k, source) for k in report.keys if k in source.rows]
    return out


def _record(report: Beside, block: Block, key: str, source: Source | None) -> dict[str, Any]:
    ours = block.ours.scores[key] if block.ours else None
    lacking = block.ours.lacking.get(key, "") if block.ours else "missing"
    row = source.rows[key] if source else None
    return {
        "suite": report.suite.name,
        "dataset": key,
        "method": block.ours.variant.label if block.ours else "",
        "made": block.ours.made if block.ours else "",
        "value": ours.value if ours else lacking,
        "low": ours.low if ours and ours.low is not None else "",
        "high": ours.high if ours and ours.high is not None else "",
        "n": ours.n if ours else 0,
        "interval": ours.kind if ours else "",
        "published_method": row.method if row else "",
        "published": row.value if row else "",
        "difference": ours.value - row.value if ours and row else "",
        "published_is": verdict(block.ours, source, key) if source else "",
        "standing": source.standing if source else "not published",
        "data": block.ours.odd.get(key, "") if block.ours else "",
        "metric": row.metric if row else "",
        "backbone": row.backbone if row else "",
        "pretrain": row.pretrain if row else "",
        "paper": row.paper if row else "",
        "table": row.table if row else "",
        "trainable_params_m": row.trainable_params_m if row and row.trainable_params_m else "",
        "source": row.source if row else "",
    }
