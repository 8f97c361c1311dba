"""Ask a trained language model the tasks of EleutherAI's lm-evaluation-harness.

python scripts/harness.py adapter=<run dir> tasks=[mmlu]
python scripts/harness.py adapter=<run dir> tasks=[my_task] include=<folder of task files>

adapter  a run folder or an adapter folder; its network writes (T5, LLaMA)
tasks    names of tasks and groups of the harness; `lm-eval ls tasks` lists them
include  a folder of further task files; they may name data on disk (dataset_path: json, data_files)
shots    examples before each question (as the task says)
limit    so many questions of each task, for a trial (all)
batch    texts at a time (1)
chat     true: questions are put into the tokenizer's chat template
device   cpu, cuda, cuda:1, mps (cpu)
out      file of the figures (<run dir>/lm_eval/<tasks>.json)

Needs the extra: pip install 'peftbench[lm_eval]'. Data of a task come from the hub or its cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench import arguments
from peftbench.errors import ConfigError
from peftbench.files import write_json


@dataclass(frozen=True)
class Harness:
    """Settings of the command; see the top of this file."""

    adapter: str
    tasks: tuple[str, ...]
    include: str | None = None
    shots: int | None = None
    limit: int | None = None
    batch: int = 1
    chat: bool = False
    device: str = "cpu"
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks: name at least one, as tasks=[mmlu]")
        for name, least in (("shots", 0), ("limit", 1), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: {value} is too small; allowed: {least} and above")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a mistake that the message says how to mend."""
    return arguments.command(Harness, ask, __doc__, given)


def ask(settings: Harness) -> None:
    """Load the adapter, ask, print the figures and store them."""
    from peftbench.interop import harness
    from peftbench.predict import find_device
    from peftbench.predict.command import find_adapter
    from peftbench.train.artefact import load_adapter

    harness.require()
    device = find_device(settings.device)
    folder, description = find_adapter(settings.adapter)
    model = load_adapter(folder).to(device)
    found = harness.evaluate(
        model,
        settings.tasks,
        settings.include,
        settings.shots,
        settings.limit,
        settings.batch,
        settings.chat,
    )
    base = description["backbone"]
    facts = {"task": description["task"], "base": {k: base[k] for k in ("name", "sha256")}}
    name = "+".join(settings.tasks) + ("" if settings.shots is None else f"-{settings.shots}shot")
    run = folder.parent if folder.name == "adapter" else folder
    out = Path(settings.out) if settings.out else run / "lm_eval" / f"{name}.json"
    write_json(out, {"schema_version": 1, "method": description["method"], **facts, **found})
    for task, figures in found["results"].items():
        shown = [f"{k.split(',')[0]} {v:.4f}" for k, v in figures.items() if isinstance(v, float)]
        print(f"{task}: {'  '.join(shown)}")
    print(f"figures: {out}")


if __name__ == "__main__":
    sys.exit(main())
