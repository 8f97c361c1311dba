"""Combinations that have no meaning are refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.backbones.load_hf import TinyLlama
from peftbench.backbones.load_timm import TimmViT
from peftbench.errors import IncompatibleError
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.runs.execute import check_pair
from peftbench.runs.settings import Files, Protocol, Settings
from peftbench.tasks.pocket import PocketVision
from peftbench.train.config import Trainer


def settings(method: object, backbone: object) -> Settings:
    data = PocketVision("digits")
    return Settings(method, backbone, data, Trainer(), Protocol(), Files(), 0, "s", "o")


def test_text_networks_do_not_read_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyLlama, "load", lambda self: pytest.fail("weights were read"))
    with pytest.raises(IncompatibleError, match="reads text, and data=digits is image"):
        check_pair(settings(Lora(), TinyLlama()))


def test_a_method_without_meaning_is_refused_with_the_reason(tmp_path: Path) -> None:
    class Text(PocketVision):
        takes = "text"

    made = settings(Gist(), TinyLlama())
    object.__setattr__(made, "data", Text("digits"))
    with pytest.raises(IncompatibleError, match="no class token"):
        check_pair(made)


def test_what_goes_together_passes() -> None:
    check_pair(settings(Gist(), TimmViT("vit_tiny_patch16_224", init="random")))
