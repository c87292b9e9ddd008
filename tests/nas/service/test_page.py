"""The page in a browser, from the form of a new study to a sub-network that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from contextlib import closing

import pytest

from nas.cli.main import main
from studies import tokens
from studies.store import Store
from tests.nas.service import studies

SIZES = [(1440, 900), (390, 844)]
WAIT_MS = 150_000


@pytest.fixture
def page(chromium, serve):
    """A page that fails the test where its scripts do; closed before the servers that it talks to."""
    context = chromium.new_context(accept_downloads=True)
    found = context.new_page()
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on(
        "console", lambda m: problems.append(f"{m.text} {m.location['url']}") if m.type == "error" else None
    )
    yield found
    context.close()
    assert problems == []


def test_the_page_shows_a_study_by_keyboard_on_any_screen_in_light_and_dark(page, url, serve):
    server = serve(url)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(f"{server.page}#/studies/toy")
            page.get_by_text("Chosen network: trial").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    best = page.get_by_text("Chosen network: trial").inner_text()
    page.get_by_role("application").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text(best, exact=True).wait_for(state="detached")
    page.get_by_label("cost at most").focus()
    page.keyboard.press("Home")
    page.get_by_text("no room for <b>the activations</b>").first.wait_for()
    assert page.locator("td b, p b").count() == 0
    page.set_viewport_size({"width": 1440, "height": 900})


def test_the_token_of_the_address_is_kept_by_the_tab_given_to_others_and_asked_for_again(page, url, serve):
    """A token that is refused is asked for; the browser writes that down as an error of the page, which it is not."""
    server = serve(url)
    page.goto(f"{server.page}#/studies/toy")
    page.get_by_text("Chosen network: trial").wait_for()
    assert page.url == f"{server.address}/#/studies/toy"
    page.reload()
    page.get_by_text("Chosen network: trial").wait_for()
    other = page.context.new_page()
    other.goto(f"{server.address}/#/studies")
    other.get_by_role("heading", name="toy").wait_for()
    with closing(Store(url)) as store:
        token = tokens.create(store, "typed", "read")
    lonely = page.context.browser.new_page()
    lonely.goto(f"{server.address}/?token=nas_wrong#/studies")
    lonely.get_by_text("the token is unknown or was revoked").wait_for()
    lonely.get_by_label("Token").fill(token)
    lonely.get_by_role("button", name="Go on").click()
    lonely.get_by_role("heading", name="toy").wait_for()
    lonely.close()


def test_the_form_offers_what_can_search_the_space_for_the_objectives_that_are_ticked(page, tmp_path, serve):
    server = serve(f"sqlite:///{tmp_path}/nas.db")
    page.goto(f"{server.page}#/new")
    offered = page.get_by_label("Searcher")
    offered.locator("option[value='rvea']").wait_for(state="attached")
    assert offered.locator("option[value='halving'], option[value='gp']").count() == 0
    for name in ("minimize latency", "minimize memory"):
        page.get_by_label(name, exact=True).uncheck()
    offered.locator("option[value='rvea']").wait_for(state="detached")
    assert offered.input_value() == "nsga2"


def test_a_name_that_looks_like_a_page_is_shown_and_does_nothing(page, tmp_path, serve):
    url, name = f"sqlite:///{tmp_path}/nas.db", '<img src=x onerror="document.title=1"><script>alert(1)<'
    studies.add(url, name=name, count=8)
    server = serve(url)
    page.goto(server.page)
    page.get_by_role("heading", name=name).click()
    page.get_by_role("heading", name=name, level=1).wait_for()
    page.get_by_text("Chosen network: trial").wait_for()
    assert page.locator("main img").count() == 0


def test_a_server_without_studies_says_how_to_begin(page, tmp_path, serve):
    server = serve(f"sqlite:///{tmp_path}/nas.db")
    page.goto(server.page)
    page.get_by_role("heading", name="No studies yet").wait_for()


def test_a_report_opens_without_any_server(page, url, tmp_path):
    out = tmp_path / "toy.html"
    assert main(["report", "toy", "--db", url, "--out", str(out)]) == 0
    page.context.set_offline(True)
    page.goto(out.as_uri())
    page.get_by_text("Chosen network: trial").wait_for()
    page.get_by_label("cost at most").fill("0")
    with closing(Store(url)) as store:
        trials = [t for t in store.trials(store.study("toy")) if t.state == "complete"]
    cheapest = min(trials, key=lambda t: (t.values["cost"], t.values["loss"]))
    page.get_by_text(f"Chosen network: trial {cheapest.number}").wait_for()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_from_the_form_to_a_network_that_runs(page, tmp_path, serve):
    server = serve(f"sqlite:///{tmp_path}/nas.db", workers=1)
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{server.page}#/new")
    page.get_by_label("Name", exact=True).fill("made here")
    page.get_by_label("Trials", exact=True).fill("24")
    page.get_by_label("Training steps of the supernet").fill("30")
    page.get_by_label("minimize latency").uncheck()
    page.get_by_label("gated linear attention").uncheck()
    page.get_by_role("button", name="Queue study").click()
    page.get_by_role("heading", name="made here", level=1).wait_for()

    page.get_by_text("searching", exact=True).wait_for()
    page.get_by_text(re.compile(r"^[1-9]\d* of 24 trials: ")).wait_for()
    page.get_by_text("24 of 24 trials: ").wait_for()
    page.get_by_text("finished", exact=True).wait_for()

    first = page.get_by_text("Chosen network: trial").inner_text()
    slider = page.get_by_label("memory at most")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 6, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    page.get_by_text(first, exact=True).wait_for(state="detached")
    chosen = int(page.get_by_text("Chosen network: trial").inner_text().split()[-1])

    page.get_by_role("button", name="Extract this network").click()
    page.get_by_role("button", name="Card").click()
    page.get_by_role("heading", name=f"made here / trial {chosen}").wait_for()
    page.get_by_role("button", name="Close").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        packed.extractall(tmp_path / "network")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "network" / f"trial-{chosen}" / "run.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    config = json.loads((tmp_path / "network" / f"trial-{chosen}" / "config.json").read_text())
    assert abs(json.loads(done.stdout.strip().splitlines()[-1])["loss"] - config["numbers"]["loss"]) < 1e-4
