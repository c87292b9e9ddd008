"""The page in a browser, from the form of a new study to a sub-network that runs."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from nas.cli.main import main
from nas.service.bodies import NewStudy
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies import tokens
from studies.records import Outcome, Trial
from studies.store import Store
from studies.workers import seen
from tests.nas.engine import toy
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


def test_the_token_of_the_address_is_kept_by_the_tab_given_to_others_and_asked_for_again(
    page, tmp_path, serve
):
    """A token that is refused is asked for; the browser writes that down as an error of the page, which it is not."""
    url = f"sqlite:///{tmp_path}/nas.db"
    studies.add(url)
    server = serve(url)
    page.goto(f"{server.page}#/studies/toy")
    page.get_by_text("Chosen network: trial").wait_for()
    assert page.url == f"{server.address}/#/studies/toy"
    page.reload()
    page.get_by_text("Chosen network: trial").wait_for()
    other = page.context.new_page()
    other.goto(f"{server.page}#/studies")
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
    assert offered.input_value() == "guided"


def test_the_form_has_a_field_for_every_option_that_the_service_describes(page, tmp_path, serve):
    """Also for one that the page has never heard of: it is added to the description here."""
    sent = {}
    server = serve(f"sqlite:///{tmp_path}/nas.db")

    def with_one_more(route):
        described = route.fetch().json()
        one_more = {
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
            "description": "how long to wait",
        }
        described["components"]["schemas"]["NewStudy"]["properties"]["patience"] = one_more
        route.fulfill(json=described)

    def without_it(route):
        if route.request.method != "POST":
            route.continue_()
            return
        sent.update(route.request.post_data_json)
        known = {name: value for name, value in sent.items() if name != "patience"}
        route.continue_(post_data=json.dumps(known))

    page.route("**/openapi.json", with_one_more)
    page.route(lambda address: address.endswith("/studies"), without_it)
    page.goto(f"{server.page}#/new")
    page.get_by_label("Name", exact=True).fill("s")
    page.get_by_text("More options").click()
    for name in set(NewStudy.model_fields) - {"bounds", "keep"}:
        assert page.locator(f"form [name='{name}']").count() >= 1, name
    page.get_by_label("Patience").fill("4")
    page.get_by_label("Ladder").fill("quarter, half")
    page.get_by_label("Device").select_option("cpu")
    page.get_by_role("button", name="Queue study").click()
    page.get_by_role("heading", name="s", level=1, exact=True).wait_for()
    assert (sent["patience"], sent["ladder"]) == (4, ["quarter", "half"])
    assert sent["device"] == "cpu"
    assert not {"trials", "kernels", "priority", "gate_anyway"} & set(sent)


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


@pytest.fixture
def steady(tmp_path):
    """A study to which a trial that beats all others comes ten times a second, until the test is over."""
    url = f"sqlite:///{tmp_path}/nas.db"
    ended = threading.Event()
    with closing(Store(url)) as store:
        found = store.create_study(replace(toy.study("nsga2", 100_000), name="steady", state="running"))
        encoding = Encoding(SpaceSpec.from_json(found.space))
        arch = encoding.decode(tuple(encoding.random(1, np.random.default_rng(0))[0]))

        def add() -> None:
            for n in itertools.count():
                store.add_trials(found, [Trial(n, arch.to_json(), f"a{n}", "running")])
                values = {"loss": 1e6 - n, "cost": 1e6 - n}
                store.finish_trials(found, [Outcome(n, "complete", values)])
                if ended.wait(0.1):
                    return

        thread = threading.Thread(target=add)
        thread.start()
        yield url
        ended.set()
        thread.join()


def test_a_study_whose_trials_never_pause_is_drawn_as_they_come(page, steady, serve):
    """The chosen network is the knee of the front and follows it until somebody picks another."""
    server = serve(steady)
    page.goto(f"{server.page}#/studies/steady")
    title = page.get_by_role("heading", name="Chosen network: trial")
    for _ in range(2):
        before = title.inner_text()
        page.get_by_text(before, exact=True).wait_for(state="detached")
    page.get_by_text("knee of the front").wait_for()
    counted = page.get_by_text(re.compile(r"^1 to 25 of \d+$"))
    first = counted.inner_text()
    page.get_by_text(first, exact=True).wait_for(state="detached")

    page.locator("tr.pick").first.click()
    page.get_by_role("heading", name="Chosen network: trial 0").wait_for()
    before = page.get_by_text("trials on the front").inner_text()
    page.get_by_text(before, exact=True).wait_for(state="detached")
    page.get_by_role("heading", name="Chosen network: trial 0").wait_for()
    page.get_by_text("not on the front").wait_for()
    page.get_by_role("button", name="Back to the knee").click()
    page.get_by_text("Chosen network: trial 0", exact=True).wait_for(state="detached")


def test_a_token_shows_the_buttons_that_it_allows_and_can_be_changed(page, tmp_path, serve):
    url = f"sqlite:///{tmp_path}/nas.db"
    studies.add(url, count=8)
    with closing(Store(url)) as store:
        made = {scope: tokens.create(store, scope, scope) for scope in ("read", "admin")}
    server = serve(url)
    page.goto(f"{server.page}#/studies/toy")
    page.get_by_role("button", name="Delete").wait_for()
    for scope, count in (("read", 0), ("admin", 1)):
        page.get_by_role("button", name="Access").click()
        page.get_by_label("Another token").fill(made[scope])
        page.get_by_role("button", name="Use this token").click()
        page.get_by_role("button", name=f"Access: {scope}").wait_for()
        page.get_by_role("button", name="CSV").wait_for()
        for name in ("Edit", "Delete"):
            assert page.get_by_role("button", name=name).count() == count
        assert page.get_by_role("link", name="New study").is_visible() == bool(count)


def test_studies_are_tagged_renamed_found_and_deleted(page, tmp_path, serve):
    url = f"sqlite:///{tmp_path}/nas.db"
    for name in ("first", "second"):
        studies.add(url, name=name, count=4)
    server = serve(url)
    page.goto(f"{server.page}#/studies/first")
    page.get_by_text("1 to 4 of 4").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Name", exact=True).fill("baseline run")
    page.get_by_label("Tags, separated by commas").fill("paper, keep")
    page.get_by_label("Notes").fill("the one of the table")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("heading", name="baseline run", level=1).wait_for()
    page.get_by_text("the one of the table").wait_for()

    page.get_by_role("link", name="Studies", exact=True).click()
    names = page.locator("a.card h2")
    page.get_by_role("heading", name="second").wait_for()
    assert names.all_inner_texts() == ["second", "baseline run"]
    page.get_by_label("Order").select_option("name")
    assert names.all_inner_texts() == ["baseline run", "second"]
    page.get_by_label("Search studies").fill("PAPER toy")
    page.get_by_role("heading", name="second").wait_for(state="detached")
    page.get_by_role("heading", name="baseline run").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete for good").click()
    page.get_by_role("heading", name="second").wait_for()
    assert names.all_inner_texts() == ["second"]


def test_what_waits_for_somebody_says_for_whom_until_a_worker_comes(page, tmp_path, serve):
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        for name, state, control in (("waits", "queued", "run"), ("left", "running", "")):
            store.create_study(replace(toy.study("nsga2", 9), name=name, state=state, control=control))
        server = serve(url)
        page.goto(f"{server.page}#/studies/left")
        page.get_by_text("interrupted", exact=True).wait_for()
        page.get_by_text("nas resume left").wait_for()
        page.goto(f"{server.page}#/studies/waits")
        page.get_by_text("No worker is connected, so this study waits").wait_for()
        seen(store, "w1", "gpu-07", "")
        page.get_by_text("No worker is connected, so this study waits").wait_for(state="detached")
        page.get_by_role("link", name="Studies", exact=True).click()
        page.get_by_role("cell", name="gpu-07").wait_for()
        page.get_by_text("1 connected").wait_for()


def test_what_the_command_line_tells_of_a_study_is_on_its_page(page, url, tmp_path, serve):
    """Importance, comparison, a column for a decision, CSV and report; no promise of what this study never measures."""
    own = tmp_path / "nas.db"
    shutil.copyfile(url.removeprefix("sqlite:///"), own)
    studies.add(f"sqlite:///{own}", name="shorter", count=12)
    server = serve(f"sqlite:///{own}")
    page.goto(f"{server.page}#/studies/toy")
    page.get_by_text("Chosen network: trial").wait_for()
    for button, name in (("CSV", "toy.csv"), ("Report", "toy.html")):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
    page.get_by_text("Columns").click()
    page.get_by_label("d model").check()
    page.get_by_role("columnheader", name="d model").wait_for()
    page.get_by_text("Beside another study").click()
    page.get_by_label("with").select_option("shorter")
    page.get_by_role("cell", name="hypervolume after 60 trials").wait_for()
    page.get_by_text("Which decisions matter").click()
    page.get_by_text("explained, from").first.wait_for()
    assert page.get_by_text("measured").count() == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_from_the_form_to_a_network_that_runs(page, tmp_path, serve):
    server = serve(f"sqlite:///{tmp_path}/nas.db", workers=1)
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{server.page}#/new")
    page.get_by_label("Name", exact=True).fill("made here")
    page.get_by_label("Trials", exact=True).fill("24")
    page.get_by_label("Training steps").fill("30")
    page.get_by_label("Quality").select_option("supernet")
    page.get_by_label("minimize latency").uncheck()
    page.get_by_label("minimize memory").check()
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
