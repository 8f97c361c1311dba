"""Does an exported network compute what the adapted one computes? Sample inputs and differences.

Shape legend: B batch, T tokens, C classes or vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..backbones.backbone import Backbone
from ..errors import ExportError
from ..train.model import MAIN, Adapted

FINE, COARSE = 1e-5, 1e-2
FIRST_ID = 5  # below stand padding and other marks in the vocabularies of all families


@dataclass(frozen=True)
class Difference:
    """How two sets of logits of the same inputs differ.

    Attributes:
        max_abs: largest absolute difference.
        scale: largest absolute logit of the reference.
        argmax_agreement: part of the rows with the same largest logit, 0..1.
        rows: number of rows compared.

    """

    max_abs: float
    scale: float
    argmax_agreement: float
    rows: int

    @property
    def relative(self) -> float:
        """The largest difference in parts of the scale."""
        return self.max_abs / self.scale if self.scale > 0 else self.max_abs

    def __str__(self) -> str:
        return (
            f"max |difference| {self.max_abs:.2e} on logits up to {self.scale:.3g} "
            f"({self.relative:.1e} relative), same argmax in {self.argmax_agreement:.2%} of "
            f"{self.rows} rows"
        )

    def require(self, bound: float, what: str, hint: str = "") -> None:
        """Refuse a difference above ``bound`` (relative) or one that is not a number.

        Raises:
            ExportError: with the figures.

        """
        if not self.relative <= bound:
            raise ExportError(
                f"{what} computes something else than the adapter: {self}; "
                f"bound: {bound:.0e} relative" + (f" ({hint})" if hint else "")
            )


def compare(found: Tensor, reference: Tensor) -> Difference:
    """Compare logits (..., C)."""
    a, b = found.detach().double(), reference.detach().double()
    agree = (a.argmax(-1) == b.argmax(-1)).double()
    return Difference(
        (a - b).abs().max().item(), b.abs().max().item(), agree.mean().item(), agree.numel()
    )


def bound_for(network: nn.Module) -> float:
    """Return the relative difference that rounding explains in the network's number format."""
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return FINE if kinds <= {torch.float32, torch.float64} else COARSE


def refuse_captioner(backbone: Backbone) -> None:
    """Refuse a network that is two, with a trained map between them.

    Raises:
        ExportError: it is a captioner.

    """
    if backbone.anatomy.connect is not None:
        raise ExportError(
            f"{backbone.name} is a vision encoder, a trained map and a decoder, which neither "
            "timm, transformers nor peft holds as one network; peftbench.load(RUN) opens the run, "
            "and `python -m peftbench.predict adapter=RUN input=PICTURE` writes captions"
        )


def sample_inputs(model: Adapted, count: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Return random inputs of the kind the network takes, on its device.

    Images are normal noise, texts random ids of which the first has padding at its end.

    Raises:
        ExportError: the network is a captioner.

    """
    refuse_captioner(model.backbone)
    generator = torch.Generator().manual_seed(seed)
    network: Any = model.base
    like = next(network.parameters())
    if model.backbone.anatomy.patch_numbers is not None:
        height, width = network.patch_embed.img_size
        image = torch.randn(count, 3, height, width, generator=generator)
        return {"image": image.to(like.device, like.dtype)}
    vocabulary, length = network.config.vocab_size, 12

    def ids(tokens: int) -> Tensor:
        drawn = torch.randint(FIRST_ID, vocabulary, (count, tokens), generator=generator)
        return drawn.to(like.device)

    mask_BT = torch.ones(count, length, dtype=torch.int64, device=like.device)
    mask_BT[0, -3:] = 0
    inputs = {"input_ids": ids(length), "attention_mask": mask_BT}
    if network.config.is_encoder_decoder and MAIN not in model.heads:
        inputs["decoder_input_ids"] = ids(length // 2)
    return inputs


def adapted_logits(model: Adapted, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of the adapted network in eval mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(inputs).logits
    finally:
        model.train(training)


def plain_logits(
    anatomy: Anatomy, network: nn.Module, head: nn.Module | None, inputs: Mapping[str, Tensor]
) -> Tensor:
    """Return logits of a network of the same family that stands alone, in eval mode.

    Args:
        anatomy: of the network that was adapted; only its functions are used.
        network: the other network.
        head: what reads the pooled features; None uses the language-model head.
        inputs: as for the adapted network.

    """
    network.eval()
    with torch.no_grad():
        if head is None:
            assert anatomy.logits is not None
            return anatomy.logits(network, inputs)
        features_BD = anatomy.features(network, inputs)
        return head(features_BD.to(next(head.parameters()).dtype))
