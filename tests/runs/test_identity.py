"""The run id changes exactly when something changes that can change the result."""

import copy
import dataclasses
import hashlib
import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from peftbench.errors import ConfigError
from peftbench.runs import identity
from peftbench.runs.identity import VOLATILE, run_id
from peftbench.runs.settings import Settings
from peftbench.tasks.caption_trees import Coco
from peftbench.tasks.hub import HubImages
from peftbench.tasks.nocaps import NoCaps
from peftbench.tasks.vtab import VtabTask
from peftbench.train.config import Trainer

names = st.text("abcdefgh_", min_size=1, max_size=4)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
)
trees = st.dictionaries(
    names, st.recursive(leaves, lambda t: st.dictionaries(names, t, max_size=3)), max_size=4
)


def paths(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def put(tree, path, value):
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def shuffled(tree, rng):
    items = [(k, shuffled(v, rng) if isinstance(v, dict) else v) for k, v in tree.items()]
    rng.shuffle(items)
    return dict(items)


@examples(max_examples=150, deadline=None)
@given(tree=trees, data=st.data())
def test_flipping_a_leaf_changes_the_id_iff_it_is_not_volatile(tree, data):
    config = copy.deepcopy(tree)
    for key in VOLATILE:
        put(config, key.split("."), "here")
    config["tracker"] = {"project": "p", "mode": "auto"}
    before = run_id(config, "m")
    assert re.fullmatch("[0-9a-f]{12}", before)
    path = data.draw(st.sampled_from(sorted(paths(config))))
    changed = copy.deepcopy(config)
    put(changed, path, {"quite": "different"})
    volatile = any(".".join(path[: i + 1]) in VOLATILE for i in range(len(path)))
    assert (run_id(changed, "m") == before) == volatile


@examples(max_examples=100, deadline=None)
@given(tree=trees, seed=st.integers(0, 99))
def test_key_order_never_matters(tree, seed):
    assert run_id(shuffled(tree, random.Random(seed)), "m") == run_id(tree, "m")


def test_every_volatile_key_is_without_effect_and_its_neighbours_are_not():
    for key in VOLATILE:
        one, two, near = {}, {}, {}
        put(one, key.split("."), 1)
        put(two, key.split("."), 2)
        put(near, (key + "x").split("."), 2)
        assert run_id(one, "m") == run_id(two, "m")
        assert run_id(one, "m") != run_id(near, "m")


def test_every_volatile_key_is_a_real_setting():
    known = {f.name for f in dataclasses.fields(Settings)}
    trainer = {f"trainer.{f.name}" for f in dataclasses.fields(Trainer)}
    data = {f"data.{f.name}" for spec in (HubImages, VtabTask) for f in dataclasses.fields(spec)}
    assert "train" in {f.name for f in dataclasses.fields(NoCaps)}
    data |= {f"data.train.{f.name}" for f in dataclasses.fields(Coco)}
    assert VOLATILE.keys() <= known | trainer | data


def test_a_volatile_name_in_another_place_counts():
    assert run_id({"method": {"output": 1}}, "m") != run_id({"method": {"output": 2}}, "m")


def test_manifest_and_result_version_count(monkeypatch):
    before = run_id({"seed": 0}, "m")
    assert run_id({"seed": 0}, "n") != before
    monkeypatch.setattr(identity, "RESULT_VERSION", identity.RESULT_VERSION + 1)
    assert run_id({"seed": 0}, "m") != before


def test_the_id_is_stable_over_processes_and_versions():
    """A change here forgets every finished run: then raise RESULT_VERSION knowingly."""
    config = {"method": {"rank": 8, "alpha": 16.0}, "seed": 0, "study": "x"}
    subject = json.dumps(
        {
            "config": {"method": {"alpha": 16.0, "rank": 8}, "seed": 0},
            "manifest": "m",
            "result_version": 2,
        },
        separators=(",", ":"),
    )
    assert run_id(config, "m") == hashlib.sha256(subject.encode()).hexdigest()[:12]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ConfigError, match="JSON cannot"):
        run_id({"x": value}, "m")
