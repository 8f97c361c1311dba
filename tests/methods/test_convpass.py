"""Convpass against a convolution written out pixel by pixel, wherever other tokens stand."""

from dataclasses import dataclass

import pytest
import tiny
import torch
import torch.nn.functional as F
from plain import assert_same, features, leaves, moved
from vits import CLASSES, disturb, images, over, vit

import peftbench
from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import ConvBypass, Delta, GridEdit, SequenceSite, TensorRef, Tokens
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods import Method
from peftbench.methods.combo import Combo
from peftbench.methods.convpass import Convpass
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.methods.vpt import Vpt


def bypass(tensors, grid, patches, scale, x):
    """Return the bypass of a sequence, every token by itself.

    Args:
        tensors: of one bypass.
        grid: height and width.
        patches: positions of the patches in the sequence, row by row.
        scale: s.
        x: (B, T, D).

    """
    names = ("down_weight", "down_bias", "kernel", "kernel_bias", "up_weight", "up_bias")
    down, a, kernel, k, up, b = (tensors[n] for n in names)
    h = x @ down.T + a
    h = h / (1 + torch.exp(-1.702 * h))
    at = {patch: divmod(n, grid[1]) for n, patch in enumerate(patches)}
    where = {place: token for token, place in at.items()}
    found = []
    for token in range(x.shape[1]):
        if token not in at:
            found.append(h[:, token] @ kernel[:, :, 1, 1].T + k)
            continue
        row, column = at[token]
        total = k.expand(len(x), -1)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                if (row + i, column + j) in where:
                    tap = kernel[:, :, i + 1, j + 1]
                    total = total + h[:, where[row + i, column + j]] @ tap.T
        found.append(total)
    h = torch.stack(found, dim=1)
    h = h / (1 + torch.exp(-1.702 * h))
    return scale * (h @ up.T + b)


def part(tensors, lead):
    return {n.removeprefix(lead): t for n, t in tensors.items() if n.startswith(lead)}


@pytest.mark.parametrize("placement", ["both", "attn"])
@pytest.mark.parametrize(
    "options",
    [{}, {"img_size": (32, 48)}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}],
    ids=str,
)
def test_a_vit_computes_the_bypass(options, placement):
    network = vit(**options)
    image = torch.randn(2, 3, *network.patch_embed.img_size, dtype=torch.float64)
    method = Convpass(placement, hidden=4, scale=0.8, init="xavier")
    model = moved(method, network)
    tensors, grid, first = leaves(model), network.patch_embed.grid_size, network.num_prefix_tokens
    assert find_anatomy(network).patch_grid == grid
    patches = range(first, first + grid[0] * grid[1])

    def beside(index, kind, u):
        own = part(tensors, f"encoder/{index}/{kind}.tuner.")
        return bypass(own, grid, patches, 0.8, u) if own else 0

    assert_same(model, image, tensors, lambda: features(network, image, beside=beside))


@dataclass(frozen=True)
class Several(Method):
    """Several methods at once, in the given order."""

    parts: tuple = ()

    def edits(self, anatomy, generator):
        return [e for p in self.parts for e in p.edits(anatomy, generator)]


BYPASS = Convpass(hidden=4, scale=0.8, init="xavier", dropout=0.0)
# how others put tokens in; numbers of tokens in front of the patches and behind them
AROUND = {
    "gist behind the class token": (Gist(BYPASS), 2, 0),
    "gist at the end": (Gist(BYPASS, insert="end", tokens=2), 1, 2),
    "prompts": (Several((BYPASS, Vpt(3))), 4, 0),
    "deep prompts first": (Several((Vpt(3, deep=True), BYPASS)), 4, 0),
    "prompts and gist": (Gist(Several((BYPASS, Vpt(3)))), 5, 0),
    "deep prompts and gist at the end": (
        Gist(Several((Vpt(2, deep=True), BYPASS)), insert="end"),
        3,
        1,
    ),
}


@pytest.mark.parametrize("case", AROUND)
@pytest.mark.parametrize("registers", [0, 2])
def test_inserted_tokens_are_treated_as_the_class_token(case, registers):
    method, front, behind = AROUND[case]
    network, seen = vit(reg_tokens=registers), {}
    block = network.blocks[1]
    model = peftbench.attach(method, network, classes=CLASSES).double().eval()
    disturb(model, 0.3)
    watched = [
        block.norm1.register_forward_hook(lambda _, args, y: seen.update(x=args[0], read=y)),
        block.norm2.register_forward_pre_hook(lambda _, args: seen.update(after=args[0])),
    ]
    with torch.no_grad():
        model({"image": images()["image"].double()})
    for handle in watched:
        handle.remove()
    tensors = model.delta.tensors()
    model.release()
    front += registers
    assert seen["x"].shape[1] == front + 16 + behind
    own = part(tensors, "encoder/1/attn.tuner.")
    wanted = bypass(own, (4, 4), range(front, front + 16), 0.8, seen["read"])
    with torch.no_grad():
        rest = seen["x"] + block.attn(seen["read"])
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(seen["after"] - rest, wanted, rtol=1e-9, atol=1e-9)


def test_one_pixel_is_what_the_class_token_is():
    made = ConvBypass(8, 3, (2, 2), init="xavier")
    with torch.no_grad():
        made.up_weight.normal_()
        made.kernel_bias.normal_()
    made.front = 1
    x = torch.randn(2, 5, 8)
    h = F.linear(x[:, :1], made.down_weight, made.down_bias)
    h = (h * torch.sigmoid(1.702 * h)).transpose(1, 2)[..., None]
    h = F.conv2d(h, made.kernel, made.kernel_bias, padding=1)[..., 0].transpose(1, 2)
    wanted = F.linear(h * torch.sigmoid(1.702 * h), made.up_weight, made.up_bias)
    assert torch.allclose(made.eval()(x)[:, :1], wanted, atol=1e-6)


def test_start_is_that_of_the_authors():
    plain, xavier = ConvBypass(64, 8, (2, 2)), ConvBypass(64, 8, (2, 2), init="xavier")
    wanted = torch.zeros(8, 8, 3, 3)
    wanted[range(8), range(8), 1, 1] = 1
    assert torch.equal(plain.kernel, wanted)
    bound = (6 / (2 * 8 * 9)) ** 0.5
    assert 0.95 * bound < xavier.kernel.abs().max() <= bound
    for made in (plain, xavier):
        bound = (6 / (64 + 8)) ** 0.5
        assert 0.95 * bound < made.down_weight.abs().max() <= bound
        for zero in (made.down_bias, made.kernel_bias, made.up_weight, made.up_bias):
            assert zero.abs().max() == 0


def test_a_sequence_that_is_no_grid_is_refused():
    network = vit(dynamic_img_size=True)
    with over(network, BYPASS, plain=True) as model:
        model(images())
        with pytest.raises(IncompatibleError, match=r"26 tokens are not 1 \+ 4 x 4 \+ 0"):
            model(images(size=40))
    anatomy = tiny.backbone("vit_tiny_random").anatomy
    object.__setattr__(anatomy, "patch_grid", None)
    try:
        with pytest.raises(IncompatibleError, match="grid of a fixed size"):
            BYPASS.plan(anatomy, torch.Generator())
    finally:
        object.__setattr__(anatomy, "patch_grid", (4, 4))


def test_tokens_of_another_sequence_do_not_count():
    site = next(tiny.backbone("vit_tiny_random").anatomy.blocks).ops["attn"]
    here, there = (TensorRef(torch.nn.Identity(), "output") for _ in range(2))
    mine, other = (SequenceSite("s", 32, 1, stay, stay, (stay,)) for stay in (here, there))
    edit = GridEdit("conv", site, here.module, mine, ConvBypass(32, 4, (4, 4)))
    delta = Delta([edit, Tokens("own", mine, 2, 0.1, place="end"), Tokens("far", other, 5, 0.1)])
    delta.attach()
    assert (edit.tuner.front, edit.tuner.behind) == (1, 2)
    delta.detach()


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"dropout": 1.0}], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"method\."):
        Convpass(**wrong)


@pytest.mark.parametrize(
    "made",
    [
        Gist(inner=Combo({"conv": BYPASS, "lora": Lora()}, blocks={"conv": (0, 1)})),
        Combo({"conv": BYPASS, "vpt": Vpt(tokens=3)}, blocks={"vpt": (0,)}),
        Combo({"conv": BYPASS, "vpt": Vpt(tokens=3, deep=True)}, blocks={"conv": (1,)}),
    ],
    ids=["gist_over_some_blocks", "prompts_in_one_block", "bypass_in_one_block"],
)
def test_it_knows_which_tokens_pass_its_block(made):
    with tiny.adapted(made, "vit") as model:
        given = tiny.inputs("vit")
        tiny.perturb(model)
        _, gradients = tiny.step_gradients(model, "vit", given, tiny.labels("vit", given))
    assert all(g.abs().sum() > 0 for g in gradients.values())
