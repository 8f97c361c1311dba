"""Dashboards at Weights & Biases: overview by method, tasks, cost against score, learning curves.

python scripts/wandb_dashboard.py suite=vtab1k                  all runs on a suite's tasks
python scripts/wandb_dashboard.py runs=outputs/STUDY            the runs of a study
python scripts/wandb_dashboard.py suite=glue kind=report entity=team project=mine

suite    a suite that data= knows
runs     a study's folder; several with commas
kind     workspace (default) or report
entity   user or team (default: that of the login)
project  of W&B (default: peftbench)
title    of the dashboard (default: the suite's or the study's name)
out      file for the definition (default: outputs/dashboards/TITLE.KIND.json)

The runs come to W&B by tracker=wandb or scripts/sync_wandb.py. The definition is always written;
with a login (`wandb login`) the dashboard is published too, and its address printed.
Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peftbench import arguments
from peftbench.errors import ConfigError

if TYPE_CHECKING:
    from peftbench.reports.dashboard import Subject


@dataclass(frozen=True)
class Asked:
    """Settings; see the top of this file."""

    suite: str | None = None
    runs: tuple[str, ...] = ()
    kind: Literal["workspace", "report"] = "workspace"
    entity: str | None = None
    project: str = "peftbench"
    title: str | None = None
    out: str | None = None


def subject(asked: Asked) -> Subject:
    """Return what the dashboard is about."""
    from peftbench.reports.collect import collect
    from peftbench.reports.dashboard import subject_of_runs, subject_of_suite
    from peftbench.runs.compose import compose_settings

    if (asked.suite is None) == (not asked.runs):
        raise ConfigError("name either suite=NAME or runs=FOLDER")
    if asked.suite is None:
        title = asked.title or ", ".join(Path(place).name for place in asked.runs)
        return subject_of_runs(title, collect(asked.runs).runs)
    data = compose_settings([f"data={asked.suite}", "backbone=dinov2_small"]).data
    if not hasattr(data, "selected"):
        raise ConfigError(f"suite: data={asked.suite} is one task; suites are vtab1k, glue, ...")
    members = data.selected()
    names = tuple(spec.name for spec in members.values())
    metrics = dict.fromkeys(name for task in names for name in metrics_of(task))
    return subject_of_suite(asked.title or asked.suite, names, list(metrics))


def metrics_of(task: str) -> tuple[str, ...]:
    """Return what is measured on a task, without reading its data."""
    from peftbench.tasks.pocket_sources import TASKS
    from peftbench.tasks.text_tables import TABLE

    texts = TASKS.get(task) or TABLE.get(task)
    return texts.metrics if texts else ("accuracy",)


def build(asked: Asked) -> None:
    """Write the definition, and publish it where there is a login."""
    from peftbench.files import write_json
    from peftbench.reports.dashboard import definition, publish
    from peftbench.runs.to_wandb import logged_in

    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "dashboards need the package 'wandb-workspaces', which is not installed\n"
            "  pip install 'peftbench[wandb]'"
        )
    about = subject(asked)
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in about.title)
    path = Path(asked.out or f"outputs/dashboards/{name}.{asked.kind}.json")
    write_json(path, definition(about, asked.entity or "", asked.project, asked.kind))
    print(f"definition: {path}")
    if not logged_in():
        print("not published: run `wandb login` (or set WANDB_API_KEY) and give the command again")
        return
    import wandb

    entity = asked.entity or str(wandb.Api().default_entity)
    print(f"published: {publish(about, entity, asked.project, asked.kind)}")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return arguments.command(Asked, build, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
