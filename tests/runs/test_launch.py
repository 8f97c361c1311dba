"""A run is found, held, executed and booked; a suite is its tasks and every mean."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from peftbench.errors import ConfigError, NonFiniteError, RunLockedError
from peftbench.runs.launch import launch, run_dir_of, run_one
from peftbench.runs.settings import Settings
from peftbench.runs.store import Ledger, RunDir
from peftbench.runs.suite import suite_id


@pytest.fixture
def settings(plain, fakes):
    return Settings.of(plain)


def states(settings):
    run_dir = run_dir_of(settings)
    return [e["state"] for e in Ledger(run_dir.study).entries() if e["run_id"] == run_dir.run_id]


def stand_in(monkeypatch, execute):
    monkeypatch.setitem(sys.modules, "peftbench.runs.execute", SimpleNamespace(execute=execute))


def test_the_same_settings_find_the_finished_run(settings, fakes, capsys):
    assert launch(settings) == 0
    run_dir = run_dir_of(settings)
    assert sorted(p.name for p in run_dir.path.iterdir()) == ["config.yaml", "result.json"]
    capsys.readouterr()
    assert launch(settings) == 0
    shown = capsys.readouterr().out
    assert f"already done: {run_dir.path}" in shown and "90.0 %" in shown
    assert len(fakes.calls()) == 1 and states(settings) == ["started", "finished"]


def test_the_run_is_found_without_loading_data_or_weights(settings, monkeypatch):
    assert launch(settings) == 0
    monkeypatch.delitem(sys.modules, "peftbench.runs.execute")
    monkeypatch.setitem(sys.modules, "peftbench.runs.execute", None)  # importing it would fail
    assert launch(settings) == 0


def test_a_failure_is_recorded_and_the_next_attempt_starts_clean(plain, settings, fakes):
    bad = Settings.of(plain | {"data": {"_target_": "peftbench.fakes.Pocket", "task": "broken"}})
    with pytest.raises(NonFiniteError):
        launch(bad)
    run_dir = run_dir_of(bad)
    text = "NonFiniteError: the loss of step 3 is not finite"
    assert json.loads(run_dir.error.read_text())["error"] == text
    assert Ledger(run_dir.study).entries()[-1]["error"] == text
    assert not (run_dir.path / ".lock").exists()
    with pytest.raises(NonFiniteError):
        launch(bad)
    assert states(bad) == ["started", "failed"] * 2
    assert Ledger(run_dir.study).rebuild() == {run_dir.run_id: "failed"}


def test_a_stopped_run_is_resumed_and_its_state_goes_when_it_is_done(settings, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_RUN", "term")
    with pytest.raises(SystemExit) as stop:
        launch(settings)
    assert stop.value.code == 143
    run_dir = run_dir_of(settings)
    assert run_dir.can_resume() and not run_dir.error.exists()
    assert f"stopped; the same command continues: {run_dir.path}" in capsys.readouterr().out
    monkeypatch.delenv("FAKE_RUN")
    assert launch(settings) == 0 and not run_dir.state.exists()
    assert states(settings) == ["started", "interrupted", "resumed", "finished"]


def test_sigterm_before_training_is_booked_too(settings, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def execute(settings, run_dir, sources=None):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still running")

    stand_in(monkeypatch, execute)
    with pytest.raises(SystemExit) as stop:
        launch(settings)
    assert stop.value.code == 143 and states(settings) == ["started", "interrupted"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_exit_is_a_failure(settings, monkeypatch):
    def execute(settings, run_dir, sources=None):
        raise SystemExit(7)

    stand_in(monkeypatch, execute)
    with pytest.raises(SystemExit):
        launch(settings)
    assert states(settings) == ["started", "failed"]


def test_a_run_that_is_worked_on_is_refused_and_not_booked_as_failed(settings, fakes):
    with run_dir_of(settings).lock(), pytest.raises(RunLockedError, match="being worked on"):
        launch(settings)
    assert fakes.calls() == [] and states(settings) == []


def test_a_run_that_another_process_finished_meanwhile_is_taken_over(settings, fakes, monkeypatch):
    run_dir = run_dir_of(settings)
    lock = RunDir.lock

    def finished_first(self):
        self.begin(settings.plain)
        self.finish(fakes.result_of(settings, self.run_id))
        return lock(self)

    monkeypatch.setattr(RunDir, "lock", finished_first)
    assert run_one(settings)["run_id"] == run_dir.run_id and fakes.calls() == []


def test_a_torn_result_is_done_again(settings, fakes, capsys):
    launch(settings)
    run_dir = run_dir_of(settings)
    run_dir.result.write_text(run_dir.result.read_text()[:-30])
    assert launch(settings) == 0
    assert len(fakes.calls()) == 2 and capsys.readouterr().err.count("not trusted") == 1
    assert json.loads(run_dir.result.read_text())["run_id"] == run_dir.run_id


def test_other_ranks_execute_but_neither_lock_nor_write_nor_print(
    settings, fakes, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with run_dir_of(settings).lock():  # rank 0 holds it
        assert launch(settings) == 0
    assert len(fakes.calls()) == 1 and capsys.readouterr().out == ""
    assert list(run_dir_of(settings).path.iterdir()) == [] and states(settings) == []


def test_a_tracker_that_cannot_work_is_refused_first(plain, fakes, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plain["tracker"] = {"_target_": "peftbench.runs.settings.Wandb"}
    with pytest.raises(ConfigError, match="peftbench\\[wandb\\]"):
        launch(Settings.of(plain))
    assert fakes.calls() == []


def suite_of(plain, members, groups, tasks=None):
    pocket = {"_target_": "peftbench.fakes.Pocket"}
    data = {
        "_target_": "peftbench.fakes.Suite",
        "name": "pocket",
        "members": {m: pocket | {"task": m} for m in members},
        "groups": groups,
        "tasks": tasks,
    }
    names = plain["names"] | {"data": "pocket"}
    return Settings.of(plain | {"data": data, "names": names})


def summary_of(settings):
    path = run_dir_of(settings.for_task("digits", settings.data.members["digits"])).study
    return json.loads((path / suite_id(settings) / "suite.json").read_text())


@pytest.fixture
def scored(monkeypatch, fakes):
    """Training that gives digits 0.9 and mnist5k 0.6, and fails on broken."""
    made = []

    def execute(settings, run_dir, sources=None):
        made.append(settings.names["data"])
        if settings.data.task == "broken":
            raise NonFiniteError("the loss of step 3 is not finite")
        return fakes.result_of(settings, run_dir.run_id, {"digits": 0.9}.get(made[-1], 0.6))

    stand_in(monkeypatch, execute)
    return made


def test_a_suite_runs_every_task_once_and_names_every_mean(plain, scored, capsys):
    settings = suite_of(plain, ["digits", "mnist5k"], {"a": ["digits"], "b": ["mnist5k"]})
    assert launch(settings) == 0 and scored == ["digits", "mnist5k"]
    summary = summary_of(settings)
    assert summary["mean_of_tasks"] == pytest.approx(0.75) == summary["mean_of_groups"]
    assert summary["groups"]["b"] == {"tasks": ["mnist5k"], "of": 1, "mean": 0.6}
    assert summary["status"] == "finished" and summary["missing"] == []
    assert summary["choice"] is None and "reason" not in summary
    digits = summary["tasks"]["digits"]
    assert digits["value"] == 0.9 and digits["ci95"] == [0.88, 0.92] and digits["split"] == "test"
    assert digits["run_id"] == run_dir_of(Settings.of(plain)).run_id  # the task alone is that run
    assert launch(settings) == 0 and len(scored) == 2
    assert "mean of tasks" in capsys.readouterr().out


def test_means_of_groups_and_of_tasks_differ_where_groups_are_uneven(plain, fakes, scored):
    settings = suite_of(plain, ["digits", "mnist5k"], {"a": ["digits", "mnist5k"], "b": ["digits"]})
    launch(settings)
    summary = summary_of(settings)
    assert summary["mean_of_tasks"] == pytest.approx(0.75)
    assert summary["mean_of_groups"] == pytest.approx((0.75 + 0.9) / 2)


def test_a_failing_task_stops_no_other_and_leaves_no_mean(plain, scored, capsys):
    members = ["broken", "digits"]
    settings = suite_of(plain, members, {"a": ["digits"], "b": ["broken", "digits"]})
    assert launch(settings) == 2 and scored == members
    summary = summary_of(settings)
    assert summary["mean_of_tasks"] is None and summary["mean_of_groups"] is None
    assert summary["groups"]["a"]["mean"] == 0.9 and summary["groups"]["b"]["mean"] is None
    assert summary["missing"] == ["broken"] and summary["reason"] == "no result for broken"
    assert summary["status"] == "incomplete"
    assert "not finite" in summary["tasks"]["broken"]["error"]
    assert "error: the loss of step 3 is not finite" in capsys.readouterr().err


def test_of_several_processes_one_that_fails_within_a_task_does_not_meet_the_others_in_the_next(
    plain, scored, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        launch(suite_of(plain, ["broken", "digits"], {}))
    assert stop.value.code == 2 and scored == ["broken"]
    assert "suite stopped at broken" in capsys.readouterr().err


def test_a_setting_chosen_by_hand_makes_another_suite_even_at_the_default_value(plain):
    data = {
        "_target_": "peftbench.fakes.Suite",
        "name": "pocket",
        "members": {"digits": {"_target_": "peftbench.fakes.Pocket", "task": "digits"}},
        "groups": {},
        "tasks": None,
    }
    target = "peftbench.train.config.Trainer"
    trainer = {"_target_": target, "lr": 0.01, "per_task": {"digits": {"lr": 0.5}}}
    config = plain | {"data": data, "trainer": trainer}
    by_table, by_hand = Settings.of(config), Settings.of(config, chosen=["trainer.lr"])
    of_member = [s.for_task("digits", s.data.members["digits"]) for s in (by_table, by_hand)]
    assert [s.trainer.lr for s in of_member] == [0.5, 0.01]
    assert suite_id(by_table) != suite_id(by_hand)


def test_a_choice_of_tasks_is_labelled_as_one(plain, scored):
    settings = suite_of(
        plain, ["digits", "mnist5k"], {"a": ["digits"], "b": ["mnist5k"]}, ["digits"]
    )
    assert launch(settings) == 0 and scored == ["digits"]
    summary = summary_of(settings)
    assert summary["choice"] == ["digits"] and list(summary["groups"]) == ["a"]


def test_being_stopped_stops_the_suite(plain, fakes, monkeypatch):
    monkeypatch.setenv("FAKE_RUN", "term")
    settings = suite_of(plain, ["digits", "mnist5k"], {})
    with pytest.raises(SystemExit):
        launch(settings)
    assert len(fakes.calls()) == 1


def test_ctrl_c_says_how_to_go_on(settings, fakes, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_RUN", "ctrl-c")
    with pytest.raises(SystemExit) as stop:
        launch(settings)
    assert stop.value.code == 130
    assert "interrupted; the same command continues" in capsys.readouterr().out


def test_local_weights_count_by_content(tmp_path, monkeypatch):
    """The same bytes elsewhere are the same run; other bytes at the same path are not."""
    from peftbench.backbones.load_timm import TimmViT
    from peftbench.methods.lora import Lora
    from peftbench.runs.settings import Files, Protocol, Settings
    from peftbench.tasks.pocket import PocketVision
    from peftbench.train.config import Trainer

    def identity(weights):
        backbone = TimmViT("vit_tiny_patch16_224", weights=str(weights))
        parts = (Lora(), backbone, PocketVision("digits"), Trainer(), Protocol(), Files())
        return run_dir_of(Settings(*parts, 0, "s", "o")).run_id

    first, copy = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"one")
    copy.write_bytes(b"one")
    before = identity(first)
    assert identity(copy) == before
    monkeypatch.chdir(tmp_path)
    assert identity("a.safetensors") == before
    first.write_bytes(b"two")
    assert identity(first) != before
