"""Published text tasks from a hub on loopback, through the unmodified ``datasets.load_dataset``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from conftest import Child, Refused
from server import Hub

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import published_tables as made


def parquet(table) -> bytes:
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


def files(task: str, folder: str, train: int = 40, others: int = 10) -> dict[str, bytes]:
    """Return the tables of a task as the hub holds them."""
    return {
        f"{folder}/{split}-00000-of-00001.parquet": parquet(
            made.table(task, split, train if split == "train" else others)
        )
        for split in made.splits(task)
    }


def readme(tasks: dict[str, str]) -> bytes:
    """Return a README that declares one configuration per task."""
    lines = ["---", "configs:"]
    for task, folder in tasks.items():
        lines += [f"- config_name: {folder}", "  data_files:"]
        for split in made.splits(task):
            lines += [f"  - split: {split}", f"    path: {folder}/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""]).encode()


@pytest.fixture(scope="module", autouse=True)
def published(hub: Hub) -> None:
    """Push small copies under the published ids."""
    glue = {name: name for name in ("cola", "mnli", "stsb")}
    every = {k: v for name in glue for k, v in files(name, name).items()}
    hub.push("datasets", "nyu-mll/glue", {**every, "README.md": readme(glue)})
    sets = {"wsc": "wsc.fixed", "record": "record"}
    every = {k: v for name, at in sets.items() for k, v in files(name, at).items()}
    hub.push("datasets", "hgissbkh/super_glue", {**every, "README.md": readme(sets)})
    hub.push("datasets", "lucadiliello/newsqa", files("newsqa", "data"))


def test_tasks_are_read_under_their_published_ids(online: Child, hub: Hub) -> None:
    commit = hub.repositories["datasets", "nyu-mll/glue"].refs["main"]
    cola = online("passages", task="cola")
    assert cola["manifest"]["source"] == {"hub": "nyu-mll/glue", "subset": "cola", "commit": commit}
    assert cola["words"] == ["unacceptable", "acceptable"]
    assert {name: len(part) for name, part in cola["splits"].items()} == {
        "train": 38,
        "val": 2,
        "test": 10,
    }
    for part in cola["splits"].values():
        for source, target, label in part:
            number = int(source.removeprefix("sentence: sentence "))
            assert number % 2 == label and target == cola["words"][label]
    assert len(online("passages", task="mnli")["splits"]["test"]) == 20
    values = online("passages", task="stsb", splits="attempt", template="t5")["splits"]["val"]
    assert all(target == f"{round(value * 5) / 5:.1f}" for _, target, value in values)
    marked = online("passages", task="wsc")["splits"]["test"][0][0]
    assert marked == "text: * Ann10000 * saw that # she # won."
    assert len(online("passages", task="record")["splits"]["train"]) == 76  # a row per answer
    answers = online("passages", task="newsqa")["splits"]["test"]
    assert answers[1] == ["question: effect context: context 10001", "answer 10001", -1]


def test_a_wrong_configuration_revision_or_id_is_told(online: Child, hub: Hub) -> None:
    with pytest.raises(Refused, match=r"ConfigError.*'colla' \(key: data.subset\).*'cola'"):
        online("passages", task="cola", subset="colla")
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*Revision 'v9' doesn't exist"):
        online("passages", task="cola", revision="v9")
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*doesn't exist on the Hub"):
        online("passages", task="rte", path="me/nothing")


def test_the_hub_down_or_away(online: Child, offline: Child, hub: Hub) -> None:
    before = online("passages", task="newsqa")
    assert offline("passages", task="newsqa") == before
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*HF_HUB_OFFLINE is set"):
        offline("passages", task="squad")
    hub.push("datasets", "rajpurkar/squad", files("squad", "plain_text"))
    with (
        hub.failing("rajpurkar/squad", "down"),
        pytest.raises(
            Refused, match=r"MissingAssetError: data set rajpurkar/squad [^$]*status 503"
        ),
    ):
        online("passages", task="squad")
    assert len(online("passages", task="squad")["splits"]["test"]) == 10


def test_alpaca_is_read_under_its_id(online: Child, hub: Hub) -> None:
    lines = "".join(
        f'{{"instruction": "do {i}", "input": "", "output": "done {i}", "text": "t"}}\n'
        for i in range(20)
    )
    commit = hub.push("datasets", "tatsu-lab/alpaca", {"data/train.jsonl": lines.encode()})
    found = online("alpaca", val=3, test=4)
    assert found["sizes"] == {"train": 13, "val": 3, "test": 4}
    assert found["manifest"]["source"] == {"hub": "tatsu-lab/alpaca", "commit": commit}
    assert found["manifest"]["deviations"] == ["20 rows, the published set has 52002"]
