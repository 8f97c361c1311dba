"""What one row of the table runs: forward only, the floor, our methods, and a peer's.

Shape legend: B batch, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..backbones import Anatomy, Backbone
from ..edits import Delta, Edit, TensorRef
from ..edits.sites import Handles, cast
from ..errors import ConfigError, IncompatibleError, MissingAssetError, unknown
from ..methods import Method, Output, Passes
from ..spec import TARGET, build
from ..train.model import Adapted, new_head
from .subjects import Pair, Subject, twin

FORWARD, FLOOR = "forward", "floor"


class AddedVector(Edit):
    """A trainable vector, zero at the start, added to a tensor on its way: no matrix product."""

    def __init__(self, name: str, place: TensorRef, width: int) -> None:
        super().__init__(name)
        self.place = place
        self.vector = nn.Parameter(torch.zeros(width))

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the tensor."""
        handles.add(self.place.edit(lambda x: x + cast(self.vector, x)))


def bottom(anatomy: Anatomy) -> TensorRef:
    """Return the place right after the embedding of the first stack."""
    sequence = anatomy.stacks[0].sequence
    if sequence.embed is not None:
        return TensorRef(sequence.embed.table, "output")
    return sequence.enter


@dataclass(frozen=True)
class Floor(Method):
    """The least that training below the first block costs: one vector behind the embedding."""

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One vector."""
        return [AddedVector("bottom", bottom(anatomy), anatomy.width)]


class Peer(nn.Module):
    """Hugging Face PEFT's method on a network, called as :class:`Adapted` calls its own.

    The network is called without PEFT's outer wrapper, which is the faster way to use it.
    """

    def __init__(self, backbone: Backbone, pair: Pair, classes: int | None) -> None:
        super().__init__()
        from peft import IA3Config, LoraConfig, get_peft_model

        rank, alpha = pair.method.get("rank", 0), pair.method.get("alpha", 0)
        config: Any
        if pair.kind == "lora":
            config = LoraConfig(r=rank, lora_alpha=int(alpha), target_modules=pair.targets)
        else:
            config = IA3Config(target_modules=pair.targets, feedforward_modules=pair.feedforward)
        self.anatomy = backbone.anatomy
        self.base = get_peft_model(backbone.model, config).base_model.model  # type: ignore[arg-type]
        self.head: nn.Linear | None = None
        if classes is not None:
            self.head = new_head(self.anatomy.width, classes, torch.Generator().manual_seed(0))

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """Return logits."""
        if self.head is None:
            assert self.anatomy.logits is not None
            return Output(self.anatomy.logits(self.base, inputs))
        features_BD = self.anatomy.features(self.base, inputs)
        return Output(self.head(features_BD.to(self.head.weight.dtype)))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return every tensor that trains, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}


@dataclass
class Row:
    """One line of the table, ready to run.

    Attributes:
        name: of the line.
        model: the network; ``model(inputs)`` gives an :class:`Output`.
        trains: False for the forward pass alone.
        peer: name of the row it is compared with.

    """

    name: str
    model: Adapted | Peer
    trains: bool = True
    peer: str | None = None
    optimizer: torch.optim.Optimizer | None = field(default=None, repr=False)

    def prepare(self, subject: Subject) -> None:
        """Let the method look at the subject's batch, where it wants to."""
        if not isinstance(self.model, Peer):
            weight = next(self.model.base.parameters())
            inputs, labels = subject.inputs(weight.device, weight.dtype)
            context = subject.context(weight.device)

            def run(batch: int, part: int) -> None:
                low = weight.dtype if weight.dtype != torch.float32 else None
                with torch.autocast(weight.device.type, low, enabled=low is not None):
                    loss = self.losses(inputs, labels, context)
                loss.backward()

            self.model.prepare(Passes(run))

    def losses(
        self,
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        context: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the mean loss of a batch, terms of the method added up."""
        ours = not isinstance(self.model, Peer)
        output = self.model(inputs, context) if ours and context else self.model(inputs)

        def criterion(logits: Tensor) -> Tensor:
            flat = logits.flatten(0, -2).float()
            return nn.functional.cross_entropy(flat, labels.flatten(), reduction="none")

        if isinstance(self.model, Peer):
            return criterion(output.logits).mean()
        terms = self.model.method.losses(output, criterion)
        return torch.stack([t.mean() for t in terms.values()]).sum()


def read_methods(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of every method in a folder of YAML files, by name.

    A Hydra default list is followed (``/method@inner: lora``, ``/tuner@tuners.attn: p_adapter``);
    what a file says itself comes on top.

    Raises:
        ConfigError: there is no method in the folder.

    """
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise ConfigError(f"--configs: there is no method in {folder}")
    return {name: _resolved(folder / f"{name}.yaml") for name in found}


def _resolved(path: Path) -> dict[str, Any]:
    own = dict(yaml.safe_load(path.read_text()))
    settings: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        if isinstance(default, str) and default != "_self_":
            _put(settings, _resolved(path.with_name(f"{default}.yaml")))
        elif isinstance(default, Mapping):
            for place, value in default.items():
                group, _, package = str(place).removeprefix("override ").partition("@")
                root = path.parents[1] if group.startswith("/") else path.parent
                part: dict[str, Any] = _resolved(root / group.lstrip("/") / f"{value}.yaml")
                for key in reversed((package or group).split(".")):
                    part = {key: part}
                _put(settings, part)
    _put(settings, own)
    return settings


def _put(settings: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict):
            _put(settings[key], value)
        else:
            settings[key] = value


def chosen(methods: Mapping[str, Any], names: list[str] | None) -> dict[str, Any]:
    """Return the methods that are asked for, all without names; ConfigError on a wrong name."""
    for name in names or ():
        if name not in methods:
            raise unknown("method", name, methods, "--methods")
    return {n: m for n, m in methods.items() if names is None or n in names}


def make_rows(
    subject: Subject, backbone: Backbone, methods: Mapping[str, Any], peers: bool
) -> Iterator[Row | str]:
    """Yield the rows of one table; a text says why a method is left out.

    Rows that are compared with each other stand side by side.
    """
    device = next(backbone.model.parameters()).device

    def adapt(name: str, method: Method, **options: Any) -> Row:
        network = twin(backbone.model)
        model = Adapted(Backbone(backbone.name, network, backbone.source), method, subject.classes)
        if any(edit.gathered() for edit in model.delta):  # it writes into its network
            model.release()
            network = copy.deepcopy(backbone.model)
            own = Backbone(backbone.name, network, backbone.source)
            model = Adapted(own, method, subject.classes)
        row = Row(name, model.to(device).train(), **options)
        row.prepare(subject)
        return row

    yield adapt(FORWARD, Floor(), trains=False)
    yield adapt(FLOOR, Floor())
    for pair in subject.pairs:
        kind = str(pair.method[TARGET]).rpartition(".")[2].lower()
        if not any(str(m[TARGET]).lower().endswith(kind) for m in methods.values()):
            continue
        peer = f"peft {pair.name}" if peers else None
        yield adapt(f"ours {pair.name}", build(pair.method), peer=peer)
        if peer:
            own = Backbone(backbone.name, twin(backbone.model), backbone.source)
            yield Row(peer, Peer(own, pair, subject.classes).to(device).train())
    for contrast in subject.contrasts:
        yield adapt(contrast.other, build(contrast.reference))
        yield adapt(contrast.name, build(contrast.method), peer=contrast.other)
    for name, settings in methods.items():
        method = build(settings)
        try:
            yield adapt(name, method)
        except (IncompatibleError, MissingAssetError) as error:
            yield f"{name}: {error}"
