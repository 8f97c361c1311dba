"""Batches and splits keep images, labels and ids together."""

import pytest
import torch

from peftbench.tasks import Batch, Split


def make(name="train", start=0, count=6):
    ids = torch.arange(start, start + count)
    image = ids.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Split(name, {"image": image}, ids % 3, ids)


def aligned(part):
    return bool((part.inputs["image"][:, 0, 0, 0].long() == part.ids).all()) and bool(
        (part.labels == part.ids % 3).all()
    )


def test_take_and_select_keep_samples_together():
    split = make()
    batch = split.take(torch.tensor([4, 0, 5]))
    assert batch.ids.tolist() == [4, 0, 5] and len(batch) == 3 and aligned(batch)
    assert batch.select(torch.tensor([2, 1])).ids.tolist() == [5, 0]
    assert batch.select(slice(1, None)).ids.tolist() == [0, 5]
    assert aligned(batch.select(torch.tensor([True, False, True])))


def test_to_moves_every_tensor():
    moved = make().to("meta")
    assert {t.device.type for t in (*moved.inputs.values(), moved.labels, moved.ids)} == {"meta"}
    batch = make().take(torch.tensor([1])).to("meta")
    assert isinstance(batch, Batch)
    assert {t.device.type for t in (*batch.inputs.values(), batch.labels, batch.ids)} == {"meta"}


def test_concat_joins_in_order():
    joined = Split.concat("train+val", [make(), make("val", 10, 2)])
    assert joined.name == "train+val"
    assert joined.ids.tolist() == [0, 1, 2, 3, 4, 5, 10, 11] and aligned(joined)


def test_concat_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="share sample ids"):
        Split.concat("both", [make(), make("val", 5, 2)])
    other = Split("val", {"pixels": torch.zeros(1)}, torch.zeros(1).long(), torch.tensor([9]))
    with pytest.raises(ValueError, match="different inputs"):
        Split.concat("both", [make(), other])
    with pytest.raises(ValueError, match="from no splits"):
        Split.concat("both", [])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="different lengths"):
        Split("train", {"image": torch.zeros(3, 3, 2, 2)}, torch.zeros(2).long(), torch.arange(3))
