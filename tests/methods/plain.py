"""A ViT's forward pass written out, with functions around its operations, for comparisons."""

import torch

import peftbench


def keep(index, kind, x):
    """Return a tensor as it is."""
    return x


def nothing(index, kind, x):
    """Return what adds nothing."""
    return 0


def features(network, image, before=keep, behind=keep, beside=nothing):
    """Return pooled features: OP(before(u)), behind it, and something beside it."""
    x = network.norm_pre(network._pos_embed(network.patch_embed(image)))
    for i, block in enumerate(network.blocks):
        for kind, norm, op in (("attn", block.norm1, block.attn), ("mlp", block.norm2, block.mlp)):
            u = norm(x)
            x = x + behind(i, kind, op(before(i, kind, u))) + beside(i, kind, u)
    return network.forward_head(network.norm(x), pre_logits=True)


def moved(method, network, classes=5, size=0.3):
    """Attach a method in float64 with every tensor away from its start."""
    model = peftbench.attach(method, network.double(), classes=classes).double().eval()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def results(model, image):
    """Return logits and gradients of the delta's tensors; the network is given back."""
    own = dict(model.delta.named_parameters())
    logits = model({"image": image}).logits
    grads = torch.autograd.grad(logits.square().sum(), list(own.values()))
    model.release()
    return logits.detach(), {n.removeprefix("edits."): g for n, g in zip(own, grads, strict=True)}


def leaves(model):
    """Return copies of the delta's tensors by their stored names, which take gradients."""
    return {n: t.clone().requires_grad_() for n, t in model.delta.tensors().items()}


def assert_same(model, image, tensors, wanted_features):
    """Compare logits and gradients with those of a written-out network, to 1e-9."""
    head = model.heads["main"]
    logits, grads = results(model, image)
    wanted = head(wanted_features())
    own = torch.autograd.grad(wanted.square().sum(), list(tensors.values()))
    torch.testing.assert_close(logits, wanted.detach(), rtol=1e-9, atol=1e-9)
    assert grads.keys() == tensors.keys()
    for name, grad in zip(tensors, own, strict=True):
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(grads[name], grad, rtol=1e-9, atol=1e-9, msg=name)
