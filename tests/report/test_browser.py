"""The report in a real browser: Chromium through Playwright. Skipped where either is missing (``make browsers``)."""

import os
import re
import shutil
import threading

import pytest

from bench.report import serve
from bench.report.build import build
from bench.report.inputs import Extras
from bench.store.store import Store
from tests import factories
from tests.report.html.test_page import HOSTILE, hostile_records
from tests.report.pages import stored

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browsers")

# Where a system package puts it; Playwright's own download is found by Playwright.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DRAWN = "html[data-drawn]"


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens an address and gives the page, which must have had nothing to complain of when the test ends."""
    complaints, contexts = [], []

    def go(address, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else 0
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(address if "://" in str(address) else f"file://{address}")
        page.wait_for_selector(DRAWN, state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of four methods over three seeds with a lost run, made once."""
    place = tmp_path_factory.mktemp("browser")
    accuracy = {"full": 0.86, "lora": 0.855, "lst": 0.80, "head": 0.72}
    made = [factories.record(method, seed=seed) for method in accuracy for seed in range(3)]
    made += [factories.failed("oom", "lora", rank=512), factories.failed("failed", "head", seed=3)]
    stored(place, made, lambda record: accuracy[record["spec"]["method"]["name"]])
    build(made, place / "report.html", Extras(folder=place))
    return place


@pytest.fixture
def page(folder, visit):
    return visit(folder / "report.html")


def labels(page):
    """The labels of the rows that can be seen, from top to bottom."""
    found = page.locator("table.runs tbody:not([hidden]) tr:not(.one) th a").all_text_contents()
    return [label.removesuffix(" rank=8") for label in found]


def test_every_chart_is_drawn(page):
    assert (
        page.locator(".chart").count()
        == page.locator(".chart .main-svg").count() // page.locator(".chart >> nth=0 >> .main-svg").count()
    )
    assert page.locator(".chart").count() == 6


def test_headings_sort_and_turn_round(page):
    assert labels(page) == ["full", "lora", "lst", "head", "lora rank=512"]
    page.get_by_role("button", name="peak MB").click()
    assert labels(page) == ["head", "lst", "lora", "full", "lora rank=512"], "what was not measured stays last"
    head = page.locator("th", has=page.get_by_role("button", name="peak MB"))
    assert head.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="peak MB").click()
    assert labels(page) == ["full", "lora", "lst", "head", "lora rank=512"]
    page.get_by_role("button", name="method", exact=True).press("Enter")
    assert labels(page) == ["full", "head", "lora", "lora rank=512", "lst"]


def test_single_runs_unfold_and_move_with_their_row(page):
    button = page.get_by_role("button", name="3 runs of full")
    button.click()
    shown = page.locator("tr.one:visible th").all_text_contents()
    assert shown == ["seed 0", "seed 1", "seed 2"] and button.get_attribute("aria-expanded") == "true"
    page.get_by_role("button", name="peak MB").click()
    rows = page.locator("table.runs tbody tr:visible th a").all_text_contents()
    assert rows[rows.index("full") + 1 :][:3] == ["seed 0", "seed 1", "seed 2"]
    page.get_by_label("single runs").check()
    assert page.locator("tr.one:visible").count() == 13


def test_filters_narrow_the_table(page):
    page.get_by_role("searchbox").fill("cuda memory")
    assert labels(page) == ["lora rank=512"], "an error is found too"
    assert page.locator(".count").text_content() == "1 of 5 shown"
    page.get_by_role("searchbox").fill("")
    page.get_by_label("method", exact=True).select_option("lora")
    assert labels(page) == ["lora", "lora rank=512"]
    page.get_by_label("status").select_option("ok")
    assert labels(page) == ["lora"]
    page.get_by_label("method", exact=True).select_option("")
    page.get_by_label("status").select_option("failed")
    assert labels(page) == ["head"], "a row is found by any of its runs"


def test_the_slider_picks_the_best_that_fits(page):
    choice, memory = page.locator(".choice"), page.get_by_label("training memory up to")
    assert (
        choice.text_content().startswith("full: accuracy 86") and "No significant difference" in choice.text_content()
    )
    memory.press("ArrowLeft")
    assert choice.text_content().startswith("lora rank=8: accuracy") and "Without limits the best is full" in (
        choice.text_content()
    )
    assert re.fullmatch(r"\d+ MB", memory.get_attribute("aria-valuetext"))
    memory.press("Home")
    assert choice.text_content().startswith("head: ")
    memory.press("End")
    page.get_by_label("training speed at least").press("End")
    assert choice.text_content().startswith("head: "), "the fastest"
    memory.press("Home")
    page.get_by_label("training speed at least").fill("0")
    assert choice.text_content().startswith("head: ")


def test_axes_can_be_chosen(page):
    chart = page.locator(".chart").first
    title = chart.locator(".xtitle")
    assert title.text_content() == "training peak, MB"
    page.get_by_label("x axis").select_option("train_samples_per_second")
    sync_api.expect(title).to_have_text("training, samples/s")
    assert "Upper right is better." in page.locator(".axes").text_content()
    page.get_by_label("y axis").select_option("train_peak_bytes")
    sync_api.expect(chart.locator(".ytitle")).to_have_text("training peak, MB")
    assert "Lower right is better." in page.locator(".axes").text_content()
    assert chart.locator(".scatterlayer .trace").count() == 5, "four methods and the front"


def test_the_theme_changes_page_and_charts(page):
    def colours():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.chart .xtitle')).fill]"
        )

    light = colours()
    page.get_by_role("button", name="Dark theme").click()
    page.wait_for_selector('html[data-drawn="2"]', state="attached")
    dark = colours()
    assert light[0] != dark[0] and light[1] != dark[1]
    page.reload()
    page.wait_for_selector(DRAWN, state="attached")
    assert colours() == dark, "the choice is remembered"


def test_the_command_can_be_copied(folder, visit):
    page = visit(folder / "report.html", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the command for full").click()
    sync_api.expect(page.get_by_role("status").last).to_have_text(re.compile("Command copied|Press Ctrl"))
    page.get_by_role("link", name="full", exact=True).first.click()
    code = page.locator("details[open] code:visible").first.text_content()
    assert code.startswith("bench run --methods full --task glue/sst2 --model minilm --seeds 0,1,2 ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(folder, visit, scheme):
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for the frames of fields."""
    page = visit(folder / "report.html", color_scheme=scheme)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    faint = page.evaluate(_FAINT)
    assert faint == []


_FAINT = """() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
  const light = ({ r, g, b }) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const colour = parse(getComputedStyle(up).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return { r: 255, g: 255, b: 255 };
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const found = new Set();
  for (const element of document.querySelectorAll("header *, main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || ["STYLE", "SCRIPT", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest("svg") ? style.fill : style.color);
    const contrast = ratio(colour, ground(element));
    if (contrast < 4.5) found.add(`${element.tagName}.${element.getAttribute("class")} ${contrast.toFixed(2)}`);
  }
  for (const field of document.querySelectorAll("select, input[type=search]")) {
    const contrast = ratio(parse(getComputedStyle(field).borderTopColor), ground(field.parentElement));
    if (contrast < 3) found.add(`frame of ${field.tagName} ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""


def test_everything_can_be_reached_and_named_without_seeing(page):
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, a, input, select, [role]")]
      .filter((e) => e.role !== "status" && e.role !== "note")
      .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title)).map((e) => e.outerHTML)""")
    assert nameless == []
    headless = page.evaluate("""() => [...document.querySelectorAll("table")]
      .filter((t) => !t.querySelector("thead th[scope=col]")
        || [...t.tBodies].some((b) => !b.querySelector("th[scope=row]")))
      .map((t) => t.outerHTML.slice(0, 200))""")
    assert headless == []
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName + (document.activeElement.className || '')"))
    assert {"BUTTON", "INPUT", "SELECT", "Awide", "DIVwide"} & seen and "BUTTONcopy" in seen and "SELECT" in seen


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_its_window(tmp_path, visit, width):
    long = "a-method-with-quite-a-long-name " + "x" * 120
    made = [factories.record(long, option="y" * 200), factories.record("lora"), factories.failed("failed", long, tag=2)]
    made[2]["error"] = made[2]["traceback"] = "Error: " + "z" * 500
    made[0]["spec"]["task"]["name"] = made[1]["spec"]["task"]["name"] = "a/task/" + "n" * 150
    build(made, tmp_path / "report.html")
    page = visit(tmp_path / "report.html", viewport={"width": width, "height": 800})
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_empty_folder_says_what_to_do(tmp_path, visit):
    build([], tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    assert "no runs in this folder yet" in page.locator("main").text_content()


def test_hostile_text_runs_nowhere(tmp_path, visit):
    """A script that ran would open a dialog, which ``visit`` reports; one task each is enough for a browser."""
    texts = [HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[4], HOSTILE[9]]
    made = [run for text in texts for run in hostile_records(text) if run["spec"]["task"]["name"] == text]
    build(made, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for slider in page.locator("[data-fits=memory]").all():
        slider.press("Home")
    page.locator(".chart .point").first.hover(force=True)
    assert page.locator("main script, main img, main iframe, .chart a").count() == 0


def test_500_runs_can_be_sorted_and_filtered(tmp_path, visit):
    build(factories.sweep(500), tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    page.get_by_role("button", name="peak MB").click()
    page.get_by_role("searchbox").fill("lst reduction=4")
    assert 0 < len(labels(page)) < 60 and all(label.startswith("lst reduction=4") for label in labels(page))


def test_a_served_page_takes_new_records_and_keeps_its_place(tmp_path, visit):
    store = Store(tmp_path)
    store.prepare()
    for method in ("full", "lora"):
        for seed in range(2):
            store.write(factories.record(method, seed=seed))
    server = serve.listen(serve.Page(tmp_path, lambda: (store.records()[0], Extras(folder=tmp_path))), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(False,), daemon=True)
    thread.start()
    try:
        page = visit(server.url)
        page.get_by_role("searchbox").fill("l")
        page.get_by_role("button", name="peak MB").click()
        page.get_by_label("training memory up to").press("Home")
        page.get_by_label("x axis").select_option("trainable")
        page.get_by_role("button", name="2 runs of lora").click()
        page.get_by_text("Every run in detail").click()
        page.evaluate("scrollTo(0, 400)")
        store.write(factories.record("lst"))
        sync_api.expect(page.locator("table.runs tbody")).to_have_count(3, timeout=20_000)
        page.wait_for_selector('html[data-drawn="2"]', state="attached")
        assert labels(page) == ["lst", "lora", "full"], "still sorted by memory"
        assert page.get_by_role("searchbox").input_value() == "l"
        assert page.get_by_label("x axis").input_value() == "trainable"
        assert page.locator(".choice").text_content().startswith("lst"), "the slider is still at its end"
        assert page.locator("tr.one:visible").count() == 2 and page.locator("details.all").get_attribute("open") == ""
        assert page.evaluate("scrollY") == 400
    finally:
        server.stop()
        thread.join(10)
        server.close()
