"""Runs that other runs start from: found by run id, trained once, part of the identity."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import texts

from peftbench.errors import ConfigError
from peftbench.methods import Stage
from peftbench.methods.lora import Lora
from peftbench.runs import launch as launching
from peftbench.runs.launch import launch, run_dir_of
from peftbench.runs.plan import Planned, make_plan
from peftbench.runs.settings import Files, Protocol, Settings
from peftbench.runs.stages import stage_settings
from peftbench.runs.work import Policy, Work
from peftbench.tasks.text import TextSpec
from peftbench.train.config import Trainer


@dataclass(frozen=True)
class Toy(TextSpec):
    """The toy task under a name."""

    called: str = "toy"

    @property
    def name(self):
        return self.called

    @property
    def manifest_sha256(self):
        return texts.task(name=self.called).manifest_sha256

    def load(self):
        return texts.task(name=self.called)


@dataclass(frozen=True)
class Encoder:
    """The toy encoder."""

    family = "bert"
    takes = "text"

    def load(self):
        return texts.backbone("encoder")


@dataclass(frozen=True)
class Transfer(Lora):
    """LoRA that asks for runs on sources first, and keeps what it was given."""

    sources: tuple[Any, ...] = ()
    given: dict[str, str] = field(default_factory=dict)

    def stages(self):
        return tuple(
            Stage(s.name, Lora(roles=("q",), rank=2), s, Trainer(epochs=1, device="cpu"))
            for s in self.sources
        )

    def staged(self, adapters):
        for folder in adapters.values():
            assert (Path(folder) / "adapter.safetensors").is_file()
        return replace(self, given={name: Path(f).parent.name for name, f in adapters.items()})

    def on_task(self, description):
        assert description == tuple(texts.codec("encoder").ids(["text is good"], special=True)[0])
        return self


@pytest.fixture
def settings(tmp_path):
    method = Transfer(roles=("q", "v"), sources=(Toy("first"), Toy("second")))
    return Settings(
        method,
        Encoder(),
        Toy("target"),
        Trainer(epochs=1, device="cpu"),
        Protocol(final_fit=False),
        Files(),
        7,
        "study",
        str(tmp_path),
    )


@pytest.fixture
def executed(monkeypatch):
    """Return the list of (task, seed) that really ran."""
    from peftbench.runs import execute

    ran = []
    whole = execute.execute

    def counted(settings, run_dir, sources=None):
        ran.append((settings.data.name, settings.seed))
        return whole(settings, run_dir, sources)

    monkeypatch.setattr(execute, "execute", counted)
    return ran


def test_sources_run_first_once_and_serve_every_seed_and_study(settings, executed, tmp_path):
    assert launch(settings) == 0
    assert executed == [("first", 0), ("second", 0), ("target", 7)]
    launch(settings)  # finished: nothing runs
    launch(replace(settings, seed=8, study="other"))
    assert executed[3:] == [("target", 8)]
    description = json.loads((run_dir_of(settings).adapter / "adapter.json").read_text())
    stages = stage_settings(settings)
    assert description["method"]["given"] == {n: run_dir_of(s).run_id for n, s in stages.items()}
    folders = sorted(p.name for p in (tmp_path / "sources").iterdir() if p.is_dir())
    assert folders == sorted(run_dir_of(s).run_id for s in stages.values())
    result = json.loads(run_dir_of(stages["first"]).result.read_text())
    assert result["method"] == "lora" and result["data"] == "first"
    assert result["selection"]["rule"] == "best epoch on val"


def test_a_source_is_part_of_the_identity(settings):
    other = replace(settings, method=replace(settings.method, sources=(Toy("first"), Toy("third"))))
    assert run_dir_of(other).run_id != run_dir_of(settings).run_id
    turned = replace(
        settings, method=replace(settings.method, sources=settings.method.sources[::-1])
    )
    assert (
        run_dir_of(turned).run_id != run_dir_of(settings).run_id
    )  # the order is that of the gates
    paper = replace(settings, protocol=Protocol("paper", False, "best_test"))
    same = [run_dir_of(s["first"]).run_id for s in map(stage_settings, (settings, paper, other))]
    assert len(set(same)) == 1


def test_a_source_that_fails_is_named_and_the_target_does_not_run(settings, executed, monkeypatch):
    def broken(self):
        raise ConfigError("nothing here")

    monkeypatch.setattr(Toy, "load", broken)
    with pytest.raises(ConfigError, match="source 'first': nothing here"):
        launching.launch(settings)
    assert executed == [("first", 0)]


def test_sources_of_sources_are_refused(settings):
    @dataclass(frozen=True)
    class Deep(Transfer):
        def stages(self):
            return (Stage("x", settings.method, Toy("x")),)

    with pytest.raises(ConfigError, match="sources of its own"):
        stage_settings(replace(settings, method=Deep()))


def test_a_target_that_is_one_of_its_sources_is_refused(settings):
    with pytest.raises(ConfigError, match="one of the sources"):
        stage_settings(replace(settings, data=Toy("second")))


class Job:
    """A combination that is built already."""

    def __init__(self, settings):
        self.words, self.made = (f"seed={settings.seed}",), settings

    def settings(self):
        return self.made


def test_sources_are_planned_once_wherever_they_appear(settings, executed):
    other = replace(settings, method=replace(settings.method, sources=(Toy("third"), Toy("first"))))
    made = make_plan([Job(replace(s, seed=n)) for n in (0, 1) for s in (settings, other)])
    sources = [run for run in made.runs if run.source]
    assert made.runs[:3] == tuple(sources)  # before all that need them
    assert [run.data for run in sources] == ["first", "second", "third"]
    assert len({run.run_id for run in made.runs}) == len(made.runs) == 3 + 4
    ids = {run.data: run.run_id for run in sources}
    needs = [run.needs for run in made.runs[3:]]
    assert needs.count((ids["first"], ids["second"])) == needs.count((ids["third"], ids["first"]))
    assert {Path(run.path).parent.name for run in sources} == {"sources"}
    alone = stage_settings(settings)["first"]  # the same run where somebody asks for it itself
    again = make_plan([Job(settings), Job(alone)])
    assert [run.run_id for run in again.runs].count(run_dir_of(alone).run_id) == 1


def test_a_source_that_fails_fails_what_needs_it(settings, executed, monkeypatch, capsys):
    def broken(self):
        raise ConfigError("nothing here")

    made = make_plan([Job(settings), Job(replace(settings, seed=8))])
    built = {run_dir_of(s).run_id: s for s in stage_settings(settings).values()}
    monkeypatch.setattr(Planned, "settings", lambda run: built[run.run_id])
    monkeypatch.setattr(Toy, "load", broken)
    task = Work(made.runs, Policy(since=0.0))
    task.all()
    assert len(executed) == 2 and len(task.failed) == 4  # both sources; the targets did not run
    assert "its source failed: ConfigError: nothing here" in capsys.readouterr().err
