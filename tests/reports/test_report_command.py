"""``scripts/report.py`` as a user meets it."""

import sys

import pytest
from PIL import Image
from stored import script, write_run

report = script("report")


def run(capsys, *words):
    code = report.main([str(w) for w in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_both_reports_with_figures(capsys, tmp_path):
    for method, value in (("linear", 0.7), ("lora", 0.8)):
        for seed in (0, 1):
            write_run(tmp_path / "s", method, "dtd", seed, value + seed / 100, suite="vtab1k")
    figure = tmp_path / "paired.png"
    words = ("paired", f"runs={tmp_path / 's'}", "base=linear", f"figure={figure}")
    code, out, err = run(capsys, *words)
    assert code == 0 and "+10.00" in out and str(figure) in err
    with Image.open(figure) as image:
        assert image.size[0] == 1280
    figure = tmp_path / "published.png"
    words = ("published", "suite=vtab1k", f"runs={tmp_path / 's'}", f"figure={figure}")
    code, out, err = run(capsys, *words, "format=markdown")
    assert code == 0 and "| dtd |" in out
    with Image.open(figure) as image:
        assert image.size[0] == 1280


def test_renaming_on_the_command_line(capsys, tmp_path):
    write_run(tmp_path, "gist", settings={"mu_kl": 0.0})
    write_run(tmp_path, "gist", settings={"mu_kl": 1.0})
    labels = 'labels={"gist[mu_kl=0]": "adapter + token"}'
    code, out, _ = run(capsys, "paired", f"runs={tmp_path}", "base=adapter + token", labels)
    assert code == 0 and "difference to adapter + token" in out


def test_no_run_on_the_suite_is_said(capsys, tmp_path):
    write_run(tmp_path, "lora", "digits")
    code, out, err = run(capsys, "published", "suite=fgvc", f"runs={tmp_path}", "format=csv")
    assert code == 0 and "holds no run on FGVC" in err and "88.54" in out


@pytest.mark.parametrize(
    "words, says",
    [
        (("publish",), "Did you mean 'published'"),
        (("published",), "suite"),
        (("published", "suite=vtab1"), "Did you mean 'vtab1k'"),
        (("published", "suite=vtab1k", "format=pdf"), "format"),
        (("published", "suite=vtab1k", "figure=x.pdf"), "must end in .png"),
        (("published", "suite=vtab1k", "method=lorra"), "Did you mean"),
        (("paired", "runs=nowhere", "base=lora"), "no folder nowhere"),
        (("paired", "runs=,", "base=lora"), "name a folder of runs"),
        (("published", "suite=vtab1k", "labels=[1]"), "labels: expected"),
        (("published", "suite=vtab1k", "labels={a"), "labels:"),
    ],
)
def test_slips_exit_2_with_a_message(capsys, words, says):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert says in err and "Traceback" not in err


def test_figures_without_matplotlib_name_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run(capsys, "published", "suite=vtab1k", "figure=x.png")
    assert code == 2 and "pip install 'peftbench[report]'" in err
    code, out, _ = run(capsys, "published", "suite=vtab1k")
    assert code == 0 and "72.25" in out


def test_help(capsys):
    assert run(capsys, "--help")[0] == 0
    assert run(capsys)[0] == 2
