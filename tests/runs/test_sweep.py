"""A sweep is planned first, done once by whomever, and says what is left."""

import json
import time

import pytest
import yaml

from peftbench.runs import recall, work
from peftbench.runs.store import Ledger, RunDir

SWEEP = ("-m", "seed=0,1,2", "method=lora,linear")


def states(out):
    """Return the state of every run that ``--dry`` lists, by run id."""
    rows = [line.rsplit(None, 4) for line in out.splitlines()]
    return {r[1]: r[0].strip() for r in rows if len(r) == 5 and len(r[1]) == 12}


def run_dirs(command, study="default"):
    return sorted(p.parent for p in (command.work / "outputs" / study).glob("*/config.yaml"))


def test_a_plan_lists_every_run_with_its_state_and_does_nothing(command):
    first = command(*SWEEP, "--dry")
    assert first.returncode == 0 and command.calls() == []
    assert list(states(first.out).values()) == ["to do"] * 6
    assert "6 runs: 6 to do; time left: unknown" in first.out
    assert list(command.work.iterdir()) == []
    command("seed=0", "method=lora")
    command("seed=1", "method=lora", FAKE_RUN="nonfinite:1")
    command("seed=2", "method=lora", FAKE_RUN="term")
    ids = {c["seed"]: c["run_id"] for c in command.calls()}
    other = RunDir(command.work / "outputs" / "default" / next(iter(states(first.out))))
    with RunDir(other.path.with_name(list(states(first.out))[-1])).lock():
        shown = command(*SWEEP, "--dry")
    found = states(shown.out)
    assert [found[ids[seed]] for seed in range(3)] == ["done", "failed", "interrupted"]
    assert list(found.values())[-1] == "running elsewhere"
    assert f"{ids[1]}: NonFiniteError: the loss of step 3 is not finite" in shown.out
    assert "running elsewhere" in shown.out and "process " in shown.out
    assert len(command.calls()) == 3


def test_the_time_left_is_taken_from_runs_alike(command):
    command("seed=0", "method=lora")
    same = command("-m", "seed=0,1,2", "method=lora", "--dry")
    assert "3 runs: 1 done, 2 to do; time left: about 2 min" in same.out  # 2 x 64 s
    named = command("-m", "seed=0,1", "method=lora", "trainer.epochs=5", "study=other", "--dry")
    assert "time left: about 2 min" in named.out  # by method, network and task in the output
    other = command(*SWEEP, "--dry")
    assert "time left: unknown" in other.out


def test_one_run_can_be_listed_too(command):
    assert "1 run: 1 to do" in command("seed=4", "--dry").out
    assert command.calls() == []


def test_duplicates_and_members_of_suites_are_planned_once(command):
    done = command("-m", "data=digits,pocket", "seed=0,0", "method=lora")
    assert done.returncode == 0 and len(command.calls()) == 2
    assert "2 runs: 2 done" in done.out
    (suite,) = (command.work / "outputs" / "default").glob("*/suite.json")
    summary = json.loads(suite.read_text())
    assert summary["status"] == "finished" and summary["mean_of_tasks"] == pytest.approx(0.8)
    assert {t["run_id"] for t in summary["tasks"].values()} == {
        c["run_id"] for c in command.calls()
    }
    alone = command("data=pocket", "method=lora", "seed=0")
    assert alone.returncode == 0 and len(command.calls()) == 2  # the same suite, the same runs


def test_a_suite_with_a_failed_member_says_so(command):
    done = command("-m", "data=pocket_broken", "seed=0,1", "method=lora")
    assert done.returncode == 2 and "2 of 4 runs failed" in done.err
    for suite in (command.work / "outputs" / "default").glob("*/suite.json"):
        summary = json.loads(suite.read_text())
        assert summary["missing"] == ["broken"] and summary["mean_of_tasks"] is None
        assert "not finite" in summary["tasks"]["broken"]["error"]


def test_when_all_is_done_nothing_is_composed(command, monkeypatch):
    command(*SWEEP)
    import peftbench.runs.compose as compose

    monkeypatch.setattr(compose, "combinations", None)  # calling it would fail
    again = command(*SWEEP)
    assert again.returncode == 0
    assert "nothing to do: 6 runs, all done: outputs/default" in again.out
    assert "90.0" in again.out and len(command.calls()) == 6
    listed = command(*SWEEP, "--dry")
    assert list(states(listed.out).values()) == ["done"] * 6


def test_a_done_sweep_ends_quickly_and_without_torch(process, command):
    started = process(*SWEEP, PEFTBENCH_CACHE=str(command.work.parent / "cache"))
    out, err = started.communicate()
    assert started.returncode == 0, err
    begun = time.process_time()
    started = process(*SWEEP, PEFTBENCH_CACHE=str(command.work.parent / "cache"))
    out, err = started.communicate()
    assert started.returncode == 0 and "nothing to do" in out
    assert "torch was imported" not in err and time.process_time() - begun < 2


def test_a_plan_is_not_remembered_when_anything_changed(command, configs, monkeypatch):
    command(*SWEEP)
    words = ["-m", *SWEEP[1:]]
    known = recall.key(words, configs)
    assert recall.key(words, configs) == known
    assert recall.key(words[:-1], configs) != known
    with monkeypatch.context() as patch:
        patch.setenv("PEFTBENCH_DATA", "/elsewhere")
        assert recall.key(words, configs) != known
    trainer = configs / "trainer" / "default.yaml"
    text = trainer.read_text()
    try:
        trainer.write_text(text + "# changed\n")
        assert recall.key(words, configs) != known
    finally:
        trainer.write_text(text)
    (command.work / "outputs" / "default" / command.calls()[0]["run_id"] / "result.json").unlink()
    assert "1 left" in command(*SWEEP).out and len(command.calls()) == 7


def test_a_plan_is_not_remembered_when_what_words_refer_to_changed(command, configs, monkeypatch):
    words = ["-m", "seed=0", "output=${oc.env:SCRATCH}/outputs"]
    monkeypatch.setenv("SCRATCH", "/a")
    known = recall.key(words, configs)
    monkeypatch.setenv("SCRATCH", "/b")
    assert recall.key(words, configs) != known
    monkeypatch.setenv("UNSAID", "1")
    monkeypatch.setenv("SCRATCH", "/a")
    assert recall.key(words, configs) == known
    timed = ["-m", "seed=0", "study=${now:%Y}"]
    known = recall.key(timed, configs)
    monkeypatch.setattr(recall.time, "strftime", lambda form: f"later {form}")
    assert recall.key(timed, configs) != known


def test_plugin_folders_count_through_links_and_despite_dangling_ones(
    tmp_path, configs, monkeypatch
):
    plugin, real = tmp_path / "plugin", tmp_path / "real"
    plugin.mkdir()
    (real / "method").mkdir(parents=True)
    (plugin / "configs").symlink_to(real)
    (real / "back").symlink_to(plugin)
    (plugin / ".#open.yaml").symlink_to("somebody@somewhere.1")
    monkeypatch.setenv("PEFTBENCH_PATH", str(plugin))
    known = recall.key(["-m"], configs)
    assert recall.key(["-m"], configs) == known
    (real / "method" / "mine.yaml").write_text("rank: 1\n")
    changed = recall.key(["-m"], configs)
    assert changed != known
    (plugin / ".#open.yaml").unlink()
    assert recall.key(["-m"], configs) != changed


@pytest.mark.parametrize("state", ["incomplete", "gone", "torn", "other"])
def test_a_summary_that_lags_behind_its_runs_is_written_anew(command, state):
    words = ("-m", "data=pocket", "seed=0", "method=lora")
    command(*words)
    (suite,) = (command.work / "outputs" / "default").glob("*/suite.json")
    whole = suite.read_text()
    summary = json.loads(whole)
    if state == "other":
        summary["tasks"]["digits"]["value"] = 0.25
    else:
        summary["tasks"]["digits"] = {"run_id": summary["tasks"]["digits"]["run_id"]}
    suite.write_text(whole[:20] if state == "torn" else json.dumps(summary))
    if state == "gone":
        suite.unlink()
    again = command(*words)
    assert again.returncode == 0 and "nothing to do: 2 runs" in again.out
    assert suite.read_text() == whole and len(command.calls()) == 2


def test_orders_hold_for_a_whole_sweep(command):
    done = command("-m", "seed=0", "method=lora", "on_error=stop,continue")
    assert done.returncode == 2 and "on_error: one value holds for the whole sweep" in done.err
    assert command.calls() == []


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (("on_error=continue",), {0: 1, 1: 1, 2: 1}),
        (("on_error=stop",), {0: 1, 1: 1}),
        (("on_error=retry", "retries=2"), {0: 1, 1: 3, 2: 1}),
        (("on_error=retry", "retries=0"), {0: 1, 1: 1, 2: 1}),
    ],
)
def test_what_a_failure_means(command, words, calls):
    done = command("-m", "seed=0,1,2", "method=lora", *words, FAKE_RUN="nonfinite:1")
    assert done.returncode == 2
    seeds = [c["seed"] for c in command.calls()]
    assert {s: seeds.count(s) for s in seeds} == calls
    assert seeds[-1] == (2 if calls == {0: 1, 1: 1, 2: 1} else 1)  # retried after the others
    ids = {run.name for run in run_dirs(command)}
    assert len(ids) == len(calls)  # orders are no part of an identity
    again = command("-m", "seed=0,1,2", "method=lora")
    assert again.returncode == 0 and "3 runs: 3 done" in again.out


def test_what_cannot_be_planned_does_not_keep_the_others_back(command):
    done = command("-m", "trainer.lr=0.1,fast", "method=lora")
    assert done.returncode == 2 and len(command.calls()) == 1
    assert "cannot be planned: trainer.lr=fast" in done.err
    assert "trainer.lr: expected float, got 'fast'" in done.err
    stop = command("-m", "trainer.lr=0.2,fast", "method=lora", "on_error=stop")
    assert stop.returncode == 2 and len(command.calls()) == 1


SLIPS = [
    (("+study=mine",), "add -m"),
    (("-m", "on_error=maybe"), "choices: continue, retry, stop"),
    (("-m", "retries=-1"), "retries: expected 0 or more"),
    (("-m", "launcher=paralel"), "Did you mean 'parallel'"),
    (("-m", "launcher=parallel", "launcher.workers=0"), "launcher.workers: expected 1 or more"),
    (("--dry", "--cfg", "job"), "--dry goes with -m and KEY=VALUE alone"),
]


@pytest.mark.parametrize(("words", "told"), SLIPS)
def test_a_slip_in_the_orders(command, words, told):
    done = command(*words)
    assert done.returncode == 2 and told in done.err and "Traceback" not in done.err
    assert command.calls() == []


def test_parallel_without_gpus_asks_for_a_number(command, monkeypatch):
    from peftbench.runs import launchers

    monkeypatch.setattr(launchers, "devices", list)
    done = command("-m", "seed=0,1", "launcher=parallel")
    assert done.returncode == 2 and "launcher.workers: say how many" in done.err


def test_a_study_is_a_file(command, configs):
    folder = configs / "study"
    folder.mkdir(exist_ok=True)
    text = {
        "defaults": [{"override /method": "lora"}, "_self_"],
        "study": "mine",
        "trainer": {"epochs": 3},
        "hydra": {"sweeper": {"params": {"method": "lora,linear", "seed": "0,1"}}},
    }
    (folder / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(text))
    done = command("-m", "+study=mine", "seed=5")
    assert done.returncode == 0 and len(command.calls()) == 2
    made = [yaml.safe_load((d / "config.yaml").read_text()) for d in run_dirs(command, "mine")]
    assert {c["names"]["method"] for c in made} == {"lora", "linear"}
    assert {c["seed"] for c in made} == {5} and {c["trainer"]["epochs"] for c in made} == {3}
    elsewhere = command("-m", "+study=mine", "seed=5", "study=yours")
    assert elsewhere.returncode == 0 and len(run_dirs(command, "yours")) == 2
    single = command("method=lora", "study=mine2")
    assert single.returncode == 0 and len(run_dirs(command, "mine2")) == 1


def test_a_run_held_elsewhere_comes_last_and_may_be_left(command):
    ids = list(states(command(*SWEEP, "--dry").out))
    held = RunDir(command.work / "outputs" / "default" / ids[0])
    with held.lock():
        done = command(*SWEEP, "wait=false")
    assert done.returncode == 0 and len(command.calls()) == 5
    assert "6 runs: 5 done, 1 running elsewhere; the same command goes on" in done.out
    assert ids[0] not in {c["run_id"] for c in command.calls()}


def test_a_run_held_elsewhere_is_waited_for_and_taken_over(command, monkeypatch):
    ids = list(states(command(*SWEEP, "--dry").out))
    held = RunDir(command.work / "outputs" / "default" / ids[0]).lock()
    held.__enter__()
    naps = []

    def dies(seconds):
        if seconds < work.POLL_S[0]:
            return  # of the claim, which looks again
        naps.append(seconds)
        if len(naps) == 3:
            held.__exit__(None, None, None)

    monkeypatch.setattr(work.time, "sleep", dies)
    done = command(*SWEEP)
    assert done.returncode == 0 and len(command.calls()) == 6
    assert done.out.count("waiting for 1 run that other processes work on") == 1
    assert naps == [0.2, 0.4, 0.8]
    assert command.calls()[-1]["run_id"] == ids[0]


def test_what_fails_elsewhere_meanwhile_is_not_done_again(command, monkeypatch, fakes):
    """Another process failed a run after this one began: this one counts it as failed."""
    ids = list(states(command(*SWEEP, "--dry").out))
    other = RunDir(command.work / "outputs" / "default" / ids[-1])
    whole = work.obtain

    def meanwhile(settings):
        if not other.config.exists():
            other.begin(settings.plain)
            other.fail("RuntimeError: a defect elsewhere")
            Ledger(other.study).record(ids[-1], "started")
            Ledger(other.study).record(ids[-1], "failed", error="RuntimeError: a defect elsewhere")
        return whole(settings)

    monkeypatch.setattr(work, "obtain", meanwhile)
    done = command(*SWEEP)
    assert done.returncode == 1 and len(command.calls()) == 5
    assert "RuntimeError: a defect elsewhere" in done.err and "1 of 6 runs failed" in done.err


def test_a_run_that_kills_its_processes_is_given_up(command):
    """Three processes died over it since this command began; a fourth is not tried."""
    ids = list(states(command(*SWEEP, "--dry").out))
    deadly = RunDir(command.work / "outputs" / "default" / ids[0])
    deadly.begin({})
    for state in ("started", "resumed", "resumed"):
        Ledger(deadly.study).record(ids[0], state)
    text = (deadly.study / "ledger.jsonl").read_text()
    entries = [json.loads(line) | {"time": time.time() + 3600} for line in text.splitlines()]
    (deadly.study / "ledger.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    done = command(*SWEEP)
    assert done.returncode == 1 and len(command.calls()) == 5
    assert "3 processes died over it (out of memory?)" in done.err
