"""Ids of texts: padding, targets against logits, joining."""

import torch

from peftbench.tasks.batch import Split
from peftbench.tasks.encoded import IGNORED, Continued, Ragged, Segments, Transduced

ROWS = [[5, 6, 7], [8], [], [9, 10]]


def test_ragged_gives_back_its_rows_on_either_side():
    ragged = Ragged.of(ROWS)
    assert len(ragged) == 4 and ragged.lengths.tolist() == [3, 1, 0, 2]
    assert [ragged.row(i).tolist() for i in range(4)] == ROWS
    ids, mask = ragged.padded(torch.tensor([3, 0, 2]), 99)
    assert ids.tolist() == [[9, 10, 99], [5, 6, 7], [99, 99, 99]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    ids, mask = ragged.padded(torch.tensor([1, 3]), 99, "left")
    assert ids.tolist() == [[99, 8], [9, 10]] and mask.tolist() == [[0, 1], [1, 1]]


def test_all_rows_empty():
    ids, mask = Ragged.of([[], []]).padded(torch.tensor([0, 1]), 3)
    assert ids.tolist() == [[3], [3]] and mask.tolist() == [[0], [0]]


def test_transduced_shifts_targets_behind_the_start():
    pairs = Transduced(Ragged.of([[5, 1], [6, 7, 1]]), Ragged.of([[8, 9, 1], [4, 1]]), 0, 3)
    inputs, targets = pairs.take(torch.tensor([1, 0]))
    assert inputs["decoder_input_ids"].tolist() == [[3, 4, 1], [3, 8, 9]]
    assert targets.tolist() == [[4, 1, IGNORED], [8, 9, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["decoder_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert pairs.weights.tolist() == [3, 2]
    assert set(pairs.prompts(torch.tensor([0]))) == {"input_ids", "attention_mask"}


def test_continued_aligns_targets_with_the_logits_that_predict_them():
    pairs = Continued(Ragged.of([[3, 5], [3, 6, 7, 8]]), Ragged.of([[9, 10, 1], [4, 1]]), 0)
    inputs, targets = pairs.take(torch.tensor([0, 1]))
    assert inputs["input_ids"].tolist() == [[0, 3, 5, 9, 10], [3, 6, 7, 8, 4]]
    assert inputs["position_ids"].tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert targets.tolist() == [[9, 10, 1], [IGNORED, 4, 1]]
    # the logits at ``keep`` stand behind the token before the one they predict
    read = inputs["input_ids"].gather(1, inputs["keep"])
    assert read.tolist() == [[5, 9, 10], [7, 8, 4]]
    prompts = pairs.prompts(torch.tensor([0, 1]))
    assert prompts["input_ids"].tolist() == [[0, 0, 3, 5], [3, 6, 7, 8]]


def test_joined_splits_hold_both_parts():
    a = Segments(Ragged.of([[1, 2]]), Ragged.of([[0, 0]]), 0)
    b = Segments(Ragged.of([[3], [4, 5, 6]]), Ragged.of([[1], [0, 0, 1]]), 0)

    def split(name, text, first):
        ids = torch.arange(first, first + len(text))
        return Split(name, {"text": text}, torch.zeros(len(text), dtype=torch.long), ids)

    whole = Split.concat("both", [split("a", a, 0), split("b", b, 10)])
    batch = whole.take(torch.tensor([2, 0]))
    assert batch.inputs["input_ids"].tolist() == [[4, 5, 6], [1, 2, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch.ids.tolist() == [11, 0] and whole.decoded
