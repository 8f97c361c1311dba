"""The comparison with published rows as tables for a person."""

from __future__ import annotations

from collections.abc import Sequence

from . import published
from .compare import Beside, Block, Ours, Source, verdict
from .paired import cost_table, missing_notes, span
from .published import Suite
from .tables import MISSING, Table, score

MARKS = {"inside": "in", "outside": "OUT", "not comparable": "n/c", "no interval": "?"}


def tables(report: Beside) -> list[Table]:
    """Return the means of everything, then each method of ours beside the tables that have it."""
    out = [_means(report)] if report.suite.means or not report.blocks else []
    out += [_block(report, block) for block in report.blocks]
    ours = [b.ours.variant for b in report.blocks if b.ours]
    if ours:
        out.append(cost_table(ours))
    out[0].notes += missing_notes(report.missing)
    return out


def _means(report: Beside) -> Table:
    suite = report.suite
    keys = list(suite.means) or list(suite.tasks)
    table = Table(
        f"{suite.title}: {'means' if suite.means else 'scores'}, top-1 in %",
        ["method", *keys, "trained (M)", "from"],
        notes=["ours: value [95% interval] (seeds; b: one seed, binomial interval)"],
        words=["from"],
    )
    for block in report.blocks:
        if block.ours:
            cells = [_cell(block, key) for key in keys]
            table.rows.append([block.title, *cells, _millions(block), "ours"])
    for source in report.everything:
        cells = [f"{source.rows[k].value:.2f}" if k in source.rows else "-" for k in keys]
        about = source.about
        params = "-" if about.trainable_params_m is None else f"{about.trainable_params_m:g}"
        network = "" if about.backbone == "ViT-B/16" else f", {about.backbone}"
        place = f"{about.paper}, {about.table}{network}, {about.pretrain}"
        if any(c != "-" for c in cells):
            table.rows.append([about.method, *cells, params, place])
    if not report.everything:
        table.notes.append(f"nothing is published for {suite.title}")
    if any(r.metric.endswith("_derived") for s in report.everything for r in s.rows.values()):
        table.notes.append(
            "published means that their source does not print are averaged from its row; "
            "format=csv names them (metric *_derived) and gives every source"
        )
    for row in published.differences(suite.name):
        table.notes.append(
            f"published as a difference: {row.method}: {row.value:+g} ({row.metric}); {row.paper}, "
            f"{row.source}; ours: report.py paired"
        )
    if not any(b.ours for b in report.blocks):
        table.notes.append("ours: missing (no run on this suite was given; runs=FOLDER)")
    return table


def _millions(block: Block) -> str:
    assert block.ours
    done = [r.result for r in block.ours.variant.finished if r.result]
    return f"{done[0]['params']['trainable'] / 1e6:.4g}" if done else MISSING


def _cell(block: Block, key: str) -> str:
    if block.ours is None:
        return MISSING
    estimate = block.ours.scores[key]
    return block.ours.lacking[key] if estimate is None else score(estimate)


def _block(report: Beside, block: Block) -> Table:
    """Return one method: tasks and means down, ours and each source across."""
    numbers = [f"[{i}]" for i in range(1, len(block.sources) + 1)]
    table = Table(
        f"{report.suite.title}: {block.title}, top-1 in %", ["task or mean", "ours", *numbers]
    )
    for key in report.keys:
        cells = [_beside(block.ours, source, key) for source in block.sources]
        table.rows.append([key, _cell(block, key), *cells])
    table.notes = [*_own_notes(report.suite, block), *_source_notes(block.sources)]
    return table


def _beside(ours: Ours | None, source: Source, key: str) -> str:
    if key not in source.rows:
        return "-"
    value = source.rows[key].value
    estimate = ours.scores[key] if ours else None
    if estimate is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({estimate.value - value:+.2f} {MARKS[verdict(ours, source, key)]})"


def _own_notes(suite: Suite, block: Block) -> list[str]:
    if block.ours is None:
        return ["ours: missing (no runs of it were given)"]
    variant = block.ours.variant
    done = [r.result["params"]["trainable"] for r in variant.finished if r.result]
    notes = [
        f"ours: {block.ours.made}; trained parameters {span(done) if done else MISSING}",
        "ours: value [95% interval] (seeds; b: one seed, binomial interval of its test samples)",
    ]
    tasks = {k: text for k, text in block.ours.odd.items() if k in suite.tasks}
    notes += [
        f"ours: {k} is not the published data, so not comparable: {t}" for k, t in tasks.items()
    ]
    if variant.per_task:
        notes.append(f"ours: set per task: {', '.join(variant.per_task)}")
    if not block.sources:
        return [*notes, "nothing is published for this method on this suite"]
    return [
        *notes,
        "published: value (ours minus published; in: the published value lies inside our interval; "
        "OUT: outside; n/c: not comparable)",
    ]


def _source_notes(sources: Sequence[Source]) -> list[str]:
    out = []
    for i, source in enumerate(sources, start=1):
        about = source.about
        params = about.trainable_params_m
        parts = [f"{about.paper}, {about.table}: {about.method}, {about.backbone} {about.pretrain}"]
        parts += [f"{params:g} M parameters"] if params is not None else []
        parts += [source.standing] if source.standing else []
        out.append(f"[{i}] " + "; ".join(parts))
        read: dict[str, list[str]] = {}
        for key, row in source.rows.items():
            read.setdefault(row.source, []).append(key)
        whole = min(read, key=len)
        out.append(f"    read in: {whole}")
        out += [
            f"    {', '.join(keys)}: {text.removeprefix(whole).strip()}"
            for text, keys in read.items()
            if text != whole
        ]
    return out
