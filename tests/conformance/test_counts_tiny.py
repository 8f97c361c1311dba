"""Exact numbers of trainable parameters on every family, against formulas of the papers."""

import pytest
import tiny
from formulas import FORMULAS, shapes
from pairs import IDS, WORKS


def head_numbers(use):
    if use == "captioner":  # the map from the encoder's width to the decoder's
        return (32 + 1) * 32
    return (32 + 1) * tiny.CLASSES if tiny.USES[use][1] else 0


@pytest.mark.parametrize(
    ("name", "use"),
    [p for p in WORKS if p[0] in FORMULAS],
    ids=[i for i, p in zip(IDS, WORKS, strict=True) if p[0] in FORMULAS],
)
def test_trainable_numbers_are_the_formula(name, use):
    network = tiny.backbone("t5_tiny_random").model
    shape = shapes(network.lm_head.weight is network.shared.weight)[use]
    with tiny.adapted(tiny.method(name), use) as model:
        assert model.counts()["trainable"] == FORMULAS[name](shape)
        assert model.counts()["head"] == head_numbers(use)


@pytest.mark.parametrize(("name", "use"), WORKS, ids=IDS)
def test_counts_are_what_is_stored(name, use):
    with tiny.adapted(tiny.method(name), use) as model:
        counts = model.counts()
        params = model.trainable().items()
        sizes = {n.replace("delta.edits.", "delta."): p.numel() for n, p in params}
        assert counts["head"] == sum(v for n, v in sizes.items() if n.startswith("heads."))
        assert counts["trainable"] == sum(v for n, v in sizes.items() if n.startswith("delta."))
        stored = {n: t.numel() for n, t in model.tensors().items()}
        assert sizes.items() <= stored.items()
        seen = {id(p): p for p in (*model.parameters(),)}
        assert counts["total"] == sum(p.numel() for p in seen.values())


def test_every_formula_belongs_to_a_method():
    assert set(FORMULAS) <= set(tiny.METHODS)
