"""Writes run directories as runs leave them, with given figures, in no time."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BACKBONES = {
    "vit_b16": {
        "_target_": "peftbench.backbones.load_timm.TimmViT",
        "model": "vit_base_patch16_224.augreg_in21k",
        "image_size": 224,
        "weights": None,
        "init": "pretrained",
    },
    "vit_b16_orig": {
        "_target_": "peftbench.backbones.load_timm.TimmViT",
        "model": "vit_base_patch16_224.orig_in21k",
        "image_size": 224,
        "weights": None,
        "init": "pretrained",
    },
    "dinov2_small": {
        "_target_": "peftbench.backbones.load_timm.PackagedDinov2Small",
        "image_size": 42,
        "weights": None,
    },
}
SUITES = {
    "vtab1k": "peftbench.tasks.vtab.VtabTask",
    "fgvc": "peftbench.tasks.fgvc.FgvcTask",
    "pocket_vision": "peftbench.tasks.pocket.PocketVision",
    "cifar100": "peftbench.tasks.cifar.Cifar100",
    "pocket_text": "peftbench.tasks.pocket_text.PocketText",
}


def write_run(
    study,
    method="lora",
    task="digits",
    seed=0,
    value=0.8,
    half=0.02,
    suite="pocket_vision",
    backbone="vit_b16",
    settings=None,
    trainer=None,
    protocol="honest",
    finished=True,
    error=None,
    data=None,
    changed=None,
    trainable=1000,
    head=10,
    train_s=10.0,
    weights="ab" * 32,
    metric="accuracy",
    deviations=(),
    higher=None,
    logged=(),
):
    """Write one run directory and return it."""
    names = {"method": method, "backbone": backbone, "data": task}
    names |= {"trainer": "default", "protocol": protocol, "tracker": "files"}
    honest = {"name": "honest", "final_fit": True, "select": "last"}
    paper = {"name": "paper", "final_fit": False, "select": "best_test"}
    config = {
        "method": {"_target_": f"peftbench.methods.{method}.X", **(settings or {})},
        "backbone": {**BACKBONES[backbone], **(changed or {})},
        "data": {"_target_": SUITES[suite], "task": task, "strict": True, **(data or {})},
        "trainer": {"_target_": "peftbench.train.config.Trainer", "lr": 1e-3, **(trainer or {})},
        "protocol": honest if protocol == "honest" else paper,
        "tracker": {"_target_": "peftbench.runs.settings.Files"},
        "seed": seed,
        "study": Path(study).name,
        "output": str(Path(study).parent),
        "names": names,
    }
    text = json.dumps([config, weights], sort_keys=True)
    identity = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = Path(study) / identity
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if error is not None:
        (folder / "error.json").write_text(json.dumps({"error": error, "time": 0.0}))
    if not finished:
        return folder
    primary = {
        "name": metric,
        "value": value,
        "split": "test",
        "ci95": [value - half, value + half],
    }
    if higher is not None:
        primary["higher_is_better"] = higher
    rule = "last epoch" if protocol == "honest" else "best epoch on test"
    result = {
        "schema_version": 1,
        "run_id": identity,
        "status": "finished",
        **{group: names[group] for group in ("method", "backbone", "data", "protocol")},
        "backbone_source": "a hub",
        "backbone_sha256": weights,
        "task": task,
        "seed": seed,
        "metrics": {"test": {metric: value}},
        "primary": {**primary, "selection": rule},
        "params": {"trainable": trainable, "head": head, "total": 100_000},
        "artefact_bytes": 1,
        "cost": {"train_s": train_s, "step_ms_median": 5.0, "peak_memory_bytes": 2_000_000_000},
        "environment": {"device": "cpu", "dtype": "fp32", "platform": "Linux-x"},
        "data_manifest": {"sha256": "0", **({"deviations": deviations} if deviations else {})},
    }
    (folder / "result.json").write_text(json.dumps(result))
    if logged:
        lines = [
            {"step": step, "epoch": 0, "split": split, "name": name, "value": figure, "seconds": 1}
            for step, split, name, figure in logged
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def script(name):
    """Import a script of the project."""
    path = ROOT / "scripts" / f"{name}.py"
    name = f"script_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
