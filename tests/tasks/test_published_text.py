"""Published text tasks from small tables in their real schemas: texts, splits, labels, faults."""

import json
from pathlib import Path

import numpy as np
import published_tables as made
import pytest
import torch
from omegaconf import OmegaConf

from peftbench import spec
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import Alpaca, PublishedSuite, PublishedText
from peftbench.tasks import text_forms as forms
from peftbench.tasks.alpaca import prompt
from peftbench.tasks.text_metrics import METRICS
from peftbench.tasks.text_tables import PEMT_17, PEMT_SOURCES, TABLE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a folder of tables for every task, as they are published but small."""
    folder = tmp_path_factory.mktemp("tables")
    for task in TABLE:
        made.write(folder, task)
    return folder


def published(root, task, **settings):
    return PublishedText(task, path=str(root), **settings)


def first(task, template, root):
    """Return source and target of the row 0 of train."""
    loaded = published(root, task, template=template).load()
    for part in loaded.splits.values():
        for i, number in enumerate(part.ids.tolist()):
            if number == 0:
                return part.sources[i], part.targets[i]
    raise AssertionError("row 0 is in no split")


SOURCES = {
    ("mnli", "pemt"): ("premise: premise 0 hypothesis: hypothesis 0", "entailment"),
    ("mnli", "attempt"): ("premise: premise 0 hypothesis: hypothesis 0", "0"),
    ("mnli", "t5"): ("mnli hypothesis: hypothesis 0 premise: premise 0", "entailment"),
    ("qnli", "t5"): ("qnli question: cause sentence: sentence 0", "entailment"),
    ("qqp", "pemt"): ("question1: question1 0 question2: question2 0", "not_duplicate"),
    ("sst2", "pemt"): ("sentence: sentence 0", "negative"),
    ("cola", "t5"): ("cola sentence: sentence 0", "unacceptable"),
    ("mrpc", "pemt"): ("sentence1: sentence1 0 sentence2: sentence2 0", "not_equivalent"),
    ("wnli", "pemt"): ("sentence1: sentence1 0 sentence2: sentence2 0", "not_entailment"),
    ("stsb", "t5"): ("stsb sentence1: sentence1 0 sentence2: sentence2 0", "0.0"),
    ("boolq", "pemt"): ("question: cause passage: passage 0", "False"),
    ("boolq", "t5"): ("boolq passage: passage 0 question: cause", "False"),
    ("cb", "t5"): ("cb hypothesis: hypothesis 0 premise: premise 0", "entailment"),
    ("copa", "pemt"): ("premise: premise 0 choice1: choice1 0 choice2: choice2 0", "choice1"),
    ("copa", "t5"): (
        "copa choice1: choice1 0 choice2: choice2 0 premise: premise 0 question: cause",
        "choice1",
    ),
    ("multirc", "t5"): ("multirc question: cause answer: 1 paragraph: paragraph 0", "False"),
    ("superglue_rte", "t5"): ("rte hypothesis: hypothesis 0 premise: premise 0", "entailment"),
    ("wic", "pemt"): ("sentence1: sentence1 0 sentence2: sentence2 0 word: word 0", "False"),
    ("wsc", "t5"): ("wsc text: * Ann0 * saw that # she # won.", "False"),
    ("record", "pemt"): (
        "record query: query 0 entities: Ann 0, Bob 0 passage: passage 0",
        "answer 0",
    ),
    ("squad", "t5"): ("question: cause context: context 0", "answer 0"),
    ("newsqa", "pemt"): ("question: cause context: context 0", "answer 0"),
    ("winogrande", "pemt"): (
        "sentence: sentence 0 option1: option1 0 option2: option2 0",
        "option1 0",
    ),
    ("winogrande", "attempt"): (
        "sentence: sentence 0 option0: option1 0 option1: option1 0",
        "0",
    ),
    ("yelp", "pemt"): ("sentence: Ann0 saw that she won.", "0"),
    ("scitail", "pemt"): ("premise: sentence1 0 hypothesis: sentence2 0", "entailment"),
    ("paws", "attempt"): ("sentence1: sentence1 0 sentence2: sentence2 0", "0"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "template"), SOURCES)
def test_a_row_is_read_and_written_as_published(root, task, template):
    assert first(task, template, root) == SOURCES[task, template]


@pytest.mark.parametrize("task", TABLE)
def test_every_task_loads_and_no_sample_is_in_two_splits(root, task):
    row, loaded = TABLE[task], published(root, task).load()
    ids = torch.cat([part.ids for part in loaded.splits.values()])
    assert len(ids.unique()) == len(ids)
    held = {"multirc": 40, "record": 80}.get(task, 40)
    assert len(loaded.splits["val"]) == held // 20
    assert len(loaded.splits["train"]) == held - held // 20
    assert len(loaded.splits["test"]) == 10 * len(row.tested)
    assert all(name in METRICS for name in loaded.metrics)
    assert loaded.description.endswith(".") and loaded.kind == row.kind
    part = loaded.splits["test"]
    if row.kind == "classification":
        assert set(part.labels.tolist()) <= set(range(len(row.words)))
        assert part.targets == [row.words[label] for label in part.labels.tolist()]
        assert all(all(texts) for texts in part.segments) and part.references == ()
    elif row.kind == "answers":
        assert (part.labels == -1).all() and not part.segments
        assert all(t == r[0] for t, r in zip(part.targets, part.references, strict=True))
    if task == "multirc":
        assert len(set(part.groups)) == 4  # three answers per question
    assert loaded.manifest["deviations"][0].startswith("train: 40 rows, the published set has ")


def test_splits_of_the_attempt_line(root, tmp_path):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(42)).tolist()
    small = published(root, "rte", splits="attempt").load().splits
    assert small["train"].ids.sort().values.tolist() == list(range(40))
    start = int(small["test"].ids.min()) if 0 not in order[:5] else int(small["val"].ids.min())
    base = min(start, int(small["val"].ids.min()))
    assert (small["val"].ids - base).tolist() == order[:5]
    assert (small["test"].ids - base).tolist() == order[5:]
    mnli = published(root, "mnli", splits="attempt").load().splits
    assert [mnli[s].sources[0].split()[2] for s in ("val", "test")] == ["10500", "10000"]
    own = published(root, "paws", splits="attempt").load().splits
    assert [own[s].sources[0].split()[2] for s in ("val", "test")] == ["10000", "20000"]
    with pytest.raises(ConfigError, match=r"takes 1000 rows of train for val, task 'sst2' has 40"):
        published(root, "sst2", splits="attempt").load()
    made.write(tmp_path, "qnli", train=1030, others=7)
    large = PublishedText("qnli", "attempt", path=str(tmp_path), n_obs=12).load()
    whole = torch.randperm(1030, generator=torch.Generator().manual_seed(42))
    assert torch.equal(large.splits["val"].ids, whole[:1000])
    assert torch.equal(large.splits["train"].ids, whole[1000:1012])
    assert len(large.splits["test"]) == 7


def test_dev_reports_on_validation_and_both_parts_of_mnli(root):
    loaded = published(root, "mnli").load()
    assert {text.split()[1] for text in loaded.splits["test"].sources} == {"premise"}
    numbers = [int(text.split()[2]) for text in loaded.splits["test"].sources]
    assert numbers == [*range(10_000, 10_010), *range(10_500, 10_510)]
    whole = torch.randperm(40, generator=torch.Generator().manual_seed(42))
    assert torch.equal(loaded.splits["val"].ids, whole[:2])
    assert "that same split" in loaded.manifest["protocol"]["note"]


def test_a_hidden_label_is_left_out(tmp_path):
    table = made.table("cola", "train", 30).to_dict()
    table["label"][4] = -1
    folder = made.write(tmp_path, "cola")
    import datasets

    features = datasets.Features(made.FEATURES["cola"])
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(table, features=features).to_parquet(str(path))
    parts = published(tmp_path, "cola").load().splits
    seen = torch.cat([parts["train"].ids, parts["val"].ids])
    assert len(seen) == 29 and 4 not in seen


def test_shots_come_from_train_alone_and_are_seeded(root):
    whole = published(root, "cb").load().splits
    for shots in (1, 4):
        loaded = published(root, "cb", shots=shots).load()
        train = loaded.splits["train"]
        assert train.labels.bincount().tolist() == [shots] * 3
        assert set(train.ids.tolist()) <= set(whole["train"].ids.tolist())
        assert torch.equal(loaded.splits["val"].ids, whole["val"].ids)
        assert loaded.manifest["splits"]["train"]["count"] == 3 * shots
    again = published(root, "cb", shots=4, shots_seed=1).load().splits["train"]
    assert set(again.ids.tolist()) != set(train.ids.tolist())
    assert len(published(root, "stsb", shots=6).load().splits["train"]) == 6
    assert len(published(root, "squad", shots=6).load().splits["train"]) == 6
    with pytest.raises(ConfigError, match=r"data\.shots: 99 per class asked for, class 0 of task"):
        published(root, "cb", shots=99).load()
    with pytest.raises(ConfigError, match=r"data\.shots: expected 1 or more"):
        published(root, "cb", shots=0)


def test_the_same_data_as_lines_and_as_parquet_are_the_same(root, tmp_path):
    for task in ("stsb", "squad", "scitail", "multirc"):
        made.write(tmp_path, task, kind="jsonl")
        assert published(tmp_path, task).manifest == published(root, task).manifest
        alone = PublishedText(task, path=str(tmp_path / task))
        assert alone.manifest_sha256 == published(root, task).manifest_sha256


def test_what_changes_the_data_changes_the_manifest(root):
    settings = ({}, {"template": "t5"}, {"splits": "attempt"}, {"n_obs": 9}, {"shots": 2})
    assert len({published(root, "rte", **s).manifest_sha256 for s in settings}) == 5


def test_answers_and_values():
    assert forms.padded('He said: "it\'s café_1."') == 'He said : " it \' s café_1 . "'
    assert forms.padded("cafe\u0301!") == "cafe\u0301 !"  # a mark stays at its letter
    assert [forms.fifth(v) for v in (2.84, 2.7, 5.0, 0.05)] == ["2.8", "2.8", "5.0", "0.0"]
    assert forms.decimal(3.25) == "3.2" and forms.decimal(5.0) == "5.0"
    found = forms.record(
        {"passage": 'He won.\n@highlight\nShe lost\n@highlight\nEnd', "entities": ["A", "B"],
         "answers": [], "query": "q"}
    )[0]  # fmt: skip
    assert found["passage"] == "He won. She lost. End" and found["answers"] == ["<unk>"]
    row = {"paragraph": "<b>Sent 1: </b>One.<br>Two.", "idx": {"paragraph": 2, "question": 5}}
    assert forms.multirc(row)[0]["paragraph"] == "Sent 1: One. Two."


def test_spans_are_marked_by_word_index():
    def marked(text, noun, at, pronoun, then):
        return forms.wsc(
            {"text": text, "span1_text": noun, "span1_index": at, "span2_text": pronoun,
             "span2_index": then}
        )[0]["marked"]  # fmt: skip

    said = "Mark told Pete many lies, which he did not believe"
    assert marked(said, "Pete", 2, "he", 6) == (
        "Mark told * Pete * many lies, which # he # did not believe"
    )
    said = "When he left, Mark (a man) cried"
    assert marked(said, "Mark (a man)", 3, "he", 1) == "When # he # left, * Mark (a man) * cried"
    assert marked("a b", "c", 0, "b", 1).startswith("a b")  # not at its place: unmarked


def test_faults_are_told(root, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'cola'"):
        PublishedText("colla")
    with pytest.raises(ConfigError, match="T5 has no template of task 'paws'"):
        PublishedText("paws", template="t5")
    with pytest.raises(MissingAssetError, match="holds no tables"):
        PublishedText("cola", path=str(tmp_path)).load()
    with pytest.raises(MissingAssetError, match="no folder or file"):
        PublishedText("cola", path=str(tmp_path / "away")).load()
    folder = made.write(tmp_path, "rte")
    made.table("rte", "train", 9).remove_columns("sentence2").to_json(str(folder / "x.jsonl"))
    with pytest.raises(ConfigError, match="tables of several kinds"):
        published(tmp_path, "rte").load()
    (folder / "x.jsonl").unlink()
    train = folder / "train-00000-of-00001.parquet"
    for column in ("sentence2", "label"):
        made.table("rte", "train", 9).remove_columns(column).to_parquet(str(train))
        with pytest.raises(CorruptAssetError, match=f"'train' has no column '{column}'; it has"):
            published(tmp_path, "rte").load()
    hidden = made.table("rte", "test", 9)
    hidden.to_parquet(str(train))
    with pytest.raises(CorruptAssetError, match="no row of the split 'train' has a label"):
        published(tmp_path, "rte").load()
    rows = made.table("rte", "train", 9).to_dict()
    rows["sentence1"][5] = None
    type(hidden).from_dict(rows).to_parquet(str(train))
    with pytest.raises(CorruptAssetError, match="'train' has nothing in the column 'sentence1'"):
        published(tmp_path, "rte").load()
    train.unlink()
    with pytest.raises(CorruptAssetError, match="the split 'train' is missing"):
        published(tmp_path, "rte").load()
    train.write_bytes(b"no parquet")
    with pytest.raises(CorruptAssetError, match="datasets cannot read"):
        published(tmp_path, "rte").load()
    lines = made.write(tmp_path, "wic", kind="jsonl") / "train.jsonl"
    lines.write_text(lines.read_text().replace('"label":1', '"label":2', 1))
    with pytest.raises(CorruptAssetError, match=r"row 1 of 'train' has the label 2; the classes"):
        published(tmp_path, "wic").load()


def config(name):
    return OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "data" / f"{name}.yaml"))


def test_there_is_a_config_for_every_task():
    files = {path.stem for path in (ROOT / "configs" / "data" / "published").glob("*.yaml")}
    assert files == set(TABLE)


@pytest.mark.parametrize("task", TABLE)
def test_the_config_of_a_task_builds_it(task):
    built = spec.build(config(f"published/{task}"), "data")
    assert built == PublishedText(task, splits=built.splits)


def test_suites():
    glue, superglue, pemt = (
        spec.build(config(name), "data") for name in ("glue", "superglue", "pemt17")
    )
    assert [len(suite.members) for suite in (glue, superglue, pemt)] == [8, 8, 17]
    assert glue.members["cola"] == PublishedText("cola") and pemt.groups == PEMT_17
    assert pemt.members["yelp"] == PublishedText("yelp", "attempt")
    assert not set(PEMT_SOURCES) & set(pemt.members)
    chosen = PublishedSuite("glue", shots=16, tasks=("rte", "cola"))
    assert list(chosen.selected()) == ["rte", "cola"] and chosen.members["rte"].shots == 16
    with pytest.raises(ConfigError, match="Did you mean 'cola'"):
        PublishedSuite("glue", tasks=("colla",))


def test_a_suite_reads_a_folder(root):
    suite = PublishedSuite("superglue", str(root), tasks=("wsc", "superglue_rte"))
    assert [len(m.load().splits["test"]) for m in suite.selected().values()] == [10, 10]


ALPACA = [
    {
        "instruction": f"Do {i}",
        "input": "" if i % 2 else f"with {{instruction}} {i}",
        "output": f"done {i}",
    }
    for i in range(30)
]  # fmt: skip


def test_alpaca(tmp_path):
    rows = [
        *ALPACA,
        {**ALPACA[3], "instruction": "do  3"},
        {**ALPACA[4], "input": "", "output": " "},
    ]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    task = Alpaca(str(tmp_path / "set.json"), val=4, test=5).load()
    sizes = {name: len(part) for name, part in task.splits.items()}
    assert sizes == {"train": 21, "val": 4, "test": 5} and task.style == "alpaca"
    ids = np.concatenate([part.ids for part in task.splits.values()])
    assert sorted(ids) == list(range(30))
    for part in task.splits.values():
        for i, number in enumerate(part.ids.tolist()):
            row = ALPACA[number]
            assert part.sources[i] == prompt(row["instruction"], row["input"])
            assert part.targets[i] == row["output"] == part.references[i][0]
    assert prompt("A", "").endswith("### Instruction:\nA\n\n### Response:")
    assert "### Input:\nwith {instruction} 4\n\n### Response:" in prompt(
        "A", "with {instruction} 4"
    )
    chat = Alpaca(str(tmp_path / "set.json"), val=4, test=5, template="chat", n_obs=3).load()
    train = chat.splits["train"]
    assert len(train) == 3 and chat.style == "chat" and train.messages[0][0]["role"] == "user"
    assert train.take([1]).messages == [train.messages[1]]
    with pytest.raises(ConfigError, match="leave none for train"):
        Alpaca(str(tmp_path / "set.json")).load()
    (tmp_path / "bad.jsonl").write_text('{"instruction": "x", "output": "y"}\n')
    with pytest.raises(CorruptAssetError, match="no column 'input'"):
        Alpaca(str(tmp_path / "bad.jsonl")).load()
    assert spec.build(config("alpaca"), "data") == Alpaca()


@pytest.mark.parametrize("task", ["cola", "yelp"])
def test_no_training_samples_are_not_all_of_them(task):
    with pytest.raises(ConfigError, match=r"data\.n_obs: expected 1 or more"):
        PublishedText(task, n_obs=0)
