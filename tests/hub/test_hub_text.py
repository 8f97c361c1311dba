"""Text networks from a hub on loopback, through the unmodified calls of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Child, Refused, saved
from safetensors.torch import load, save
from server import Hub

from peftbench.files import sha256_tensors

KINDS = {"bert": "HubBert", "roberta": "HubBert", "t5": "HubT5", "llama": "HubLlama"}
POSITIONS = {"bert": 24, "roberta": 22, "t5": None, "llama": 40}
# pad and end; LLaMA has no padding of its own, so its end fills up
IDS = {"bert": (0, 3), "roberta": (1, 2), "t5": (0, 1), "llama": (2, 2)}


def network(family: str) -> Any:
    """Build a tiny network with the heads that published checkpoints of the family have."""
    import transformers as t

    bert = {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 24,
    }  # fmt: skip
    torch.manual_seed(7)
    if family == "bert":
        return t.BertForPreTraining(t.BertConfig(**bert))
    if family == "roberta":
        return t.RobertaForMaskedLM(t.RobertaConfig(**bert))
    if family == "t5":
        return t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
    bert["max_position_embeddings"] = 40
    return t.LlamaForCausalLM(t.LlamaConfig(**bert, num_key_value_heads=1))


@pytest.fixture(scope="module")
def pushed(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Push one repository a family and return their files."""
    from peftbench.backbones.tiny_codec import tiny_codec

    folder, files = tmp_path_factory.mktemp("text"), {}
    for family in KINDS:
        codec = tiny_codec(family, "encoder", 64, None)
        weights = saved(network(family).save_pretrained, folder / family)
        words = saved(codec.tokenizer.save_pretrained, folder / f"{family}-words")
        files[family] = {**weights, **words}
        hub.push("models", f"me/{family}", files[family])
    return files


def base_tensors(family: str, content: bytes) -> dict[str, torch.Tensor]:
    """Return what of a published file is the network, by the network's names."""
    stored = load(content)
    if family in ("bert", "roberta"):
        lead = f"{family}."
        inside = {k.removeprefix(lead): v for k, v in stored.items() if k.startswith(lead)}
        return {k: v for k, v in inside.items() if not k.startswith("pooler.")}
    if family == "t5":
        shared = stored["shared.weight"]
        tied = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
        return {**stored, **dict.fromkeys(tied, shared)}
    return stored


@pytest.mark.parametrize("family", KINDS)
def test_a_checkpoint_of_each_family_is_a_backbone(
    online: Child, hub: Hub, pushed: dict, family: str
) -> None:
    found = online("text", kind=KINDS[family], model=f"me/{family}")
    wanted = base_tensors(family, pushed[family]["model.safetensors"])
    assert found["sha256"] == sha256_tensors(wanted)
    commit = hub.repositories["models", f"me/{family}"].refs["main"]
    assert found["source"] == f"hub me/{family}, commit {commit[:12]}"
    assert found["family"] == ("bert" if family == "roberta" else family)
    assert found["positions"] == POSITIONS[family]
    assert (found["pad"], found["end"]) == IDS[family]
    assert found["side"] == ("left" if family == "llama" else "right")
    assert found["text"] == "so it is" and found["features"] == [1, 16]


def test_a_checkpoint_of_another_family_is_refused(online: Child, pushed: dict) -> None:
    with pytest.raises(Refused, match=r"ConfigError: .*me/t5 is a 't5'.*backbone=hub_t5\?"):
        online("text", kind="HubBert", model="me/t5")


def test_a_revision_is_the_one_that_was_asked_for(online: Child, hub: Hub, pushed: dict) -> None:
    other = {k: v + 1 for k, v in load(pushed["bert"]["model.safetensors"]).items()}
    weights = save(other, {"format": "pt"})
    hub.push("models", "me/twice", pushed["bert"], tag="v1")
    hub.push("models", "me/twice", {**pushed["bert"], "model.safetensors": weights})
    newest = online("text", kind="HubBert", model="me/twice")
    first = online("text", kind="HubBert", model="me/twice", revision="v1")
    assert newest["sha256"] == sha256_tensors(base_tensors("bert", weights))
    assert first["sha256"] == online("text", kind="HubBert", model="me/bert")["sha256"]
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*me/twice at v9[^$]*no such revision"):
        online("text", kind="HubBert", model="me/twice", revision="v9")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("error", "the hub answered with status 500"),
        ("down", "the hub answered with status 503"),
        ("gated", "it is gated: ask for access on its page, then `hf auth login`"),
        ("hidden", "the hub knows no such repository, or it is private"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_hub_in_trouble_is_told(
    online: Child, hub: Hub, pushed: dict, fault: str, words: str, file: str
) -> None:
    name = f"me/text-{fault}-{file.partition('.')[0]}"
    commit = hub.push("models", name, pushed["bert"])
    # transformers asks for a file by branch or by commit, as its version has it
    with (
        hub.failing(f"{name}/resolve/main/{file}", fault),  # type: ignore[arg-type]
        hub.failing(f"{name}/resolve/{commit}/{file}", fault),  # type: ignore[arg-type]
        pytest.raises(Refused) as error,
    ):
        online("text", kind="HubBert", model=name)
    text = str(error.value)
    assert text.startswith("MissingAssetError: ") and words in text
    assert f"hub repository {name}" in text and "backbone.model=FOLDER" in text
    again = online("text", kind="HubBert", model=name)
    assert again["sha256"] == online("text", kind="HubBert", model="me/bert")["sha256"]


def test_a_repository_that_is_not_there_is_told(online: Child) -> None:
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*knows no such repository"):
        online("text", kind="HubLlama", model="me/nowhere")


def test_weights_that_are_not_whole_are_refused(online: Child, hub: Hub, pushed: dict) -> None:
    tensors = load(pushed["llama"]["model.safetensors"])
    lacking = {k: v for k, v in tensors.items() if "layers.1.mlp.up_proj" not in k}
    files = {**pushed["llama"], "model.safetensors": save(lacking, {"format": "pt"})}
    hub.push("models", "me/lacking", files)
    with pytest.raises(Refused, match=r"CorruptAssetError: .*me/lacking lacks model\.layers\.1\."):
        online("text", kind="HubLlama", model="me/lacking")
    cut = pushed["llama"]["model.safetensors"][:2000]
    hub.push("models", "me/cut", {**pushed["llama"], "model.safetensors": cut})
    with pytest.raises(Refused, match=r"CorruptAssetError: .*me/cut is damaged"):
        online("text", kind="HubLlama", model="me/cut")
    none = {k: v for k, v in pushed["llama"].items() if k != "model.safetensors"}
    hub.push("models", "me/weightless", none)
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*the repository lacks the file"):
        online("text", kind="HubLlama", model="me/weightless")
    bare = {k: v for k, v in pushed["llama"].items() if not k.startswith("tokenizer")}
    hub.push("models", "me/wordless", bare)
    with pytest.raises(Refused, match=r"(Missing|Config|Corrupt)\w*Error: [^$]*me/wordless"):
        online("text", kind="HubLlama", model="me/wordless")


def test_a_stored_file_that_changed_is_not_taken(
    online: Child, hub: Hub, home: Path, pushed: dict
) -> None:
    hub.push("models", "me/bent-words", pushed["bert"])
    online("text", kind="HubBert", model="me/bent-words")
    stored = next((home / "hub" / "models--me--bent-words").rglob("model.safetensors")).resolve()
    content = bytearray(stored.read_bytes())
    content[-2] ^= 1
    stored.write_bytes(bytes(content))
    with pytest.raises(Refused, match=r"CorruptAssetError: .*model.safetensors is not"):
        online("text", kind="HubBert", model="me/bent-words")


def test_without_the_hub_the_cache_serves(
    online: Child, offline: Child, hub: Hub, pushed: dict
) -> None:
    for family in ("t5", "llama"):
        before = online("text", kind=KINDS[family], model=f"me/{family}")
        asked = len(hub.requests)
        assert offline("text", kind=KINDS[family], model=f"me/{family}") == before
        assert len(hub.requests) == asked
        with hub.failing("/", "down"):
            assert online("text", kind=KINDS[family], model=f"me/{family}") == before
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*HF_HUB_OFFLINE is set"):
        offline("text", kind="HubBert", model="me/never-seen")


def test_random_weights_need_no_weights(online: Child, hub: Hub, pushed: dict) -> None:
    bare = {k: v for k, v in pushed["bert"].items() if k != "model.safetensors"}
    hub.push("models", "me/bare", bare)
    found = online("text", kind="HubBert", model="me/bare", init="random")
    assert found["source"] == "random"
    assert found["parameters"] == online("text", kind="HubBert", model="me/bert")["parameters"]
    assert json.loads(bare["config.json"])["hidden_size"] == found["features"][1]
