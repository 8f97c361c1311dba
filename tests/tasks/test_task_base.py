"""The test split stays closed; losses and metrics are what they say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.errors import ClosedSplitError, ConfigError
from peftbench.tasks import Classification, Split
from peftbench.tasks.base import manifest_digest

NAMES = ("a", "b", "c")


def splits(test_labels=(0, 1, 2, 0)):
    def part(name, start, labels):
        ids = torch.arange(start, start + len(labels))
        image = (ids * 3).to(torch.uint8).reshape(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        return Split(name, {"image": image}, torch.tensor(labels), ids)

    return {
        "train": part("train", 0, [0, 1, 2]),
        "val": part("val", 10, [2, 1]),
        "test": part("test", 20, list(test_labels)),
    }


def task(test_labels=(0, 1, 2, 0)):
    return Classification("toy", NAMES, splits(test_labels), {"task": "toy"})


def test_the_test_split_is_closed_until_opened_and_openings_are_counted():
    toy = task()
    for _ in range(2):
        with pytest.raises(ClosedSplitError, match="test split of task 'toy' is closed"):
            toy.split("test")
    assert toy.test_reads == 0
    toy.open_test()
    assert toy.split("test").labels.tolist() == [0, 1, 2, 0]
    assert toy.split("test") is toy.split("test") and toy.test_reads == 1
    toy.open_test()
    assert toy.test_reads == 2
    assert len(toy.split("train")) == 3 and len(toy.split("val")) == 2


def seen_from_outside(toy):
    """All that a caller can learn before the test split is opened."""
    generator = torch.Generator().manual_seed(0)
    out = [toy.name, toy.kind, toy.primary, toy.labels, toy.manifest, toy.manifest_sha256]
    for name in ("train", "val"):
        split = toy.split(name)
        logits = torch.randn(len(split), 3, generator=generator)
        out += [split.inputs["image"].tolist(), split.labels.tolist(), split.ids.tolist()]
        out += [toy.metrics(logits, split.labels)]
        out += [toy.per_sample_loss(logits, split.labels, 0.1).tolist()]
    with pytest.raises(ClosedSplitError) as caught:
        toy.split("test")
    return [*out, str(caught.value), toy.test_reads]


@settings(max_examples=20, deadline=None)
@given(st.permutations([0, 1, 2, 0]))
def test_permuted_test_labels_change_nothing_before_the_opening(labels):
    plain, permuted = task(), task(labels)
    assert seen_from_outside(permuted) == seen_from_outside(plain)
    permuted.open_test()
    assert permuted.split("test").labels.tolist() == list(labels)


def test_a_wrong_split_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'val'"):
        task().split("vall")


def test_splits_must_be_complete_and_disjoint():
    parts = splits()
    with pytest.raises(ValueError, match="needs the splits"):
        Classification("toy", NAMES, {"train": parts["train"], "val": parts["val"]}, {})
    parts["val"].ids[0] = 1
    with pytest.raises(ValueError, match="split 'val' repeats sample ids"):
        Classification("toy", NAMES, parts, {})
    parts = splits()
    parts["test"].ids[0] = 21
    with pytest.raises(ValueError, match="split 'test' repeats sample ids"):
        Classification("toy", NAMES, parts, {})


def test_metrics_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.bfloat16)
    found = task().metrics(logits, torch.tensor([0, 1, 1, 0]))
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx((sum(losses) + math.log(2)) / 4, abs=1e-6)
    assert all(type(value) is float for value in found.values())
    with pytest.raises(ValueError, match="metrics of 0 outputs"):
        task().metrics(torch.zeros(0, 2), torch.zeros(0).long())


def test_per_sample_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 1.0]], dtype=torch.bfloat16)
    labels = torch.tensor([0, 2])
    found = task().per_sample_loss(logits, labels)
    log_p = logits.double().log_softmax(-1)
    assert found.shape == (2,) and found.dtype == torch.float32
    assert found.tolist() == pytest.approx([-log_p[0, 0].item(), -log_p[1, 2].item()], abs=1e-6)
    smooth = task().per_sample_loss(logits, labels, 0.3)
    expected = [
        -(0.7 * log_p[i, c] + 0.3 * log_p[i].mean()).item() for i, c in enumerate(labels.tolist())
    ]
    assert smooth.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_manifest_digest_sees_content_and_not_order():
    assert manifest_digest({"a": 1, "b": [2]}) == manifest_digest({"b": [2], "a": 1})
    assert manifest_digest({"a": 1}) != manifest_digest({"a": 2})
