"""A new method is two files, also in a folder of one's own: the walk-through of docs."""

from __future__ import annotations

import re
from pathlib import Path

from command import ROOT, TINY, adapter, result, run_dirs, train


def files_of_the_walk_through() -> dict[str, str]:
    """Return the files that docs/add_a_method.md shows, by name."""
    text = (ROOT / "docs" / "add_a_method.md").read_text()
    blocks = re.findall(r"`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)```", text, re.S)
    return dict(blocks)


def test_the_walk_through_trains(tmp_path: Path) -> None:
    plugin = tmp_path / "mine"
    shown = files_of_the_walk_through()
    assert set(shown) == {"methods/gain.py", "configs/method/gain.yaml"}
    for name, text in shown.items():
        path = plugin / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    words = ("method=gain", *TINY, "trainer.epochs=1", f"output={tmp_path / 'out'}")
    out, _ = train(*words, PEFTBENCH_PATH=str(plugin))
    assert "gain on vit_tiny_random" in out
    (run,) = run_dirs(tmp_path / "out")
    assert result(run)["params"]["trainable"] == 2 * 2 * 32  # two blocks, two operations, width
    assert any("gain" in name for name in adapter(run))
    _, err = train("method=gian", *TINY, code=2, PEFTBENCH_PATH=str(plugin))
    assert "Did you mean 'gain'" in err
