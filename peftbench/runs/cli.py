"""The command line around Hydra: short aliases, plugin folders, and errors made for a person.

``train.py`` hands its Hydra main function to :func:`guard`. Hydra composes and calls :func:`job`
once; a sweep (``-m``) and ``--dry`` go to :mod:`peftbench.runs.sweep`, unless the command chooses a
sweeper or launcher of Hydra's, which then calls :func:`job` itself. Nothing here imports torch: a
slip in the command is told before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ..errors import ConfigError, PeftbenchError, unknown
from .process import CRASHED, INTERRUPTED, report, say
from .settings import GROUPS, Settings
from .spawn import spawn_if_asked

FULL_ERROR = "HYDRA_FULL_ERROR"
PLUGINS = "PEFTBENCH_PATH"
DRY = "--dry"
MULTIRUN = {"-m", "--multirun"}

_codes: list[int] = []  # exit codes of the jobs of this command, in order
_study: list[str] = []  # the value that the command gives to the key ``study``


def job(config: DictConfig) -> None:
    """Do one composed job. An error is printed at once and kept for the exit code.

    Raises:
        SystemExit: the run was told to stop (143).

    """
    try:
        _announce()
        for study in _study:
            config.study = study
        settings = Settings.of(config, _choices(), _chosen())
        spawn_if_asked()
        from .launch import launch

        _codes.append(launch(settings))
    except Exception as error:
        _codes.append(report(error))


def guard(
    main: Callable[[], None],
    arguments: Sequence[str] | None = None,
    folder: Path | None = None,
) -> int:
    """Call a Hydra main function and return the exit code of the command.

    0: all is well. 2: a mistake that the message says how to mend. 1: a defect, with traceback.
    143: told to stop; the same command continues. With HYDRA_FULL_ERROR=1 in the environment the
    tracebacks of mistakes in the command are shown as well.

    Args:
        main: function decorated with ``hydra.main``.
        arguments: the command's arguments; by default those of this process.
        folder: where ``main`` finds its configurations; by default the project's.

    """
    _codes.clear()
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbose = os.environ.get(FULL_ERROR) == "1"
    try:
        _refuse(given)
        if _planned(given):
            from .sweep import sweep

            return sweep(given, folder or config_folder())
        plugin_configs()
        Plugins.instance().register(PluginConfigs)
        words, study = apart(in_order(with_aliases(given)))
        _study[:] = [study] if study is not None else []
        with _hydra_process(words):
            if {"--help", "-h"} & set(given):
                _print_help(main)
            else:
                main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else CRASHED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if verbose:
            raise
        return report(explain(error, given))
    return _summary()


def main() -> int:
    """Do what ``train.py`` does, for the installed command ``peftbench``."""
    import hydra

    try:
        folder = config_folder()
    except ConfigError as error:
        return report(error)
    decorate = hydra.main(version_base="1.3", config_path=str(folder), config_name="config")
    return guard(decorate(job))


def config_folder() -> Path:
    """Return the folder of configurations: beside the package, or in the current folder.

    Raises:
        ConfigError: there is none.

    """
    beside = Path(__file__).resolve().parents[2] / "configs"
    folder = beside if beside.is_dir() else Path("configs").resolve()
    if not (folder / "config.yaml").is_file():
        raise ConfigError("no folder 'configs' here; call this from the project's root")
    return folder


def _planned(arguments: Sequence[str]) -> bool:
    """Tell whether a command is ours to plan: a sweep or ``--dry``, with no other option."""
    options = {a for a in arguments if a.startswith("-")}
    if not options or options - MULTIRUN - {DRY}:
        return False
    plugins = [a for a in arguments if re.match(r"\+{0,2}hydra/(sweeper|launcher)=", a)]
    return DRY in options or all(a.partition("=")[2] == "basic" for a in plugins)


def _refuse(arguments: Sequence[str]) -> None:
    """Refuse what only a sweep can do.

    Raises:
        ConfigError: says what to write in its place.

    """
    if any(a.startswith("+study=") for a in arguments) and not MULTIRUN & set(arguments):
        raise ConfigError(
            "+study names a study, which is a sweep: add -m (and --dry to see its runs first); "
            "study=NAME without + is the folder of a single run"
        )
    searched = any(re.match(r"\+{0,2}search[=.]", a) for a in arguments)
    if searched and not MULTIRUN & set(arguments):
        raise ConfigError("search comes before the runs of a sweep: add -m")
    if DRY in arguments and not _planned(arguments):
        raise ConfigError(f"{DRY} goes with -m and KEY=VALUE alone")


@contextlib.contextmanager
def _hydra_process(arguments: list[str]) -> Iterator[None]:
    """Let Hydra see ``arguments`` and raise its errors instead of printing them."""
    argv, full = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv = [argv[0], *arguments]
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = full


def _print_help(main: Callable[[], None]) -> None:
    """Print Hydra's help with the long lists of choices wrapped."""
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        main()
    for line in text.getvalue().splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        print(textwrap.fill(line, 88, subsequent_indent=indent) if len(line) > 88 else line)


def _summary() -> int:
    """Return the exit code of all jobs, after saying how many of several failed."""
    failed = [code for code in _codes if code]
    if failed and len(_codes) > 1:
        print(f"error: {len(failed)} of {len(_codes)} runs failed", file=sys.stderr)
    return CRASHED if CRASHED in failed else (failed[0] if failed else 0)


def _announce() -> None:
    """Say which job of a sweep begins."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    node = HydraConfig.get()
    if node.mode == RunMode.MULTIRUN:
        say(f"== run {node.job.num + 1}: {' '.join(node.overrides.task)}")


def _choices() -> dict[str, str]:
    """Return the choice that was made in each group."""
    from hydra.core.hydra_config import HydraConfig

    choices = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    if not isinstance(choices, dict):
        return {}
    return {group: str(choices[group]) for group in GROUPS if choices.get(group)}


def _chosen() -> list[str]:
    """Return the settings that the command names one by one, as dotted keys."""
    from hydra.core.hydra_config import HydraConfig

    words = [str(word) for word in HydraConfig.get().overrides.task]
    return [word.partition("=")[0].lstrip("+~") for word in words]


def in_order(arguments: Sequence[str]) -> list[str]:
    """Move overrides behind the options, since the parser wants all overrides in one piece."""
    overrides = [a for a in arguments if re.match(r"~|[^-=][^=]*=", a)]
    return [a for a in arguments if a not in overrides] + overrides


def apart(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words without ``study=NAME``, and NAME: Hydra would look for it in the group."""
    names = [w.partition("=")[2] for w in words if re.match(r"(\+\+)?study=", w)]
    rest = [w for w in words if not re.match(r"(\+\+)?study=", w)]
    return rest, names[-1] if names else None


def with_aliases(arguments: Sequence[str]) -> list[str]:
    """Write out short forms: ``inner=lora``, ``parts=[lora,ssf]``, ``contexts=shared``."""
    out: list[str] = []
    for argument in arguments:
        if found := re.match(r"(inner\.)?parts=\[([\w, ]*)\]$", argument):
            place = f"method.{found[1] or ''}parts"
            names = [name.strip() for name in found[2].split(",") if name.strip()]
            out += [f"parts@{place}=none", *(f"+method@{place}.{n}={n}" for n in names)]
            continue
        argument = re.sub(r"^(\+{0,2}|~)parts\.", r"\1method.parts.", argument)
        argument = re.sub(r"^search\.(space|own)(?=[.=])", r"++search.\1", argument)
        argument = re.sub(r"^(inner\.)?(blocks|sizes)\.", r"++method.\1\2.", argument)
        argument = re.sub(r"^(\+{0,2}|~)inner(?==|$)", r"\1method@method.inner", argument)
        argument = re.sub(r"^(\+{0,2}|~)sources(?==|$)", r"\1sources@method.sources", argument)
        argument = re.sub(r"^(\+{0,2}|~)(contexts|targets)(?==)", r"\1method.\2", argument)
        argument = re.sub(r"^(\+{0,2}|~)sources\.", r"\1method.sources.", argument)
        out.append(re.sub(r"^(\+{0,2}|~)inner\.", r"\1method.inner.", argument))
    return _sweepable(out) if MULTIRUN & set(out) else out


def _sweepable(arguments: Sequence[str]) -> list[str]:
    """Let a setting of a group go with every choice of a sweep over that group.

    Hydra first composes a sweep without its lists, where ``data=a,b data.x=1`` would put ``x`` to
    the group's default choice, which need not have it. Each run still refuses what its own choice
    does not have.
    """
    places = set()
    for argument in arguments:
        key, _, value = argument.partition("=")
        if "," in re.sub(r"\[.*?\]|\(.*?\)|\{.*?\}|'[^']*'|\"[^\"]*\"", "", value):
            group, _, package = key.partition("@")
            places.add(package or group.replace("/", "."))
    return [
        f"++{argument}" if any(argument.startswith(f"{place}.") for place in places) else argument
        for argument in arguments
    ]


def plugin_configs() -> list[str]:
    """Return the ``configs`` folders of the folders in PEFTBENCH_PATH.

    Raises:
        ConfigError: a folder named there does not exist.

    """
    found = []
    for name in filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)):
        folder = Path(name).resolve()
        if not folder.is_dir():
            raise ConfigError(f"{PLUGINS} names '{name}', which is no folder")
        if (folder / "configs").is_dir():
            found.append(f"file://{folder / 'configs'}")
    return found


class PluginConfigs(SearchPathPlugin):
    """Lets Hydra find the configurations of plugin folders, after the project's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append every plugin folder's ``configs``."""
        for path in plugin_configs():
            search_path.append("peftbench-plugin", path)


def explain(error: Exception, arguments: Sequence[str]) -> Exception:
    """Turn an error of composing the configuration into one that says how to mend the command.

    Any other error is returned as it is.
    """
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException

    if isinstance(error, PeftbenchError):
        return error
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(str(error)) if _raised_by_hydra(error) else error
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        folders = re.findall(r"path=file://(\S+)", str(error))
        return _unknown_choice(error.missing_cfg_file, error.options, folders, arguments)
    cause = error.__cause__ or error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        return _unknown_key(str(cause.full_key), [str(k) for k in cause.parent_node])
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return ConfigError(f"'{error.override}' cannot be read as KEY=VALUE: {text}")
    if found := re.search(r"Could not (?:override|delete) '([^'=]+)", text):
        return _not_overridable(found[1], text)
    detail = str(cause).strip()
    return ConfigError(text if detail in text else f"{text}\n{detail}")


def _unknown_choice(
    path: str, options: Sequence[str], folders: Sequence[str], arguments: Sequence[str]
) -> ConfigError:
    """Build the error for a choice ``group/name`` that no file of the group has.

    Within a group (``data=vtab1k/dtd``) the choices are what ``folders``, the places of
    configurations, hold there; if nothing, those of the outer group.
    """
    group, _, name = path.rpartition("/")
    outer, _, inner = group.rpartition("/")
    if not inner or _given_key(f"{inner}/{name}", arguments) != outer:
        return unknown(group, name, options, _given_key(name, arguments) or group)
    within = [p.stem for folder in folders for p in Path(folder, group).glob("*.yaml")]
    choices = [f"{inner}/{choice}" for choice in within] or options
    return unknown(outer, f"{inner}/{name}", choices, outer)


def _raised_by_hydra(error: Exception) -> bool:
    """Tell whether Hydra itself raised an ordinary ``ValueError`` over the command's arguments."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError) and module.startswith("hydra.")


def _unknown_key(key: str, beside: Sequence[str]) -> ConfigError:
    """Build the error for a key that does not exist beside the keys ``beside``."""
    group, _, name = key.rpartition(".")
    choices = [k for k in beside if k not in ("_target_", "hydra")]
    if not choices:
        return ConfigError(f"unknown setting '{name}' (key: {key}). '{group}' has no settings")
    return unknown("setting", name, choices, key)


def _given_key(value: str, arguments: Sequence[str]) -> str | None:
    """Return the key to which the command gave ``value``."""
    for argument in arguments:
        key, _, given = argument.partition("=")
        if value in re.split(r"[^\w/]", given) or value in re.split(r"\W", given):
            return key.lstrip("+")
    return None


def _not_overridable(key: str, text: str) -> ConfigError:
    """Build the error for a choice that the composed defaults do not contain."""
    if key == "parts":
        return ConfigError("parts: a list of methods is needed, for example parts=[lora,bitfit]")
    if key == "method@method.inner":
        return ConfigError(
            "the chosen method takes no inner method (key: inner)\n  method=gist inner=... does"
        )
    if key.startswith("parts@"):
        return ConfigError(
            "the chosen method has no parts (key: parts)\n  method=combo parts=[lora,bitfit] has"
        )
    return ConfigError(text)
