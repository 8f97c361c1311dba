"""Text tasks bound to each layout of network."""

import numpy as np
import pytest
import texts
import torch

from peftbench.errors import ConfigError, IncompatibleError
from peftbench.tasks.base import SPLITS
from peftbench.tasks.bind import bind
from peftbench.tasks.encoded import IGNORED
from peftbench.tasks.labelled import TextClasses, TextValues
from peftbench.tasks.text import Passages
from peftbench.tasks.written import Written

TRAIN = torch.arange(4)


def words(ids):
    return [texts.WORDS[i] for i in ids.tolist()]


def test_an_encoder_reads_segments_and_gets_a_head():
    task = bind(texts.task(), texts.backbone("encoder"))
    assert isinstance(task, TextClasses) and task.head == 2 and task.labels[1] == "positive"
    batch = task.split("train").take(TRAIN)
    assert words(batch.inputs["input_ids"][0])[0] == "[CLS]" and batch.labels.shape == (4,)
    pairs = texts.task(
        splits={n: texts.part(8, i * 10, i, pairs=True) for i, n in enumerate(SPLITS)}
    )
    batch = bind(pairs, texts.backbone("encoder")).split("train").take(TRAIN)
    row, mask = batch.inputs["input_ids"][0], batch.inputs["attention_mask"][0]
    assert words(row[mask.bool()])[-4:] == ["[SEP]", "a", "b", "[SEP]"]


def test_networks_that_write_get_sources_and_words():
    task = bind(texts.task(), texts.backbone("seq2seq"))
    assert isinstance(task, Written) and task.head is None and task.longest_written == 4
    batch = task.split("train").take(TRAIN)
    assert words(batch.inputs["input_ids"][0])[:2] == ["text", ":"]
    assert words(batch.labels[0]) in (["yes", "</s>"], ["no", "</s>"])
    decoder = bind(texts.task(), texts.backbone("decoder"))
    prompts = decoder.split("train").encoded.prompts(TRAIN)
    row = prompts["input_ids"][0][prompts["attention_mask"][0].bool()]
    assert words(row)[0] == "<s>" and words(row)[-2:] == ["Answer", ":"]
    targets = decoder.split("train").take(TRAIN).labels
    assert all(words(row[row != IGNORED])[-1] == "</s>" for row in targets)


def test_a_long_source_is_cut_and_what_stands_around_it_stays():
    long = texts.task(longest_source=6)
    rows = bind(long, texts.backbone("seq2seq")).split("train").encoded.prompts(torch.arange(96))
    assert rows["input_ids"].shape[1] == 6
    full = rows["attention_mask"].sum(1) == 6
    assert {words(r)[-1] for r in rows["input_ids"][full]} == {"</s>"}
    rows = bind(long, texts.backbone("decoder")).split("train").encoded.prompts(torch.arange(96))
    assert rows["input_ids"].shape[1] == 6
    assert {tuple(words(r)[-2:]) for r in rows["input_ids"]} == {("Answer", ":")}
    assert {
        words(r[m.bool()])[0]
        for r, m in zip(rows["input_ids"], rows["attention_mask"], strict=True)
    } == {"<s>"}
    rows = bind(long, texts.backbone("encoder")).split("train").take(torch.arange(96))
    assert rows.inputs["input_ids"].shape[1] == 6


def test_what_does_not_go_together_is_refused_with_the_reason():
    with pytest.raises(IncompatibleError, match="needs a network that writes"):
        bind(texts.task(form="text_to_text"), texts.backbone("encoder"))
    with pytest.raises(IncompatibleError, match="answers in words"):
        bind(texts.task(kind="answers", metrics=("loss",)), texts.backbone("encoder"))
    bare = texts.backbone("encoder")
    bare.codec = None
    with pytest.raises(IncompatibleError, match="no tokenizer"):
        bind(texts.task(), bare)


def test_a_network_that_writes_may_have_a_head_instead():
    for layout in ("seq2seq", "decoder"):
        task = bind(texts.task(form="classification"), texts.backbone(layout))
        assert isinstance(task, TextClasses) and task.head == 2


def outcomes(task, split, answers, loss=2.0):
    """Return rows as scoring keeps them, with answers in words."""
    rows = torch.full((len(split), task.columns), -1.0)
    rows[:, 0], rows[:, 1] = loss, 2.0
    for row, answer in zip(rows, answers, strict=True):
        ids = task.codec.ids([answer])[0]
        rows_of = [*ids, task.codec.end][: task.longest_written]
        row[2 : 2 + len(rows_of)] = torch.tensor(rows_of, dtype=torch.float32)
    return rows


def test_written_answers_are_matched_with_the_words_of_the_classes():
    task = bind(texts.task(metrics=("accuracy", "loss", "perplexity")), texts.backbone("seq2seq"))
    split = task.split("val")
    right = ["yes" if label else "no" for label in split.labels.tolist()]
    found = task.measure(outcomes(task, split, right), split)
    assert found["accuracy"] == 1.0 and found["loss"] == 1.0
    assert found["perplexity"] == pytest.approx(np.e)
    wrong = ["film", *right[1:]]  # no class at all: counts as wrong
    found = task.measure(outcomes(task, split, wrong), split)
    assert found["accuracy"] == pytest.approx(29 / 30)
    half = task.interval(outcomes(task, split, wrong), split, 29 / 30)
    assert half.low < 29 / 30 < half.high and "Wilson" in half.kind


def valued(count, first):
    labels = torch.tensor([float(i % 3) for i in range(count)])
    text = ["text : a"] * count
    targets = [str(int(v)) for v in labels]
    return Passages(torch.arange(first, first + count), [("a",)] * count, text, targets, labels)


def test_values_are_read_out_of_what_is_written():
    splits = {n: valued(9, 100 * i) for i, n in enumerate(SPLITS)}
    given = texts.task(kind="regression", labels=(), words=(), metrics=("pearson",), splits=splits)
    task = bind(given, texts.backbone("seq2seq"))
    split = task.split("val")
    rows = outcomes(task, split, [str(int(v)) for v in split.labels.tolist()])
    assert task.measure(rows, split)["pearson"] == pytest.approx(1.0)
    rows = outcomes(task, split, ["film", *(str(int(v)) for v in split.labels.tolist()[1:])])
    assert 0.5 < task.measure(rows, split)["pearson"] < 1.0
    headed = bind(given, texts.backbone("encoder"))
    assert isinstance(headed, TextValues) and headed.head == 1
    logits = split.labels[:, None] * 2 + 1
    assert headed.metrics(logits, split.labels)["pearson"] == pytest.approx(1.0)
    loss = headed.per_sample_loss(logits, split.labels)
    assert torch.equal(loss, (split.labels + 1) ** 2)


def test_loss_is_better_when_lower():
    task = bind(texts.task(metrics=("loss",)), texts.backbone("decoder"))
    assert not task.higher_is_better and task.longest_written == 0 and task.columns == 2
    split = task.split("val")
    rows = outcomes(task, split, [""] * len(split))
    bounds = task.interval(rows, split, 1.0)
    assert bounds.low == bounds.high == 1.0 and "bootstrap" in bounds.kind


def test_token_losses_are_those_of_the_targets():
    task = bind(texts.task(), texts.backbone("seq2seq"))
    logits = torch.randn(3, 4, 23, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, IGNORED, IGNORED], [3, 4, 5, 6], [IGNORED, 7, 8, IGNORED]])
    logs = logits.log_softmax(-1)
    expected = [
        -sum(logs[b, t, k] for t, k in enumerate(row) if k != IGNORED)
        / sum(k != IGNORED for k in row)
        for b, row in enumerate(labels.tolist())
    ]
    torch.testing.assert_close(task.per_sample_loss(logits, labels), torch.stack(expected))


@pytest.mark.parametrize("layout", texts.LAYOUTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("longest_source", 0), ("longest_source", -3), ("longest_target", 0), ("written", 0)],
)
def test_a_limit_that_leaves_nothing_is_refused(layout, name, value):
    with pytest.raises(ConfigError, match=rf"data\.{name}: {value} must be at least"):
        bind(texts.task(**{name: value}), texts.backbone(layout))
