"""Opening finished runs."""

import json
import shutil

import pytest

from peftbench.analysis.opened import open_run
from peftbench.errors import ArtefactError, ConfigError, CorruptAssetError


@pytest.fixture
def copy(gist_run, tmp_path):
    """A copy of the run that a test may spoil."""
    folder = tmp_path / gist_run.path.name
    shutil.copytree(gist_run.path, folder)
    return folder


def change_result(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_finished_run_opens(copy, gist_run):
    opened = open_run(copy)
    assert opened.settings.method == gist_run.settings.method
    assert opened.title == "m on vit_tiny_random, digits, seed 0"
    assert opened.task().name == "digits"


def test_what_is_no_finished_run_is_refused(copy, tmp_path):
    with pytest.raises(ConfigError, match="no run directory"):
        open_run(tmp_path / "nothing")
    (copy / "result.json").unlink()
    with pytest.raises(ConfigError, match="not finished"):
        open_run(copy)


def test_spoilt_settings_are_named(copy):
    (copy / "config.yaml").write_text("a: [")
    with pytest.raises(CorruptAssetError, match=r"config\.yaml"):
        open_run(copy)


def test_other_data_and_other_weights_are_refused(copy):
    change_result(copy, data_manifest={"sha256": "0"}, backbone_sha256="0")
    opened = open_run(copy)
    with pytest.raises(ConfigError, match=r"data: those of .* have changed"):
        opened.task()
    with pytest.raises(ArtefactError, match="weights have changed"):
        opened.backbone()
