"""A small configuration tree over the fakes, beside the project's own protocol and trackers."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest

from peftbench.runs import cli

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def load_fakes():
    """Import ``fakes.py`` as ``peftbench.fakes``."""
    if "peftbench.fakes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("peftbench.fakes", HERE / "fakes.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["peftbench.fakes"] = module
        spec.loader.exec_module(module)
    return sys.modules["peftbench.fakes"]


FAKE_CONFIGS = {
    "method/gist.yaml": "defaults:\n  - /method@inner: lora\n  - _self_\n"
    "_target_: peftbench.fakes.Gist\nweight: 0.5\n",
    "method/lora.yaml": "_target_: peftbench.fakes.Lora\nrank: 8\nalpha: 16.0\nroles: [q, v]\n",
    "method/linear.yaml": "_target_: peftbench.fakes.Lora\nrank: 1\n",
    "parts/none.yaml": "{}\n",
    "backbone/dinov2_small.yaml": "_target_: peftbench.fakes.Vit\ndepth: 2\nweights: null\n",
    "data/digits.yaml": "_target_: peftbench.fakes.Pocket\ntask: digits\n",
    "data/small/digits.yaml": "_target_: peftbench.fakes.Pocket\ntask: digits\n",
    "data/broken.yaml": "_target_: peftbench.fakes.Pocket\ntask: broken\n",
    "data/pocket.yaml": "_target_: peftbench.fakes.Suite\nname: pocket\ntasks: null\n"
    "members:\n"
    "  digits: {_target_: peftbench.fakes.Pocket, task: digits}\n"
    "  mnist5k: {_target_: peftbench.fakes.Pocket, task: mnist5k}\n"
    "groups: {written: [digits], other: [mnist5k]}\n",
    "data/pocket_broken.yaml": "_target_: peftbench.fakes.Suite\nname: pocket_broken\n"
    "members:\n"
    "  broken: {_target_: peftbench.fakes.Pocket, task: broken}\n"
    "  digits: {_target_: peftbench.fakes.Pocket, task: digits}\n"
    "groups: {written: [digits], other: [broken]}\n",
    "trainer/default.yaml": "_target_: peftbench.fakes.Trainer\nlr: 1.0e-3\nepochs: 2\n"
    "optimizer: adamw\nlog_every: 10\n",
}


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """A folder of configurations: the project's own, with fakes for what trains."""
    folder = tmp_path_factory.mktemp("tree") / "configs"
    for part in ("config.yaml", "protocol", "tracker", "launcher", "search", "hydra"):
        source = ROOT / "configs" / part
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for name, text in FAKE_CONFIGS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """The fakes, with training replaced by theirs; ``calls()`` lists what was trained."""
    module = load_fakes()
    calls = tmp_path / "calls.jsonl"
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    monkeypatch.delenv("FAKE_RUN", raising=False)
    stand_in = SimpleNamespace(execute=module.execute)
    monkeypatch.setitem(sys.modules, "peftbench.runs.execute", stand_in)
    module.calls = lambda: (
        [json.loads(x) for x in calls.read_text().splitlines()] if calls.exists() else []
    )
    return module


@pytest.fixture
def plain(tmp_path):
    """A complete configuration over the fakes, as plain data."""
    load_fakes()
    return {
        "method": {"_target_": "peftbench.fakes.Lora", "rank": 4},
        "backbone": {"_target_": "peftbench.fakes.Vit"},
        "data": {"_target_": "peftbench.fakes.Pocket"},
        "trainer": {"_target_": "peftbench.fakes.Trainer"},
        "protocol": {"_target_": "peftbench.runs.settings.Protocol"},
        "tracker": {"_target_": "peftbench.runs.settings.Files"},
        "seed": 0,
        "study": "default",
        "output": str(tmp_path / "outputs"),
        "names": {"method": "lora", "backbone": "dinov2_small", "data": "digits"},
    }


def cli_main(configs):
    return hydra.main(version_base="1.3", config_path=str(configs), config_name="config")(cli.job)


@pytest.fixture
def command(configs, fakes, tmp_path, monkeypatch, capsys):
    """Do in this process, in an empty folder, what ``train.py`` does; ``.calls()`` was trained."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))

    def run(*arguments, **environment):
        with monkeypatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            code = cli.guard(cli_main(configs), arguments, configs)
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    run.calls, run.work = fakes.calls, work
    return run


@pytest.fixture
def process(configs, tmp_path):
    """Start ``train.py`` over the fakes as a process of its own, in an empty folder."""

    def start(*arguments, **environment):
        env = os.environ | {"FAKE_CALLS": str(tmp_path / "calls"), "PYTHONPATH": str(ROOT)}
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(HERE / "driver.py"), str(configs), *arguments],
            cwd=work,
            env=env | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    start.work = tmp_path / "work"
    return start
