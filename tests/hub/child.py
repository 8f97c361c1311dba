"""Calls the hub's clients in a process whose environment names the hub; told what by its parent.

The clients read their addresses when they are imported. One line of JSON in is one call, one line
out is what it returned or the error it raised. Waits between a client's tries are cut short.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

real_sleep = time.sleep
time.sleep = lambda seconds: real_sleep(min(seconds, 0.01))


def vit(**settings: object) -> dict:
    from peftbench.backbones.load_timm import TimmViT

    backbone = TimmViT(**settings).load()
    return {
        "sha256": backbone.sha256,
        "source": backbone.source,
        "size": backbone.preprocess.size,
        "mean": list(backbone.preprocess.mean),
        "head": backbone.model.num_classes,
    }


def images(**settings: object) -> dict:
    from peftbench.tasks.hub import HubImages

    spec = HubImages(**settings)
    digest = spec.manifest_sha256
    task = spec.load()
    task.open_test()
    pictures = {}
    for name in ("train", "val", "test"):
        split = task.split(name)
        pixels = [split.inputs["image"].image(i) for i in range(len(split))]
        shown = [hashlib.sha256(f"{p.size}".encode() + p.tobytes()).hexdigest() for p in pixels]
        pictures[name] = list(zip(shown, split.labels.tolist(), strict=True))
    modes = sorted({p.mode for p in pixels})
    return {"digest": digest, "manifest": spec.manifest, "pictures": pictures, "modes": modes}


def passages(**settings: object) -> dict:
    from peftbench.tasks import PublishedText

    spec = PublishedText(**settings)
    task = spec.load()
    shown = {
        name: [[part.sources[i], part.targets[i], part.labels[i].item()] for i in range(len(part))]
        for name, part in task.splits.items()
    }
    return {"manifest": spec.manifest, "splits": shown, "words": task.words}


def alpaca(**settings: object) -> dict:
    from peftbench.tasks import Alpaca

    task = Alpaca(**settings).load()
    return {"sizes": {k: len(v) for k, v in task.splits.items()}, "manifest": task.manifest}


def bert(name: str) -> dict:
    from transformers import AutoModel

    from peftbench.files import sha256_tensors

    return {"sha256": sha256_tensors(AutoModel.from_pretrained(name).state_dict())}


def text(kind: str, **settings: object) -> dict:
    import torch

    from peftbench.backbones import load_text

    backbone = getattr(load_text, kind)(**settings).load()
    anatomy, codec = backbone.anatomy, backbone.codec
    ids = torch.tensor(codec.ids(["a text"], special=True))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        features = anatomy.features(backbone.model, given)
    return {
        "sha256": backbone.sha256,
        "source": backbone.source,
        "family": anatomy.family,
        "parameters": backbone.parameter_count(),
        "positions": codec.positions,
        "pad": codec.pad,
        "end": codec.end,
        "side": codec.tokenizer.padding_side,
        "text": codec.text(codec.ids(["so it is"])[0]),
        "features": list(features.shape),
    }


def adapter(name: str, run: str) -> dict:
    from pathlib import Path

    import torch
    from safetensors.torch import load_file

    import peftbench

    model = peftbench.load(name)
    with torch.no_grad():
        found = model(load_file(Path(run) / "inputs.safetensors")).logits
    return {"same": torch.equal(found, load_file(Path(run) / "wanted.safetensors")["logits"])}


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {"value": globals()[call["do"]](**call["with"])}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
