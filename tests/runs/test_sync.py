"""Finished run folders become W&B runs and event files, once, whatever tracker they had."""

import importlib.util
import json
import sys

import pytest
import yaml

from peftbench.files import sha256_file
from peftbench.runs.store import RESULT_KEYS, MetricsLog

from .conftest import ROOT
from .test_trackers import CONFIG, KEYS, RESULT, items, of_kind, read_offline, scalars


def script(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def write_run(folder, steps=3, value=0.9, finished=True, keep=False):
    """Write a run directory as runs leave it; ``keep``: with the figures that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"_target_": "peftbench.tasks.pocket.PocketVision"}
    tracker = {"_target_": "peftbench.runs.settings.Files"}
    text = yaml.safe_dump({**CONFIG, "data": data, "tracker": tracker})
    (folder / "config.yaml").write_text(text)
    if not keep:
        with MetricsLog(folder / "metrics.jsonl") as log:
            log.truncate_after(0)
            for step in range(1, steps + 1):
                log.log(step, 0, "train", {"loss": 1.0 / step}, 0.5)
    if finished:
        result = dict.fromkeys(RESULT_KEYS, "") | RESULT | {"run_id": folder.name}
        result["metrics"] = {"test": {"accuracy": value}}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def study(tmp_path):
    for name in ("a" * 12, "b" * 12):
        write_run(tmp_path / "study" / name)
    write_run(tmp_path / "study" / ("c" * 12), finished=False)
    return tmp_path / "study"


def call(capsys, *words):
    code = script("sync_wandb").main(words)
    said = capsys.readouterr()
    return code, said.out + said.err


def offline(study):
    return sorted(p.name for p in (study / "wandb").glob("offline-run-*"))


def test_a_study_becomes_wandb_runs_once(study, capsys):
    code, said = call(capsys, f"runs={study}", "project=mine")
    assert code == 0 and "2 runs sent, 0 unchanged" in said and "1 unfinished" in said
    records = read_offline(study / ("a" * 12))
    (run,) = of_kind(records, "run")
    assert (run.run_id, run.project, run.run_group) == ("a" * 12, "mine", "study")
    rows = [items(h.item) for h in of_kind(records, "history")]
    assert [(r["_step"], round(r["train/loss"], 3)) for r in rows] == [(1, 1), (2, 0.5), (3, 0.333)]
    assert not of_kind(records, "stats")  # the load of this machine is not the run's
    before = offline(study)
    code, said = call(capsys, f"runs={study}", "project=mine")
    assert code == 0 and "0 runs sent, 2 unchanged" in said and offline(study) == before
    book = json.loads((study / "wandb" / "synced.json").read_text())
    wanted = sha256_file(study / ("b" * 12) / "result.json")
    assert book["b" * 12] == {"to": "offline:/mine", "result_sha256": wanted}


def test_a_new_result_and_another_project_are_copied_again(study, capsys):
    call(capsys, f"runs={study}")
    write_run(study / ("a" * 12), value=0.5)
    assert "1 runs sent, 1 unchanged" in call(capsys, f"runs={study}")[1]
    summary = {}
    for part in of_kind(read_offline(study / ("a" * 12)), "summary"):
        summary |= items(part.update)
    assert summary["result/metrics/test/accuracy"] == 0.5
    assert len(offline(study)) == 2
    assert "2 runs sent, 0 unchanged" in call(capsys, f"runs={study}", "project=other")[1]


def test_one_run_becomes_event_files(study, capsys):
    code, said = call(capsys, f"runs={study / ('a' * 12)}", "to=tensorboard")
    assert code == 0 and "1 runs sent" in said
    _, found = scalars(study / "tensorboard" / ("a" * 12))
    assert found == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert "0 runs sent, 2 unchanged" not in call(capsys, f"runs={study}", "to=tensorboard")[1]


def test_slips_are_told_and_a_run_that_is_not_taken_fails_the_command(study, capsys, monkeypatch):
    code, said = call(capsys, f"runs={study}", "mode=online")
    assert code == 2 and "wandb login" in said
    code, said = call(capsys, f"runs={study}", "project_=x")
    assert code == 2 and "Did you mean 'project'" in said
    monkeypatch.setattr("wandb.init", lambda **_: (_ for _ in ()).throw(OSError("no disk")))
    code, said = call(capsys, f"runs={study}")
    assert code == 2 and "2 not taken" in said and "no disk" in said and "a" * 12 in said
    assert not (study / "wandb" / "synced.json").exists()
    (study / "wandb").mkdir(exist_ok=True)
    (study / "wandb" / "synced.json").write_text("{")
    code, said = call(capsys, f"runs={study}")
    assert code == 2 and "remove it" in said
