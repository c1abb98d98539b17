"""The rating page in headless Chromium: four readers at once, the server killed under them, nothing lost and nothing told."""

import asyncio
import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import chromium
import made_up_run
import pandas as pd
import pytest

from dsa_lib.curation import annotations
from dsa_lib.rating.store import SEGMENTS, Store
from dsa_lib.rating.study import location
from dsa_lib.readers.rating_files import open_reader_study
from dsa_lib.run.workspace import PROJECT, Workspace

RUN = "unspoken"  # a word that nothing else on a page contains
RATERS = {"NR1": "NR", "NR2": "NR", "NS1": "NS", "IM1": "IM"}
PATIENCE = 60_000  # ms


@pytest.fixture(autouse=True)
def needs_chromium():
    chromium.needed("the rating page")


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return made_up_run.whole(RUN, per_condition=2)


class Server:
    """`python -m dsa_lib.rating serve`, as make readers starts it."""

    def __init__(self, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.options, self.address = options, f"http://127.0.0.1:{self.port}"

    async def start(self):
        command = [
            sys.executable,
            "-m",
            "dsa_lib.rating",
            "serve",
            "--run",
            RUN,
            "--port",
            str(self.port),
            *self.options,
        ]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.said = await asyncio.to_thread(self._read)
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()  # an address that is printed answers
        return self

    def _read(self):
        said = []
        while not said or (said[-1] and not said[-1].startswith("Every answer")):
            said.append(self.process.stdout.readline())
        return said

    def links(self):
        """Name → address with token, from what the command printed."""
        return {m[1]: m[2] for line in self.said if (m := re.match(r"  (\w+) \(.*\): (http\S+)", line))}

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextlib.asynccontextmanager
async def opened(*options):
    """A server and a browser, both ended afterwards."""
    from playwright.async_api import async_playwright

    server = await Server(*options).start()
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(**chromium.LAUNCH)
            yield server, browser
            await browser.close()
    finally:
        server.kill()


class Tab:
    """One browser page of one reader, worked by keys alone, with everything that reached it."""

    def __init__(self, page):
        self.page, self.received, self.requested = page, [], []
        page.on("websocket", self._listen)
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("response", lambda response: asyncio.ensure_future(self._keep(response)))
        page.set_default_timeout(PATIENCE)

    def _listen(self, sock):
        sock.on("framereceived", lambda data: self.received.append(data if isinstance(data, bytes) else data.encode()))

    async def _keep(self, response):
        if (
            "/voila/static/" in response.url
            or "/voila/labextensions/" in response.url
            or response.url.startswith("blob:")
        ):
            return  # the libraries' own scripts
        with contextlib.suppress(Exception):  # a page that was reloaded has no body any more
            self.received += [await response.body(), json.dumps(await response.all_headers()).encode()]

    @classmethod
    async def open(cls, browser, link, **options):
        context = await browser.new_context(viewport={"width": 1280, "height": 860}, **options)
        tab = cls(await context.new_page())
        await tab.page.goto(link)
        await tab.page.wait_for_selector(".dsa-panel:not([data-show=hello])")
        return tab

    async def state(self):
        """What the panel shows, in one look; None while the page is being loaded again."""
        look = """() => { const p = document.querySelector('.dsa-panel'); if (!p || p.querySelector('.dsa-lost')) return null;
          const pressed = [...p.querySelectorAll('[data-segment]')].map(s => s.querySelector('[aria-pressed=true]')?.title ?? '');
          return { show: p.dataset.show, stage: p.dataset.stage, busy: p.dataset.busy === 'true', saved: p.dataset.saved === 'true', pressed,
            origin: p.querySelector('[aria-label=origin] [aria-pressed=true]')?.textContent ?? '', text: p.innerText,
            position: Number((p.innerText.match(/(?:Image|Series) (\\d+) of/) ?? [0, 0])[1]) } }"""
        with contextlib.suppress(Exception):
            return await self.page.evaluate(look)

    async def until(self, wanted):
        for _ in range(PATIENCE // 20):
            state = await self.state()
            if state and not state["busy"] and state["saved"] and wanted(state):
                return state
            await asyncio.sleep(0.02)
        raise AssertionError(f"waited in vain; the page shows {await self.state()}")

    async def press(self, key):
        with contextlib.suppress(Exception):  # while the page is being loaded again
            await self.page.keyboard.press(key)

    def all_text(self):
        """Everything received, without the pixels of images."""
        return re.sub(rb"\x89PNG.*?IEND.{4}", b"", b"\n".join(self.received), flags=re.DOTALL).decode(
            "utf-8", "replace"
        )


def plan_of(name, images):
    """What this reader is going to answer: position → keys for the three segments and for the origin."""
    rng = random.Random(name)
    return {n: ([rng.choice("12345na") for _ in SEGMENTS], rng.choice("tg")) for n in range(1, images + 1)}


VALUES = {"n": "not_present", "a": "not_applicable"}
TITLES = {"n": "not present (N)", "a": "not applicable (A)"}


async def rate(tab, plan):
    """Answer every image by the plan, looking before each key at what is on the page, as a reader does who was interrupted."""
    acknowledged = set()
    while True:
        state = await tab.until(lambda s: (s["show"] == "end" and s["stage"] == "rating") or s["position"])
        if state["show"] == "end":
            return acknowledged
        keys, origin = plan[state["position"]]
        wanted = [TITLES.get(key, key) for key in keys]
        missing = next((n for n, title in enumerate(state["pressed"]) if not title.endswith(" " + wanted[n])), None)
        if missing is not None:
            for _ in range(2):
                await tab.press("ArrowUp")
            for _ in range(missing):
                await tab.press("ArrowDown")
            await tab.press(keys[missing])
        elif state["origin"] != {"t": "Real", "g": "Generated"}[origin]:
            await tab.press(origin)
        else:
            acknowledged.add(state["position"])  # the page said of all four that they are saved
            await tab.press("Enter")


def answers_of(name):
    """The reader's answers on disk by position: (the segments' values, origin)."""
    store = Store(location(RUN, "ratings"))
    rater = next(r for r in store.raters() if r.name == name)
    answers = store.answers(rater)
    found = {
        n: (tuple(answers.get(p.image, {}).get(s) for s in SEGMENTS), answers.get(p.image, {}).get("origin"))
        for n, p in enumerate(store.places(rater, "rating"), start=1)
    }
    store.close()
    return found


def as_values(plan):
    return {
        n: (tuple(VALUES.get(key, key) for key in keys), {"t": "archive", "g": "generated"}[origin])
        for n, (keys, origin) in plan.items()
    }


def status(address):
    try:
        return urllib.request.urlopen(address, timeout=20).status
    except urllib.error.HTTPError as refused:
        return refused.code


async def four_readers(ws):
    async with opened("--controls", "2", "--turing", "1") as (server, browser):
        links = server.links()
        assert set(links) == set(RATERS)
        tabs = dict(
            zip(links, await asyncio.gather(*(Tab.open(browser, link) for link in links.values())), strict=True)
        )

        # The senior reader screens; the others wait and are told nothing.
        for name in ("NR2", "NS1", "IM1"):
            state = await tabs[name].state()
            assert (
                state["stage"] == "waiting"
                and "still being selected" in state["text"]
                and not re.search(r"\d", state["text"].replace(name, ""))
            )
        senior = tabs["NR1"]
        for n in range(1, 11):
            await senior.until(lambda s, n=n: s["position"] == n)
            await senior.press("r" if n in (3, 8) else "k")
        state = await senior.until(lambda s: s["show"] == "end")
        assert "You keep 8 of 10" in state["text"]
        await senior.press("c")
        await senior.press("c")

        # All four rate; the server is killed twice while they do.
        plans = {name: plan_of(name, 8) for name in RATERS}
        working = [asyncio.ensure_future(rate(tabs[name], plans[name])) for name in RATERS]
        kills = 0
        while kills < 2:
            await asyncio.sleep(0.05)
            given = sum(None not in values for name in RATERS for values, _ in answers_of(name).values())
            if given >= (4, 14)[kills]:
                before = {name: answers_of(name) for name in RATERS}
                server.kill()
                kills += 1
                after = {name: answers_of(name) for name in RATERS}
                for name in RATERS:  # what was there is there
                    for n, (values, origin) in before[name].items():
                        assert all(
                            old in (None, new)
                            for old, new in zip((*values, origin), (*after[name][n][0], after[name][n][1]), strict=True)
                        )
                await server.start()
        acknowledged = dict(zip(RATERS, await asyncio.gather(*working), strict=True))
        for name in RATERS:
            assert acknowledged[name] <= set(range(1, 9))
            assert answers_of(name) == as_values(plans[name])
            await tabs[name].until(lambda s: "Everything is answered" in s["text"])  # a page may just be coming back
        audit = Store(location(RUN, "ratings")).rows(
            "SELECT rater, image, field, count(*) FROM audit WHERE image IS NOT NULL GROUP BY 1, 2, 3"
        )
        assert len(audit) == 10 + 4 * 8 * 4 and {count for *_, count in audit} == {1}, "an answer was written twice"

        await nothing_leaks(ws, server, tabs, links)
        await the_server_gives_nothing_away(server, tabs["NR2"])


async def nothing_leaks(ws, server, tabs, links):
    """Page source, network, widget state (it comes over the network), addresses: no condition, no name, nobody else."""
    manifest = pd.read_parquet(ws.root / "samples/reader/manifest.parquet")
    conditions = {
        *manifest["circulation"],
        *manifest["cell"],
        "Plane A",
        "Plane B",
        *manifest["sentence"],
        *map(str, manifest["seed"]),
    }
    names = {
        *manifest["image_id"],
        *manifest["file"],
        "manifest",
        "control0",
        "samples/",
        str(ws.root),
        RUN,
        "ratings.db",
    }
    tokens = {name: link.partition("#")[2] for name, link in links.items()}
    for name, tab in tabs.items():
        others = {*(set(RATERS) - {name}), *(set(tokens.values()) - {tokens[name]})}
        text = tab.all_text()
        assert "_esm" in text and len(text) > 10_000  # the widget's state is among it
        for source in (text, await tab.page.content(), " ".join(tab.requested)):
            assert not [word for word in conditions | names | others if word in source], name
        assert tokens[name] not in " ".join(tab.requested)  # the token is in no request, so in no log
        assert not [url for url in tab.requested if not url.startswith((server.address, "data:", "blob:"))]


async def the_server_gives_nothing_away(server, tab):
    for path in (
        "voila/files/rating_page.py",
        "voila/files/rating_page.ipynb",
        "voila/files/../figures/figure1.png",
        "voila/tree",
        "api/contents",
        "api/kernels",
        "api/sessions",
    ):
        # Refused, or answered by the page itself.
        assert await asyncio.to_thread(status, f"{server.address}/{path}") != 200 or await asyncio.to_thread(
            is_page, f"{server.address}/{path}"
        ), path
    # A page's own connection runs no code, whoever sends it.
    asked = """async () => { const id = JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId;
      const socket = new WebSocket(`ws://${location.host}/api/kernels/${id}/channels`), types = [];
      await new Promise(done => { socket.onopen = done; });
      socket.onmessage = e => { if (typeof e.data === 'string') types.push(JSON.parse(e.data).msg_type); };
      const send = (msg_type, content) => socket.send(JSON.stringify({ channel: 'shell', content, parent_header: {}, metadata: {}, buffers: [],
        header: { msg_id: msg_type, msg_type, session: 's', username: '', version: '5.3', date: new Date().toISOString() } }));
      send('execute_request', { code: '1 + 1', silent: false, store_history: false, user_expressions: {}, allow_stdin: false });
      send('kernel_info_request', {});
      for (let i = 0; i < 400 && !types.includes('kernel_info_reply'); i++) await new Promise(done => setTimeout(done, 25));
      socket.close(); return types; }"""
    types = await tab.page.evaluate(asked)
    assert "kernel_info_reply" in types and not [kind for kind in types if kind.startswith("execute")]


def is_page(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return b'data-voila="voila"' in answer.read()


def test_four_readers_with_the_server_killed_under_them(ws, tmp_path):
    asyncio.run(four_readers(ws))
    done = subprocess.run(
        [sys.executable, "-m", "dsa_lib.rating", "export", "--run", RUN, "--to", str(tmp_path / "out")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    study = open_reader_study(tmp_path / "out" / "screening.csv", tmp_path / "out" / "ratings.csv")
    controls = pd.read_csv(tmp_path / "out" / "controls.csv")
    assert len(study.kept) + controls["kept"].sum() == 8 and len(controls) == 2
    assert len(study.ratings) == 4 * 3 * len(study.kept)
    assert dict(zip(study.ratings["rater"], study.ratings["role"], strict=True)) == RATERS


async def one_reader(ws):
    async with opened("--raters", "NR1:NR") as (server, browser):
        link = server.links()["NR1"] if server.links() else None
        wrong = await Tab.open(browser, f"{server.address}/#aaaa-aaaa-aaaa-aaaa")
        await wrong.until(lambda s: "This token is not known" in s["text"])
        # Typed into the form instead, and only keys from here on.
        token = link.partition("#")[2]
        await wrong.page.fill("input[name=token]", token.upper().replace("-", " "))  # however it is typed
        await wrong.press("Enter")
        one = wrong
        await one.until(lambda s: s["position"] == 1)
        assert one.page.url.partition("#")[2] == token  # so that a reload knows it
        for n in range(1, 9):
            await one.until(lambda s, n=n: s["position"] == n)
            await one.press("k")
        await one.until(lambda s: s["show"] == "end")
        await one.press("ArrowLeft")  # look back: the last is rejected after all
        await one.until(lambda s: s["position"] == 8)
        await one.press("r")
        assert "You keep 7 of 8" in (await one.until(lambda s: s["show"] == "end"))["text"]
        await one.press("c")
        assert "Close it now?" in (await one.until(lambda s: "Close it now?" in s["text"]))["text"]
        await one.press("Escape")
        await one.until(lambda s: "Close it now?" not in s["text"])
        await one.press("c")
        await one.press("c")
        await one.until(lambda s: s["stage"] == "rating" and s["position"] == 1)

        # What a reader does to the view is done at once and in the browser.
        grey = """() => { const c = document.querySelector('.dsa-canvas');
          return c.getContext('2d').getImageData(c.width / 2, c.height / 2 - 200, 1, 1).data[0] }"""
        before = await one.page.evaluate(grey)
        # One window for the whole study, taken from its images, which do not fill the greys.
        width = int(re.search(r"W (\d+)", await one.page.inner_text(".dsa-readout"))[1])
        assert width < 256
        await one.press("i")
        assert abs(await one.page.evaluate(grey) - (255 - before)) <= 2
        await one.press("+")
        await one.press("]")
        readout = await one.page.inner_text(".dsa-readout")
        assert "×1.3" in readout and f"W {width + 16}" in readout
        # AltGr+8, as Chromium on Windows reports it with a German keyboard.
        await one.page.evaluate(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '[', ctrlKey: true, altKey: true, bubbles: true}))"
        )
        assert f"W {width} " in await one.page.inner_text(".dsa-readout")
        await one.press("0")
        assert await one.page.evaluate(grey) == before

        # Incomplete images are not passed over; a reload shows what is on disk.
        await one.press("4")
        await one.until(lambda s: s["pressed"][0] == "Proximal 4")
        await one.press("Enter")
        assert (
            "Still to be graded here: medium, peripheral" in (await one.until(lambda s: "Still" in s["text"]))["text"]
        )
        await one.page.reload()
        state = await one.until(lambda s: s["position"] == 1)
        assert state["pressed"] == ["Proximal 4", "", ""]

        # Two tabs: the second goes ahead, the first corrects what it still shows and follows.
        two = await Tab.open(browser, link)
        for key in ("3", "n", "Enter"):
            await two.press(key)
        await two.until(lambda s: s["position"] == 2)
        await two.press("x")
        await two.press("Enter")
        await two.until(lambda s: s["position"] == 3)
        await one.press("ArrowUp")
        await one.press("ArrowUp")
        await one.press("5")
        state = await one.until(lambda s: s["pressed"][0] == "Proximal 5")
        assert state["pressed"] == ["Proximal 5", "Medium 3", "Peripheral not present (N)"]
        await one.press("Enter")
        await one.until(lambda s: s["position"] == 3)
    answers = Store(location(RUN, "ratings"))
    given = answers.rows(
        "SELECT place, field, value FROM answers JOIN places USING (rater, image) WHERE stage = 'rating' AND field <> 'kept' ORDER BY place, field"
    )
    numbers = {place: n for n, place in enumerate(sorted({place for place, *_ in given}), start=1)}
    assert [(numbers[p], f, v) for p, f, v in given] == [
        (1, "medium", "3"),
        (1, "peripheral", "not_present"),
        (1, "proximal", "5"),
        (2, "external_circulation", "true"),
    ]


def test_one_reader_by_keys_alone_with_reload_and_two_tabs(ws, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "RATERS", {"NR1": "NR"})
    asyncio.run(one_reader(ws))


async def annotate():
    async with opened("--mode", "annotate", "--series", "3") as (server, browser):
        tab = await Tab.open(browser, server.links()["NR1"])
        for n, keys in enumerate(
            (["ArrowRight"] * 3 + ["ArrowLeft", "Enter"], ["n"], ["ArrowRight", "Enter"]), start=1
        ):
            await tab.until(lambda s, n=n: s["position"] == n and s["stage"] == "annotation")
            for key in keys:
                await tab.press(key)
        await tab.until(lambda s: s["show"] == "end")


def test_marking_frames_by_keys(ws, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "RATERS", {"NR1": "NR"})
    asyncio.run(annotate())
    command = [
        sys.executable,
        "-m",
        "dsa_lib.rating",
        "export",
        "--run",
        RUN,
        "--mode",
        "annotate",
        "--to",
        str(tmp_path),
    ]
    assert subprocess.run(command, cwd=PROJECT).returncode == 0
    series = pd.read_parquet(Workspace(RUN).root / "series.parquet")
    key = series[["series"]].assign(
        series_instance_uid="1." + series["series"], sop_instance_uid="2." + series["series"]
    )
    found = annotations.read_annotations(tmp_path / "annotations.csv", key, series)
    first = found["series"].str[-1].apply(int, base=16) % 2  # see made_up_run: some runs count from 1
    assert sorted(found["frame"] - first) == [1, 2]
