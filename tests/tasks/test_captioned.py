"""Captions as a captioner reads and writes them. arXiv 2312.08900, sections 4.4 to 4.6."""

import math

import numpy as np
import pytest
import tiny
import torch

from peftbench.errors import IncompatibleError
from peftbench.tasks.batch import Split
from peftbench.tasks.captioned import bind
from peftbench.tasks.captions import Captions, CaptionTask
from peftbench.tasks.encoded import IGNORED
from peftbench.tasks.images import PixelImages

P = tiny.PLACES
WORDS = ("a cat", "a red car on a road", "dog", "two birds", "the sea")


def part(first, count, each=2):
    g = torch.Generator().manual_seed(first)
    pixels = torch.randint(0, 255, (count, 3, 32, 32), generator=g).to(torch.uint8)
    references = tuple(
        tuple(WORDS[(first + i + j) % len(WORDS)] for j in range(1 + (each - 1) * (i % 2)))
        for i in range(count)
    )
    ids = torch.arange(first, first + count)
    return Captions(PixelImages(pixels), ids, references, tuple(f"p{i}" for i in ids.tolist()))


def task(**changes):
    splits = {"train": part(0, 6), "val": part(6, 4), "test": part(10, 4)}
    return CaptionTask("small", splits, {"splits": {}}, **changes)


@pytest.fixture
def bound():
    return bind(task(), tiny.backbone("captioner_tiny_random"))


def test_a_sample_is_a_picture_with_one_caption(bound):
    split = bound.split("train")
    assert len(split) == 6 + 3  # every second picture has two captions
    assert split.ids.tolist() == [0, 2, 3, 4, 6, 7, 8, 10, 11]
    assert split.inputs["image"].index == (0, 1, 1, 2, 3, 3, 4, 5, 5)
    rows = torch.arange(len(split))
    assert bound.answered(rows, split).tolist() == [i % 2 == 0 for i in split.ids.tolist()]


def test_the_last_place_predicts_the_first_token_and_the_end_counts(bound):
    split, codec = bound.split("train"), bound.codec
    text = split.inputs["text"]
    inputs, targets = text.take(torch.tensor([0, 2]))
    first = codec.ids([WORDS[0]])[0]
    longest = targets.shape[1]
    assert targets[0].tolist() == [*first, codec.end, *[IGNORED] * (longest - len(first) - 1)]
    row = inputs["input_ids"][0]
    assert row[0] == codec.begin and row[1 : 1 + P].tolist() == [-1] * P
    assert row[1 + P : 1 + P + len(first)].tolist() == first
    assert inputs["keep"].tolist() == [list(range(P, P + longest))] * 2
    assert row.shape[0] == P + longest
    assert text.prompts(torch.tensor([0]))["input_ids"].tolist() == [[codec.begin, *[-1] * P]]
    assert text.weights.tolist()[0] == len(first) + 1


@pytest.mark.parametrize("length", [62, 63, 64, 90])
def test_a_long_caption_has_64_targets_and_the_end_last(length):
    long = task()
    references = (("a" * length,), *long.splits["train"].references[1:])
    train = long.splits["train"]
    long.splits["train"] = Captions(train.images, train.ids, references, train.image_ids)
    made = bind(long, tiny.backbone("captioner_tiny_random"))
    _, targets = made.split("train").inputs["text"].take(torch.tensor([0]))
    assert targets.shape[1] == min(length, 63) + 1
    assert targets[0, -1] == made.codec.end and (targets[0, :-1] != made.codec.end).all()


def test_what_stands_at_padding_changes_nothing(bound):
    split = bound.split("train")
    _, targets = split.inputs["text"].take(torch.tensor([0, 1]))
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(*targets.shape, 64, generator=g)
    changed = torch.where((targets == IGNORED)[..., None], logits + 5, logits)
    assert (targets == IGNORED).any() and not torch.equal(changed, logits)
    one, two = (bound.per_sample_loss(x, targets) for x in (logits, changed))
    assert torch.equal(one, two)


def test_perplexity_weighs_tokens_alike(bound):
    bound.open_test()
    split = bound.split("test")
    n = len(split)
    g = torch.Generator().manual_seed(0)
    outcomes = torch.stack([torch.rand(n, generator=g) * 9, torch.arange(1.0, n + 1)], 1)
    found = bound.measure(outcomes, split)
    expected = float(outcomes[:, 0].sum()) / float(outcomes[:, 1].sum())
    assert found["loss"] == pytest.approx(expected)
    assert found["perplexity"] == pytest.approx(math.exp(expected))
    interval = bound.interval(outcomes, split, found["perplexity"])
    assert interval.low < found["perplexity"] < interval.high and "pictures" in interval.kind


def test_the_interval_draws_pictures_not_captions():
    """Two captions of a picture that are equally hard tell no more than one of them."""
    splits = {name: part(at, 12, each=1) for name, at in (("train", 0), ("val", 20))}
    single, twice = part(40, 12, each=1), part(40, 12, each=1)
    twice = Captions(
        twice.images, twice.ids, tuple((r[0], r[0]) for r in twice.references), twice.image_ids
    )
    widths = []
    for test in (single, twice):
        made = bind(
            CaptionTask("small", {**splits, "test": test}, {"splits": {}}),
            tiny.backbone("captioner_tiny_random"),
        )
        made.open_test()
        split = made.split("test")
        hard = torch.linspace(1, 5, 12).repeat_interleave(len(split) // 12)
        outcomes = torch.stack([hard, torch.ones(len(split))], 1)
        found = made.interval(outcomes, split, 1.0)
        widths.append(np.log(found.high) - np.log(found.low))
    assert widths[0] == pytest.approx(widths[1], rel=1e-6)


def test_joined_splits_keep_their_pictures(bound):
    joined = Split.concat("train+val", [bound.split("train"), bound.split("val")])
    assert len(joined) == 9 + 6
    picture = joined.inputs["image"].image(9)
    own = bound.split("val").inputs["image"].image(0)
    assert np.array_equal(np.asarray(picture), np.asarray(own))
    batch = joined.take(torch.tensor([9]), {"image": torch.zeros(1, 3, 32, 32)})
    assert batch.ids.tolist() == [12] and "keep" in batch.inputs


def test_a_network_without_eyes_is_refused():
    with pytest.raises(IncompatibleError, match="does not see pictures and write"):
        bind(task(), tiny.backbone("llama_tiny_random"))


def test_too_few_positions_are_refused():
    with pytest.raises(IncompatibleError, match="need 217 positions; the decoder has 128"):
        bind(task(longest_target=200), tiny.backbone("captioner_tiny_random"))


@pytest.mark.parametrize("ids", [("a", "a"), ("a", "")])
def test_every_picture_has_an_id_of_its_own(ids):
    whole = part(0, 2)
    with pytest.raises(ValueError, match="without an id of their own"):
        Captions(whole.images, whole.ids, whole.references, ids)
