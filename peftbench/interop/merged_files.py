"""Merged networks as folders that timm or transformers load by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.backbone import Backbone
from ..backbones.preprocess import Preprocess
from ..backbones.text_place import quiet
from ..errors import ExportError
from ..files import sha256_file, write_json, write_tensors, write_text
from .folder import HEAD_FILE, base_facts, head_note, new_folder, put_head, write_head
from .merge import Merged

WEIGHTS, FACTS = "model.safetensors", "merged.json"


def write_merged(
    merged: Merged, backbone: Backbone, description: Mapping[str, Any], folder: Path
) -> None:
    """Write a merged network, load it back with its own library, and compare bit by bit.

    The folder holds ``model.safetensors``, the library's ``config.json``, ``merged.json`` (base id
    and hash, what was merged, the difference found) and a README that says how to load it.

    Args:
        merged: the network.
        backbone: the base, released.
        description: of the adapter (``adapter.json``).
        folder: a new folder; it appears only when everything succeeded.

    Raises:
        ExportError: the folder is there already, or the library does not load the network as it is.

    """
    with new_folder(folder) as place:
        if hasattr(merged.network, "pretrained_cfg"):
            how = _write_timm(merged, backbone, description, place)
        elif hasattr(merged.network, "save_pretrained"):
            how = _write_transformers(merged, place)
        else:
            raise ExportError(
                f"{type(merged.network).__name__} is of neither timm nor transformers"
            )
        facts: dict[str, Any] = {
            "schema_version": 1,
            **base_facts(description),
            "merged": list(merged.edits),
            "difference": {
                **dataclasses.asdict(merged.difference),
                "relative": merged.difference.relative,
                "bound": merged.bound,
            },
            "sha256": {f.name: sha256_file(f) for f in sorted(place.glob("*.safetensors"))},
        }
        if backbone.preprocess is not None:
            facts["preprocess"] = dataclasses.asdict(backbone.preprocess)
        write_json(place / FACTS, facts)
        base = facts["base"]
        write_text(
            place / "README.md",
            f"# {base['name']} with a merged adapter\n\nWeights of {base['name']} "
            f"({base['source']}) with the edits of `{facts['method']['_target_']}` merged in. "
            f"Difference to base plus adapter: {merged.difference}. Details: `{FACTS}`.\n{how}",
        )


def _write_timm(
    merged: Merged, backbone: Backbone, description: Mapping[str, Any], place: Path
) -> str:
    network: Any = merged.network
    classes = 0
    if merged.head is not None:
        put_head(network, merged.head)
        classes = merged.head.out_features
    write_tensors(place / WEIGHTS, network.state_dict(), {"format": "pt"})
    cfg = dict(network.pretrained_cfg)
    arguments = {**(backbone.spec.get("arch") or {})}
    arguments["img_size"] = list(network.patch_embed.img_size)
    keep = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "first_conv", "classifier")
    config: dict[str, Any] = {
        "architecture": cfg["architecture"],
        "num_classes": classes,
        "num_features": network.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            **{key: cfg[key] for key in keep if key in cfg},
            **_pixels(backbone.preprocess),
            "input_size": [3, *network.patch_embed.img_size],
            "fixed_input_size": True,
            "num_classes": classes,
        },
    }
    if description["labels"] and classes:
        config["label_names"] = list(description["labels"])
    write_json(place / "config.json", config)

    import timm

    again = timm.create_model(f"local-dir:{place}", pretrained=True)
    _require_equal(again.state_dict(), network.state_dict(), "timm")
    model_arguments = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    return f"""
    import timm
    model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)

or

    model = timm.create_model("{cfg["architecture"]}", num_classes={classes},
                              {model_arguments}, checkpoint_path="{WEIGHTS}")

The classifier head is part of the network.
"""


def _pixels(preprocess: Preprocess | None) -> dict[str, Any]:
    """Return in timm's words how images were brought to the network: squashed to its square."""
    if preprocess is None:
        return {}
    return {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }


def _write_transformers(merged: Merged, place: Path) -> str:
    network: Any = merged.network
    _admit_biases(network)
    name = type(network).__name__
    with quiet():
        network.save_pretrained(place)
        again, report = type(network).from_pretrained(
            place, output_loading_info=True, dtype=next(network.parameters()).dtype
        )
    if report["unexpected_keys"]:
        raise ExportError(
            f"transformers has no place in {name} for '{min(report['unexpected_keys'])}'; the "
            "merged network can be used in a program (peftbench.interop.merge), not stored so"
        )
    _require_equal(again.state_dict(), network.state_dict(), "transformers")
    extra = sorted(again.state_dict().keys() - network.state_dict().keys())
    text = f"""
    from transformers import {name}
    model = {name}.from_pretrained("PATH_OF_THIS_FOLDER")
"""
    if extra:
        text += f"\nLoading adds parts that the network did not have, untrained: {extra}.\n"
    if merged.head is not None:
        write_head(place, merged.head)
        text += head_note((merged.anatomy.features.__doc__ or "pooled features").strip())
        text += f"\nThe network's own weights do not depend on `{HEAD_FILE}`.\n"
    return text


def _admit_biases(network: nn.Module) -> None:
    """Tell a configuration that has a word for it which linear layers got biases."""
    config: Any = network.config
    for setting, layers in (
        ("attention_bias", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("mlp_bias", ("gate_proj", "up_proj", "down_proj")),
    ):
        if hasattr(config, setting):
            found = [
                module.bias is not None
                for path, module in network.named_modules()
                if isinstance(module, nn.Linear) and path.rpartition(".")[2] in layers
            ]
            if found and all(found):
                setattr(config, setting, True)


def _require_equal(found: Mapping[str, Tensor], mine: Mapping[str, Tensor], library: str) -> None:
    for name, tensor in mine.items():
        if name not in found:
            raise ExportError(f"{library} does not load the tensor '{name}' of the merged network")
        if not torch.equal(found[name], tensor.to(found[name].device)):
            raise ExportError(f"{library} loads another tensor '{name}' than was merged")
