"""The page as text: whole, alone, and with the figures of the tables. No browser is needed."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from stored import ROOT, write_run

from peftbench.errors import ConfigError
from peftbench.reports import page, summary_tables
from peftbench.reports.collect import collect
from peftbench.reports.curves import POINTS, RUNS, chosen, read
from peftbench.reports.summary import summarise
from peftbench.reports.svg import linear, logarithmic, steps

VOID = {"meta", "input", "br", "link", "img"}


class Tree(HTMLParser):
    """Checks that elements close in order, and keeps them with their attributes and text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append((tag, len(self.found) - 1))

    def handle_startendtag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        for _, place in self.open:
            self.found[place][2] += data

    def all(self, tag, **wanted):
        return [
            (attributes, text)
            for name, attributes, text in self.found
            if name == tag and all(attributes.get(k.rstrip("_")) == v for k, v in wanted.items())
        ]


def study(folder):
    """Write 3 methods, 2 tasks and 2 seeds, one run of them failed."""
    for m, method in enumerate(("lora", "ssf", "linear")):
        for task in ("digits", "emoji"):
            for seed in range(2):
                logged = [(s, "train", "loss", 2.0 - s / 100) for s in range(0, 130, 1)]
                logged += [(s, "val", "accuracy", 0.5 + s / 1000) for s in (10, 20)]
                write_run(
                    folder,
                    method,
                    task,
                    seed,
                    0.9 - m / 10 + seed / 50,
                    trainable=0 if method == "linear" else 1000 * (m + 1),
                    logged=sorted(logged),
                    error=None,
                    finished=(method, task, seed) != ("linear", "emoji", 1),
                )
    return summarise(collect([folder]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    report = study(folder / "outputs" / "study")
    path = folder / "report.html"
    page.write(report, path)
    tree = Tree()
    tree.feed(path.read_text(encoding="utf-8"))
    assert tree.open == []
    return report, path, tree


def data(tree):
    [(_, text)] = tree.all("script", type="application/json")
    return json.loads(text)


def test_nothing_outside_the_file_is_named(made):
    _, path, tree = made
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("# ", ""))
    for tag, attributes, _ in tree.found:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        for key in ("src", "href", "action"):
            assert attributes.get(key, "#").startswith("#")


def test_embedded_runs_are_those_of_the_table(made):
    report, path, tree = made
    found = data(tree)
    rows = [dict(zip(found["keys"], run, strict=True)) for run in found["runs"]]
    table = {r["path"]: r for r in summary_tables.records(report) if r["what"] == "run"}
    assert len(rows) == len(table) == 12
    for row in rows:
        target = (path.parent / row["path"]).resolve()
        own = table[str(target)]
        assert (target / "config.yaml").is_file() and not row["path"].startswith("/")
        assert row["state"] == own["state"] and row["seed"] == own["seed"]
        board = found["boards"][row["board"]]
        assert board["methods"][row["method"]] == own["method"]
        assert board["tasks"][row["task"]] == own["task"]
        assert (row["value"] if row["value"] is not None else "") == own["value"]
        assert row["command"].startswith("# no choice in configs/")


def test_every_figure_of_the_leaderboard_stands_in_the_page(made):
    report, _, tree = made
    [board] = report.boards
    buttons = [(a, text) for a, text in tree.all("button", class_="figure")]
    for m, line in enumerate(board.lines):
        texts = {text for a, text in buttons if a["data-m"] == str(m)}
        for name, score in line.means.items():
            wanted = line.lacking[name] if score is None else summary_tables.score_text(score)
            assert wanted in texts
        for score in line.cells.values():
            assert f"{score.estimate.value:.1f}" in texts
    heads = [text for _, text in tree.all("button", type="button")]
    assert {"mean of 2 tasks", "vs best", "mean rank", "trained", "PPT", "PSCP"} <= set(heads)


def test_plots_have_a_mark_per_figure(made):
    """Scatter: 3 views by 3 costs, a mark per method with a score; the front over the best."""
    _, path, tree = made
    text = path.read_text(encoding="utf-8")
    plots = re.findall(r'<svg[^>]*class="scatter".*?</svg>', text)
    assert [plot.count('class="mark') for plot in plots] == [3] * 9
    curves = re.findall(r'<svg[^>]*class="curves".*?</svg>', text)
    lines = [plot.count('class="curve') - 1 for plot in curves]
    assert sorted(lines) == [5, 5, 6, 6]  # val accuracy and train loss on two tasks
    [gaps] = re.findall(r'<svg[^>]*class="gaps".*?</svg>', text)
    assert gaps.count('class="mark') == 2
    for attributes, _ in tree.all("path"):
        assert "nan" not in attributes["d"] and "inf" not in attributes["d"]


def test_what_is_missing_is_listed(made):
    _, _, tree = made
    assert "Without a result: 1" in [text for _, text in tree.all("h2")]
    assert "not finished" in [text for _, text in tree.all("td")]


def test_names_cannot_break_the_page(tmp_path):
    evil = '</script><img src=x onerror="alert(1)">&"\''
    write_run(tmp_path, "gist", "digits", settings={"note": evil})
    write_run(tmp_path, "gist", "digits", settings={"note": "tame"})
    text = page.render(summarise(collect([tmp_path])), tmp_path)
    tree = Tree()
    tree.feed(text)
    assert tree.open == [] and not tree.all("img")
    assert any(evil in label for label in data(tree)["boards"][0]["methods"])


def test_one_run_alone_makes_a_page(tmp_path):
    write_run(tmp_path, "lora")
    tree = Tree()
    tree.feed(page.render(summarise(collect([tmp_path])), tmp_path))
    assert tree.open == [] and len(data(tree)["runs"]) == 1


def test_published_differences_stand_where_they_can_be_compared(tmp_path):
    for name in ("cub", "nabirds", "flowers", "cars", "dogs"):
        for seed in range(2):
            write_run(tmp_path / "a", "lora", name, seed, 0.85 + seed / 100, suite="fgvc")
            write_run(
                tmp_path / "b", "lora", name, seed, 0.8, suite="fgvc", backbone="dinov2_small"
            )
    text = page.render(summarise(collect([tmp_path / "a"])), tmp_path)
    assert "ours minus published" in text and "+0.72 (85.5 against 84.78)" in text
    text = page.render(summarise(collect([tmp_path / "b"])), tmp_path)
    assert "ours minus published" not in text


def test_curves_are_thinned_and_capped(tmp_path):
    figures = [(s, "train", "loss", float(s)) for s in range(1000)]
    run = write_run(tmp_path, "lora", logged=figures)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 1000, "split": "train", "name": "loss", "value": null}\n{"torn')
    found = collect([tmp_path]).runs[0]
    curve = read(found)["train loss"]
    assert len(curve.steps) == POINTS and (curve.steps[0], curve.steps[-1]) == (0, 999)
    assert curve.values == curve.steps
    assert len(chosen([found] * (RUNS + 5))) == RUNS
    (run / "metrics.jsonl").unlink()
    assert read(found) == {}


def test_axes():
    assert steps(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    axis = logarithmic([0, 1e3, 1e6], 40, 400)
    assert axis(0) < axis(1e3) < axis(1e6) < 400 and axis.ticks() == [1e3, 1e4, 1e5, 1e6]
    assert logarithmic([1e9, 1.2e9], 0, 1).ticks()
    flat = linear([5.0, 5.0], 300, 10)
    assert flat.low < 5 < flat.high and flat.ticks()


def test_a_page_must_be_named_as_one(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        page.check_path("report.pdf")
    write_run(tmp_path / "s", "lora")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="html:"):
        page.write(summarise(collect([tmp_path / "s"])), tmp_path / "file" / "x.html")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node; test_page_browser runs it")
def test_the_script_is_one():
    script = ROOT / "peftbench" / "reports" / "static" / "page.js"
    subprocess.run(["node", "--check", str(script)], check=True)
