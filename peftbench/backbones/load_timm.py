"""Vision transformers through timm: hub weights, a local file, packaged weights, or random."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from ..errors import ConfigError, CorruptAssetError, MissingAssetError, nearest
from ..spec import to_spec
from . import timm_vit
from .backbone import Backbone
from .preprocess import Pixels

REACH_SECONDS = 10.0


@dataclass(frozen=True)
class TimmViT:
    """A timm vision transformer without its classifier.

    Attributes:
        model: timm name with tag, for example ``vit_base_patch16_224.augreg_in21k``.
        image_size: side in pixels; position embeddings are resampled to it. None: the weights' own.
        pixels: resizing and normalisation.
        weights: local file in place of the hub's.
        init: ``pretrained``, or ``random`` for tests and cost measurements.
        arch: overrides of the architecture, for tests (depth, embed_dim, ...).
        seed: of the random weights.

    """

    family: ClassVar[str] = "vit"
    takes: ClassVar[str] = "image"

    model: str
    image_size: int | None = None
    pixels: Pixels = field(default_factory=Pixels)
    weights: str | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    arch: dict[str, Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.image_size)
        if self.weights and self.init == "random":
            raise ConfigError(
                "backbone.weights: a file is given, and backbone.init=random would leave it "
                "unread; use backbone.init=pretrained with it"
            )

    def load(self) -> Backbone:
        """Load the network.

        Raises:
            MissingAssetError: the weights cannot be had; says which file, from where, and how to
                give a local one.

        """
        _known(self.model)
        source = _weight_source(self.model, self.weights, self.init)
        from_file = bool(self.weights) and self.init == "pretrained"
        model = create(self, pretrained=self.init == "pretrained" and not from_file)
        if from_file:
            load_file(model, _local(str(self.weights)), self.model)
        return _finish(self, self.model, model, source)


@dataclass(frozen=True)
class PackagedDinov2Small:
    """DINOv2-small from a package: a derivative tuned for saliency, not the published checkpoint.

    Attributes:
        image_size: side in pixels, a multiple of 14.
        pixels: resizing and normalisation.
        weights: a local safetensors file in timm's names in place of the package.

    """

    family: ClassVar[str] = "vit"
    takes: ClassVar[str] = "image"

    image_size: int = 42
    pixels: Pixels = field(default_factory=Pixels)
    weights: str | None = None

    def __post_init__(self) -> None:
        _check(self.image_size)

    def load(self) -> Backbone:
        """Load the network, fetching and converting the package on first use."""
        if self.image_size % 14:
            raise ConfigError(
                f"backbone.image_size: {self.image_size} is not a multiple of the patch size 14; "
                f"nearest: {max(14, round(self.image_size / 14) * 14)}"
            )
        if self.weights:
            path = _local(self.weights)
        else:
            from .packaged import dinov2_small

            path = dinov2_small() / "model.safetensors"
        spec = TimmViT("vit_small_patch14_dinov2", self.image_size)
        model = create(spec, pretrained=False)
        load_file(model, path, spec.model)
        source = self.weights or "packaged DINOv2-small, saliency-tuned derivative"
        return _finish(self, "dinov2_small", model, source)


def create(spec: TimmViT, pretrained: bool) -> Any:
    """Call timm for a network without a classifier, with the hub's weights or random ones.

    Raises:
        MissingAssetError: the hub's weights cannot be had.
        ConfigError: timm cannot build the architecture asked for.
    """
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if spec.image_size is not None:
        options["img_size"] = spec.image_size
    options.update(spec.arch or {})
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(spec.seed)
        try:
            model: Any = timm.create_model(spec.model, pretrained=pretrained, **options)
        except OSError as error:
            raise _missing(spec.model, str(error)) from error
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(
                f"backbone: timm cannot build {spec.model} with {options}: {error}"
            ) from error
    if not timm_vit.matches(model):
        raise ConfigError(f"backbone.model: '{spec.model}' is no plain vision transformer")
    patch = max(model.patch_embed.patch_size)
    if spec.image_size is not None and spec.image_size < patch:
        raise ConfigError(
            f"backbone.image_size: {spec.image_size} is smaller than a patch of {patch} pixels"
        )
    timm_vit.admit_drop_path(model)
    return model


def _check(image_size: int | None) -> None:
    """Refuse sizes that mean nothing."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"backbone.image_size: {image_size} must be at least 1")


def load_file(model: Any, path: Path, name: str) -> None:
    """Load a local file strictly: every tensor but the classifier's must be there and fit.

    Args:
        model: without a classifier; its position embedding is filled by resampling.
        path: safetensors, a PyTorch file (weights only), or JAX's .npz.
        name: timm name, for messages.

    Raises:
        CorruptAssetError: the file cannot be read or does not fit.
    """
    from timm.models import load_state_dict
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        if path.suffix in (".npz", ".npy"):
            model.load_pretrained(str(path))
            return
        tensors = checkpoint_filter_fn(load_state_dict(str(path), weights_only=True), model)
        kept = {k: v for k, v in tensors.items() if not k.startswith(("head.", "head_dist."))}
        model.load_state_dict(kept, strict=True)
    except Exception as error:  # readers of four formats raise what they like
        reason = " ".join(str(error).split())
        raise CorruptAssetError(
            f"backbone.weights: {path} does not fit {name}: {reason[:400]}"
        ) from error


def _known(name: str) -> None:
    import timm

    if not timm.is_model(name):
        choices = timm.list_models("vit_*") + timm.list_models("vit_*", pretrained=True)
        close = nearest(name, choices)
        raise ConfigError(
            f"backbone.model: timm knows no network '{name}'."
            + (f" Did you mean '{close}'?" if close else "")
            + "\n  all names: python -c \"import timm; print(timm.list_models('vit_*'))\""
        )


def _finish(spec: Any, name: str, model: Any, source: str) -> Backbone:
    preprocess = spec.pixels.of(model.pretrained_cfg, model.patch_embed.img_size[0])
    return Backbone(name, model, source, preprocess, to_spec(spec))


def _local(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise MissingAssetError(f"backbone.weights: there is no file {path}")
    return path


def _weight_source(name: str, weights: str | None, init: str) -> str:
    """Say where weights come from; fail at once when they cannot be had."""
    import timm

    if init == "random":
        return "random"
    if weights:
        return str(_local(weights))
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise ConfigError(f"backbone.model: timm knows no weights called '{name}'")
    hub_id = cfg.hf_hub_id
    if not hub_id:
        return str(cfg.url)
    if _in_cache(hub_id):
        return f"hub {hub_id} (cached)"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise _missing(name, "HF_HUB_OFFLINE is set and the file is not in the local cache")
    _reach(name)
    return f"hub {hub_id}"


def _in_cache(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(hub_id, f), str) for f in files)


def _reach(name: str) -> None:
    """Ask the hub once, with a short limit, before a client that retries for minutes does."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answered; the client will say the rest
    except OSError as error:
        raise _missing(name, f"{constants.ENDPOINT} cannot be reached ({error})") from error


def _missing(name: str, why: str) -> MissingAssetError:
    import timm

    cfg = timm.get_pretrained_cfg(name)
    hub = f"hub repository {cfg.hf_hub_id}" if cfg and cfg.hf_hub_id else "the hub"
    return MissingAssetError(
        f"weights of {name} cannot be loaded.\n"
        f"  wanted: model.safetensors from {hub}\n"
        f"  why not: {why}\n"
        f"  a local file instead: backbone.weights=PATH (safetensors, .bin or .npz as timm reads "
        f"it); without pretrained weights: backbone.init=random"
    )
