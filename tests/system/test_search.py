"""A search finds the better setting, never opens the test split, survives kills, and is fair."""

from __future__ import annotations

import json
import time
from pathlib import Path

from command import result, start, train

BASE = (
    *("-m", "search=optuna", "backbone=vit_tiny_random", "data=digits"),
    *("trainer.threads=1", "study=s"),
)


def search_of(output: Path) -> list[dict]:
    content = json.loads((output / "s-search" / "search.json").read_text())
    return list(content["searches"].values())


def test_the_better_of_two_is_found_and_the_test_split_stays_closed(tmp_path: Path) -> None:
    words = (*BASE, "method=lora", "trainer.epochs=2", f"output={tmp_path}")
    words += ("search.space={trainer.lr:[1e-6,1e-2]}", "search.sampler=grid")
    process = start(*words)  # killed once its first trial has begun
    end = time.monotonic() + 200
    while not list(tmp_path.glob("s-search/*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    ((before,),) = [s["trials"] for s in search_of(tmp_path)]
    assert before["state"] is None and before["params"]
    out, _ = train(*words)
    (search,) = search_of(tmp_path)
    assert [t["state"] for t in search["trials"]] == ["done", "done"]
    assert search["trials"][0]["params"] == before["params"]
    assert search["best"]["params"] == {"trainer.lr": "0.01"} and search["split"] == "val"
    assert search["spent"]["trials"] == 2 and search["spent"]["seconds"] > 0
    trials = sorted(tmp_path.glob("s-search/*/result.json"))
    assert len(trials) == 2
    for path in trials:
        found = json.loads(path.read_text())
        assert found["selection"]["test_reads"] == 0
        assert found["selection"]["test_opened"] == "never"
        assert "test" not in found["metrics"] and found["primary"]["split"] == "val"
        assert found["protocol"] == "search"
        assert '"test"' not in (path.parent / "metrics.jsonl").read_text()
    values = {t["params"]["trainer.lr"]: t["value"] for t in search["trials"]}
    assert values["0.01"] > values["1e-06"]
    (final,) = sorted(tmp_path.glob("s/*/result.json"))
    assert result(final.parent)["selection"]["test_reads"] == 1
    note = json.loads((final.parent / "search.json").read_text())
    assert note["best"] == search["best"] and note["spent"] == search["spent"]
    assert "lr: 0.01" in (final.parent / "config.yaml").read_text()
    assert "search, lora on digits: 2 of 2 trials" in out
