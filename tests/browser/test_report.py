"""The report in a browser: nothing wider than its page, on a desk, a phone and paper; the figures within three screens; no request to any host."""

import chromium
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dsa_lib.core import published
from dsa_lib.report import html as html_report
from dsa_lib.run import artifacts
from dsa_lib.run.session import begin

SCREEN = 900  # pixels high, at 1280 wide
SIZES = {1: (1440, 1520), 2: (2240, 1100), 3: (1440, 720), 4: (2160, 2200), 5: (1440, 920)}  # of Figures 1–5, as drawn
# As many columns as the widest tables of a run, with the text and numbers that such tables hold.
COLUMNS = {
    "images": [12345, 400],
    "reference_set": ["held-out frames", "training"],
    "value": [12.7138, 0.1234],
    "value_low": [-3.05, 0.0],
    "value_high": [22.37, 1.0],
}
WIDE = {
    f"{name}_{kind}": each for name in ("distance", "precision", "recall_overall") for kind, each in COLUMNS.items()
}
WIDE |= {f"share_{number}": [0.1234, 0.9876] for number in range(12)}
CONTEXT = {
    "row": ["DARL", "This run, overall", "This run, AC A"],
    "measure": "DSA-feature distance",
    "features": "dsa-network",
    "images": 313.0,
    "reference_images": 392.0,
    "value": 12.7,
    "low": 3.1,
    "high": 22.4,
    "endless": 4.4,
    "endless_low": -5.3,
    "endless_high": 14.1,
    "floor": 10.1,
    "floor_low": 0.0,
    "floor_high": 22.3,
    "rank_deficient": True,
    "source": "phantom",
    "reference": "Kim, Oh & Ye 2023: pseudo-angiograms for vessel segmentation",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a made-up run that has every table and figure of the registry."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSA_RUNS", str(runs))
        rng = np.random.default_rng(0)
        values = {"run": "whole", "profile": "smoke", "archive": "", "overrides": {}, "In": [""]}
        for notebook in artifacts.EVERY[:-1]:
            study = begin(notebook, values)
            for line in artifacts.registry():
                if line.notebook == notebook and line.title:
                    write(study, line.artifact, rng)
            study.note("source", "simulated ratings")
            study.note("adherence", ["A sentence that the audit concluded from four measures and their intervals."] * 3)
            study.finish()
        study = begin("90_report", values)
        html_report.write_report(study, study.write("report.html"))
        yield study.ws.root / "report.html"


def write(study, name, rng):
    number = name.removeprefix("tables/table").removesuffix(".csv")
    if number.isdigit():
        cells = published.published(int(number)).dropna()
        ours = {(row, column): 1.1 * value for row, column, value in cells[["row", "column", "published"]].itertuples(index=False)}  # fmt: skip
        published.write_table(
            study.write(name),
            published.contract(int(number), ours, "phantom" if number in "15" else "simulated ratings"),
        )
    elif name == "tables/table5_context.csv":
        pd.DataFrame(CONTEXT, index=[0, 1, 2]).to_csv(study.write(name), index=False)
    elif name.endswith(".csv") and "*" not in name:
        pd.DataFrame(WIDE).to_csv(study.write(name), index=False)
    elif name.endswith(".png") and "*" not in name:
        place = name.removeprefix("figures/figure").removesuffix(".png")
        width, height = SIZES[int(place)] if place.isdigit() else (1400, 700)
        grain = rng.normal(160, 6, (height // 4, width // 4)).clip(0, 255).astype(np.uint8)  # as noisy as frames are
        Image.fromarray(grain).resize((width, height)).save(study.write(name))


@pytest.fixture
def opened(report):
    """Opens the report at a width; `requests` are the addresses that it asked for."""
    chromium.needed("the report")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium.LAUNCH)

        def at(width, **settings):
            page = browser.new_page(viewport={"width": width, "height": SCREEN}, **settings)
            page.requests = []
            page.on("request", lambda request: page.requests.append(request.url))
            page.goto(report.as_uri())
            return page

        yield at
        browser.close()


OPEN = "document.querySelectorAll('details').forEach(part => part.open = true)"
WIDER = """() => [...document.querySelectorAll('table, img, p, li, pre, dd')]
    .filter(part => part.getBoundingClientRect().right > document.documentElement.clientWidth || part.scrollWidth > part.clientWidth + 1)
    .map(part => part.outerHTML.slice(0, 90))"""


@pytest.mark.parametrize("width", [1280, 800, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page_and_nothing_is_fetched(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    with Image.open(chromium.screenshot(page, f"report_{width}_{scheme}")) as picture:
        assert picture.width == width
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(WIDER) == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


def test_nothing_is_wider_than_the_paper(opened):
    page = opened(700)  # A4 less its margins, in CSS pixels
    page.emulate_media(media="print")
    page.evaluate(OPEN)
    assert page.evaluate("document.documentElement.scrollWidth") == 700
    assert page.evaluate(WIDER) == []


def test_answer_tables_figures_stand_in_this_order_within_three_screens(opened):
    page = opened(1280)
    top = {name: page.locator(f"#{name}").bounding_box()["y"] for name in ("answer", "tables", "figures", "verdicts")}
    assert list(top) == sorted(top, key=top.get)
    assert page.locator("#answer").bounding_box()["height"] < SCREEN / 2
    for number in range(1, 6):
        box = page.locator(f"#figure{number} img").bounding_box()
        assert box["y"] + box["height"] <= 3 * SCREEN, f"Figure {number}"
    assert page.locator("#provenance").bounding_box()["y"] == max(
        box["y"] for part in page.locator("body > details").all() if (box := part.bounding_box())
    )


def test_a_figure_is_enlarged_where_it_is_selected(opened):
    page = opened(1280)
    small = page.locator("#figure3 img").bounding_box()["width"]
    page.locator("#figure3 a").click()
    assert page.locator("#figure3 img").bounding_box()["width"] > 2 * small


def test_it_is_small_enough_to_send(report):
    assert report.stat().st_size <= 3e6
