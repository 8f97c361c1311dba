"""``scripts/report.py`` as a user meets it."""

import resource
import subprocess
import sys

import pytest
from PIL import Image
from stored import ROOT, script, write_run

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


def test_summary_is_the_first_form_in_all_formats(capsys, tmp_path):
    for method, value in (("linear", 0.7), ("lora", 0.8)):
        write_run(tmp_path / "a" / "s", method, "digits", 0, value)
    place = f"runs={tmp_path}"
    code, out, _ = run(capsys, place)
    assert code == 0 and "lora" in out and "80.0 [78.0, 82.0] (b)" in out and "PSCP" in out
    assert run(capsys, "summary", place)[1] == out
    assert "| lora | best | 80.0 [78.0, 82.0] (b) |" in run(capsys, place, "format=markdown")[1]
    assert r"\toprule" in run(capsys, place, "format=latex")[1]
    lines = run(capsys, place, "format=csv")[1].splitlines()
    assert len(lines) == 1 + 2 * 3 and lines[0].startswith("what,data,backbone")
    assert "linear" not in run(capsys, place, "methods=lora")[1]
    target = tmp_path / "report.html"
    code, _, err = run(capsys, place, f"html={target}")
    assert code == 0 and str(target) in err and target.read_text().startswith("<!doctype html>")


def test_the_page_needs_neither_matplotlib_nor_torch(tmp_path):
    """Reports start without them: a second, and no heavy import, whatever is installed."""
    write_run(tmp_path / "s", "lora")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['report.py', 'runs={tmp_path}', 'html={tmp_path}/r.html']\n"
        "try:\n"
        f"    runpy.run_path('{ROOT}/scripts/report.py', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'matplotlib', 'torch', 'transformers', 'wandb', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").is_file()


@pytest.mark.long
def test_ten_thousand_runs_in_under_ten_seconds(tmp_path):
    """Time of this process, so that neighbours on the machine do not count."""
    runs, tasks = 0, ["digits", "mnist5k", "emoji", "fashion_mnist", "cifar10_photos"]
    for method in range(100):
        for task in tasks:
            for seed in range(20):
                write_run(
                    tmp_path / "outputs" / f"s{method % 10}",
                    ("lora", "ssf", "gist", "ia3")[method % 4],
                    task,
                    seed,
                    0.5 + ((method * 7 + seed * 3) % 40) / 100,
                    settings={"size": method},
                    trainable=1000 + method,
                    logged=[(s, "val", "accuracy", s / 100) for s in range(10)],
                )
                runs += 1
    assert runs == 10_000
    words = [f"runs={tmp_path}/outputs", f"html={tmp_path}/r.html"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = (tmp_path / "r.html").stat().st_size
    print(f"{spent:.1f} s, page of {size / 1e6:.1f} MB")
    assert spent < 10 and size < 20e6
