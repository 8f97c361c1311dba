"""A loaded adapter as a model of EleutherAI's lm-evaluation-harness (extra ``lm_eval``).

Edits are hooks, so the harness works on the live network: learned tokens, gates and caches are what
they are elsewhere. Shape legend: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, IncompatibleError, MissingAssetError, unknown
from ..train.model import Adapted

KEPT = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
PACKAGES = ("lm_eval", "datasets", "transformers", "torch")
BOUND = 1e-3
"""Part of the logits' scale that padding behind a text may change them by."""


def require() -> None:
    """Refuse where the harness is not installed.

    Raises:
        ConfigError: says how to get it.

    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "this needs the package 'lm_eval', which is not installed\n"
            "  pip install 'peftbench[lm_eval]'"
        ) from error


def language_model(model: Adapted, batch: int = 1) -> Any:
    """Return ``lm_eval.models.huggingface.HFLM`` on an adapted network.

    Args:
        model: writes with the network's language-model head.
        batch: texts at a time.

    Raises:
        ConfigError: the harness is not installed; or texts of a batch would change each other.
        IncompatibleError: the network has a classifier head, none of its own, or no tokenizer.

    """
    backbone, base = model.backbone, model.base
    codec = backbone.codec
    if codec is None or codec.layout == "encoder" or model.heads:
        raise IncompatibleError(
            f"adapter on '{backbone.name}': the harness asks language models; this one has "
            f"{'a classifier head' if model.heads else 'no language-model head or no tokenizer'}"
        )
    if batch > 1 and codec.layout == "decoder" and not padding_is_harmless(model):
        raise ConfigError(
            "batch: with this method a text's logits depend on the padding behind it, and the "
            "harness gives no mask: batch=1"
        )
    require()
    from lm_eval.models.huggingface import HFLM

    with _as_it_is(base):
        return HFLM(
            pretrained=base,
            backend="seq2seq" if codec.layout == "seq2seq" else "causal",
            tokenizer=codec.tokenizer,
            max_length=codec.positions,
            batch_size=batch,
        )


@torch.no_grad()
def padding_is_harmless(model: Adapted) -> bool:
    """Return whether a text's logits are the same with other tokens behind it, unmasked."""
    device = next(model.base.parameters()).device
    ids_BT = torch.arange(3, 15, device=device)[None]
    base: Any = model.base
    whole_BTV = base(ids_BT, use_cache=False).logits[:, :8].float()
    alone_BTV = base(ids_BT[:, :8], use_cache=False).logits.float()
    return bool((whole_BTV - alone_BTV).abs().max() <= BOUND * alone_BTV.abs().max())


@contextmanager
def _as_it_is(network: Any) -> Iterator[None]:
    """Keep the harness from tying tensors anew: an edit may stand in the place of one."""
    vars(network)["tie_weights"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del vars(network)["tie_weights"]


def evaluate(
    model: Adapted,
    tasks: Sequence[str],
    include: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch: int = 1,
    chat: bool = False,
) -> dict[str, Any]:
    """Return the harness's figures, with the versions of what computed them.

    Args:
        model: the adapted network.
        tasks: names of the harness's tasks and groups.
        include: folder of further task files (YAML), which may name local data.
        shots: examples before each question; None: as the task says.
        limit: so many questions of each task; None: all.
        batch: texts at a time.
        chat: put questions into the tokenizer's chat template.

    Raises:
        ConfigError: there is no such task.
        MissingAssetError: a task's data cannot be had.

    """
    harness = language_model(model, batch)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if include is not None and not Path(include).is_dir():
        raise ConfigError(f"include: there is no folder {include}")
    manager = TaskManager(include_path=include)
    known = set(manager.all_tasks)
    for name in tasks:
        if name not in known and not manager.match_tasks([name]):
            raise _no_task(name, known)
    try:
        found = simple_evaluate(
            model=harness,
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat,
            log_samples=False,
        )
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:400]
        raise MissingAssetError(
            f"tasks: the harness cannot run {', '.join(tasks)}: {why}"
            "\n  a local copy of the data: a task file with dataset_path and data_files in "
            "include=FOLDER, or the hub's cache with HF_DATASETS_OFFLINE=1"
        ) from error
    assert found is not None
    kept = {key: _plain(found[key]) for key in KEPT if key in found}
    return {**kept, "limit": limit, "packages": {name: version(name) for name in PACKAGES}}


def _plain(value: Any) -> Any:
    """Return figures as JSON has them; None for what is no number."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)


def _no_task(name: str, known: set[str]) -> ConfigError:
    full = str(unknown("task of the harness", name, known, "tasks"))
    return ConfigError(full.split("\n")[0] + "\n  `lm-eval ls tasks` lists them all")
