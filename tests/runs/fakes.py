"""Stand-ins for a method, a backbone, data and a trainer, so that runs are tested without training.

Loaded under the name ``peftbench.fakes``, because settings may only build classes of the package.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    alpha: float = 16.0
    roles: tuple[str, ...] = ("q", "v")

    def stages(self) -> tuple:
        return ()


@dataclass(frozen=True)
class Gist:
    inner: Any
    weight: float = 0.5

    def stages(self) -> tuple:
        return ()


@dataclass(frozen=True)
class Vit:
    depth: int = 2
    weights: str | None = None


@dataclass(frozen=True)
class Trainer:
    lr: float = 1e-3
    epochs: int = 2
    optimizer: Literal["adamw", "sgd"] = "adamw"
    log_every: int = 10

    def for_task(self, task: str, chosen: Collection[str] = ()) -> Trainer:
        return self


@dataclass(frozen=True)
class Pocket:
    committed: ClassVar[bool] = True

    task: Literal["digits", "mnist5k", "broken"] = "digits"

    @property
    def name(self) -> str:
        return self.task

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.task.encode()).hexdigest()


@dataclass(frozen=True)
class Suite:
    name: str
    members: Mapping[str, Pocket]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None

    def selected(self) -> dict[str, Pocket]:
        return {n: m for n, m in self.members.items() if self.tasks is None or n in self.tasks}


def result_of(settings: Any, run_id: str, value: float = 0.9) -> dict[str, Any]:
    """A complete result.json as a run would give it."""
    return {
        "schema_version": 1,
        "run_id": run_id,
        "status": "finished",
        "method": settings.names["method"],
        "backbone": settings.names["backbone"],
        "data": settings.names["data"],
        "task": "classification",
        "seed": settings.seed,
        "protocol": settings.protocol.name,
        "metrics": {
            "train": {"loss": 0.2},
            "val": {"accuracy": 0.85, "loss": 0.5},
            "test": {"accuracy": value, "loss": 0.4},
        },
        "primary": {
            "name": "accuracy",
            "value": value,
            "split": "test",
            "ci95": [value - 0.02, value + 0.02],
            "higher_is_better": True,
        },
        "params": {"trainable": 12345, "head": 3850, "total": 22_000_000},
        "artefact_bytes": 52_000,
        "cost": {
            "train_s": 61.5,
            "eval_s": 2.5,
            "step_ms_median": 123.4,
            "samples_per_s": 260.0,
            "train_flops": 1.5e12,
            "peak_memory_bytes": 900_000_000,
        },
        "environment": {"python": "3", "torch": "2", "device": "cpu", "dtype": "f32", "code": "x"},
        "data_manifest": {
            "task": "digits",
            "splits": {
                "train": {"count": 800},
                "val": {"count": 200},
                "test": {"count": 797},
            },
        },
    }


def execute(settings: Any, run_dir: Any, sources: Any) -> dict[str, Any]:
    """Stand in for training: note the call, do what FAKE_RUN says, return a result."""
    from peftbench.errors import NonFiniteError

    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps({"run_id": run_dir.run_id, "seed": settings.seed}) + "\n")
    what = os.environ.get("FAKE_RUN", "")
    if getattr(settings.data, "task", "") == "broken" or what == f"nonfinite:{settings.seed}":
        raise NonFiniteError("the loss of step 3 is not finite")
    if what == "crash":
        raise RuntimeError("a defect")
    if what == "term":
        run_dir.state.mkdir(exist_ok=True)
        (run_dir.state / "step.json").write_text("{}")
        raise SystemExit(143)
    if what == "ctrl-c":
        raise KeyboardInterrupt
    return result_of(settings, run_dir.run_id, 0.9 if settings.names["data"] == "digits" else 0.7)
