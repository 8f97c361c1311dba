"""PEMT by the command's words on tables in the real schemas: sources first, once, then targets."""

import importlib.util
import json

import numpy as np
import pytest

from peftbench.analysis import gates
from peftbench.errors import ConfigError, IncompatibleError, MissingAssetError
from peftbench.methods.sources import Sources
from peftbench.runs.cli import with_aliases
from peftbench.runs.launch import launch, run_dir_of
from peftbench.runs.settings import Settings
from peftbench.runs.stages import stage_settings

from .conftest import ROOT
from .test_recipes import composed

SIX = ["mnli", "qnli", "qqp", "sst2", "squad", "record"]
BEST = ["protocol.select=best_val", "protocol.final_fit=false"]


def settings(*words, method="pemt", trainer="pemt"):
    given = with_aliases([f"method={method}", f"trainer={trainer}", *words])
    return Settings.of(composed(*given), {"method": method}, [w.partition("=")[0] for w in given])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with small tables of two sources and two targets."""
    path = ROOT / "tests" / "tasks" / "published_tables.py"
    spec = importlib.util.spec_from_file_location("published_tables", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    root = tmp_path_factory.mktemp("tables")
    for task in ("mnli", "sst2", "cb", "rte"):
        made.write(root, task, train=20, others=4)
    return root


def small(tables, output, *more):
    """Settings of two targets with two sources, one step each."""
    return settings(
        *("backbone=t5_tiny_random", "data=pemt17", f"data.root={tables}", "data.tasks=[rte,cb]"),
        *("method.subset=[mnli,sst2]", "sources.tasks.sst2.splits=dev", "trainer.max_steps=1"),
        *("sources.trainer.max_steps=1", "sources.trainer.warmup_steps=0", f"output={output}"),
        *(more or BEST),
    )


@pytest.fixture
def executed(monkeypatch):
    """The list of tasks that really ran; a task named in ``stop`` is interrupted before it."""
    from peftbench.runs import execute

    class Ran(list):
        stop = None

    ran, whole = Ran(), execute.execute

    def counted(settings, run_dir, sources=None):
        if settings.data.name == ran.stop:
            raise SystemExit(143)
        ran.append(settings.data.name)
        return whole(settings, run_dir, sources)

    monkeypatch.setattr(execute, "execute", counted)
    return ran


def test_sources_once_then_targets_and_a_stop_between_sources_goes_on(tables, tmp_path, executed):
    made = small(tables, tmp_path)
    executed.stop = "sst2"
    with pytest.raises(SystemExit):
        launch(made)
    assert executed == ["mnli"]
    executed.stop = None
    assert launch(made) == 0
    assert executed == ["mnli", "sst2", "cb", "rte"] or executed == ["mnli", "sst2", "rte", "cb"]
    assert launch(made) == 0 and len(executed) == 4
    member = made.for_task("cb", made.data.selected()["cb"])
    result = json.loads(run_dir_of(member).result.read_text())
    assert result["selection"]["rule"] == "best epoch on val" and result["task"] == "cb"
    assert sorted(p.name for p in (tmp_path / "sources").iterdir() if p.is_dir()) == sorted(
        run_dir_of(s).run_id for s in stage_settings(member).values()
    )


def test_where_tables_lie_does_not_change_a_run(tables, tmp_path):
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(tables, moved)
    ids = []
    for root in (tables, moved):
        made = small(root, tmp_path)
        ids.append(run_dir_of(made.for_task("cb", made.data.selected()["cb"])).run_id)
    assert ids[0] == ids[1]


def test_a_source_without_data_is_named_with_the_keys_that_mend_it(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = small(tables, tmp_path, "sources.tasks.sst2.path=nobody/nothing")
    member = made.for_task("cb", made.data.selected()["cb"])
    with pytest.raises(MissingAssetError) as found:
        launch(member)
    text = str(found.value)
    assert text.startswith("source 'sst2': ") and "sources.tasks.sst2.path=FOLDER" in text
    assert "sources=pocket_text" in text and " data.path" not in text


def test_the_sources_that_papers_name():
    made = settings("backbone=t5_base", "data=pemt17", *BEST).method.sources
    assert isinstance(made, Sources) and list(made.tasks) == SIX
    assert all((t.splits, t.template, t.path) == ("attempt", "pemt", None)
               for t in made.tasks.values())  # fmt: skip
    assert (made.trainer.epochs, made.trainer.batch_size, made.trainer.lr) == (5, 128, 5e-4)
    words = ("backbone=t5_base", "data=published/cb")
    attempt = settings(*words, method="attempt", trainer="prompt_tuning").method.sources
    spot = settings(*words, method="spot", trainer="prompt_tuning").method.sources
    assert list(attempt.tasks) == SIX and list(spot.tasks) == ["mnli"]
    assert attempt.trainer.lr == spot.trainer.lr == 0.3
    pocket = settings(*words, "sources=pocket_text").method.sources
    assert len(pocket.tasks) == 4 and pocket.trainer.lr == 5e-4


ABLATIONS = {
    "method.lambda_moe=0": {"lambda_moe": 0.0},
    "method.target_adapter=false": {"target_adapter": False},
    "method.correlation=none": {"correlation": "none"},
    "method.correlation=init": {"correlation": "init"},
    "method.norms=false": {"norms": False},
    "method.gates=uniform": {"gates": "uniform"},
    "method.gates=one_hot method.expert=sst2": {"gates": "one_hot", "expert": "sst2"},
    "method.subset=[mnli]": {"subset": ("mnli",)},
    "method.subset=[mnli,qnli,qqp]": {"subset": ("mnli", "qnli", "qqp")},
    "method.prompt_init=normal": {"prompt_init": "normal"},
    "method.source_adapter=bottleneck": {"source_adapter": "bottleneck"},
    "method.mask_padding=false": {"mask_padding": False},
}


@pytest.mark.parametrize("words", ABLATIONS)
def test_an_ablation_is_a_setting(words):
    plain = settings("backbone=t5_base", "data=published/cb")
    made = settings("backbone=t5_base", "data=published/cb", *words.split())
    for name, value in ABLATIONS[words].items():
        assert getattr(made.method, name) == value != getattr(plain.method, name)
    same = made.method.source() == plain.method.source()
    assert same == (not {"prompt_init", "source_adapter"} & set(ABLATIONS[words]))


def test_the_ablations_are_in_the_docs():
    text = (ROOT / "docs" / "reports.md").read_text()
    missing = [words for words in ABLATIONS if f"`{words}`" not in text]
    assert not missing


def test_gates_of_finished_runs(tables, tmp_path):
    chosen = ("protocol.final_fit=false", "data.tasks=[cb]")
    launch(small(tables, tmp_path, *chosen))
    launch(small(tables, tmp_path, *chosen, "method.gates=uniform"))
    numbers = gates.measure(gates.runs_in([str(tmp_path / "default")]))
    learned, even = sorted(numbers["runs"], key=lambda run: run["entropy"])
    for run in (learned, even):
        blocks = np.array([block["gates"] for block in run["per_block"]])
        assert run["sources"] == ["mnli", "sst2"] and run["split"] == "val"
        assert blocks.shape == (4, 2)  # two blocks of the encoder and two of the decoder
        np.testing.assert_allclose(blocks.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(blocks.mean(0), run["gates"], atol=1e-9)
        np.testing.assert_allclose(sum(run["prompt_attention"]), 1, atol=1e-9)
        assert run["even_entropy"] == pytest.approx(np.log(2))
        assert run["spearman_prompt_cosine"] is None  # of two sources there is no order to speak of
    np.testing.assert_allclose(even["gates"], 0.5, atol=1e-6)
    assert even["entropy"] == pytest.approx(np.log(2), abs=1e-6)
    assert len(gates.rows(numbers)) == 4 and "mnli" in gates.table(numbers)
    assert gates.draw(numbers).axes[0].get_yticklabels()[0].get_text() == "cb (2)"
    assert len(gates.draw_blocks(learned).axes[0].get_yticklabels()) == 4
    with pytest.raises(ConfigError, match="no finished run"):
        gates.runs_in([str(tables)])
    with pytest.raises(IncompatibleError, match="no gates"):
        gates.measure(gates.runs_in([str(tmp_path / "sources")]))
