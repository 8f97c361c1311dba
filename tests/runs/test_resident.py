"""What a process keeps from run to run: network and task once, memory flat, results as alone."""

import gc
import json
from pathlib import Path

import hydra
import psutil
import pytest

from peftbench.backbones.load_timm import TimmViT
from peftbench.runs import cli, resident, work
from peftbench.tasks.pocket import PocketVision

from .conftest import ROOT

WORDS = (
    *("backbone=vit_tiny_random", "trainer.max_steps=1", "protocol.final_fit=false"),
    *("trainer.threads=1", "study=s"),
)


def do(*words):
    path = str(ROOT / "configs")
    main = hydra.main(version_base="1.3", config_path=path, config_name="config")(cli.job)
    return cli.guard(main, (*WORDS, *words))


@pytest.fixture
def loads(monkeypatch):
    """Count what is loaded."""
    counts = {"network": 0, "task": 0}

    def counted(cls, kind):
        whole = cls.load

        def load(self):
            counts[kind] += 1
            return whole(self)

        monkeypatch.setattr(cls, "load", load)

    counted(TimmViT, "network")
    counted(PocketVision, "task")
    return counts


def results(folder):
    found = (json.loads(p.read_text()) for p in Path(folder).glob("s/*/result.json"))
    return {r["run_id"]: (r["metrics"], r["selection"], r["params"]) for r in found}


def test_network_and_data_are_loaded_once_and_every_run_is_as_if_alone(tmp_path, loads):
    assert do("-m", "method=lora,linear", "seed=0,1", f"output={tmp_path / 'a'}") == 0
    assert loads == {"network": 1, "task": 1}
    for method in ("lora", "linear"):
        resident.forget()
        assert do(f"method={method}", "seed=1", f"output={tmp_path / 'b'}") == 0
    together, alone = results(tmp_path / "a"), results(tmp_path / "b")
    assert len(together) == 4 and len(alone) == 2
    assert all(together[run_id] == found for run_id, found in alone.items())
    assert all(selection["test_reads"] == 1 for _, selection, _ in together.values())


def test_after_an_error_the_network_is_loaded_anew(tmp_path, loads, monkeypatch):
    from peftbench.runs import execute

    def broken(self, *rest):
        raise RuntimeError("in the middle, edits attached")

    with monkeypatch.context() as patch:
        patch.setattr(execute._Execution, "_score", broken)
        assert do("method=lora", "seed=0", f"output={tmp_path}") == 1
    assert resident._backbones == {}
    assert do("-m", "method=lora", "seed=0,1", f"output={tmp_path}") == 0
    assert loads == {"network": 2, "task": 1}


def test_memory_is_flat_over_fifty_runs(tmp_path, monkeypatch):
    whole, sizes = work.obtain, []

    def measured(settings):
        done = whole(settings)
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss / 1e6)
        return done

    monkeypatch.setattr(work, "obtain", measured)
    assert do("-m", "method=lora,gist", "seed=range(25)", f"output={tmp_path}") == 0
    assert len(sizes) == 50
    warm = max(sizes[:15])
    assert max(sizes[35:]) - warm < 8, [round(size) for size in sizes]  # MB
