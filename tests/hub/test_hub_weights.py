"""Networks from a hub on loopback, through the unmodified calls of timm and transformers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from conftest import ARCH, REGISTERED, Child, Refused
from safetensors.torch import load, save
from server import Hub

from peftbench.files import sha256_tensors

OWN = "hf-hub:me/small"


def backbone_tensors(tensors: dict) -> dict:
    return {k: v for k, v in tensors.items() if not k.startswith("head.")}


def files_of(hub: Hub, name: str) -> dict[str, bytes]:
    repository = hub.repositories["models", name]
    return repository.commits[repository.refs["main"]]


def damaged_copy(hub: Hub, name: str, source: str = "me/small", **changed: bytes) -> str:
    """Push a repository like another with some files changed; return its name for timm."""
    names = {key.replace("_json", ".json").replace("_bin", ".bin"): v for key, v in changed.items()}
    hub.push("models", name, {**files_of(hub, source), **names})
    return f"hf-hub:{name}"


def test_a_network_of_timms_register_comes_with_the_hubs_weights(online: Child, hub: Hub) -> None:
    found = online("vit", model=REGISTERED, arch=ARCH)
    stored = load(files_of(hub, f"timm/{REGISTERED}")["model.safetensors"])
    assert found["sha256"] == sha256_tensors(backbone_tensors(stored))
    commit = hub.repositories["models", f"timm/{REGISTERED}"].refs["main"]
    assert found["source"] == f"hub timm/{REGISTERED}, commit {commit[:12]}"
    assert found["mean"] == [0.5, 0.5, 0.5] and found["head"] == 0


def test_any_repository_of_timms_form_is_a_backbone(online: Child, hub: Hub) -> None:
    found = online("vit", model=OWN)
    stored = torch_file(files_of(hub, "me/small")["pytorch_model.bin"])
    assert found["sha256"] == sha256_tensors(backbone_tensors(stored))
    assert found["size"] == 32 and found["source"].startswith("hub me/small, commit ")
    random = online("vit", model=OWN, init="random")
    assert random["source"] == "random" and random["sha256"] != found["sha256"]


def torch_file(content: bytes) -> dict:
    return torch.load(io.BytesIO(content), weights_only=True)


def test_a_revision_is_the_one_that_was_asked_for(online: Child, hub: Hub) -> None:
    tensors = torch_file(files_of(hub, "me/small")["pytorch_model.bin"])
    other = {k: v + 1 if v.is_floating_point() else v for k, v in tensors.items()}
    config = {"config.json": files_of(hub, "me/small")["config.json"]}
    hub.push("models", "me/two", {**config, "model.safetensors": save(tensors)}, tag="v1")
    second = hub.push("models", "me/two", {**config, "model.safetensors": save(other)})
    newest = online("vit", model="hf-hub:me/two")
    assert newest["sha256"] == sha256_tensors(backbone_tensors(other))
    assert newest["source"].endswith(second[:12])
    tagged = online("vit", model="hf-hub:me/two@v1")
    assert tagged["sha256"] == sha256_tensors(backbone_tensors(tensors))
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*me/two at v9[^$]*no such revision"):
        online("vit", model="hf-hub:me/two@v9")


def test_a_text_network_comes_through_transformers(online: Child, hub: Hub) -> None:
    stored = load(files_of(hub, "me/words")["model.safetensors"])
    assert online("bert", name="me/words")["sha256"] == sha256_tensors(stored)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("error", "the hub answered with status 500; the same command later may work"),
        ("down", "the hub answered with status 503; the same command later may work"),
        ("gated", "it is gated: ask for access on its page, then `hf auth login`"),
        ("hidden", "the hub knows no such repository, or it is private"),
        ("torn", "the transfer broke off, and nothing of the file is kept"),
        ("short", "the transfer broke off, and nothing of the file is kept"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "pytorch_model.bin"])
def test_a_hub_in_trouble_is_told_and_leaves_nothing_behind(
    online: Child, hub: Hub, home: Path, fault: str, words: str, file: str
) -> None:
    name = f"me/{fault}-{file.partition('.')[0]}"
    model = damaged_copy(hub, name)
    part = f"{name}/resolve" if fault not in ("torn", "short") else name
    wrong = f"{part}/main/{file}" if part.endswith("resolve") else f"{name}/resolve/main/{file}"
    if file == "pytorch_model.bin" and fault in ("torn", "short"):
        commit = hub.repositories["models", name].refs["main"]
        wrong = f"/stored/models/{name}/{commit}/{file}"
    with hub.failing(wrong, fault), pytest.raises(Refused) as error:  # type: ignore[arg-type]
        online("vit", model=model)
    text = str(error.value)
    assert text.startswith("MissingAssetError: ") and words in text
    assert f"hub repository {name}" in text and "backbone.weights=PATH" in text
    kept = [p.name for p in (home / "hub" / f"models--{name.replace('/', '--')}").rglob(file)]
    assert not kept and not list((home / "hub").rglob("*.incomplete"))
    assert online("vit", model=model)["sha256"] == online("vit", model=OWN)["sha256"]


def test_a_damaged_file_is_named_and_fetched_again_once_it_is_gone(online: Child, hub: Hub) -> None:
    model = damaged_copy(hub, "me/rotten")
    with (
        hub.failing("/stored/models/me/rotten", "garbage"),
        pytest.raises(Refused, match=r"CorruptAssetError: .*rotten is damaged: pytorch_model") as e,
    ):
        online("vit", model=model)
    with pytest.raises(Refused, match=r"CorruptAssetError"):  # it is still there
        online("vit", model=model)
    Path(str(e.value).rpartition("rm ")[2]).unlink()
    assert online("vit", model=model)["sha256"] == online("vit", model=OWN)["sha256"]


def test_a_file_that_can_be_read_and_yet_changed_is_not_taken(online: Child, hub: Hub) -> None:
    config = {"config.json": files_of(hub, "me/small")["config.json"]}
    tensors = torch_file(files_of(hub, "me/small")["pytorch_model.bin"])
    hub.push("models", "me/bent", {**config, "model.safetensors": save(tensors)})
    source = online("vit", model="hf-hub:me/bent")["source"]
    assert source.startswith("hub me/bent")
    stored = next(Path(hub_cache(online), "models--me--bent").rglob("model.safetensors")).resolve()
    content = bytearray(stored.read_bytes())
    content[-2] ^= 1
    stored.write_bytes(bytes(content))
    with pytest.raises(Refused, match=r"CorruptAssetError: .*model.safetensors is not"):
        online("vit", model="hf-hub:me/bent")


def hub_cache(child: Child) -> Path:
    return child.log.parent / "hub"


def test_repositories_of_another_form_are_told_apart(online: Child, hub: Hub) -> None:
    config = json.loads(files_of(hub, "me/small")["config.json"])
    unknown = json.dumps({**config, "architecture": "vit_of_tomorrow"}).encode()
    with pytest.raises(Refused, match=r"ConfigError.*unknown to timm.*vit_of_tomorrow"):
        online("vit", model=damaged_copy(hub, "me/tomorrow", config_json=unknown))
    with pytest.raises(Refused, match=r"ConfigError.*me/words is no repository of timm"):
        online("vit", model="hf-hub:me/words")
    with pytest.raises(Refused, match=r"ConfigError.*me/broken"):
        online("vit", model=damaged_copy(hub, "me/broken", config_json=b"{"))
    with pytest.raises(Refused, match=r"CorruptAssetError.*lacks blocks.2"):
        online("vit", model=OWN, arch={"depth": 3})
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*lacks the file"):
        hub.push("models", "me/empty", {"README.md": b"nothing"})
        online("vit", model="hf-hub:me/empty")


def test_without_the_hub_the_cache_serves(
    online: Child, offline: Child, hub: Hub, tmp_path: Path
) -> None:
    before = [online("vit", model=REGISTERED, arch=ARCH), online("vit", model=OWN)]
    asked = len(hub.requests)
    after = [offline("vit", model=REGISTERED, arch=ARCH), offline("vit", model=OWN)]
    assert after == before
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*HF_HUB_OFFLINE is set"):
        offline("vit", model="hf-hub:me/never")
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*HF_HUB_OFFLINE is set"):
        offline("vit", model=f"{OWN}@v7")
    assert len(hub.requests) == asked


def test_a_hub_that_answers_no_more_is_not_needed_for_what_is_stored(
    online: Child, hub: Hub
) -> None:
    before = online("vit", model=OWN)
    with hub.failing("/", "down"):
        assert online("vit", model=OWN) == before
