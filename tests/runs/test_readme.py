"""Every train.py line of the README and of the documents is a command that can be given."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir

from peftbench.runs.cli import with_aliases
from peftbench.runs.settings import Settings

from .conftest import ROOT

PAGES = (
    "README.md",
    "docs/first_sweep.md",
    "docs/cluster.md",
    "docs/sharing.md",
    "docs/data.md",
    "docs/add_your_data.md",
)
OPTIONS = {"-m", "--multirun", "--dry", "--help"}
WRITTEN = re.compile(r"\+study=(NAME|ranks)\b")  # a study that the reader writes
VOLATILE = ("on_error", "retries", "wait", "launcher", "search")


def commands():
    for page in PAGES:
        text = re.sub(r" *\\\n *", " ", (ROOT / page).read_text())  # commands over several lines
        for line in text.splitlines():
            found = re.match(r"(?:    )?(?:\w+=\w+ )*python train\.py( .*)?$", line.rstrip("`"))
            if found and "..." not in line and not re.search(r"\b[A-Z]{2,}=|=?\$\{?\w", line):
                yield page, (found[1] or "").strip()


COMMANDS = sorted(set(commands()))


def test_there_are_commands():
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_a_documented_command_composes(page, line):
    line = WRITTEN.sub("+study=pocket_sweep", line)
    words = [w for w in shlex.split(line, comments=True) if w not in OPTIONS]
    words = [w for w in with_aliases(words) if w.split("=")[0].split(".")[0] not in VOLATILE]
    first = []
    for word in words:  # of a sweep its first combination
        key, _, value = word.partition("=")
        swept = not value.startswith(("[", "{", '"', "'")) and "," in value
        first.append(f"{key}={value.split(',')[0]}" if swept else word)
    study = next((w.partition("=")[2] for w in first if w.startswith("study=")), None)
    first = [w for w in first if not w.startswith("study=")]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        made = Settings.of(compose("config", overrides=first))
    assert made.names["method"] and (study is None or study)
