"""Files of a run and the ledger of a study survive crashes and several writers."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from peftbench.errors import ConfigError, RunLockedError
from peftbench.runs.settings import Settings
from peftbench.runs.store import Ledger, MetricsLog, RunDir, find_finished

fork = multiprocessing.get_context("fork")


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "study" / "0123456789ab")


HOLD = """
import sys, time
from pathlib import Path
from peftbench.runs.store import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_exclusive_names_its_holder_and_dies_with_it(run_dir):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError) as info, run_dir.lock():
            pass
        assert f"process {holder.pid} on {os.uname().nodename} since 2" in str(info.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (run_dir.path / ".lock").exists()  # a killed holder leaves the file, not the lock
    with run_dir.lock():
        assert str(os.getpid()) in (run_dir.path / ".lock").read_text()
    assert not (run_dir.path / ".lock").exists()


def test_a_lock_excludes_the_same_process_and_is_freed_by_an_error(run_dir):
    with run_dir.lock(), pytest.raises(RunLockedError, match="being worked on"), run_dir.lock():
        pass
    with pytest.raises(KeyError), run_dir.lock():
        raise KeyError
    with run_dir.lock():
        pass


def _contend(path, counter):
    for _ in range(40):
        try:
            with RunDir(path).lock():
                value = counter.value
                time.sleep(0.0005)
                counter.value = value + 1
                if counter.value != value + 1:
                    os._exit(3)
        except RunLockedError:
            pass


def test_a_lock_that_is_removed_on_leaving_still_admits_one_at_a_time(run_dir):
    counter = fork.Value("i", 0, lock=False)
    entered = [fork.Process(target=_contend, args=(run_dir.path, counter)) for _ in range(4)]
    for process in entered:
        process.start()
    for process in entered:
        process.join()
    assert [p.exitcode for p in entered] == [0] * 4
    assert counter.value > 0


def log_some(log):
    log.log(1, 0, "train", {"loss": 2.0, "lr": 0.1}, 0.5)
    log.log(2, 0, "train", {"loss": 1.0}, 1.0)
    log.log(2, 1, "val", {"accuracy": 0.5}, 1.5)
    log.log(3, 1, "train", {"loss": float("nan"), "norm": float("inf")}, 2.0)


def test_metrics_are_one_line_a_value_and_flushed(run_dir):
    with MetricsLog(run_dir.metrics) as log:
        log_some(log)
        lines = [json.loads(x) for x in run_dir.metrics.read_text().splitlines()]
    assert lines[0] == {
        "step": 1,
        "epoch": 0,
        "split": "train",
        "name": "loss",
        "value": 2.0,
        "seconds": 0.5,
    }
    assert lines[4]["value"] is None and lines[4]["non_finite"] == "nan"
    assert lines[5]["non_finite"] == "inf" and len(lines) == 6


def test_metrics_never_go_backwards(run_dir):
    with MetricsLog(run_dir.metrics) as log:
        log.log(5, 0, "train", {"loss": 1.0}, 0)
        with pytest.raises(ValueError, match="step 4 after those of step 5"):
            log.log(4, 0, "train", {"loss": 1.0}, 0)
    with (
        MetricsLog(run_dir.metrics) as again,
        pytest.raises(ValueError, match="after those of step 5"),
    ):
        again.log(4, 0, "train", {"loss": 1.0}, 0)
    with pytest.raises(ValueError, match="closed"):
        log.log(6, 0, "train", {"loss": 1.0}, 0)


def test_a_resumed_log_equals_an_unbroken_one_whatever_was_torn(run_dir, tmp_path):
    with MetricsLog(tmp_path / "whole.jsonl") as log:
        log_some(log)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    ends = [i for i, c in enumerate(whole) if c == 10]
    for cut in {0, len(whole), *range(0, len(whole), 29), *ends, *(e + 1 for e in ends)}:
        run_dir.metrics.parent.mkdir(parents=True, exist_ok=True)
        run_dir.metrics.write_bytes(whole[:cut])
        with MetricsLog(run_dir.metrics) as log:
            log.truncate_after(1)
            if whole[:cut].count(b"\n") < 2:  # state of step 1 is saved after its lines are synced
                continue
            log.log(2, 0, "train", {"loss": 1.0}, 1.0)
            log.log(2, 1, "val", {"accuracy": 0.5}, 1.5)
            log.log(3, 1, "train", {"loss": float("nan"), "norm": float("inf")}, 2.0)
        assert run_dir.metrics.read_bytes() == whole
    with MetricsLog(run_dir.metrics) as log:
        log.truncate_after(-1)
        assert run_dir.metrics.read_bytes() == b""
        log.log(0, 0, "train", {"loss": 1.0}, 0)
        log.sync()
    assert [p.name for p in run_dir.path.iterdir()] == ["metrics.jsonl"]


def test_a_ledger_notes_who_what_and_why(tmp_path, plain):
    ledger = Ledger(tmp_path / "study")
    assert ledger.entries() == [] and ledger.states() == {}
    ledger.record("a", "started", config=Settings.of(plain).plain)
    ledger.record("a", "failed", error="NonFiniteError: step 3")
    first, second = ledger.entries()
    assert first["method"] == "lora" and first["backbone"] == "dinov2_small"
    assert first["data"] == "digits" and first["seed"] == 0 and first["pid"] == os.getpid()
    assert second["error"] == "NonFiniteError: step 3" and second["time"] >= first["time"]
    assert ledger.states() == {"a": "failed"}


def test_a_torn_ledger_line_is_left_out_and_does_not_spoil_the_next(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record("a", "started")
    ledger.record("a", "finished")
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-9])
    assert ledger.states() == {"a": "started"}
    ledger.record("b", "started")
    assert ledger.states() == {"a": "started", "b": "started"}


def _write_many(path, name):
    for i in range(50):
        Ledger(path).record(f"{name}{i}", "started")


def test_concurrent_writers_lose_nothing(tmp_path):
    writers = [fork.Process(target=_write_many, args=(tmp_path, n)) for n in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all(w.exitcode == 0 for w in writers)
    assert len(Ledger(tmp_path).entries()) == 200 and len(Ledger(tmp_path).states()) == 200


def test_a_ledger_is_rebuilt_from_the_run_directories(tmp_path, plain, fakes):
    settings = Settings.of(plain)
    ledger = Ledger(tmp_path / "s")
    for run_id, state in [("aa", "finished"), ("bb", "failed"), ("cc", "interrupted")]:
        run_dir = RunDir(tmp_path / "s" / run_id)
        run_dir.begin(settings.plain)
        ledger.record(run_id, "started", config=settings.plain)
        if state == "finished":
            run_dir.finish(fakes.result_of(settings, run_id))
        if state == "failed":
            run_dir.fail("RuntimeError: x")
        ledger.record(run_id, state, error="RuntimeError: x" if state == "failed" else None)
    before = ledger.states()
    ledger.path.unlink()
    assert ledger.rebuild() == before == Ledger(tmp_path / "s").states()
    entry = next(e for e in ledger.entries() if e["run_id"] == "bb")
    assert entry["error"] == "RuntimeError: x" and entry["method"] == "lora"


def test_finishing_writes_the_result_last_and_clears_up(run_dir, plain, fakes):
    settings = Settings.of(plain)
    run_dir.begin(settings.plain)
    assert not run_dir.can_resume()
    run_dir.state.mkdir()
    assert not run_dir.can_resume()
    (run_dir.state / "step.json").write_text("{}")
    (run_dir.path / ".x.tmp").write_text("torn")
    run_dir.fail("old")
    assert run_dir.can_resume() and find_finished(run_dir) is None
    result = fakes.result_of(settings, run_dir.run_id)
    run_dir.finish(result)
    assert find_finished(run_dir) == result
    assert sorted(p.name for p in run_dir.path.iterdir()) == ["config.yaml", "result.json"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: json.dumps(r)[:-20], "not trusted"),
        (lambda r: "", "not trusted"),
        (lambda r: "[]", "it is not a mapping"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "primary"}), "it lacks primary"),
        (lambda r: json.dumps(r | {"run_id": "other"}), "it belongs to run other"),
        (lambda r: json.dumps(r | {"primary": None}), "its 'primary' is not a mapping"),
        (lambda r: json.dumps(r | {"primary": {}}), "its primary.value is None"),
        (
            lambda r: json.dumps(r | {"primary": r["primary"] | {"ci95": [1]}}),
            "primary.ci95 is [1]",
        ),
        (lambda r: json.dumps(r | {"primary": r["primary"] | {"value": math.nan}}), "is nan"),
        (lambda r: json.dumps(r | {"primary": r["primary"] | {"name": None}}), "name is None"),
    ],
)
def test_a_bad_result_is_reported_and_not_trusted(run_dir, plain, fakes, capsys, spoil, reason):
    settings = Settings.of(plain)
    run_dir.begin(settings.plain)
    run_dir.result.write_text(spoil(fakes.result_of(settings, run_dir.run_id)))
    assert find_finished(run_dir) is None
    assert reason in capsys.readouterr().err


def test_a_result_with_a_number_json_lacks_is_refused(run_dir, plain, fakes):
    settings = Settings.of(plain)
    run_dir.begin(settings.plain)
    with pytest.raises(ValueError, match="JSON compliant"):
        run_dir.finish(fakes.result_of(settings, run_dir.run_id, float("nan")))
    assert sorted(p.name for p in run_dir.path.iterdir()) == ["config.yaml"]


def test_a_folder_that_cannot_be_written_is_a_mistake_in_the_settings(tmp_path):
    (tmp_path / "file").write_text("no folder")
    lock = RunDir(tmp_path / "file" / "study" / "run").lock()
    with pytest.raises(ConfigError, match="output: no results can be written"):
        lock.__enter__()
