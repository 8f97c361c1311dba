"""Settings of a run: the composed configuration, checked and built before anything is read.

``Settings.of`` takes what Hydra composed (or any mapping of the same shape), resolves it, checks
every name and type, and builds one object per group. Cheap groups come first, so that a slip in
them is found before the modules of the heavy ones are imported.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from .. import spec
from ..errors import ConfigError, unknown

GROUPS = ("protocol", "tracker", "trainer", "data", "method", "backbone")
"""Configuration groups, in the order in which they are checked."""

ORDERS = ("launcher", "on_error", "retries", "wait", "search")
"""Keys that say how a sweep is carried out, and nothing of a run; see ``runs/orders.py``."""


@dataclass(frozen=True)
class Protocol:
    """How settings, epochs and the test split are used.

    Attributes:
        name: ``honest``: nothing is chosen on the test split, which is read once at the end.
            ``paper``: the papers' habit, the best epoch on the test split, labelled as such.
            ``search``: one fit on train, judged on val; the test split stays closed.
        final_fit: fit again on train+val, with the settings that were evaluated on val, and read
            the test split once after it.
        select: which epoch counts: the last, the best on val, or the best on test.

    """

    name: Literal["honest", "paper", "search"] = "honest"
    final_fit: bool = True
    select: Literal["last", "best_val", "best_test"] = "last"

    def __post_init__(self) -> None:
        if (self.select == "best_test") != (self.name == "paper"):
            raise ConfigError(
                f"protocol.select: '{self.select}' does not go with protocol.name={self.name}; "
                "only protocol=paper chooses the epoch on the test split, and it always does"
            )
        if self.final_fit and self.name == "paper":
            raise ConfigError(
                "protocol.final_fit: protocol=paper fits on train+val from the start; "
                "there is no second fit (protocol.final_fit=false)"
            )
        if self.final_fit and self.name == "search":
            raise ConfigError(
                "protocol.final_fit: protocol=search has one fit, on train "
                "(protocol.final_fit=false)"
            )

    @property
    def reads_test(self) -> bool:
        """Whether the test split is opened at all."""
        return self.name != "search"


@dataclass(frozen=True)
class Files:
    """No tracker beside the files that every run writes."""


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases.

    Attributes:
        project: the project's name there.
        entity: user or team; None is the account's own default.
        mode: ``auto`` is online where an API key is found, else offline.
        adapter: whether the trained adapter goes along as an artifact.

    """

    project: str = "peftbench"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    adapter: bool = True


@dataclass(frozen=True)
class Tensorboard:
    """TensorBoard event files in ``<study>/tensorboard/<run id>``."""


@dataclass(frozen=True)
class Settings:
    """Everything that defines a run, built and checked.

    Attributes:
        method: how the network is adapted.
        backbone: which pretrained network.
        data: which task, or a suite of tasks.
        trainer: how it is trained.
        protocol: how the splits are used.
        tracker: where figures go beside the files.
        seed: of every random stream of the run.
        study: name of the folder that holds the runs of one question.
        output: folder of all studies.
        names: per group the name under which it was chosen (``{"method": "lora"}``).
        chosen: settings that the command names one by one (``trainer.lr``); they win over a
            trainer's table of settings per task.
        plain: all of the above as plain data, with every default filled in; ``config.yaml``.

    """

    method: Any
    backbone: Any
    data: Any
    trainer: Any
    protocol: Protocol
    tracker: Files | Wandb | Tensorboard
    seed: int
    study: str
    output: str
    names: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = field(default=(), compare=False)
    plain: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups = {group: getattr(self, group) for group in GROUPS}
        names = {g: self.names.get(g) or _own_name(v) for g, v in groups.items()}
        object.__setattr__(self, "names", names)
        plain: dict[str, Any] = {
            group: spec.to_spec(groups[group])
            for group in ("method", "backbone", "data", "trainer", "protocol", "tracker")
        }
        plain |= {"seed": self.seed, "study": self.study, "output": self.output, "names": names}
        object.__setattr__(self, "plain", plain)

    @classmethod
    def of(
        cls,
        config: DictConfig | Mapping[str, Any],
        names: Mapping[str, str] | None = None,
        chosen: Sequence[str] = (),
    ) -> Settings:
        """Check a composed configuration and build its objects.

        Args:
            config: what Hydra composed, or the content of a run's ``config.yaml``.
            names: the choice made in each group; by default those of ``config["names"]``.
            chosen: settings that the command names one by one.

        Raises:
            ConfigError: unknown name, wrong type, missing value, with the key to mend.

        """
        plain = resolve(config)
        allowed = [f.name for f in dataclasses.fields(cls) if f.init and f.name != "chosen"]
        for key in plain:
            if key not in (*allowed, *ORDERS):
                choices = [k for k in (*allowed, *ORDERS) if k != "names"]
                raise unknown("setting", key, choices, key)
        for key in allowed:
            if key not in plain and key != "names":
                raise ConfigError(f"{key}: a value is needed here")
        values: dict[str, Any] = {
            "seed": _seed(plain["seed"]),
            "study": _study(plain["study"]),
            "output": _output(plain["output"]),
            "names": dict(names if names is not None else plain.get("names") or {}),
        }
        for group in GROUPS:
            values[group] = build_group(group, plain[group])
        made = cls(**values, chosen=tuple(chosen))
        single = not hasattr(made.data, "selected")
        return made.for_task(made.names["data"], made.data) if single else made

    def for_task(self, name: str, data: Any) -> Settings:
        """Return the settings of one task: on the data ``data``, by what the trainer has for it."""
        own = getattr(data, "name", name)
        by_hand = [key.removeprefix("trainer.") for key in self.chosen]
        trainer = self.trainer.for_task(own, by_hand)
        return dataclasses.replace(
            self, data=data, trainer=trainer, names={**self.names, "data": name}
        )


def resolve(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Turn a composed configuration into plain data with every reference resolved."""
    node = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key}: a value is needed (add {error.full_key}=VALUE to the command)"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error.msg or error}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"a configuration is a mapping, got {type(plain).__name__}")
    return {str(k): v for k, v in plain.items()}


def build_group(group: str, value: Any) -> Any:
    """Build the object of one group; see :func:`peftbench.spec.build`."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{group}: expected a choice such as {group}=NAME, got {value!r}")
    built = spec.build(value, group)
    own = {"protocol": (Protocol,), "tracker": (Files, Wandb, Tensorboard)}.get(group)
    if own and not isinstance(built, own):
        raise unknown(group, type(built).__name__, [c.__name__ for c in own], f"{group}._target_")
    return built


def _seed(value: Any) -> int:
    seed: int = spec.convert(value, int, "seed")
    if seed < 0:
        raise ConfigError(f"seed: expected 0 or more, got {seed}")
    return seed


def _output(value: Any) -> str:
    output: str = spec.convert(value, str, "output")
    if not output.strip():
        raise ConfigError("output: a folder is needed here, for example output=outputs")
    return output


def _study(value: Any) -> str:
    study: str = spec.convert(value, str, "study")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", study):
        raise ConfigError(
            f"study: {study!r} is not a folder name (letters, digits, '.', '_' and '-')"
        )
    return study


def _own_name(value: Any) -> str:
    """Name an object that was not chosen by name: its own ``name``, else its class's."""
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__.lower()
