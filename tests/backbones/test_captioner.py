"""Pictures before a decoder: layout, contexts, frozen parts, generation. arXiv 2312.08900, 4."""

import pytest
import tiny
import torch

import peftbench
from peftbench.backbones import captioner
from peftbench.backbones.load_captioner import JoinedNetworks, TimmVision
from peftbench.backbones.load_hf import TinyLlama
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.spec import build
from peftbench.train.artefact import load_adapter, save_adapter

P = tiny.PLACES


@pytest.fixture
def model():
    with tiny.adapted(tiny.method("lora"), "captioner") as made:
        tiny.perturb(made)
        yield made.eval()


def ids(rows, text, pictures=1):
    """Begin, places of the pictures, text."""
    begin = torch.full((rows, 1), 1)
    return torch.cat([begin, torch.full((rows, P * pictures), -1), text], 1)


@pytest.mark.parametrize(
    ("name", "count", "width"),
    [
        ("swinv2_tiny_window8_256", 27_578_154, 768),
        ("swinv2_large_window12to16_192to256", 195_202_932, 1536),
    ],
)
def test_the_papers_encoders_have_their_published_size(name, count, width):
    import timm

    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.num_features == width


def test_a_swin_gives_64_places_rows_first():
    spec = TimmVision("swinv2_tiny_window8_256", init="random", arch={"depths": (1, 1, 1, 1)})
    network = spec.load()
    assert network.preprocess.size == 256
    with torch.no_grad():
        image = torch.randn(1, 3, 256, 256)
        grid = network.model.forward_features(image)
        seen = captioner.see(network.model, image)
    assert grid.shape == (1, 8, 8, 768) and seen.shape == (1, 64, 768)
    assert torch.equal(seen[0, 8 * 3 + 5], grid[0, 3, 5])


def test_channels_in_front_are_put_last():
    class Convolutional(torch.nn.Module):
        num_features = 5

        def forward_features(self, x):
            return torch.arange(30.0).view(1, 5, 2, 3)

    seen = captioner.see(Convolutional(), torch.zeros(1, 3, 4, 4))
    assert seen.shape == (1, 6, 5) and seen[0, 4].tolist() == [4, 10, 16, 22, 28]


def test_class_tokens_are_left_out():
    base = tiny.backbone("captioner_tiny_random").model
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole = base.vision.forward_features(image)
        assert torch.equal(captioner.see(base.vision, image), whole[:, 1:])
    assert (base.places, base.seen_width) == (16, 32)


def test_the_sequence_is_tokens_and_mapped_places(model):
    text = torch.tensor([[5, 6], [7, 8]])
    image = torch.randn(2, 3, 32, 32)
    given = {"input_ids": ids(2, text), "image": image}
    connector = model.heads["connector"]
    made, context = captioner.connect(model.base, connector, given)
    assert set(made) == {"inputs_embeds"}
    table = model.base.text.get_input_embeddings()
    seen = captioner.encode(model.base, {"image": image})["seen"]
    assert seen.dtype == torch.float16
    expected = torch.cat([table(ids(2, text)[:, :1]), connector(seen), table(text)], 1)
    assert torch.equal(made["inputs_embeds"], expected)
    assert context.tolist() == [[0, *[1] * P, 0, 0]] * 2
    by_hand = model.base.text(inputs_embeds=expected).logits
    assert torch.equal(model(given).logits, by_hand)
    assert torch.equal(model.delta.context["context"], context)
    del given["image"]
    assert torch.equal(model({**given, "seen": seen}).logits, by_hand)


def test_several_pictures_in_one_prompt_fill_their_own_places(model):
    seen = torch.randn(2, 2 * P, 32).half()
    given = {"input_ids": ids(2, torch.tensor([[5], [6]]), 2), "seen": seen}
    made, context = captioner.connect(model.base, model.heads["connector"], given)
    mapped = model.heads["connector"](seen)
    assert torch.equal(made["inputs_embeds"][:, 1 : 1 + 2 * P], mapped)
    assert int(context.sum()) == 4 * P
    swapped = {**given, "seen": seen.flip(1)}
    assert not torch.allclose(model(swapped).logits[:, -1], model(given).logits[:, -1])


def test_too_few_places_are_refused(model):
    given = {"input_ids": ids(1, torch.tensor([[5]])), "seen": torch.zeros(1, P - 1, 32)}
    with pytest.raises(ValueError, match=f"{P} placeholders for {P - 1} places"):
        model(given)


@pytest.mark.parametrize("beams", [1, 3])
def test_writing_from_a_cache_is_writing_without_one(model, beams):
    given = {"input_ids": ids(3, torch.zeros(3, 0, dtype=torch.long))}
    given["image"] = torch.randn(3, 3, 32, 32)
    fast = model.write(given, 2, 0, 6, num_beams=beams)
    slow = model.write(given, 2, 0, 6, num_beams=beams, use_cache=False)
    assert torch.equal(fast, slow)
    if beams > 1:
        return
    grown = given
    for step in range(fast.shape[1]):
        with torch.no_grad():
            chosen = model(grown).logits[:, -1].argmax(-1)
        ended = (fast[:, :step] == 2).any(1)
        assert torch.equal(chosen[~ended], fast[~ended, step])
        grown = {**grown, "input_ids": torch.cat([grown["input_ids"], fast[:, step : step + 1]], 1)}


def test_the_encoder_stays_in_eval_mode():
    network = tiny.fresh("captioner_tiny_random")
    network.model.train()
    assert network.model.text.training and network.model.training
    assert not any(m.training for m in network.model.vision.modules())


def test_full_fine_tuning_leaves_the_encoder_alone():
    with tiny.adapted(tiny.method("full"), "captioner") as made:
        text = sum(p.numel() for p in made.base.text.parameters())
        counts = made.counts()
        assert counts["trainable"] == text and counts["head"] == 33 * 32
        tiny.train(made, "captioner")
        assert all(p.grad is None for p in made.base.vision.parameters())


def test_the_map_alone_trains_with_method_linear():
    with tiny.adapted(Linear(), "captioner") as made:
        assert made.counts()["trainable"] == 0
        assert set(made.trainable()) == {
            "heads.connector.linear.weight",
            "heads.connector.linear.bias",
        }


def test_dropout_stands_in_front_of_the_map():
    torch.manual_seed(0)
    stream = torch.Generator().manual_seed(0)
    projection = captioner.Projection(8, 4, 0.5, stream).train()
    x = torch.ones(64, 3, 8)
    weight, bias = projection.linear.weight, projection.linear.bias
    assert float(weight.detach().abs().max()) <= 8**-0.5
    away = projection(x) - bias
    columns = {tuple(row) for row in (away / 2).detach().round(decimals=3).view(-1, 4).tolist()}
    assert len(columns) > 20  # different entries of the input are dropped
    assert torch.allclose(projection.eval()(x), x @ weight.T + bias, atol=1e-6)


def test_stored_and_loaded_by_its_settings(tmp_path, model):
    given = tiny.inputs("captioner")
    with torch.no_grad():
        before = model(given).logits
    save_adapter(tmp_path / "adapter", model, model.backbone.sha256, None, "captions")
    for again in (
        load_adapter(tmp_path, tiny.fresh("captioner_tiny_random")),
        peftbench.load(tmp_path),
    ):
        with torch.no_grad():
            assert torch.equal(again(given).logits, before)
        assert again.backbone.name == "vit_tiny_patch16_224+llama_tiny_random"


def test_parts_that_do_not_fit_are_refused():
    vision = build(tiny.config("backbone/vision", "vit_tiny_random"), "vision")
    encoder = build(tiny.config("backbone", "bert_tiny_random"), "text")
    with pytest.raises(IncompatibleError, match="bert network is no decoder"):
        JoinedNetworks(vision, encoder)
    with pytest.raises(ConfigError, match=r"backbone\.vision: a network that reads image"):
        JoinedNetworks(TinyLlama(), TinyLlama())
    with pytest.raises(ConfigError, match=r"backbone\.dropout"):
        JoinedNetworks(vision, TinyLlama(), dropout=1.0)


def test_an_edit_that_keeps_gradients_in_is_refused():
    with (
        pytest.raises(IncompatibleError, match="the map in front of it"),
        tiny.adapted(tiny.method("lst"), "captioner"),
    ):
        pass


def test_a_library_user_may_give_context_numbers(model):
    given = tiny.inputs("captioner")
    own = torch.full(given["input_ids"].shape, 1)
    model(given, {"context": own})
    assert torch.equal(model.delta.context["context"], own)
    assert Lora().check("llama") is None
