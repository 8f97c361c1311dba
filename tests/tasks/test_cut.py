"""The cut: sizes, class shares, no sample or image in two splits, the same everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.tasks.cut import Decoded, cut, sample_key, shares, without_copies


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)


def contents(images):
    return [image.tobytes() for image in images]


def data(labels, images=None, official=None):
    labels = np.array(labels, np.int64)
    images = pictures(len(labels)) if images is None else images
    return Decoded(images, labels, tuple("abcdefghij"[: labels.max() + 1]), official)


def test_sizes_shares_and_disjointness():
    labels = np.repeat([0, 1, 2], [300, 600, 2100])
    parts = cut(data(labels), "toy", test_cap=1000).splits
    assert {name: len(at) for name, at in parts.items()} == {"train": 800, "val": 200, "test": 1000}
    every = np.concatenate(list(parts.values()))
    assert len(set(every.tolist())) == len(every)
    counts = {name: np.bincount(labels[at]).tolist() for name, at in parts.items()}
    assert counts == {"train": [80, 160, 560], "val": [20, 40, 140], "test": [100, 200, 700]}


def test_without_a_cap_everything_is_used():
    parts = cut(data(np.arange(1500) % 7), "toy").splits
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1500))


def test_the_order_is_that_of_the_hash():
    key = hashlib.sha256(b"toy|3|17").digest()
    assert sample_key("toy", 3, 17) == key
    parts = cut(data(np.zeros(1200, np.int64)), "toy", seed=3).splits
    ordered = sorted(range(1200), key=lambda i: hashlib.sha256(f"toy|3|{i}".encode()).digest())
    assert parts["train"].tolist() == ordered[:800]
    assert parts["val"].tolist() == ordered[800:1000]
    assert parts["test"].tolist() == ordered[1000:]


def test_seed_and_task_change_the_cut_and_nothing_else_does():
    labels = np.arange(1500) % 3
    base = cut(data(labels), "toy").splits
    again = cut(data(labels, pictures(1500, seed=9)), "toy").splits
    assert all((base[name] == again[name]).all() for name in base)
    for other in (cut(data(labels), "toy", seed=1), cut(data(labels), "tow")):
        assert set(other.splits["train"].tolist()) != set(base["train"].tolist())


def test_the_publishers_test_part_is_never_trained_on():
    official = np.arange(2600) % 2 == 1
    parts = cut(data(np.arange(2600) // 2 % 5, official=official), "toy", test_cap=500).splits
    assert not official[parts["train"]].any() and not official[parts["val"]].any()
    assert official[parts["test"]].all() and len(parts["test"]) == 500


def test_copies_are_left_out():
    images = pictures(1300)
    labels = np.arange(1300) % 2
    images[1200] = images[0]  # same label: the later copy goes
    images[1201] = images[2]  # another label: both go
    keep, copies, conflicting = without_copies(contents(images), labels, None)
    assert (copies, conflicting) == (1, 2)
    assert sorted(set(range(1300)) - set(keep.tolist())) == [2, 1200, 1201]
    parts = cut(data(labels, images), "toy")
    assert (parts.copies, parts.conflicting) == (1, 2)
    every = np.concatenate(list(parts.splits.values()))
    assert len({images[i].tobytes() for i in every}) == len(every) == 1297


def test_a_copy_of_an_official_test_image_goes_from_the_train_side():
    images = pictures(1300)
    official = np.arange(1300) >= 1250
    images[5] = images[1299]
    keep, copies, conflicting = without_copies(contents(images), np.zeros(1300, np.int64), official)
    assert 1299 in keep and 5 not in keep and (copies, conflicting) == (1, 0)


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="has 999 different samples, needs 1000"):
        cut(data(np.zeros(999)), "toy")
    with pytest.raises(ValueError, match="leaves no sample for the test split"):
        cut(data(np.zeros(1000)), "toy")


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=12).filter(any), st.data())
def test_shares_are_fair_whole_numbers(counts, draw):
    everything = sum(counts)
    total = draw.draw(st.integers(0, everything))
    quotas = shares(np.array(counts), total)
    assert sum(quotas) == total
    for count, quota in zip(counts, quotas, strict=True):
        assert abs(quota - count * total / everything) < 1
        assert 0 <= quota <= count
