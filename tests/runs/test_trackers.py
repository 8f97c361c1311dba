"""Trackers copy figures, never stop a run, and say when they cannot work."""

import json
import struct
import time

import pytest

from peftbench.errors import ConfigError
from peftbench.runs import trackers
from peftbench.runs.settings import Files, Tensorboard, Wandb

RESULT = {"metrics": {"test": {"accuracy": 0.9}}}
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study" / "0123456789ab"


def a_run(tracker, folder, first=1, last=4, summary=RESULT):
    tracker.start(folder.name, {"method": {"rank": 4}}, folder)
    for step in range(first, last):
        tracker.log(step, {"train/loss": 1.0 / step})
    tracker.finish(summary)


def test_files_needs_nothing_and_writes_nothing(folder):
    a_run(trackers.make(Files()), folder)
    assert not folder.parent.exists()


def scalars(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path))
    events.Reload()
    return events, [(e.step, round(e.value, 4)) for e in events.Scalars("train/loss")]


def test_tensorboard_events_read_back_and_a_resume_replaces_repeated_steps(folder):
    a_run(trackers.make(Tensorboard()), folder, 1, 6, {})
    a_run(trackers.make(Tensorboard()), folder, 4, 8)  # killed after 5, state was of step 3
    events, found = scalars(folder.parent / "tensorboard" / folder.name)
    assert found == [(s, round(1 / s, 4)) for s in range(1, 8)]
    assert "config/text_summary" in events.Tags()["tensors"]
    assert not folder.exists()  # the run directory is left alone


def wandb_records(content):
    """Read an offline file: a 7-byte header, then blocks of 32 KiB that hold pieces of records."""
    from wandb.proto import wandb_internal_pb2

    assert content[:4] in (b":W&B", b"")
    position, parts = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):
            return  # not yet written
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_wandb_offline_keeps_the_run_id_and_all_figures(folder):
    tracker = trackers.make(Wandb())
    a_run(tracker, folder)
    assert tracker.problem is None and not folder.exists()
    (made,) = (folder.parent / "wandb").glob("offline-run-*")
    assert made.name.endswith(folder.name)
    deadline = time.monotonic() + 60  # W&B's own process may close the file a moment later
    records = []
    while "exit" not in [r.WhichOneof("record_type") for r in records]:
        assert time.monotonic() < deadline, "the offline file was never closed"
        time.sleep(0.05)
        records = list(wandb_records(next(made.glob("*.wandb")).read_bytes()))
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert run.run_id == folder.name and run.run_group == "study" and run.project == "peftbench"
    found = [
        {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [(f["step"], round(f["train/loss"], 3)) for f in found] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.333),
    ]


def test_two_wandb_runs_in_one_process_stay_apart(folder):
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        tracker = trackers.make(Wandb())
        a_run(tracker, folder.with_name(name))
        assert tracker.problem is None
    made = sorted(p.name[-12:] for p in (folder.parent / "wandb").glob("offline-run-*"))
    assert made == ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]


class Broken:
    def __init__(self, where):
        self.where, self.called = where, []

    def _do(self, name):
        self.called.append(name)
        if name == self.where:
            raise RuntimeError("no\nnetwork")

    def start(self, *_):
        self._do("start")

    def log(self, *_):
        self._do("log")

    def finish(self, *_):
        self._do("finish")


@pytest.mark.parametrize(
    ("where", "called"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("finish", ["start", "log", "log", "log", "finish"]),
    ],
)
def test_an_error_warns_once_is_noted_and_switches_the_tracker_off(folder, capsys, where, called):
    inner = Broken(where)
    tracker = trackers.Guarded(inner)
    a_run(tracker, folder)
    assert inner.called == called
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "RuntimeError: no network" in shown
    (line,) = (folder.parent / "tracker_errors.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["run_id"] == folder.name and entry["call"] == where
    assert entry["error"] == tracker.problem == "RuntimeError: no network"


@pytest.mark.parametrize(("choice", "extra"), [(Wandb(), "wandb"), (Tensorboard(), "tensorboard")])
def test_a_missing_package_names_the_extra(monkeypatch, choice, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'peftbench\[{extra}\]'"):
        trackers.make(choice)
    trackers.make(Files())


def test_wandb_is_online_only_with_a_key(monkeypatch, tmp_path):
    assert trackers.wandb_mode(Wandb()) == "offline"
    with pytest.raises(ConfigError, match="wandb login"):
        trackers.check(Wandb(mode="online"))
    trackers.check(Wandb(mode="offline"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert trackers.wandb_mode(Wandb()) == "online"
    trackers.check(Wandb(mode="online"))
    assert trackers.wandb_mode(Wandb(mode="offline")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers.wandb_mode(Wandb()) == "offline"


def test_a_netrc_entry_counts_as_logged_in(monkeypatch, tmp_path):
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine other.example login user password secret\n")
    assert not trackers.logged_in()
    file.write_text("machine api.wandb.ai login user password secret\n")
    assert trackers.logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert not trackers.logged_in()


def test_only_the_main_process_has_a_tracker(monkeypatch, folder):
    monkeypatch.setenv("RANK", "1")
    a_run(trackers.make(Tensorboard()), folder)
    a_run(trackers.make(Wandb()), folder)
    assert not folder.parent.exists()
