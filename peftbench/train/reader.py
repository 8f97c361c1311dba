"""A trained adapter of a text task that is asked again: classes, values or answers in words.

Shape legend: B samples of a batch, N samples, C classes, G tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArtefactError, ConfigError
from ..tasks.bind import encoder
from ..tasks.encoded import Encoded
from ..tasks.wording import TextUse
from .artefact import describe, load_adapter, text_use
from .model import Adapted

Samples = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Writing:
    """How an answer is chosen.

    Attributes:
        longest: tokens of an answer; None: as many as in training.
        sample: draw tokens; else the most probable ones are taken.
        temperature: of the draw.
        top_p: only the likeliest tokens that have this mass together are drawn.
        seed: of the draw.
        beams: answers that are followed at once; not with ``sample``.

    """

    longest: int | None = None
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 1

    def __post_init__(self) -> None:
        for name, least in (("longest", 1), ("beams", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: {value} is too small; allowed: {least} and above")
        if not self.temperature > 0:
            raise ConfigError(f"temperature: {self.temperature} is too small; above 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: expected above 0 and at most 1, got {self.top_p}")
        drawn = [n for n in ("temperature", "top_p", "seed") if getattr(self, n) != _DEFAULT[n]]
        if drawn and not self.sample:
            raise ConfigError(f"{drawn[0]}: tokens are drawn with sample=true only")
        if self.beams > 1 and self.sample:
            raise ConfigError("beams: not together with sample=true")

    def settings(self) -> dict[str, Any]:
        """Return it in the words of transformers."""
        if self.sample:
            return {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": 0,
            }
        return {"num_beams": self.beams}


_DEFAULT: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0, "seed": 0}


class Reader:
    """An adapted network with what it knows of its task.

    Args:
        model: in eval mode.
        use: how it is asked.
        batch: samples at a time.

    """

    def __init__(self, model: Adapted, use: TextUse, batch: int = 16) -> None:
        if model.backbone.codec is None:
            raise ArtefactError(
                f"'{model.backbone.name}' was given by a program without its tokenizer: give a "
                "Backbone with a codec"
            )
        self.model, self.use, self.batch = model.eval(), use, batch
        self.codec = model.backbone.codec
        self._encode = encoder(use, use.form, model.backbone)

    @staticmethod
    def load(path: str | Path) -> Reader:
        """Load base and adapter of a run or adapter folder.

        Raises:
            ArtefactError: there is no adapter, or it does not say how it is asked.

        """
        folder, description = describe(path)
        use = text_use(folder, description)
        return Reader(load_adapter(folder), use)

    @property
    def writes(self) -> bool:
        """Whether answers are written; else classes or values come from a head."""
        return self.use.form == "text_to_text"

    @torch.inference_mode()
    def scores(self, samples: Samples) -> Tensor:
        """Return what the head gives: probabilities (N, C), or values (N, 1); fp32, on the CPU.

        Args:
            samples: fields and values per sample, as ``use.wording`` names them.

        Raises:
            ConfigError: a field is missing, or the adapter writes its answers.

        """
        if self.writes:
            raise ConfigError("this adapter writes its answers and has no head: write()")
        found = []
        for encoded, rows in self._batches(samples):
            inputs = self._here(encoded.take(rows)[0])
            scores_BC = self.model.method.scores(self.model(inputs)).float().cpu()
            found.append(scores_BC if self.use.kind == "regression" else scores_BC.softmax(-1))
        return torch.cat(found) if found else torch.zeros(0, max(1, len(self.use.labels)))

    def write(self, samples: Samples, how: Writing | None = None) -> list[str]:
        """Return the answer to every sample.

        Args:
            samples: fields and values per sample, as ``use.wording`` names them.
            how: greedy by default.

        Raises:
            ConfigError: a field is missing, or the adapter has a head and does not write.

        """
        if not self.writes:
            raise ConfigError("this adapter has a classifier head and does not write: scores()")
        how = how or Writing()
        longest = how.longest or self.use.longest_target
        answers = []
        device = next(self.model.base.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(how.seed)
            for encoded, rows in self._batches(samples):
                prompts = self._here(encoded.prompts(rows))
                ids_BG = self.model.write(
                    prompts, self.codec.end, self.codec.pad, longest, **how.settings()
                )
                answers += [self.codec.answer(row) for row in ids_BG.tolist()]
        return answers

    def _batches(self, samples: Samples) -> Iterator[tuple[Encoded, Tensor]]:
        encoded = self._encode(self.use.passages(samples))
        for rows in torch.arange(len(samples)).split(self.batch):
            if len(rows):
                yield encoded, rows

    def _here(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = next(self.model.base.parameters()).device
        return {name: tensor.to(device) for name, tensor in inputs.items()}
