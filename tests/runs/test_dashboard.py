"""Dashboards show figures that runs really log, under the names that W&B gets."""

import json

import pytest

from peftbench.errors import TrackerError
from peftbench.reports import dashboard
from peftbench.runs.history import history
from peftbench.runs.to_wandb import summary_of

from .test_sync import nobody_is_logged_in, script, write_run  # noqa: F401
from .test_trackers import CONFIG


def panels(definition):
    """Return the panels of a definition by section, as W&B reads them."""
    if definition["kind"] == "workspace":
        parts = definition["spec"]["section"]["panelBankConfig"]["sections"]
        return {part["name"]: part["panels"] for part in parts}
    heading, found = "", {}
    for block in definition["spec"]["blocks"]:
        if block["type"] == "heading":
            heading = block["children"][0]["text"]
        if block["type"] == "panel-grid":
            found[heading] = block["metadata"]["panelBankSectionConfig"]["panels"]
    return found


def names(section):
    """Return every figure that the panels of a section show."""
    found = []
    for panel in section:
        config = panel["config"]
        axes = [config.get("xAxis"), config.get("yAxis")] if "yAxis" in config else []
        found += [*config.get("metrics", []), *axes]
    return [n.removeprefix("summary_metrics.").removeprefix("summary:") for n in found]


def made(tmp_path, capsys, *words, code=0):
    out = tmp_path / "made.json"
    given = script("wandb_dashboard").main([*words, f"out={out}"])
    said = capsys.readouterr()
    assert given == code, said.err
    return json.loads(out.read_text()) if code == 0 else None, said.out + said.err


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_a_study_s_dashboard_shows_what_its_runs_have(tmp_path, capsys, kind):
    folder = write_run(tmp_path / "study" / ("a" * 12))
    definition, said = made(tmp_path, capsys, f"runs={folder.parent}", f"kind={kind}")
    assert "not published: run `wandb login`" in said and definition["name"] == "study"
    found = panels(definition)
    assert list(found) == ["Overview by method", "Tasks", "Cost against score", "Learning curves"]
    logged = {name for row in history(folder / "metrics.jsonl") for name in row.values}
    assert set(names(found["Learning curves"])) == logged == {"train/loss"}
    summary = summary_of(json.loads((folder / "result.json").read_text()))
    assert names(found["Tasks"]) == ["task/digits"] and summary["task/digits"] == 0.9
    assert "result/primary/value" in summary and "result/primary/value" in names(
        found["Overview by method"]
    )
    pairs = [p["config"] for p in found["Cost against score"]]
    assert {p["yAxis"] for p in pairs} == {"summary:result/primary/value"}
    assert "summary:result/params/trainable" in {p["xAxis"] for p in pairs}
    grouped = [p["config"]["groupBy"] for p in found["Overview by method"]]
    assert set(grouped) == {"names.value.method"} and "method" in CONFIG["names"]
    text = json.dumps(definition)
    assert '"name": "group"' in text and '"value": "study"' in text


def test_every_figure_on_a_dashboard_is_in_the_result_of_a_real_run(fakes, plain):
    from peftbench.runs.settings import Settings

    result = fakes.result_of(Settings.of(plain), "0" * 12)
    about = dashboard.subject_of_suite("s", ("classification",), ["accuracy"])
    shown = {
        name
        for section in ("Overview by method", "Tasks", "Cost against score")
        for panel in dashboard.sections(about)[section]
        for name in (panel.x, panel.y)
        if name
    }
    assert shown <= summary_of(result).keys()


def test_a_suite_has_a_panel_per_task_and_a_curve_per_metric(tmp_path, capsys):
    definition, _ = made(tmp_path, capsys, "suite=glue")
    found = panels(definition)
    assert len(found["Tasks"]) == 8 and "task/cola" in names(found["Tasks"])
    curves = names(found["Learning curves"])
    assert curves[0] == "train/loss" and {"val/matthews", "val/pearson"} <= set(curves)
    filters = definition["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert filters[0]["key"]["name"] == "names.value.data" and "cola" in filters[0]["value"]
    definition, _ = made(tmp_path, capsys, "suite=vtab1k", "kind=report", "title=VTAB 1")
    assert len(panels(definition)["Tasks"]) == 19 and definition["name"] == "VTAB 1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["suite=vtab"], "Did you mean 'vtab1k'"),
        (["suite=digits"], "is one task"),
        (["runs=nowhere"], "no folder nowhere"),
        (["suite=glue", "runs=x"], "either"),
        (["kind=page", "suite=glue"], "workspace"),
    ],
)
def test_slips_are_told(tmp_path, capsys, words, told):
    assert told in made(tmp_path, capsys, *words, code=2)[1]


def test_a_refusal_of_wandb_is_an_error_in_words(monkeypatch):
    import wandb_workspaces.workspaces as ws

    monkeypatch.setattr(ws.Workspace, "save", lambda self: (_ for _ in ()).throw(OSError("down")))
    about = dashboard.Subject("s", ("digits",), ("train/loss",))
    with pytest.raises(TrackerError, match=r"workspace 's' \(down\)"):
        dashboard.publish(about, "me", "p", "workspace")
