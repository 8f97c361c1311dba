"""GIST on other plain vision transformers, its inference modes, and what it refuses."""

import math

import pytest
import tiny
import torch
from vits import disturb, images, over, vit

from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.base import Output
from peftbench.methods.combo import Combo
from peftbench.methods.gist import Gist
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "avg"},
        {"reg_tokens": 4},
        {"reg_tokens": 4, "global_pool": "avg"},
        {"class_token": False, "global_pool": "avg"},
        {"pre_norm": True},
        {"init_values": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["after_cls", "end"])
def test_other_plain_vits(options, place):
    network, given = vit(**options), images()
    prefix = network.num_prefix_tokens
    seen, taken = [], []
    h = network.blocks[0].norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with over(network, insert=place, inference="gist", tokens=2) as model:
        disturb(model)
        output = model.eval()(given)
        g = model.trainable()["delta.edits.gist.tokens"][0]
        at = prefix if place == "after_cls" else seen[0].shape[1] - 2
        assert torch.equal(seen[0][:, at : at + 2], g.expand(3, -1, -1))
        h.remove()
        leave = network.norm.register_forward_hook(lambda _, a, y: taken.append(y), prepend=True)
        model(given)
        leave.remove()
        x = taken[0]
        kept = torch.cat([x[:, :at], x[:, at + 2 :]], 1)
        pooled = kept[:, prefix:].mean(1) if options.get("global_pool") == "avg" else kept[:, 0]
        s_c = model.heads["main"](network.fc_norm(pooled))
        s_g = model.heads["main"](network.fc_norm(x[:, at : at + 2].mean(1)))
        assert torch.allclose(output.logits, s_c, atol=1e-5)
        assert torch.allclose(output.extra["gist"], s_g, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls", "gist", "mean_prob"])
def test_inference_modes(mode):
    network, given = vit(), images()
    with over(network, inference=mode) as model:
        disturb(model)
        output = model.eval()(given)
        scores = model.method.scores(output)
        assert ("gist" in output.extra) == (mode != "cls")
        if mode == "cls":
            assert torch.equal(scores, output.logits)
        elif mode == "gist":
            assert torch.equal(scores, output.extra["gist"])
        else:
            mean = (output.logits.softmax(-1) + output.extra["gist"].softmax(-1)) / 2
            assert torch.allclose(scores.exp(), mean, atol=1e-6)
            assert torch.allclose(scores.exp().sum(-1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"tau": 0.0},
        {"lambda_ce": -0.5},
        {"mu_kl": -0.75},
        {"inner": Gist()},
        {"inner": Combo({"gist": Gist(inner=Linear()), "lora": Lora()})},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="method"):
        Gist(**wrong)


def test_language_model_heads_are_refused():
    for name in ("t5_tiny_random", "llama_tiny_random"):
        with pytest.raises(IncompatibleError, match="class"):
            Gist().plan(tiny.backbone(name).anatomy, torch.Generator())


def test_mean_of_probabilities_stays_finite_where_one_underflows():
    logits = torch.tensor([[200.0, 0.0, -200.0]])
    scores = Gist(inference="mean_prob").scores(Output(logits, {"gist": 2 * logits}))
    assert torch.isfinite(scores).all()
    assert scores.argmax() == 0 and scores[0, 1].item() == pytest.approx(-200.0 - math.log(2))


NAMES = ["fact_tt", "fact_tk", "repadapter", "convpass", "compacter"]


@pytest.mark.parametrize("place", ["after_cls", "end"])
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_over_these_hosts(name, place):
    """Every tensor of host and token moves, and a batch is learned (a linear host stays at 0.4)."""
    given, target = images(8), torch.arange(8) % 5
    with over(vit(), tiny.method(name), insert=place) as model:
        start = {n: p.detach().clone() for n, p in model.trainable().items()}
        optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
        losses = []
        torch.manual_seed(0)
        for _ in range(30):
            loss = tiny.loss(model.train(), model(given), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        moved = [n for n, p in model.trainable().items() if not torch.equal(p, start[n])]
        assert moved == list(start)
        assert sum(losses[-3:]) < 0.2 * sum(losses[:3])
