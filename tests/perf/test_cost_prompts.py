"""FLOPs of prompts and mixtures on an encoder-decoder: counted, and from shapes."""

import pytest
import tiny

from peftbench.perf.cost import counted_flops, necessary_flops

LOUD = {"correlation_dropout": 0.0}


@pytest.mark.parametrize("use", ["t5", "bert"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("prompt_tuning", {"tokens": 40}),
        ("spot", {}),
        ("attempt", {}),
        ("pemt_source", {}),
        ("pemt_source", {"source_adapter": "bottleneck"}),
        ("pemt", LOUD),
        ("pemt", {**LOUD, "lambda_moe": 0.0, "gates": "uniform", "target_adapter": False}),
        ("pemt", {**LOUD, "source_adapter": "bottleneck", "norms": False}),
    ],
    ids=str,
)
def test_flops_are_the_floor_and_what_is_added(name, changes, use):
    given = tiny.inputs(use)

    def run(model):
        output = model(given)
        value = output.logits.float().square().sum()
        own = [t.sum() for n, t in model.method.losses(output, lambda x: x).items() if n != "task"]
        (value + sum(own)).backward()

    with tiny.adapted(tiny.method(name, **changes), use) as model:
        tiny.perturb(model)
        model.train()
        found = counted_flops(lambda: run(model))
        must = necessary_flops(model, run, lambda m: m(given))
        assert found == pytest.approx(must, rel=0.02)
