"""The command line that makes a run: the choice in each group, then what differs from it.

Runs keep their complete settings, not the words that led to them. The words are found by setting
the stored values against those of the project's own files in ``configs/``. Whatever cannot be shown
to be a default is written out, so a command may be longer than the one that was typed; a run whose
settings these files cannot give (a choice of somebody's own, a setting that is gone) has none.
No network is built and Hydra is not asked, so ten thousand runs take seconds.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..runs.cli import config_folder
from ..runs.identity import VOLATILE, lasting
from .collect import LOADER, Run

ALIASES = {"method@method.inner": "inner", "sources@method.sources": "sources"}
"""Short forms that ``train.py`` knows for a choice inside the method."""
NAMED = ("method", "backbone", "data")
"""Groups that a command always names."""
GROUPS = (*NAMED, "trainer", "protocol")
ABSENT = object()
GONE = "#"
"""How a word begins that is for a setting which the code no longer has."""


class UnwritableError(Exception):
    """Settings that no choice of the project's files leads to."""


@dataclass(frozen=True)
class Nested:
    """A choice inside a choice: group ``group`` at ``path``."""

    path: str
    group: str
    name: str


def command(run: Run) -> str:
    """Return the command line of a run.

    A setting that the code no longer has stands behind it as a comment. Where the project's files
    cannot give the settings at all, the text is a comment that says so.
    """
    stored, names = run.config, run.config["names"]
    words = ["python", "train.py"]
    extra: list[str] = []
    try:
        for group in GROUPS:
            own = json.dumps(stored[group], sort_keys=True)
            name, found = _words(group, str(names[group]), own, run.task.rpartition("/")[2])
            if group in NAMED or name != _defaults().get(group):
                words.append(f"{group}={name}")
            extra += found
    except UnwritableError as error:
        return f"# no choice in configs/ leads to these settings ({error}); see config.yaml"
    words += [f"seed={stored['seed']}"]
    if stored.get("study", "default") != "default":
        words.append(f"study={stored['study']}")
    gone = [word.removeprefix(GONE) for word in extra if word.startswith(GONE)]
    line = shlex.join([*words, *(word for word in extra if not word.startswith(GONE))])
    return f"{line}  # no setting any more: {' '.join(gone)}" if gone else line


@functools.lru_cache(maxsize=20_000)
def _words(group: str, name: str, stored: str, task: str) -> tuple[str, tuple[str, ...]]:
    """Return the choice of a group and the words that turn it into the stored settings.

    A member of a suite may be named without its suite; the shortest way there is taken.
    """
    value = lasting({group: json.loads(stored)})[group]
    value.pop("per_task", None)
    names = [name] if name in choices(group) else sorted(choices(group))
    found: list[tuple[str, tuple[str, ...]]] = []
    for other in names:
        if other.rpartition("/")[2] != name.rpartition("/")[2]:
            continue
        try:
            given, nested = load(group, other)
            given = copy.deepcopy(given)
            given |= (given.pop("per_task", None) or {}).get(task, {})
            found.append((other, tuple(_difference(value, given, nested, group))))
        except UnwritableError:
            continue
    if not found:
        raise UnwritableError(f"{group}={name}")
    return min(found, key=lambda entry: len(" ".join(entry[1])))


def _difference(
    stored: Mapping[str, Any], given: Any, nested: tuple[Nested, ...], place: str
) -> list[str]:
    """Return words for all that ``given`` does not say already; first choices, then settings."""
    inside = {n.path: n for n in nested if "." not in n.path}
    target = stored.get("_target_")
    if not isinstance(given, Mapping) or given.get("_target_", target) != target:
        raise UnwritableError(place)
    out = [f"~{place}.{name}" for name in _gone(stored, given)]
    for key, value in stored.items():
        where = f"{place}.{key}"
        if where in VOLATILE or key == "_target_":
            continue
        if key in inside and isinstance(value, Mapping):
            out += _choice(value, inside[key], where)
        elif isinstance(value, Mapping) and key in given and value and given[key]:
            below = tuple(
                Nested(n.path.partition(".")[2], n.group, n.name)
                for n in nested
                if n.path.startswith(f"{key}.")
            )
            out += _difference(value, given[key], below, where)
        elif not _same(value, given.get(key, ABSENT)):
            if key in given:
                out.append(f"{where}={written(value)}")
            else:
                out += _unsaid(where, value, class_fields(str(target)))
    return out


def _unsaid(where: str, value: Any, fields: Mapping[str, Any]) -> list[str]:
    """Return the word for a setting that no file names: none for the default of its class."""
    name = where.rpartition(".")[2]
    if fields and name not in fields:
        return [f"{GONE}{where}={written(value)}"]
    return [] if _same(value, fields.get(name, ABSENT)) else [f"+{where}={written(value)}"]


def _gone(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the names that a plain mapping has too many; an object's new settings are no such."""
    return [] if "_target_" in stored else [name for name in given if name not in stored]


def _choice(stored: Mapping[str, Any], nested: Nested, where: str) -> list[str]:
    """Return the choice of a nested group that needs the fewest words, and these words."""
    others = sorted(choices(nested.group) - {nested.name})
    best: list[str] | None = None
    for name in (nested.name, *others):
        try:
            given, below = load(nested.group, name)
            found = _difference(stored, given, below, where)
        except UnwritableError:
            continue
        if name != nested.name:
            key = f"{nested.group}@{where}"
            if nested.group.replace("/", ".") == where:  # it is where its group says
                key = nested.group
            found.insert(0, f"{ALIASES.get(key, key)}={name}")
        if best is None or len(" ".join(found)) < len(" ".join(best)):
            best = found
    if best is None:
        raise UnwritableError(where)
    return best


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def written(value: Any) -> str:
    """Write a value in the grammar of Hydra's command line."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z_][\w./:-]*", value)
    if plain and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@functools.cache
def _defaults() -> dict[str, str]:
    """Return the choice in each group that needs no word."""
    entries = _read("config")["defaults"]
    return {k: v for e in entries if isinstance(e, dict) for k, v in e.items()}


@functools.cache
def choices(group: str) -> frozenset[str]:
    """Return the names of a group's choices."""
    folder = config_folder() / group
    return frozenset(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


@functools.cache
def load(group: str, name: str) -> tuple[dict[str, Any], tuple[Nested, ...]]:
    """Return the settings of a choice and the choices inside it. Not to be changed.

    Raises:
        UnwritableError: there is no such choice, or its file has another form.

    """
    own = dict(_read(f"{group}/{name}"))
    made: dict[str, Any] = {}
    nested: list[Nested] = []
    for entry in own.pop("defaults", []):
        if entry == "_self_":
            continue
        if isinstance(entry, str):  # another file, in the same place
            other, _, _ = entry.partition("@")
            home, _, choice = other.lstrip("/").rpartition("/")
            inner, below = load(home or group, choice)
            _merge(made, inner)
            nested += below
            continue
        [(key, choice)] = entry.items()
        target, _, path = key.rpartition("@")
        target = target.lstrip("/") if target else f"{group}/{key}"
        path = path if "@" in key else key
        inner, below = load(target, str(choice))
        _merge(made, functools.reduce(lambda v, k: {k: v}, reversed(path.split(".")), dict(inner)))
        nested.append(Nested(path, target, str(choice)))
        nested += [Nested(f"{path}.{n.path}", n.group, n.name) for n in below]
    _merge(made, own)
    return made, tuple(nested)


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _read(name: str) -> dict[str, Any]:
    path = config_folder() / f"{name}.yaml"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or not path.is_file():
        raise UnwritableError(name)
    value = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    if not isinstance(value, dict):
        raise UnwritableError(name)
    return value


def class_fields(target: str) -> Mapping[str, Any]:
    """Return the fields of a class with their defaults, ``ABSENT`` where that is no literal.

    The text is read and not run: building these classes would take the whole of torch. A class
    that is not this package's has no known field.
    """
    module, _, name = target.rpartition(".")
    return _fields(module, name)


@functools.cache
def _fields(module: str, name: str) -> dict[str, Any]:
    tree = _parsed(module)
    found: dict[str, Any] = {}
    for node in tree.body if tree else []:
        if not isinstance(node, ast.ClassDef) or node.name != name:
            continue
        for base in node.bases:
            if tree and isinstance(base, ast.Name):
                found |= _fields(_home(module, tree, base.id), base.id)
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                found[line.target.id] = _literal(line.value)
    return found


def _literal(node: ast.expr | None) -> Any:
    try:
        return ABSENT if node is None else ast.literal_eval(node)
    except ValueError:
        return ABSENT


def _home(module: str, tree: ast.Module, name: str) -> str:
    """Return the module that a name of ``module`` comes from."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            package = module.split(".")[: -node.level] if node.level else []
            return ".".join([*package, *([node.module] if node.module else [])])
    return module


@functools.cache
def _parsed(module: str) -> ast.Module | None:
    root = importlib.util.find_spec("peftbench")
    if root is None or not root.origin or module.partition(".")[0] != "peftbench":
        return None
    path = Path(root.origin).parent.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return None
