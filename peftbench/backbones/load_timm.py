"""Vision transformers through timm: hub weights, a local file, packaged weights, or random."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError

from .. import hub
from ..errors import (
    ConfigError,
    CorruptAssetError,
    MissingAssetError,
    PeftbenchError,
    nearest,
)
from ..spec import to_spec
from . import timm_vit
from .backbone import Backbone
from .preprocess import Pixels

HUB_PREFIX = "hf-hub:"


@dataclass(frozen=True)
class TimmViT:
    """A timm vision transformer without its classifier.

    Attributes:
        model: timm name with tag, for example ``vit_base_patch16_224.augreg_in21k``, or
            ``hf-hub:owner/name`` (with ``@revision`` if wanted) for any timm repository of the hub.
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
            CorruptAssetError: they are damaged or do not fit; names the file.

        """
        known(self.model)
        obtainable(self.model, self.weights, self.init)
        model, source = made(self, _plain)
        return finish(self, self.model, model, source, model.patch_embed.img_size[0])


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
            from .packaged_dinov2 import DINOV2_SMALL

            path = DINOV2_SMALL.get() / "model.safetensors"
        spec = TimmViT("vit_small_patch14_dinov2", self.image_size)
        model = create(spec, pretrained=False, check=_plain)
        load_file(model, path, spec.model)
        source = self.weights or "packaged DINOv2-small, saliency-tuned derivative"
        return finish(self, "dinov2_small", model, source, model.patch_embed.img_size[0])


def made(spec: TimmViT, check: Callable[[TimmViT, Any], None] | None = None) -> tuple[Any, str]:
    """Return a network with the weights that the settings ask for, and where they come from.

    Args:
        spec: the settings.
        check: what else the network must be.

    """
    from_file = bool(spec.weights) and spec.init == "pretrained"
    model = create(spec, spec.init == "pretrained" and not from_file, check)
    if from_file:
        load_file(model, _local(str(spec.weights)), spec.model)
    return model, _source(spec, model)


def create(
    spec: TimmViT, pretrained: bool, check: Callable[[TimmViT, Any], None] | None = None
) -> Any:
    """Call timm for a network without a classifier, with the hub's weights or random ones.

    Raises:
        MissingAssetError: the hub's weights cannot be had.
        CorruptAssetError: they are damaged, or do not fit the architecture asked for.
        ConfigError: timm cannot build the architecture asked for.
    """
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if spec.image_size is not None:
        options["img_size"] = spec.image_size
    options.update(spec.arch or {})
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices), hub.quiet():
        torch.manual_seed(spec.seed)
        try:
            model: Any = timm.create_model(spec.model, pretrained=pretrained, **options)
        except Exception as error:  # of the hub's clients, of readers of weights, of timm
            told = _told(spec.model, error, options, pretrained)
            if told is None:
                raise
            raise told from error
    if check is not None:
        check(spec, model)
    return model


def _plain(spec: TimmViT, model: Any) -> None:
    """Refuse what is no plain vision transformer, and give it places for stochastic depth."""
    if not timm_vit.matches(model):
        raise ConfigError(f"backbone.model: '{spec.model}' is no plain vision transformer")
    patch = max(model.patch_embed.patch_size)
    if spec.image_size is not None and spec.image_size < patch:
        raise ConfigError(
            f"backbone.image_size: {spec.image_size} is smaller than a patch of {patch} pixels"
        )
    timm_vit.admit_drop_path(model)


def _told(
    name: str, error: Exception, options: dict[str, Any], pretrained: bool
) -> PeftbenchError | None:
    """Return what to tell the user for an error out of timm, or None where it is a defect."""
    if isinstance(error, hub.client_errors()):
        return _missing(name, hub.reason(error))
    if pretrained and (stored := Place.of(name).weights()) is not None:
        try:
            hub.check_whole(stored, f"backbone.model: the file of {name}")
        except CorruptAssetError as damaged:
            return damaged
    text = " ".join(str(error).split())[:400]
    if isinstance(error, AssertionError | TypeError | ValueError):
        return ConfigError(f"backbone: timm cannot build {name} with {options}: {text}")
    if isinstance(error, KeyError) and name.startswith(HUB_PREFIX):
        return ConfigError(
            f"backbone.model: {name} is no repository of timm: its config.json has no {text}"
        )
    if isinstance(error, RuntimeError) and text.startswith("Unknown model"):
        return ConfigError(f"backbone.model: {name} asks for a network unknown to timm: {text}")
    if isinstance(error, SafetensorError | RuntimeError):
        return CorruptAssetError(f"backbone: the weights of {name} do not fit {options}: {text}")
    return None


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
    try:
        if path.suffix in (".npz", ".npy"):
            model.load_pretrained(str(path))
            return
        model.load_state_dict(_read(model, path), strict=True)
    except Exception as error:  # readers of four formats raise what they like
        reason = " ".join(str(error).split())
        raise CorruptAssetError(
            f"backbone.weights: {path} does not fit {name}: {reason[:400]}"
        ) from error


def _read(model: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file under the network's names, the classifier's left out."""
    from timm.models import load_state_dict

    tensors = load_state_dict(str(path), weights_only=True)
    renamed = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    tensors = tensors if renamed is None else renamed(tensors, model)
    return {k: v for k, v in tensors.items() if not k.startswith(("head.", "head_dist."))}


def known(name: str, family: str = "vit_*") -> None:
    """Refuse a name that neither timm nor the hub can have.

    Args:
        name: of a network.
        family: pattern of the names to propose.

    """
    import timm

    if ":" in name or "/" in name:
        repository = name.removeprefix(HUB_PREFIX).partition("@")[0]
        if not name.startswith(HUB_PREFIX) or not hub.HUB_ID.fullmatch(repository):
            hint = f"{HUB_PREFIX}{repository}" if hub.HUB_ID.fullmatch(repository) else ""
            raise ConfigError(
                f"backbone.model: '{name}' is no name of timm and no repository of the hub."
                + (f" Did you mean '{hint}'?" if hint else "")
                + f"\n  a repository: {HUB_PREFIX}owner/name or {HUB_PREFIX}owner/name@revision;"
                " a local file: backbone.weights=PATH"
            )
        if name.endswith("@"):
            raise ConfigError(f"backbone.model: '{name}' names no revision after '@'")
        return
    if not timm.is_model(name):
        choices = timm.list_models(family) + timm.list_models(family, pretrained=True)
        close = nearest(name, choices)
        raise ConfigError(
            f"backbone.model: timm knows no network '{name}'."
            + (f" Did you mean '{close}'?" if close else "")
            + f"\n  all names: python -c \"import timm; print(timm.list_models('{family}'))\""
        )


def finish(spec: Any, name: str, model: Any, source: str, size: int) -> Backbone:
    """Return the network with its preprocessing for pictures of ``size`` pixels."""
    preprocess = spec.pixels.of(model.pretrained_cfg, size)
    return Backbone(name, model, source, preprocess, to_spec(spec))


def _local(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise MissingAssetError(f"backbone.weights: there is no file {path}")
    return path


@dataclass(frozen=True)
class Place:
    """Where timm finds a network.

    Attributes:
        repository: id on the hub, if it lies there.
        revision: branch, tag or commit; None is the hub's main branch.
        files: names that the weights can have there, the preferred one first.
        url: address elsewhere.

    """

    repository: str | None
    revision: str | None = None
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    url: str | None = None

    @classmethod
    def of(cls, name: str) -> Place:
        """Return the place of the network that timm or the hub calls ``name``."""
        import timm

        if name.startswith(HUB_PREFIX):
            repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
            return cls(repository, revision or None)
        cfg = timm.get_pretrained_cfg(name)
        if cfg is None:
            return cls(None)
        named = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ()
        return cls(cfg.hf_hub_id or None, None, named + cls.files, str(cfg.url or "") or None)

    def weights(self) -> Path | None:
        """Return the weights' file in the hub's local cache, or None."""
        if self.repository is None:
            return None
        found = (hub.cached("model", self.repository, f, self.revision) for f in self.files)
        return next((path for path in found if path is not None), None)


def _source(spec: TimmViT, model: Any) -> str:
    """Say where the loaded weights come from; those of the hub are held to file and network.

    timm leaves tensors that the file lacks at their random values where the classifier differs.
    """
    if spec.init == "random":
        return "random"
    if spec.weights:
        return str(_local(spec.weights))
    place = Place.of(spec.model)
    stored = place.weights()
    if stored is None:
        return str(place.url or place.repository)
    hub.check_whole(stored, f"backbone.model: the file of {spec.model}")
    lacking = sorted(model.state_dict().keys() - _read(model, stored).keys())
    if lacking:
        raise CorruptAssetError(
            f"backbone: the weights of {spec.model} do not fit the network: {stored.name} of "
            f"{place.repository} lacks {', '.join(lacking[:4])}"
            + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
        )
    return f"hub {place.repository}, commit {stored.parent.name[:12]}"


def obtainable(name: str, weights: str | None, init: str) -> None:
    """Fail at once where what is needed is neither here nor within reach."""
    place = Place.of(name)
    if init == "pretrained" and not weights and not (place.repository or place.url):
        raise ConfigError(f"backbone.model: timm knows no weights called '{name}'")
    if weights:
        _local(weights)
    if place.repository is None:
        return
    here = True
    if name.startswith(HUB_PREFIX):
        stored = hub.cached("model", place.repository, "config.json", place.revision)
        here = stored is not None
    if init == "pretrained" and not weights:
        here = here and place.weights() is not None
    if not here and (why := hub.out_of_reach()) is not None:
        raise _missing(name, why)


def _missing(name: str, why: str) -> MissingAssetError:
    place = Place.of(name)
    where = f"hub repository {place.repository}" if place.repository else "the hub"
    if place.revision:
        where += f" at {place.revision}"
    more = "config.json and " if name.startswith(HUB_PREFIX) else ""
    return MissingAssetError(
        f"weights of {name} cannot be loaded.\n"
        f"  wanted: {more}{place.files[0]} from {where}\n"
        f"  why not: {why}\n"
        f"  a local file instead: backbone.weights=PATH (safetensors, .bin or .npz as timm reads "
        f"it); without pretrained weights: backbone.init=random"
    )
