"""Dashboards of a suite or a study for W&B: what is on them, as a workspace and as a report.

Nothing here speaks to W&B but :func:`publish`; the definitions are made of names that the W&B
tracker writes (``runs/to_wandb.py``).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError, TrackerError
from ..runs.history import history
from ..runs.store import RunDir
from .collect import Run

As = Literal["workspace", "report"]
METHOD, TASK = "names.method", "names.data"
"""Keys of the W&B run's configuration by which runs are grouped and told apart."""
COSTS = {
    "params/trainable": "trained parameters",
    "cost/train_s": "training time, s",
    "cost/step_ms_median": "time of a step, ms",
    "cost/peak_memory_bytes": "peak memory, bytes",
    "cost/train_flops": "training FLOPs",
    "artefact_bytes": "adapter size, bytes",
}
"""Figures of a result that are a cost, and their titles."""


@dataclass(frozen=True)
class Subject:
    """What a dashboard is about.

    Attributes:
        title: for a person.
        tasks: tasks, by the name that their results have.
        curves: names of logged figures, ``split/name``.
        data: choices of ``data`` whose runs belong here; empty: any.
        study: the study whose runs belong here; None: any.

    """

    title: str
    tasks: tuple[str, ...]
    curves: tuple[str, ...]
    data: tuple[str, ...] = ()
    study: str | None = None


@dataclass(frozen=True)
class Panel:
    """One panel: a bar per method, a point per run, or a line per method over the steps."""

    kind: Literal["bars", "points", "lines"]
    title: str
    y: str
    x: str | None = None


def subject_of_suite(title: str, tasks: tuple[str, ...], metrics: Sequence[str]) -> Subject:
    """Return the subject of a suite, whose runs may be in any study.

    Args:
        title: of the suite.
        tasks: names of its tasks, which are the choices of ``data`` too.
        metrics: names of the tasks' metrics.

    """
    figures = dict.fromkeys((*metrics, "loss"))
    curves = ("train/loss", *(f"val/{name}" for name in figures))
    return Subject(title, tasks, curves, tasks)


def subject_of_runs(title: str, runs: Sequence[Run]) -> Subject:
    """Return the subject of finished runs of one study, with every figure that they logged.

    Raises:
        ConfigError: there is no finished run.

    """
    done = [run for run in runs if run.result is not None]
    if not done:
        raise ConfigError("runs: none of them is finished; a dashboard shows results")
    studies = {run.path.parent.name for run in done}
    logged = {
        name for run in done for row in history(RunDir(run.path).metrics) for name in row.values
    }
    tasks = dict.fromkeys(str(run.result["task"]) for run in done if run.result)
    study = studies.pop() if len(studies) == 1 else None
    data = dict.fromkeys(str(run.config["names"]["data"]) for run in done)
    own = () if study else tuple(data)
    return Subject(title, tuple(sorted(tasks)), tuple(sorted(logged)), own, study)


def sections(subject: Subject) -> dict[str, list[Panel]]:
    """Return the panels of a dashboard by section."""
    primary = "result/primary/value"
    overview = [Panel("bars", "primary figure, mean of runs", primary)]
    overview += [
        Panel("bars", title, f"result/{name}")
        for name, title in COSTS.items()
        if name in ("params/trainable", "cost/train_s", "cost/peak_memory_bytes")
    ]
    first = [name for name in ("train/loss", "val/loss") if name in subject.curves]
    curves = [*first, *(name for name in subject.curves if name not in first)]
    return {
        "Overview by method": overview,
        "Tasks": [Panel("bars", task, f"task/{task}") for task in subject.tasks],
        "Cost against score": [
            Panel("points", f"score against {title}", primary, f"result/{name}")
            for name, title in COSTS.items()
        ],
        "Learning curves": [Panel("lines", name, name) for name in curves],
    }


def workspace(subject: Subject, entity: str, project: str) -> Any:
    """Return the dashboard as a workspace: one set of runs, grouped by method."""
    ws, expr = _module("workspaces"), _module("expr")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=subject.title,
        sections=[
            ws.Section(name=name, panels=[_drawn(p) for p in panels], is_open=True)
            for name, panels in sections(subject).items()
        ],
        runset_settings=ws.RunsetSettings(
            filters=_filters(subject),
            groupby=[expr.Config(METHOD)],
            pinned_columns=["summary:result/primary/value", "summary:result/params/trainable"],
        ),
        settings=ws.WorkspaceSettings(max_runs=100),
    )


def report(subject: Subject, entity: str, project: str, known: bool = True) -> Any:
    """Return the dashboard as a report.

    Args:
        subject: what it is about.
        entity: user or team.
        project: of W&B.
        known: whether the project may be asked for; not without a login.

    """
    wr = _module("reports.v2")
    where = {"entity": entity, "project": project} if known else {}
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections(subject).items():
        runs = wr.Runset(
            **where,
            name=subject.title,
            filters=_filters(subject),
            groupby=[] if name == "Cost against score" else [f"config.{METHOD}"],
        )
        drawn = [_drawn(panel) for panel in panels]
        for number, panel in enumerate(drawn):
            panel.layout = wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=drawn)]
    about = "One run a point; bars and lines are means of a method's runs."
    return wr.Report(
        entity=entity,
        project=project,
        title=subject.title,
        description=about,
        blocks=blocks,
        width="fluid",
    )


def _drawn(panel: Panel) -> Any:
    """Return the panel as W&B's own."""
    wr = _module("reports.v2")
    method = wr.Config(METHOD)
    if panel.kind == "bars":
        return wr.BarPlot(
            title=panel.title,
            metrics=[wr.SummaryMetric(panel.y)],
            groupby=method,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_bars_to_show=50,
        )
    if panel.kind == "points":
        assert panel.x is not None
        x, y = wr.SummaryMetric(panel.x), wr.SummaryMetric(panel.y)
        return wr.ScatterPlot(title=panel.title, x=x, y=y, log_x=True)
    return wr.LinePlot(
        title=panel.title,
        x="Step",
        y=[panel.y],
        groupby=method,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=100,
    )


def _filters(subject: Subject) -> Any:
    expr = _module("expr")
    found: list[Any] = []
    if subject.study is not None:
        found.append(expr.Metric("Group") == subject.study)
    if subject.data:
        group, _, name = TASK.partition(".")
        found.append(expr.Config(f"{group}.value.{name}").isin(list(subject.data)))
    return expr.And(*found) if found else []


def _module(name: str) -> Any:
    """Import a part of wandb-workspaces, which is needed for dashboards alone and is untyped."""
    return importlib.import_module(f"wandb_workspaces.{name}")


def definition(subject: Subject, entity: str, project: str, kind: As) -> dict[str, Any]:
    """Return the definition that W&B would be sent, as plain data."""
    made = (
        workspace(subject, entity, project)
        if kind == "workspace"
        else report(subject, entity, project, known=False)
    )
    model: Any = made._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"kind": kind, "name": subject.title, "project": project, "spec": spec}


def publish(subject: Subject, entity: str, project: str, kind: As) -> str:
    """Save the dashboard at W&B and return its address.

    Raises:
        TrackerError: W&B did not take it.

    """
    try:
        if kind == "workspace":
            return str(workspace(subject, entity, project).save().url)
        made = report(subject, entity, project)
        made.save()
        return str(made.url)
    except Exception as error:
        raise TrackerError(f"W&B did not take the {kind} '{subject.title}' ({error})") from error
