"""LoRA, DoRA and IA3 as Hugging Face PEFT adapters that the ``peft`` library loads.

Writing needs no ``peft``; :func:`check_peft` loads the result with it and compares logits.
Shape legend: O output width, I input width, R rank, K roles of a fused layer.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..edits import Dora, Edit, InputScale, LowRank, OutputScale
from ..errors import ExportError, MissingAssetError
from ..files import write_json, write_tensors, write_text
from ..methods.lora import Lora
from ..train.model import Adapted
from .compare import Difference, adapted_logits, bound_for, compare, plain_logits, sample_inputs
from .folder import base_facts, head_note, main_head, new_folder, put_head, write_head

CONFIG, TENSORS, FACTS = "adapter_config.json", "adapter_model.safetensors", "source.json"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftExport:
    """An adapter in PEFT's form.

    Attributes:
        config: content of ``adapter_config.json``.
        tensors: content of ``adapter_model.safetensors``.
        head: classifier head that is not among the tensors, None if there is none.
        notes: what a reader must know.

    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    head: nn.Linear | None
    notes: tuple[str, ...]


def write_peft(
    model: Adapted, description: Mapping[str, Any], folder: Path
) -> tuple[PeftExport, Difference | None]:
    """Write a PEFT adapter folder; where ``peft`` is installed, load it and compare logits.

    Afterwards the delta is detached and the base is what it was.

    Args:
        model: the adapted network, attached.
        description: of the adapter (``adapter.json``).
        folder: a new folder; it appears only when everything succeeded.

    Returns:
        What was written, and the difference found (None without ``peft``).

    Raises:
        ExportError: an edit has no form in PEFT, or the loaded adapter differs.

    """
    inputs = sample_inputs(model)
    reference = adapted_logits(model, inputs)
    model.release()
    export = to_peft(model)
    difference: Difference | None = None
    with new_folder(folder) as place:
        write_json(place / CONFIG, export.config)
        write_tensors(place / TENSORS, export.tensors, {"format": "pt"})
        write_json(place / FACTS, {"schema_version": 1, **base_facts(description)})
        if export.head is not None:
            write_head(place, export.head)
        try:
            difference = check_peft(model, place, inputs, reference)
        except MissingAssetError:
            difference = None
        write_text(place / "README.md", _readme(model, export, description, difference))
    return export, difference


def to_peft(model: Adapted) -> PeftExport:
    """Return the delta and head of an adapted network, released, in PEFT's form.

    Raises:
        ExportError: an edit has no form in PEFT; the text gives the reason.

    """
    edits = list(model.delta)
    kinds = {type(edit) for edit in edits}
    if kinds and kinds <= {LowRank, Dora} and len(kinds) == 1:
        config, tensors, notes = _lora(
            edits, isinstance(model.method, Lora) and model.method.rslora
        )
    elif kinds and kinds <= {OutputScale, InputScale}:
        config, tensors, notes = _ia3(edits)
    else:
        raise ExportError(_refusal(model, kinds))
    config["target_modules"] = suffixes(_paths(edits), model.base)
    if config.get("feedforward_modules"):
        config["feedforward_modules"] = suffixes(config["feedforward_modules"], model.base)
    network: Any = model.base
    config["base_model_name_or_path"] = getattr(network, "name_or_path", "") or None
    config["task_type"] = None
    config["auto_mapping"] = {
        "base_model_class": type(network).__name__,
        "parent_library": type(network).__module__,
    }
    head = main_head(model)
    if head is None:
        seq2seq = network.config.is_encoder_decoder
        config["task_type"] = "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM"
        config["auto_mapping"] = None
    elif hasattr(network, "reset_classifier"):
        place = put_head(copy.deepcopy(network), head)
        config["modules_to_save"] = [place]
        tensors[f"{PREFIX}{place}.weight"] = head.weight.detach()
        tensors[f"{PREFIX}{place}.bias"] = head.bias.detach()
        notes = (
            *notes,
            f"The classifier head is part of the adapter (`{place}`): create the base "
            f"network with num_classes={head.out_features}.",
        )
        head = None
    return PeftExport(config, tensors, head, notes)


def check_peft(
    model: Adapted, folder: Path, inputs: Mapping[str, Tensor], reference: Tensor
) -> Difference:
    """Load a folder with the real ``peft`` onto a copy of the base and compare.

    Args:
        model: the adapted network, released.
        folder: the PEFT adapter folder.
        inputs: sample inputs.
        reference: the adapted network's logits on them.

    Raises:
        MissingAssetError: ``peft`` is not installed.
        ExportError: keys are missing, unexpected or loaded with other values, or the logits differ.

    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise MissingAssetError("peft is not installed; pip install 'peftbench[peft]'") from error
    if model.delta.attached:
        raise ExportError("the delta is still attached; release the adapted network first")
    network: Any = copy.deepcopy(model.base)
    head = main_head(model)
    inside = head is not None and hasattr(network, "reset_classifier")
    if head is not None and inside:
        network.reset_classifier(head.out_features)
    loaded = PeftModel.from_pretrained(network, str(folder))
    stored = load_file(str(folder / TENSORS))
    found = get_peft_model_state_dict(loaded, save_embedding_layers=False)
    for name in sorted(stored.keys() | found.keys()):
        if name not in found or name not in stored:
            side = "unexpected" if name not in found else "missing"
            raise ExportError(f"peft finds the tensor '{name}' {side} in {folder / TENSORS}")
        if not torch.equal(stored[name], found[name].detach().cpu().to(stored[name].dtype)):
            raise ExportError(f"peft did not load the tensor '{name}' of {folder / TENSORS}")
    anatomy = model.backbone.anatomy
    injected: Any = loaded.base_model.model
    if inside:
        injected.eval()
        with torch.no_grad():
            logits = injected(inputs["image"])
    else:
        logits = plain_logits(anatomy, injected, head, inputs)
    difference = compare(logits, reference)
    difference.require(bound_for(model.base), "the adapter loaded by peft")
    return difference


def _lora(
    edits: Sequence[Edit], rslora: bool
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[str, ...]]:
    """Return configuration, tensors and notes of low-rank edits."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    fused: list[LowRank] = []
    for edit in edits:
        assert isinstance(edit, LowRank)
        path = edit.sites[0].path
        if path in ranks:
            raise ExportError(f"PEFT puts one update on a layer; '{path}' has two")
        a_RI, b_OR = rank_sum(edit)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a_RI
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b_OR
        if isinstance(edit, Dora):
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = whole_magnitude(edit)
        ranks[path] = a_RI.shape[0]
        root = math.sqrt(ranks[path]) if rslora else ranks[path]
        alphas[path] = round(edit.scale * root, 12)
        if not edit.sites[0].whole:
            fused.append(edit)
    dropouts = {edit.dropout for edit in edits if isinstance(edit, LowRank)}
    if len(dropouts) > 1:
        raise ExportError(f"PEFT has one dropout for all layers; here are {sorted(dropouts)}")
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    config = {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": dropouts.pop(),
        "use_rslora": rslora,
        "use_dora": isinstance(edits[0], Dora),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "rank_pattern": {p: r for p, r in ranks.items() if r != rank},
        "alpha_pattern": {p: a for p, a in alphas.items() if a != alpha},
        "modules_to_save": None,
    }
    return config, tensors, _fused_notes(fused)


def rank_sum(edit: LowRank) -> tuple[Tensor, Tensor]:
    """Return (A, B) of one update of the whole layer that equals the updates of its roles.

    K updates of rank R on rows of their own are one update of rank K R: the A stand on each other,
    (K R, I), and each B fills its rows and its R columns of (O, K R); the rest is zero.
    """
    b_OR = torch.zeros(edit.module.out_features, edit.rank * len(edit.sites))
    for k, site in enumerate(edit.sites):
        columns = slice(k * edit.rank, (k + 1) * edit.rank)
        b_OR[site.rows[0] : site.rows[1], columns] = edit.b[site.role].detach().cpu()
    return torch.cat([edit.a[site.role].detach() for site in edit.sites]), b_OR


def whole_magnitude(edit: Dora) -> Tensor:
    """Return DoRA's magnitude for every row of the layer; rows of other roles keep their norm."""
    magnitude_O = edit.module.weight.detach().float().norm(dim=1)
    for site in edit.sites:
        magnitude_O[site.rows[0] : site.rows[1]] = edit.m[site.role].detach()
    return magnitude_O


def _ia3(edits: Sequence[Edit]) -> tuple[dict[str, Any], dict[str, Tensor], tuple[str, ...]]:
    """Return configuration, tensors and notes of IA3's scales."""
    tensors: dict[str, Tensor] = {}
    inputs: list[str] = []
    fused = False
    for edit in edits:
        assert isinstance(edit, OutputScale | InputScale)
        path = edit.sites[0].path
        name = f"{PREFIX}{path}.ia3_l"
        if name in tensors:
            raise ExportError(f"PEFT scales a layer's input or its output; '{path}' has both")
        if isinstance(edit, InputScale):
            inputs.append(path)
            tensors[name] = edit.vector().detach()[None, :]
        else:
            fused = fused or not edit.sites[0].whole
            tensors[name] = edit.vector().detach()[:, None]
    config = {
        "peft_type": "IA3",
        "inference_mode": True,
        "feedforward_modules": sorted(inputs),
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
        "modules_to_save": None,
    }
    note = "Scales of a fused q,k,v layer hold ones on the rows of the roles that are not scaled."
    return config, tensors, (note,) if fused else ()


def suffixes(paths: Sequence[str], network: nn.Module) -> list[str]:
    """Return the shortest endings that select exactly these modules, as PEFT matches them."""
    names = [name for name, _ in network.named_modules()]
    depth = max(path.count(".") for path in paths) + 1
    for length in range(1, depth):
        endings = sorted({".".join(path.split(".")[-length:]) for path in paths})
        if any(ending.isdigit() or ending.split(".")[0].isdigit() for ending in endings):
            break
        chosen = {n for n in names if any(n == e or n.endswith(f".{e}") for e in endings)}
        if chosen == set(paths):
            return endings
    return sorted(paths)


def _paths(edits: Iterable[Edit]) -> list[str]:
    return [
        edit.sites[0].path for edit in edits if isinstance(edit, LowRank | OutputScale | InputScale)
    ]


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _fused_notes(fused: Sequence[LowRank]) -> tuple[str, ...]:
    if not fused:
        return ()
    roles = ", ".join(site.role for site in fused[0].sites)
    rank, count = fused[0].rank, len(fused[0].sites)
    return (
        f"The roles {roles} are rows of one fused layer. Their {count} updates of rank {rank} "
        f"stand here as one update of rank {rank * count}: the A stacked, each B in its rows and "
        "columns, zero elsewhere; alpha is scaled so that the factor before B A is unchanged. The "
        "function is the same; training it further here would let the zeros move.",
    )


def _refusal(model: Adapted, kinds: set[type]) -> str:
    name = type(model.method).__name__
    if not kinds:
        return (
            f"method {name} adds no edit, only a head; there is no PEFT adapter (to=merged works)"
        )
    known = {LowRank, Dora, OutputScale, InputScale}
    others = sorted(kind.__name__ for kind in kinds - known)
    if others:
        return (
            f"method {name} uses edits that are not exported to PEFT: {', '.join(others)}. "
            "Exported are LoRA, DoRA and IA3; to=merged works for edits that are linear"
        )
    mixed = ", ".join(sorted(kind.__name__ for kind in kinds))
    return f"one PEFT adapter is of one kind; method {name} mixes {mixed}"


def _readme(
    model: Adapted,
    export: PeftExport,
    description: Mapping[str, Any],
    difference: Difference | None,
) -> str:
    base = description["backbone"]
    checked = (
        f"Loaded with peft and compared: {difference}."
        if difference
        else "Not compared: peft was not installed where this was written."
    )
    notes = "".join(f"\n{note}\n" for note in export.notes)
    text = f"""# {export.config["peft_type"]} adapter for {base["name"]}

Made on {base["name"]} ({base["source"]}), weights `{base["sha256"][:12]}`; see `{FACTS}`. {checked}

    from peft import PeftModel
    model = PeftModel.from_pretrained(base, "PATH_OF_THIS_FOLDER")
{notes}"""
    if export.head is not None:
        text += head_note((model.backbone.anatomy.features.__doc__ or "pooled features").strip())
    return text
