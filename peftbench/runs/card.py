"""The model card of a published adapter, written from ``result.json`` and ``config.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..hub import HUB_ID
from .table import deviations_of, figure, interval_of, with_unit

TIMM_PREFIX, TIMM_OWNER = "hf-hub:", "timm"


def card(
    name: str,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    licence: str | None,
) -> str:
    """Return the text of ``README.md``: front matter for the hub, then a page for a person.

    Args:
        name: of the repository (``owner/name``) or folder.
        result: content of the run's ``result.json``.
        config: content of its ``config.yaml``.
        description: content of ``adapter.json``.
        licence: of the adapter, as the hub names licences; None: not stated.

    """
    parts = (
        f"---\n{front_matter(name, result, description, licence)}\n---",
        f"# {result['method']} on {result['backbone']}, {result['data']}",
        _about(result, description),
        "## Figures\n\n" + _figures(result),
        "## Cost\n\n" + _cost(result),
        "## Use\n\n" + _use(name, description),
        "## Settings\n\n" + _settings(config),
        "## Licence\n\n" + _licence(result, licence),
    )
    return "\n\n".join(parts) + "\n"


def base_model(description: Mapping[str, Any]) -> str | None:
    """Return the hub's name of the frozen network, None if it is not from the hub."""
    source = str(description["backbone"]["source"])
    if found := re.match(r"hub (\S+?),", source):
        return found[1]
    if source == "random":
        return None
    spec = description["backbone"]["spec"] or {}
    model = str(spec.get("model", ""))
    if model.startswith(TIMM_PREFIX):
        return model.removeprefix(TIMM_PREFIX)
    if "weights" in spec and model and "/" not in model:
        return f"{TIMM_OWNER}/{model}"
    return model if HUB_ID.fullmatch(model) else None


def pipeline(description: Mapping[str, Any]) -> str:
    """Return the hub's word for what the adapter does."""
    if "text" not in description:
        return "image-classification"
    return "text-classification" if description["labels"] is not None else "text-generation"


def front_matter(
    name: str, result: Mapping[str, Any], description: Mapping[str, Any], licence: str | None
) -> str:
    """Return the card's metadata as YAML, in the hub's own form."""
    from huggingface_hub import EvalResult, ModelCardData

    task = pipeline(description)
    source = result["data_manifest"].get("source")
    dataset = source.get("hub") if isinstance(source, Mapping) else None
    title = result["data_manifest"].get("title") or result["task"]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or str(result["task"]),
            dataset_name=str(title),
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{metric} ({result['primary']['selection']})",
            metric_value=value,
        )
        for metric, value in result["metrics"]["test"].items()
    ]
    data = ModelCardData(
        base_model=base_model(description),
        library_name="peftbench",
        pipeline_tag=task,
        license=licence,
        datasets=[dataset] if dataset else None,
        metrics=list(result["metrics"]["test"]),
        tags=["peftbench", "peft", str(result["method"])],
        model_name=name,
        eval_results=results,
    )
    return str(data.to_yaml()).rstrip()


def _about(result: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    params, source = result["params"], description["backbone"]["source"]
    return (
        f"A PEFT adapter, trained with peftbench: {params['trainable']:,} numbers of the method "
        f"and {params['head']:,} of a head, beside a frozen network ({source}); "
        f"{params['total']:,} in all. Run `{result['run_id']}`, seed {result['seed']}."
    )


def _figures(result: Mapping[str, Any]) -> str:
    rows = ["| split | figure | value | 95% interval |", "| --- | --- | ---: | --- |"]
    for split, values in result["metrics"].items():
        for metric, value in values.items():
            ends = interval_of(result, split, metric)
            between = " to ".join(figure(metric, end) for end in ends) if ends else ""
            rows.append(f"| {split} | {metric} | {with_unit(metric, value)} | {between} |")
    selection = result.get("selection", {})
    chosen = selection.get("rule", result["primary"].get("selection", "last epoch"))
    opened = selection.get("test_opened", "as the settings say")
    label = f"Epoch: {chosen}. The test split was opened {opened}."
    if result["protocol"] == "paper":
        label += " The epoch was chosen on the test split, so the test figures are too good."
    label += "".join(f" Not the published data: {text}." for text in deviations_of(result))
    return "\n".join(rows) + f"\n\n{label}"


def _cost(result: Mapping[str, Any]) -> str:
    cost, place = result["cost"], result["environment"]
    rows = [
        "| what | value |",
        "| --- | ---: |",
        f"| adapter | {result['artefact_bytes']:,} bytes |",
    ]
    rows += [f"| {name} | {value:,.6g} |" for name, value in cost.items() if value is not None]
    where = f"{place.get('device')}, {place.get('dtype')}, torch {place.get('torch')}"
    return "\n".join(rows) + f"\n\nMeasured on: {where}."


def _use(name: str, description: Mapping[str, Any]) -> str:
    if "text" in description:
        fields = description["text"].get("wording", {}).get("fields") or ["text"]
        asked = "fields={" + ", ".join(f'"{field}": "..."' for field in fields) + "}"
    else:
        asked = 'input="picture.png"'
    return (
        f"```python\nfrom peftbench.predict import Predict, predict\n\n"
        f'for answer in predict(Predict("{name}", {asked})):\n    print(answer)\n```\n\n'
        f'`peftbench.load("{name}")` gives the network itself. The files are safetensors and JSON; '
        "nothing in them is executed. The base network is loaded from its own place and checked by "
        "hash."
    )


def _settings(config: Mapping[str, Any]) -> str:
    shown = {group: config[group] for group in ("method", "trainer", "protocol") if group in config}
    text = yaml.safe_dump({**shown, "seed": config["seed"]}, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"


def _licence(result: Mapping[str, Any], licence: str | None) -> str:
    own = f"The adapter: {licence}." if licence else "No licence is stated for the adapter."
    source = result["data_manifest"].get("source")
    data = source.get("licence") if isinstance(source, Mapping) else None
    of_data = f" The data: {data}." if data else ""
    return (
        f"{own}{of_data} The base network and the data keep their own licences, which bind whoever "
        "uses the adapter with them."
    )
