"""Searches: spaces, budgets, halving, and going on; trained by stand-ins."""

import json

import pytest

from peftbench.errors import ConfigError
from peftbench.runs.search import Search

WORDS = ("-m", "search=optuna", "search.space={trainer.lr:{log:[1e-4,1e-1]}}", "search.trials=3")


def searches(command, study="default"):
    text = (command.work / "outputs" / f"{study}-search" / "search.json").read_text()
    return list(json.loads(text)["searches"].values())


def test_every_method_has_the_same_recorded_budget(command):
    done = command(*WORDS, "method=lora,linear", "seed=0,1")
    assert done.returncode == 0, done.err
    found = searches(command)
    assert [s["label"] for s in found] == ["lora on digits", "linear on digits"]
    assert {s["spent"]["trials"] for s in found} == {3}
    assert all(s["spent"]["seconds"] == pytest.approx(3 * 64) for s in found)
    assert all(s["budget"] == {"trials": 3, "seconds": None} for s in found)
    assert len(command.calls()) == 2 * 3 + 2 * 2  # seeds share what was found
    notes = sorted((command.work / "outputs" / "default").glob("*/search.json"))
    assert len(notes) == 4
    for path in notes:
        note = json.loads(path.read_text())
        assert note["spent"]["trials"] == 3 and note["study"] == "default-search"
        assert (
            str(note["best"]["params"]["trainer.lr"]) in (path.parent / "config.yaml").read_text()
        )
    again = command(*WORDS, "method=lora,linear", "seed=0,1")
    assert again.returncode == 0 and len(command.calls()) == 10
    more = command(*WORDS, "method=lora,linear", "seed=0,1", "search.trials=4")
    assert more.returncode == 0 and {s["spent"]["trials"] for s in searches(command)} == {4}


def test_a_search_goes_on_with_the_trial_that_was_cut_off(command):
    cut = command(*WORDS, "method=lora", FAKE_RUN="term")
    assert cut.returncode == 143
    ((trial,),) = [s["trials"] for s in searches(command)]
    done = command(*WORDS, "method=lora")
    assert done.returncode == 0
    (search,) = searches(command)
    assert search["trials"][0]["params"] == trial["params"]
    assert [t["state"] for t in search["trials"]] == ["done"] * 3
    ids = [c["run_id"] for c in command.calls()]
    assert ids[0] == ids[1] and len(set(ids)) == 4  # three trials and the run itself


def test_short_runs_come_first_with_halving(command):
    words = (*WORDS, "method=lora", "search.halving=2", "search.trials=6", "trainer.epochs=4")
    assert command(*words).returncode == 0
    (search,) = searches(command)
    assert search["rungs"] == [1, 2, 4]
    lengths = [[run["epochs"] for run in t["runs"]] for t in search["trials"]]
    assert all(length == [1, 2, 4][: len(length)] for length in lengths)
    assert all((t["state"] == "done") == (len(t["runs"]) == 3) for t in search["trials"])


def test_failed_trials_are_counted_and_all_failing_is_an_error(command):
    done = command(*WORDS, "method=lora", FAKE_RUN="nonfinite:0")
    assert done.returncode == 2 and "none of 3 trials" in done.err and "not finite" in done.err
    assert [t["state"] for t in searches(command)[0]["trials"]] == ["failed"] * 3


def test_own_settings_and_a_grid(command):
    words = ("-m", "search=optuna", "search.sampler=grid", "method=lora,linear")
    words += ("search.space={trainer.lr:[1e-3,1e-2]}", "search.own={lora:{method.rank:[2,4]}}")
    done = command(*words)
    assert done.returncode == 0, done.err
    by_label = {s["label"]: s for s in searches(command)}
    points = [tuple(t["params"].values()) for t in by_label["lora on digits"]["trials"]]
    assert len(points) == len(set(points)) == 4
    assert len(by_label["linear on digits"]["trials"]) == 2
    shown = command(*words, "--dry")
    assert "search, lora on digits: 4 of 4 trials" in shown.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-m", "search=optuna"), "search.space: say what to search"),
        (("search=optuna",), "add -m"),
        ((*WORDS, "protocol=paper", "protocol.final_fit=false"), "protocol=paper chooses on test"),
        ((*WORDS, "search.sampler=grid"), "needs a list of values for trainer.lr"),
        ((*WORDS, "search.own={ssf:{trainer.lr:[1,2]}}", "method=lora"), "search.own.ssf"),
        (("-m", "search=optuna", "search.space={trainer.lrr:[1,2]}", "method=lora"), "trainer.lrr"),
    ],
)
def test_a_slip_is_told(command, words, told):
    done = command(*words)
    assert done.returncode == 2 and told in done.err and command.calls() == []


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"trainer.lr": {"lag": 3}}, "unknown range 'lag'"),
        ({"trainer.lr": {"log": [0.1, 1], "lag": [1, 2]}}, "unknown range 'lag'"),
        ({"trainer.lr": {"log": [0, 1]}}, "above 0"),
        ({"trainer.lr": {"linear": [2, 1]}}, r"\[LOW, HIGH\]"),
        ({"method.rank": {"int": [1.5, 3]}}, r"\[LOW, HIGH\]"),
        ({"trainer.lr": 3}, "expected a list"),
    ],
)
def test_what_is_no_space(space, told):
    with pytest.raises(ConfigError, match=told):
        Search(space=space)


def test_a_space_may_be_nested_as_configurations_are():
    flat = Search(space={"trainer.lr": {"log": [0.1, 1]}, "method.rank": [2, 4]})
    nested = Search(space={"trainer": {"lr": {"log": [0.1, 1]}}, "method": {"rank": [2, 4]}})
    assert flat.dimensions("lora") == nested.dimensions("lora")


@pytest.mark.parametrize(("package", "extra"), [("submitit", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_told_before_anything_is_planned(command, monkeypatch, package, extra):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == package else found(n)
    )
    done = command("-m", f"launcher={extra}", "seed=0,1", "method=lora")
    assert done.returncode == 2 and f"pip install -e '.[{extra}]'" in done.err
    assert list(command.work.iterdir()) == []


def test_a_report_says_what_the_search_cost(command):
    from peftbench.reports.collect import collect
    from peftbench.reports.variants import Variant

    command(*WORDS, "method=lora", "seed=0,1")
    runs = collect([command.work / "outputs" / "default"]).runs
    assert len(runs) == 2
    assert Variant("lora", "lora", tuple(runs)).searched == [
        "settings searched on val: 3 trials, 192 s"
    ]
