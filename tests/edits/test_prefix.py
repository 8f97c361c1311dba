"""Prefix tuning against attention written out by hand, in float64."""

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F

from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import Delta, Prefix
from peftbench.errors import IncompatibleError

LENGTH, D, H = 5, 32, 4
E = D // H


def block():
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        num_classes=0,
        img_size=32,
        patch_size=8,
        embed_dim=D,
        depth=1,
        num_heads=H,
    ).double()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return network.eval().requires_grad_(False)


def prefix(network):
    (site,) = [b.attentions["attn"] for b in find_anatomy(network).blocks]
    edit = Prefix("p", site, LENGTH, torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        edit.key.mul_(3)
    return edit


def tokens(batch=2, length=7):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, D, dtype=torch.float64, generator=g)


def heads(x):
    return x.unflatten(-1, (H, E)).transpose(-2, -3)


def parts(attn, x):
    return [heads(t) for t in attn.qkv(x).chunk(3, dim=-1)]


def test_concatenated_keys_and_values():
    network, x = block(), tokens()
    attn, edit = network.blocks[0].attn, prefix(network)
    q, k, v = parts(attn, x)
    keys = torch.cat([heads(edit.key).expand(2, -1, -1, -1), k], dim=2)
    values = torch.cat([heads(edit.value).expand(2, -1, -1, -1), v], dim=2)
    weights = (q @ keys.transpose(-1, -2) / E**0.5).softmax(-1)
    wanted = attn.proj((weights @ values).transpose(1, 2).flatten(2))
    plain = attn(x)
    delta = Delta([edit]).attach()
    assert float((attn(x) - wanted).detach().abs().max()) < 1e-14
    assert float((attn(x) - plain).detach().abs().max()) > 1e-2
    delta.detach()
    assert torch.equal(attn(x), plain) and "forward" not in vars(attn)


def test_split_of_the_softmax():
    """(1 - lam) Attn(Q, K, V) + lam Attn(Q, K_pre, V_pre): U-Tuning, section 3.1."""
    network, x = block(), tokens()
    attn, edit = network.blocks[0].attn, prefix(network)
    q, k, v = parts(attn, x)
    own, mine = q @ k.transpose(-1, -2) / E**0.5, q @ heads(edit.key).mT / E**0.5
    lam = torch.sigmoid(mine.logsumexp(-1) - own.logsumexp(-1))[..., None]
    mixed = (1 - lam) * (own.softmax(-1) @ v) + lam * (mine.softmax(-1) @ heads(edit.value))
    wanted = attn.proj(mixed.transpose(1, 2).flatten(2))
    delta = Delta([edit]).attach()
    assert float((attn(x) - wanted).detach().abs().max()) < 1e-14
    delta.detach()


def test_a_deep_prompt_is_a_prefix_of_its_own_keys_and_values():
    """Rows of real tokens: K_pre = LN(x_pro) W_k, V_pre = LN(x_pro) W_v. Section 3.2."""
    network, x = block(), tokens()
    b, edit = network.blocks[0], prefix(network)
    prompt = torch.randn(LENGTH, D, dtype=torch.float64)
    wanted = b(torch.cat([x, prompt.expand(2, -1, -1)], dim=1))[:, : x.shape[1]]
    _, k, v = (t.squeeze(0) for t in b.attn.qkv(b.norm1(prompt))[None].chunk(3, dim=-1))
    with torch.no_grad():
        edit.key.copy_(k)
        edit.value.copy_(v)
    delta = Delta([edit]).attach()
    assert float((b(x) - wanted).detach().abs().max()) < 1e-13
    delta.detach()


@pytest.mark.parametrize("masked", ["causal", "bool", "float"])
def test_masks_of_the_network_stay_and_prefixes_are_seen_by_all(masked):
    network = block()
    edit = prefix(network)
    q, k, v = parts(network.blocks[0].attn, tokens())
    t = q.shape[2]
    allowed = torch.ones(t, t, dtype=torch.bool).tril()
    options = {
        "causal": {"is_causal": True},
        "bool": {"attn_mask": allowed},
        "float": {"attn_mask": torch.zeros(t, t, dtype=torch.float64).masked_fill(~allowed, -1e9)},
    }[masked]
    found = edit.attend(q, k, v, **options)
    keys = torch.cat([heads(edit.key).expand(2, -1, -1, -1), k], dim=2)
    values = torch.cat([heads(edit.value).expand(2, -1, -1, -1), v], dim=2)
    seen = torch.cat([torch.ones(t, LENGTH, dtype=torch.bool), allowed], dim=1)
    scores = (q @ keys.mT / E**0.5).masked_fill(~seen, float("-inf"))
    assert torch.allclose(found, scores.softmax(-1) @ values, atol=1e-14)


@pytest.mark.parametrize("use", ["llama", "t5", "bert"])
def test_every_attention_of_a_network_by_hand(use, monkeypatch):
    """Grouped keys, causal masks, relative positions, cross-attention: written out, detached."""
    made, given = tiny.method("prefix", length=3), tiny.inputs(use)
    with tiny.adapted(made, use) as model, torch.no_grad():
        tiny.perturb(model, size=0.5)
        wanted = model.eval()(given).logits
        edits = list(model.delta)
        model.delta.detach()
        plain = model(given).logits
        queue = list(edits)

        def by_hand(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **rest):
            edit = queue.pop(0)
            width = k.shape[-1]
            heads = edit.site.heads  # some versions repeat grouped keys before this call
            rows = (r.unflatten(-1, (heads, width)).transpose(0, 1) for r in (edit.key, edit.value))
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
            k, v = (
                torch.cat(
                    [
                        r.repeat_interleave(q.shape[1] // heads, dim=0).expand(len(t), -1, -1, -1),
                        t,
                    ],
                    2,
                )
                for r, t in zip(rows, (k, v), strict=True)
            )
            scores = q @ k.mT * (width**-0.5 if scale is None else scale)
            own = scores[..., 3:]
            if is_causal:
                own = own.masked_fill(~torch.ones(own.shape[-2:]).tril().bool(), float("-inf"))
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                own = own.masked_fill(~attn_mask, float("-inf"))
            elif attn_mask is not None:
                own = own + attn_mask
            return torch.cat([scores[..., :3], own], -1).softmax(-1) @ v

        monkeypatch.setattr(F, "scaled_dot_product_attention", by_hand)
        found = model(given).logits
    assert queue == [] and len(edits) == (6 if use == "t5" else 2)
    assert not torch.allclose(wanted, plain, atol=1e-2)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["prefix", "u_prefix_mha", "u_prompt_mha", "lst"])
@pytest.mark.parametrize("use", ["vit", "bert"])
def test_attention_without_the_one_call_is_refused(name, use):
    network = tiny.fresh(tiny.USES[use][0])
    if use == "vit":
        for block in network.model.blocks:
            block.attn.fused_attn = False
    else:
        network.model.set_attn_implementation("eager")
    with (
        tiny.adapted(tiny.method(name), use, base=network) as model,
        pytest.raises(IncompatibleError, match="scaled_dot_product_attention 0 times"),
    ):
        model(tiny.inputs(use))
