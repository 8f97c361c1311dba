"""The page in headless Chromium. Needs playwright and a Chromium: select with -m browser.

The browser is the system's (``CHROMIUM=PATH`` names another); playwright's own is taken where
neither is there.
"""

import os
import shutil

import pytest
from test_page import study

from peftbench.reports import page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        with_sandbox = os.geteuid() != 0
        made = playwright.chromium.launch(executable_path=found, chromium_sandbox=with_sandbox)
        yield made
        made.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open the page of a small study without a network; nothing is asked for or complained of."""
    path = tmp_path / "report.html"
    page.write(study(tmp_path / "outputs" / "study"), path)
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab, told, asked = context.new_page(), [], []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    assert told == [] and asked == [path.as_uri()]
    context.close()


def first_column(tab):
    return tab.eval_on_selector_all(
        ".view:not([hidden]) .leaders tbody tr:not([hidden]) th", "all => all.map(x => x.innerText)"
    )


def test_plots_are_drawn(opened):
    shown = ".view:not([hidden]) svg.scatter"
    assert opened.locator(shown).count() == 3
    boxes = [m.bounding_box() for m in opened.locator(f"{shown} .mark").all()]
    assert len(boxes) == 9 and all(b["width"] > 3 and b["height"] > 3 for b in boxes)
    front = opened.locator(f"{shown} .front").first.get_attribute("d")
    assert front.startswith("M") and "NaN" not in front
    assert opened.locator(".curve-set figure:visible .curve").count() in (5, 6)
    assert opened.locator("svg.gaps .mark:visible").count() == 2


def test_sorting_by_click_and_key(opened):
    assert first_column(opened) == ["lora", "ssf", "linear"]
    head = opened.locator(".view:not([hidden]) thead th", has_text="trained")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column(opened) == ["linear", "lora", "ssf"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert first_column(opened) == ["ssf", "lora", "linear"]


def test_filters_hide_rows_and_marks_and_move_the_front(opened):
    front = opened.locator(".view:not([hidden]) svg.scatter .front").first
    before = front.get_attribute("d")
    opened.fill("#filter", "S")
    assert first_column(opened) == ["ssf"]
    assert opened.locator(".view:not([hidden]) .mark:visible").count() == 3
    assert front.get_attribute("d") != before and "L" not in front.get_attribute("d")
    opened.fill("#filter", "")
    opened.select_option("#by-method", "linear")
    assert first_column(opened) == ["linear"]
    opened.click("button[type=reset]")
    opened.wait_for_function("document.querySelector('#by-method').value === ''")
    assert first_column(opened) == ["lora", "ssf", "linear"]
    assert front.get_attribute("d") == before
    assert opened.inner_text("#shown") == "3 methods on 1 board"


def test_a_task_switches_table_plots_and_curves(opened):
    opened.select_option("#by-task", "emoji")
    assert opened.locator(".leaders caption:visible").inner_text() == "emoji"
    assert opened.locator(".heat th.on").inner_text() == "emoji"
    assert opened.locator(".curve-set figure:visible figcaption").inner_text().startswith("val")
    assert "on emoji" in opened.locator(".curve-set figure:visible figcaption").inner_text()
    opened.select_option("select[data-of=name]", "train loss")
    assert opened.locator(".curve-set figure:visible").count() == 1
    assert "train loss" in opened.locator(".curve-set figure:visible figcaption").inner_text()


def test_a_figure_leads_to_its_runs(opened):
    opened.locator(".heat tbody tr").first.locator("button").first.click()
    assert opened.locator("dialog h2").inner_text() == "lora, digits"
    runs = opened.locator("dialog .run")
    assert runs.count() == 2 and "seed 0" in runs.first.inner_text()
    link = runs.first.locator("a")
    assert link.get_attribute("href").startswith("outputs/study/")
    assert runs.first.locator("code").inner_text()
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog").is_visible()


def test_marks_explain_themselves_to_pointer_and_keyboard(opened):
    mark = opened.locator(".view:not([hidden]) .mark").first
    mark.hover()
    assert opened.inner_text("#tip").startswith("lora: ")
    opened.mouse.move(2, 2)
    mark.focus()
    assert opened.locator("#tip").is_visible()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(opened, width, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    sizes = opened.eval_on_selector_all(
        ".view:not([hidden]) svg text", "all => all.map(t => t.getBoundingClientRect().height)"
    )
    assert min(sizes) > 9
    ink, ground = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(int(v) for v in c[4:-1].split(",")) for c in (ink, ground)]
    assert (light[0] < light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 450


def test_it_prints(opened):
    opened.emulate_media(media="print")
    assert not opened.locator("#controls").is_visible()
    assert opened.locator(".view:not([hidden]) .leaders").is_visible()
    assert (
        opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert opened.pdf(format="A4", landscape=True)[:5] == b"%PDF-"


def test_without_a_script_tables_and_plots_are_there(browser, tmp_path):
    path = tmp_path / "report.html"
    page.write(study(tmp_path / "s"), path)
    context = browser.new_context(java_script_enabled=False, offline=True)
    tab = context.new_page()
    tab.goto(path.as_uri())
    assert tab.locator(".leaders").first.is_visible()
    assert tab.locator("svg.scatter").first.is_visible()
    assert tab.locator(".view").nth(1).is_visible() and not tab.locator("#controls").is_visible()
    context.close()
