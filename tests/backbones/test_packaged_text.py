"""The packaged text networks: conversion, provenance, and that they really are pretrained."""

import json
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import yaml
from tiny import ROOT

from peftbench.backbones import packaged
from peftbench.backbones.load_text import HubBert, HubT5
from peftbench.backbones.packaged_minilm import MINILM
from peftbench.backbones.weights import WEIGHTS
from peftbench.errors import ConfigError, CorruptAssetError
from peftbench.files import sha256_tensors
from peftbench.spec import build

NAMES = ["minilm", "flan_t5_small", "smollm2_135m"]
PARAMETERS = {"minilm": 22_565_376, "flan_t5_small": 76_961_152, "smollm2_135m": 134_515_008}
PARAGRAPH = (
    "The Alps are the highest and most extensive mountain range that lies entirely in Europe. "
    "They stretch across eight countries from France in the west to Slovenia in the east. The "
    "mountains were formed over tens of millions of years as the African and Eurasian tectonic "
    "plates collided, and the highest peak, Mont Blanc, rises to about 4,800 metres above the sea."
)


@cache
def loaded(name):
    config = yaml.safe_load((ROOT / "configs" / "backbone" / f"{name}.yaml").read_text())
    return build(config, "backbone").load()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_pinned_network_with_a_codec(name):
    backbone = loaded(name)
    assert backbone.parameter_count() == PARAMETERS[name]
    assert backbone.name == name
    assert backbone.source == f"packaged {WEIGHTS[name].what}"
    assert all(p.dtype == torch.float32 for p in backbone.model.parameters())
    assert not backbone.model.training
    assert backbone.codec.positions == {"minilm": 512, "smollm2_135m": 8192}.get(name)
    state = dict(backbone.model.state_dict())
    if name == "minilm":  # the pooler is in the file and not in the network
        return
    for copy in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state.pop(copy, None)
    if name == "smollm2_135m":
        assert (
            state.pop("lm_head.weight").data_ptr() == state["model.embed_tokens.weight"].data_ptr()
        )
    assert sha256_tensors(state) == WEIGHTS[name].tensors_sha256


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_says_what_it_is_and_the_package_is_not_kept(name):
    weights = WEIGHTS[name]
    source = json.loads((weights.get() / "source.json").read_text())
    assert (source["what"], source["licence"]) == (weights.what, weights.package.licence)
    assert source["sha256"] == weights.package.sha256
    held = {p.name for p in weights.folder.iterdir()}
    assert held == {"model.safetensors", "source.json", *source["files_sha256"]}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= held
    assert not weights.package.folder.exists()
    stored = json.loads((weights.folder / "tokenizer.json").read_text())
    assert stored["truncation"] is None and stored["padding"] is None


def test_minilm_knows_which_sentences_are_alike():
    backbone = loaded("minilm")
    sentences = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "A person is having a meal.",
        "The girl is carrying a baby.",
    ]
    batch = backbone.codec.tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden_BTD = backbone.model(**batch).last_hidden_state
    weight_BT1 = batch["attention_mask"][..., None].float()
    mean_BD = F.normalize((hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1), dim=-1)
    assert (mean_BD[0] @ mean_BD[1:].T).tolist() == pytest.approx([0.755, 0.698, -0.105], abs=1e-3)


def test_the_t5_translates_and_keeps_its_own_head():
    backbone = loaded("flan_t5_small")
    model, codec = backbone.model, backbone.codec
    ids = codec.ids(["translate English to German: The house is wonderful."], special=True)

    def translated():
        with torch.inference_mode():
            return codec.text(model.generate(torch.tensor(ids), max_new_tokens=12)[0].tolist())

    assert translated() == "Das Haus ist wunderbar."
    model.tie_weights()  # others call it; it must not put the embedding in the head's place
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert translated() == "Das Haus ist wunderbar."


def test_an_ordinary_call_of_transformers_loads_the_t5_right():
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(WEIGHTS["flan_t5_small"].get())
    ours = loaded("flan_t5_small").model
    assert torch.equal(model.lm_head.weight, ours.lm_head.weight)
    assert torch.equal(model.shared.weight, ours.shared.weight)
    assert not model.config.scale_decoder_outputs


def loss_per_token(model, ids):
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return F.cross_entropy(logits, torch.tensor(ids[1:])).item()


def test_the_llama_predicts_text_and_not_its_shuffled_tokens():
    backbone = loaded("smollm2_135m")
    (ids,) = backbone.codec.ids([PARAGRAPH])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    text = loss_per_token(backbone.model, ids)
    shuffled = loss_per_token(backbone.model, [ids[i] for i in order])
    # Random weights guess: ln 49,152 = 10.8. Measured: 2.18 and 7.66.
    assert text < 3 and 6 < shuffled < 10


def test_the_llama_answers_with_and_without_its_chat_template():
    backbone = loaded("smollm2_135m")
    codec = backbone.codec

    def goes_on(text):
        (ids,) = codec.ids([text])
        with torch.inference_mode():
            out = backbone.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
        return out[0, len(ids) :].tolist()

    assert codec.text(goes_on("The capital of France is")).startswith(" Paris")
    asked = codec.chat([{"role": "user", "content": "What is the capital of France?"}])
    assert asked.endswith("<|im_start|>assistant\n")
    answer = goes_on(asked)
    assert codec.text(answer) == "The capital of France is Paris."
    assert answer[-1] == codec.end == codec.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_llamas_tokenizer_takes_digits_one_by_one_and_gives_text_back():
    codec = loaded("smollm2_135m").codec
    text = "Café  12345 \n\t don't 中文 <x>"
    (ids,) = codec.ids([text])
    assert codec.text(ids) == text
    assert codec.tokenizer.convert_ids_to_tokens(codec.ids(["12345"])[0]) == list("12345")
    (special,) = codec.ids(["<|im_start|>user<|im_end|>"])
    assert special[0] == 1 and special[-1] == 2 and codec.text(special) == "user"


def test_random_weights_have_the_same_shape():
    config = yaml.safe_load((ROOT / "configs" / "backbone" / "minilm.yaml").read_text())
    random = build({**config, "init": "random", "dropout": 0.3}, "backbone").load()
    assert random.parameter_count() == PARAMETERS["minilm"] and random.source == "random"
    assert random.codec.ids(["a cat"]) == loaded("minilm").codec.ids(["a cat"])
    assert random.model.config.hidden_dropout_prob == 0.3
    assert random.model.embeddings.dropout.p == 0.3
    assert loaded("minilm").model.embeddings.dropout.p == 0.1  # null: the checkpoint's
    words = [b.model.get_input_embeddings().weight for b in (random, loaded("minilm"))]
    assert not torch.equal(*words)


def test_a_packaged_network_that_is_none_gets_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'minilm'"):
        HubBert("packaged:minilm6").load()
    with pytest.raises(ConfigError, match=r"minilm is a 'bert' network.*backbone=hub_bert"):
        HubT5("packaged:minilm").load()


def test_a_changed_file_and_another_conversion_are_not_taken(tmp_path, monkeypatch):
    good = MINILM.get()
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    MINILM.folder.mkdir(parents=True)
    for path in good.iterdir():
        (MINILM.folder / path.name).write_bytes(path.read_bytes())
    config = MINILM.folder / "config.json"
    config.write_text(config.read_text().replace("1e-12", "1e-5"))
    with pytest.raises(CorruptAssetError, match=r"config\.json has changed(.|\n)*minilm --again"):
        MINILM.get()
    MINILM.forget()
    monkeypatch.setattr(packaged.assets, "fetch", lambda package, archive: good)
    other = {"a": torch.zeros(2)}
    monkeypatch.setattr("peftbench.backbones.packaged_minilm.load_file", lambda path: other)
    with pytest.raises(CorruptAssetError, match="converted tensors are not the pinned ones"):
        MINILM.get()
    assert not MINILM.folder.exists()
