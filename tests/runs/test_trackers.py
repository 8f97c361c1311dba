"""Trackers copy figures, never stop a run, and say when they cannot work."""

import json
import struct
import time

import pytest

from peftbench.errors import ConfigError
from peftbench.runs import trackers
from peftbench.runs.history import Row, history
from peftbench.runs.settings import Files, Tensorboard, Wandb
from peftbench.runs.store import MetricsLog
from peftbench.runs.to_wandb import logged_in, wandb_mode

RESULT = {
    "method": "lora",
    "backbone": "minilm",
    "data": "digits",
    "task": "digits",
    "seed": 3,
    "protocol": "honest",
    "metrics": {"test": {"accuracy": 0.9}},
    "primary": {"name": "accuracy", "value": 0.9, "ci95": [0.8, 0.95]},
    "cost": {"steps": 7},
}
CONFIG = {
    "method": {"rank": 4},
    "names": {"method": "lora", "backbone": "minilm", "data": "digits"},
    "seed": 3,
}
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study" / "0123456789ab"


def attempt(tracker, folder, first=1, last=4, summary=RESULT):
    """Log steps as a run does: into its file, then to the tracker; ``last`` is left out."""
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.truncate_after(first - 1)
        tracker.start(folder.name, CONFIG, folder)
        for step in range(first, last):
            for split, name in (("train", "loss"), ("val", "accuracy")):
                log.log(step, 0, split, {name: 1.0 / step}, 0.5)
                tracker.log(Row(step, 0, 0.5, {f"{split}/{name}": 1.0 / step}))
        tracker.finish(summary)


def test_the_rows_of_a_file(folder):
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.log(1, 0, "train", {"loss": 2.0, "lr": 0.1}, 0.5)
        log.log(1, 1, "val", {"accuracy": float("nan")}, 0.6)
        log.log(7, 1, "train", {"loss": 1.0}, 0.9)
    with open(log.path, "a") as file:
        file.write('{"step": 8, "epo')
    one, two = history(log.path)
    assert (one.step, one.epoch, one.seconds) == (1, 1, 0.6) and two.step == 7
    assert set(one.values) == {"train/loss", "train/lr", "val/accuracy"}
    assert two.values == {"train/loss": 1.0} and one.values["val/accuracy"] != 1
    assert list(history(folder / "none.jsonl")) == []


def test_files_needs_nothing_and_writes_nothing(folder):
    attempt(trackers.make(Files()), folder)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def scalars(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path))
    events.Reload()
    return events, [(e.step, round(e.value, 4)) for e in events.Scalars("train/loss")]


def test_tensorboard_has_every_row_once_after_a_kill(folder):
    attempt(trackers.make(Tensorboard()), folder, 1, 6, {})
    attempt(trackers.make(Tensorboard()), folder, 4, 8)  # killed after 5, state was of step 3
    events, found = scalars(folder.parent / "tensorboard" / folder.name)
    assert found == [(s, round(1 / s, 4)) for s in range(1, 8)]
    assert len(events.Scalars("val/accuracy")) == 7
    tags = events.Tags()
    assert "config/text_summary" in tags["tensors"]
    (end,) = events.Scalars("result/metrics/test/accuracy")
    assert (end.step, round(end.value, 6)) == (7, 0.9)
    plugins = [t for t in events.summary_metadata if t.startswith("_hparams_")]
    assert sorted(p.rpartition("/")[2] for p in plugins) == [
        "experiment", "session_end_info", "session_start_info",
    ]  # fmt: skip


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


def read_offline(folder):
    """Return the records of a run's only offline file, once W&B has closed it."""
    (made,) = (folder.parent / "wandb").glob(f"offline-run-*-{folder.name}*")
    deadline = time.monotonic() + 60  # W&B's own process may close the file a moment later
    records = []
    while not of_kind(records, "exit"):
        assert time.monotonic() < deadline, "the offline file was never closed"
        time.sleep(0.05)
        records = list(wandb_records(next(made.glob("*.wandb")).read_bytes()))
    return records


def items(part):
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in part}


def of_kind(records, kind):
    return [getattr(r, kind) for r in records if r.WhichOneof("record_type") == kind]


def test_wandb_offline_keeps_the_run_id_and_all_figures(folder):
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter.json").write_text("{}")
    tracker = trackers.make(Wandb())
    attempt(tracker, folder)
    assert tracker.problem is None
    records = read_offline(folder)
    (run,) = of_kind(records, "run")
    assert run.run_id == folder.name and run.run_group == "study" and run.project == "peftbench"
    assert list(run.tags) == ["lora", "minilm", "digits"]
    assert run.display_name == "lora minilm digits seed 3"
    assert items(run.config.update)["method"] == {"rank": 4}
    found = [items(h.item) for h in of_kind(records, "history")]
    assert [(f["_step"], round(f["train/loss"], 3), f["epoch"]) for f in found] == [
        (1, 1.0, 0), (2, 0.5, 0), (3, 0.333, 0),
    ]  # fmt: skip
    assert all(f["val/accuracy"] == f["train/loss"] for f in found)
    summary = {}
    for part in of_kind(records, "summary"):
        summary |= items(part.update)
    assert summary["result/metrics/test/accuracy"] == 0.9
    assert summary["result/primary/ci95/low"] == 0.8 and summary["result/method"] == "lora"
    (artifact,) = of_kind(records, "artifact")
    assert (artifact.name, artifact.type) == (f"adapter-{folder.name}", "adapter")
    (file,) = artifact.manifest.contents
    assert (file.path, file.local_path) == ("adapter.json", str(adapter / "adapter.json"))


def test_wandb_offline_has_every_row_once_after_a_kill(folder):
    attempt(trackers.make(Wandb()), folder, 1, 6, {})
    attempt(trackers.make(Wandb()), folder, 4, 8)
    found = [items(h.item) for h in of_kind(read_offline(folder), "history")]
    assert [f["_step"] for f in found] == list(range(1, 8))
    assert [round(f["val/accuracy"], 4) for f in found] == [round(1 / s, 4) for s in range(1, 8)]


def test_two_wandb_runs_in_one_process_stay_apart(folder):
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        tracker = trackers.make(Wandb())
        attempt(tracker, folder.with_name(name))
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
        ("finish", ["start", *["log"] * 6, "finish"]),
    ],
)
def test_an_error_warns_once_is_noted_and_switches_the_tracker_off(folder, capsys, where, called):
    inner = Broken(where)
    tracker = trackers.Guarded(inner)
    attempt(tracker, folder)
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
    assert wandb_mode(Wandb()) == "offline"
    with pytest.raises(ConfigError, match="wandb login"):
        trackers.check(Wandb(mode="online"))
    trackers.check(Wandb(mode="offline"))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode(Wandb()) == "online"
    trackers.check(Wandb(mode="online"))
    assert wandb_mode(Wandb(mode="offline")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(Wandb()) == "offline"


def test_a_netrc_entry_counts_as_logged_in(monkeypatch, tmp_path):
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine other.example login user password secret\n")
    assert not logged_in()
    file.write_text("machine api.wandb.ai login user password secret\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert not logged_in()


def test_only_the_main_process_has_a_tracker(monkeypatch, folder):
    monkeypatch.setenv("RANK", "1")
    attempt(trackers.make(Tensorboard()), folder)
    attempt(trackers.make(Wandb()), folder)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
