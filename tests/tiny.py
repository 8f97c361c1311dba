"""Tiny random networks, methods by configuration name, and inputs, for every test of the core.

Networks are built once per process; a test takes them through :func:`adapted`, which gives them
back as they were, also when the test fails.
"""

import os
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml

import peftbench
from peftbench.files import sha256_tensors
from peftbench.methods import Passes
from peftbench.spec import build
from peftbench.train.artefact import save_adapter

ROOT = Path(__file__).parents[1]
CLASSES = 3
BATCH, LENGTH, VOCABULARY = 4, 9, 64

# use -> (backbone, size of a classifier head; None is the network's own language-model head)
USES = {
    "vit": ("vit_tiny_random", CLASSES),
    "bert": ("bert_tiny_random", CLASSES),
    "roberta": ("roberta_tiny_random", CLASSES),
    "t5": ("t5_tiny_random", None),
    "t5_classifier": ("t5_tiny_random", CLASSES),
    "llama": ("llama_tiny_random", None),
    "llama_classifier": ("llama_tiny_random", CLASSES),
    "captioner": ("captioner_tiny_random", None),
}
PLACES = 16  # of a picture in the tiny captioner


def config_folders(group):
    """Return the folders that hold configurations of a group: the project's and added ones."""
    added = [Path(p) for p in os.environ.get("PEFTBENCH_PATH", "").split(os.pathsep) if p]
    return [root / "configs" / group for root in (ROOT, *added)]


def config_names(group):
    """Return every configuration of a group by name."""
    return sorted({p.stem for folder in config_folders(group) for p in folder.glob("*.yaml")})


def config(group, name):
    """Return a configuration as a plain mapping, with its defaults list followed.

    Sources of a transfer are left out; :func:`method` puts small ones there.
    """
    for folder in config_folders(group):
        path = folder / f"{name}.yaml"
        if path.is_file():
            break
    else:
        raise FileNotFoundError(f"{group}/{name}")
    plain = yaml.safe_load(path.read_text())
    merged = {}
    for entry in plain.pop("defaults", []):
        if entry == "_self_":
            continue
        if isinstance(entry, str):  # another file, in the same place
            other, _, _ = entry.lstrip("/").partition("@")
            *folder, entry = other.split("/")
            merged = _over(merged, config("/".join(folder) or group, entry))
            continue
        ((target, choice),) = entry.items()
        other, _, package = target.lstrip("/").partition("@")
        if not package:  # a group within this one
            merged[other] = config(f"{group}/{other}", choice)
            continue
        *outer, last = package.split(".")
        place = merged
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = config(other, "none" if other == "sources" else choice)
    return _over(merged, plain)


def _over(below, above):
    """Return a mapping with the values of another one over it, at every depth."""
    both = [k for k in below if isinstance(below[k], dict) and isinstance(above.get(k), dict)]
    return {**below, **above, **{k: _over(below[k], above[k]) for k in both}}


METHODS = config_names("method")


DESCRIPTION = (9, 4, 30, 1)  # ids of what every task is described by
SOURCES = {"first": (5, 12, 1), "second": (7, 33, 8, 21, 1), "third": (40, 6, 1)}
TAKES = {"spot": 1}  # sources, where not two


def method(name, **changes):
    """Build a method from its configuration, with fields changed, and bind it to a task.

    A method that learns from sources gets some; :func:`staged` trains them.
    """
    settings = {**config("method", name), **changes}
    sources = settings.get("sources")
    if sources is not None and not sources["tasks"]:
        settings["sources"] = {
            **sources,
            "tasks": dict.fromkeys(list(SOURCES)[: TAKES.get(name, 2)]),
        }
    return build(settings, "method").on_task(DESCRIPTION)


STAGED = {}
FOLDER = tempfile.TemporaryDirectory()


def staged(made, use, network=None):
    """Return a method with adapters of its stages: random ones, stored as a run stores them."""
    stages = made.stages()
    if not stages or getattr(made, "library", None):
        return made
    name, classes = USES[use]
    network = network if network is not None else backbone(name)
    found = {}
    for stage in stages:
        key = (use, network.sha256, stage.name, repr(stage.method))
        if key not in STAGED:
            STAGED[key] = Path(FOLDER.name) / str(len(STAGED))
            trained = stage.method.on_task(SOURCES.get(stage.name, DESCRIPTION))
            seed = len(stage.name) + ord(stage.name[0])  # whatever was trained before
            model = peftbench.attach(trained, network, classes=classes, seed=seed)
            perturb(model, size=0.3, seed=seed)
            labels = [str(i) for i in range(classes)] if classes else None
            save_adapter(STAGED[key] / "adapter", model, network.sha256, labels, stage.name)
            model.release()
        found[stage.name] = STAGED[key]
    return made.staged(found)


@cache
def backbone(name):
    """Return a network, built once."""
    return build(config("backbone", name), "backbone").load()


def fresh(name):
    """Return a new copy of a network."""
    return build(config("backbone", name), "backbone").load()


def inputs(use, batch=BATCH, seed=0, length=LENGTH):
    """Return random inputs of a use; text is padded at the end, by a different amount each."""
    g = torch.Generator().manual_seed(seed)
    if use == "vit":
        return {"image": torch.randn(batch, 3, 32, 32, generator=g)}
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=g)
    if use == "captioner":
        places = torch.full((batch, PLACES), -1)
        image = torch.randn(batch, 3, 32, 32, generator=g)
        return {"input_ids": torch.cat([ids[:, :1], places, ids[:, 1:]], 1), "image": image}
    mask = torch.ones(batch, length, dtype=torch.long)
    for i in range(batch):
        mask[i, length - i % 3 :] = 0
    ids = ids.masked_fill(mask == 0, 1)  # RoBERTa takes positions from its padding id
    found = {"input_ids": ids, "attention_mask": mask}
    if use == "t5":
        found["decoder_input_ids"] = torch.randint(3, VOCABULARY, (batch, 5), generator=g)
    return found


def labels(use, given, seed=1):
    """Return labels: classes, or next tokens for a language-model head."""
    g = torch.Generator().manual_seed(seed)
    if USES[use][1] is not None:
        return torch.randint(0, CLASSES, (len(next(iter(given.values()))),), generator=g)
    ids = given["decoder_input_ids"] if use == "t5" else given["input_ids"]
    return torch.randint(0, VOCABULARY, ids.shape, generator=g)


def loss(model, output, target):
    """Return the method's summed loss terms, averaged over the batch."""

    def criterion(logits):
        if target.dim() == 1:
            return F.cross_entropy(logits.float(), target, reduction="none")
        flat = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        return flat.view(target.shape).mean(1)

    return torch.stack([t.mean() for t in model.method.losses(output, criterion).values()]).sum()


@contextmanager
def adapted(made, use, seed=0, base=None, prepared=True):
    """Attach a method to the network of a use for the length of a block.

    Methods that look at data first have seen a batch, unless ``prepared`` is off.
    """
    name, classes = USES[use]
    network = base if base is not None else backbone(name)
    model = peftbench.attach(staged(made, use, network), network, classes=classes, seed=seed)
    try:
        if prepared:
            prepare(model, use)
        yield model
    finally:
        model.release()


def prepare(model, use, seed=0):
    """Let a method choose by the gradients of one batch."""
    given = inputs(use, seed=seed)
    target = labels(use, given)
    model.train().prepare(Passes(lambda *_: loss(model, model(given), target).backward()))


def step_gradients(model, use, given, target):
    """Run one forward and backward pass; return the loss and copies of all gradients."""
    for p in model.trainable().values():
        p.grad = None
    value = loss(model, model(given), target)
    value.backward()
    return value.detach(), {n: p.grad.clone() for n, p in model.trainable().items()}


def train(model, use, steps=3, lr=1e-2):
    """Train some AdamW steps on random data."""
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=lr)
    model.train()
    for step in range(steps):
        given = inputs(use, seed=step)
        optimizer.zero_grad()
        loss(model, model(given), labels(use, given, seed=step)).backward()
        optimizer.step()
        model.delta.sync()


def perturb(model, size=0.02, seed=5):
    """Move every trainable tensor away from its start, so that no edit is without effect."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(size * torch.randn(p.shape, generator=g))
    model.delta.sync()


def traces(network):
    """Return what an attached edit may have left: hooks, instance forwards, gradients, flags."""
    left = []
    for name, module in network.named_modules():
        hooks = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        if any(hooks):
            left.append(f"hook on '{name}'")
        if "forward" in vars(module):
            left.append(f"forward of '{name}'")
    for name, p in network.named_parameters():
        if p.requires_grad or p.grad is not None or p._post_accumulate_grad_hooks:
            left.append(f"parameter '{name}'")
    return left


def weights_hash(network):
    """Return the hash over all weights of a network."""
    return sha256_tensors(network.state_dict())
