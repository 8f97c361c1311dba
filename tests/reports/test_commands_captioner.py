"""Command lines of captioners, whose two networks are choices inside a choice."""

import shlex

import pytest
import yaml

from peftbench.reports.collect import read
from peftbench.reports.commands import command
from peftbench.runs.compose import compose_settings
from peftbench.runs.identity import lasting

SAME = "method=context backbone=captioner data=pocket_captions seed=0"
WORDS = [
    f"{SAME} backbone.vision.image_size=56 data.written=16",
    f"{SAME} inner=ia3 backbone/vision=swinv2_tiny backbone/text=llama3_1b backbone.dropout=0.2",
]


@pytest.mark.parametrize("words", WORDS)
def test_a_command_leads_back_to_the_same_networks(tmp_path, words):
    settings = compose_settings(words.split())
    path = tmp_path / "0123456789ab"
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump(dict(settings.plain), sort_keys=False))
    found = shlex.split(command(read(path)))
    assert set(found[2:]) == set(words.split())
    assert lasting(compose_settings(found[2:]).plain) == lasting(settings.plain)
