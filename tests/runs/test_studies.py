"""Every shipped study composes in every combination, and expects what its sources say."""

import itertools

import pytest
import yaml
from hydra import compose, initialize_config_dir

from peftbench.errors import CorruptAssetError
from peftbench.reports.expected import expected
from peftbench.runs.settings import Settings

from .conftest import ROOT
from .test_sync import script

FOLDER = ROOT / "configs" / "study"
STUDIES = sorted(FOLDER.glob("*.yaml"))
studies = pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)


def swept(path):
    """Return what a study sweeps over but for seeds, of which the first stands for all."""
    found = dict(script("studies").sweep(path))
    return {**found, "seed": found.get("seed", ["0"])[:1]}


def settings_of(path, values):
    overrides = [f"{key}={value}" for key, value in zip(swept(path), values, strict=True)]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=[f"+study={path.stem}", *overrides])
    made = Settings.of(config)
    assert made.study == path.stem
    return yaml.safe_dump(made.plain, sort_keys=True)


@studies
def test_every_value_of_a_sweep_composes_to_another_run(path):
    lists = list(swept(path).values())
    most = max(map(len, lists))
    made = {settings_of(path, [v[i % len(v)] for v in lists]) for i in range(most)}
    assert len(made) == most


@pytest.mark.long
@studies
def test_every_combination_of_a_sweep_composes_to_another_run(path):
    every = list(itertools.product(*swept(path).values()))
    assert len({settings_of(path, values) for values in every}) == len(every)


@studies
def test_a_study_expects_what_its_sources_say(path):
    figures = expected(path)
    assert figures or path.stem.startswith("pocket_")
    methods = swept(path).get("method")
    default = yaml.safe_load(path.read_text())["defaults"][0].get("override /method")
    for figure in figures:
        assert figure.method.split()[0] in (methods or [default]), figure
        assert figure.low <= figure.value <= figure.high


def test_there_is_a_study_for_every_table_that_can_be_repeated():
    names = {path.stem.partition("_")[0] for path in STUDIES}
    assert {"vtab1k", "fgvc", "cifar100", "glue", "pemt17", "alpaca", "pocket"} <= names


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Avg, 88.6, 88.6, 88.6", "Avg, 88.7, 88.6, 88.7", "does not have 88.7"),
        ("Avg, 88.6, 88.6, 88.6", "Avg, 88.6, 88.0, 88.6", r"does not have 88.6 \[88.0"),
        ("table: Table 2", "table: Table 9", "Table 9 does not have"),
        ("figures:", "figure:", "no readable"),
    ],
)
def test_a_figure_that_drifts_from_its_source_is_refused(tmp_path, old, new, told):
    text = (FOLDER / "glue_sift.yaml").read_text()
    assert old in text
    path = tmp_path / "drifted.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(CorruptAssetError, match=told):
        expected(path)


def test_a_figure_of_a_document_is_held_to_it(tmp_path):
    place = tmp_path / "configs" / "study" / "pocket_gist_host.yaml"
    place.parent.mkdir(parents=True)
    place.write_text((FOLDER / place.name).read_text())
    document = tmp_path / "docs" / "results" / "vision.md"
    document.parent.mkdir(parents=True)
    document.write_text("| adapter | 1.0 | 71.5 [71.0, 72.0] (5) |\n")
    (figure,) = expected(place)
    assert (figure.method, figure.value) == ("adapter_shared", 71.5)
    document.write_text("| adapter | 1.0 | 71.6 [71.0, 72.0] (5) |\n")
    with pytest.raises(CorruptAssetError, match=r"does not have 71\.5"):
        expected(place)


def test_the_command_lists_studies_and_shows_one(capsys):
    command = script("studies")
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert all(path.stem in listed for path in STUDIES)
    assert command.main(["name=vtab1k_ssf"]) == 0
    shown = capsys.readouterr().out
    assert "train.py -m +study=vtab1k_ssf" in shown and "73.1" in shown and "V-PETL Bench" in shown
    assert command.main(["name=vtab1k_sff"]) == 2
    assert "Did you mean 'vtab1k_ssf'" in capsys.readouterr().err
