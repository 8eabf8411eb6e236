"""The status page in a browser: it follows the session, says when it cannot, recovers, and stays small for hours."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from served import served
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from statuses import CLIENTS, STATUS, a_client, status

from collabsecure_cli.durations import in_words
from collabsecure_cli.status import PHASES, in_bytes, page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
QUICK = 50  # milliseconds between questions, in place of two seconds
NOTICE = "!document.getElementById('notice').hidden"
AS_OF = "document.getElementById('as-of').textContent"


class Aggregator:
    """A page and a status.json, and what they say; as the API has them, but for the haste."""

    def __init__(self, every=QUICK):
        self.status, self.every, self.asked, self.loaded, self.answer = STATUS, every, 0, 0, None
        self.app = Starlette(routes=[Route("/", self.page), Route("/status.json", self.json)])

    async def page(self, _request):
        self.loaded += 1
        html, headers = page(self.status)
        return HTMLResponse(html.replace('data-every="2000"', f'data-every="{self.every}"'), headers=headers)

    async def json(self, _request) -> Response:
        self.asked += 1
        return self.answer or JSONResponse(self.status.to_json())


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def aggregator(browser):
    browser.errors.clear()
    yield Aggregator()
    browser.open("about:blank")
    assert not browser.errors


def text(browser, identity):
    return browser.ask(f"document.getElementById({json.dumps(identity)}).textContent")


def shows(browser, identity, words):
    browser.until(f"document.getElementById({json.dumps(identity)}).textContent === {json.dumps(words)}")


def seen(browser):
    """All words on the page but the clock's, as one reads them."""
    words = browser.ask("document.getElementById('as-of').textContent = '', document.body.innerText")
    return [line for line in words.splitlines() if line.strip()]


def test_the_phase_changes_before_ones_eyes_and_the_page_is_not_loaded_again(browser, aggregator):
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.ask("window.stamp = 'the same page'")
        shows(browser, "phase", "Masked input")
        everybody = tuple(replace(client, standing="taking part") for client in CLIENTS)
        aggregator.status = status(phase="UNMASK", seconds_left=61.0, clients=everybody)
        shows(browser, "phase", "Unmask")
        assert text(browser, "left") == "1 min 1 s"
        assert text(browser, "counts") == "5 taking part"
        states = "[...document.querySelectorAll('.steps li')].map(step => step.dataset.state).join(' ')"
        assert browser.ask(states) == "done done done done current"
        assert browser.ask("document.querySelector('[aria-current=step]').textContent").startswith("Unmask")
        assert browser.ask("document.title") == "Unmask · capitals-2025-autumn · collabsecure"
        aggregator.status = status(phase="FINISHED", seconds_left=None, outcome="The update is merged.", finished=True)
        shows(browser, "outcome", "The update is merged.")
        assert browser.ask("document.getElementById('time').hidden")
        assert browser.ask("document.getElementById('outcome').dataset.tone") == "good"
        assert browser.ask("window.stamp") == "the same page"
        assert aggregator.loaded == 1


@pytest.mark.parametrize("phase", PHASES)
def test_the_script_says_what_the_server_says(phase, browser, aggregator):
    with served(aggregator.app) as server:
        browser.open(server.url)
        last = a_client(5, CLIENTS[4].name, "done", received=999_950_000_000, seen=90_061.0)
        aggregator.status = status(
            phase=phase, sum_index=4, seconds_left=3599.0, bytes_received=1_000, clients=(*CLIENTS[:4], last)
        )
        shows(browser, "left", "59 min 59 s")
        script = seen(browser)
        aggregator.answer = PlainTextResponse("", 503)  # so that no script has a say
        browser.open(server.url)
        browser.ask("document.getElementById('notice').style.display = 'none'")  # the script sets `hidden`, any time
        assert seen(browser) == script
        for words in (in_bytes(999_950_000_000), in_words(90_061.0), "1.0 TB", "1 d 1 h", PHASES[phase].label):
            assert words in " ".join(script)


def test_it_says_since_when_there_is_no_answer_and_recovers_by_itself(browser, aggregator):
    with served(aggregator.app) as server:
        port = server.port
        browser.open(server.url)
        browser.ask("window.stamp = 'the same page'")
        assert not browser.ask(NOTICE)
    browser.until(NOTICE)
    notice = text(browser, "notice")
    assert notice.startswith("No answer from the aggregator since ")
    assert notice.endswith("; trying again.")
    browser.ask("new Promise(done => setTimeout(done, 300))")
    assert text(browser, "notice") == notice  # the time is that of the first failure
    aggregator.status = status(phase="CONSISTENCY_CHECK")
    with served(aggregator.app, port=port):
        shows(browser, "phase", "Consistency check")
        browser.until(f"!({NOTICE})")
        assert browser.ask("window.stamp") == "the same page"


@pytest.mark.parametrize(
    "answer",
    [PlainTextResponse("", 500), PlainTextResponse("{"), JSONResponse({"session": STATUS.session, "phase": 1})],
)
def test_an_answer_that_makes_no_sense_is_no_answer(answer, browser, aggregator):
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.until(AS_OF)
        aggregator.answer = answer
        browser.until(NOTICE)
        aggregator.answer = None
        browser.until(f"!({NOTICE})")


def test_questions_become_rarer_while_there_is_no_answer(browser, aggregator):
    aggregator.answer = PlainTextResponse("", 503)
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.ask("new Promise(done => setTimeout(done, 1500))")
        assert 3 <= aggregator.asked <= 7  # after 0, 100, 300, 700 and 1450 ms; 31 without mercy


def test_an_aggregator_that_hangs_is_given_up_on_and_asked_again(browser, aggregator):
    class Hanging(Response):
        async def __call__(self, scope, receive, send):
            await receive()
            await receive()  # until the peer is gone

    aggregator.answer = Hanging()
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.until(NOTICE)
        aggregator.answer = None
        browser.until(f"!({NOTICE})")


def test_after_the_end_silence_is_no_alarm(browser, aggregator):
    aggregator.status = status(phase="FINISHED", outcome="The update is merged.", finished=True, seconds_left=None)
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.until(AS_OF)
    browser.until(NOTICE)
    assert text(browser, "notice").startswith("The aggregator has ended, or cannot be reached")
    assert browser.ask("document.getElementById('notice').dataset.tone") == "calm"


def test_another_session_at_the_same_address_is_loaded_anew(browser, aggregator):
    with served(aggregator.app) as server:
        browser.open(server.url)
        aggregator.status = status(session="ab" * 32, task="another", clients=CLIENTS[:3])
        browser.until("document.querySelector('h1').textContent === 'another'")
        assert browser.ask("document.getElementById('clients').rows.length") == 3


def test_operators_words_run_nothing(browser, aggregator):
    evil = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    aggregator.status = status(task=evil, clients=(a_client(1, evil),), sum_name=evil, outcome=evil)
    with served(aggregator.app) as server:
        browser.open(server.url)
        browser.until(AS_OF)
        assert browser.ask("[window.hit ?? 0, document.images.length]") == [0, 0]
        assert text(browser, "outcome") == evil


def test_hours_leave_nothing_behind():
    aggregator = Aggregator(every=2000)
    each = [status(phase=phase, running_seconds=number * 7.0).to_json() for number, phase in enumerate(PHASES)]
    without_network = f"""
        window.asked = 0;
        const answers = {json.dumps(each)}.map(JSON.stringify);
        window.fetch = async () => new Response(answers[window.asked++ % answers.length]);
    """

    def live_through(seconds):
        before = browser.ask("asked")
        browser.live_through(seconds)
        assert browser.ask("asked") - before == pytest.approx(seconds / 2, abs=2)
        browser.call("HeapProfiler.collectGarbage")
        nodes = browser.call("Memory.getDOMCounters")["nodes"]
        return nodes, browser.call("Runtime.getHeapUsage")["usedSize"]

    with served(aggregator.app) as server, Browser() as browser:  # its own: its time will not be ours any more
        browser.open(server.url)
        browser.until(AS_OF)
        browser.ask(without_network)
        live_through(200)
        nodes, heap = live_through(20)
        later_nodes, later_heap = live_through(3 * 3600)
    assert later_nodes <= nodes + 20
    assert later_heap < heap + 100_000


def test_without_a_script_it_loads_itself_again(browser, aggregator):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        with served(aggregator.app) as server:
            browser.call("Page.navigate", url=server.url)
            wait(lambda: aggregator.loaded == 2, seconds=8)  # after five seconds
            assert aggregator.asked == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def wait(true, *, seconds):
    for _ in range(seconds * 20):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("not in time")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_it_looks_right(width, dark, browser, aggregator, tmp_path):
    with served(aggregator.app) as server:
        browser.look(width=width, dark=dark)
        browser.open(server.url)
        browser.until(AS_OF)
        # Nothing sticks out to the side, and all words have the contrast that WCAG AA wants.
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask(CONTRAST) == []
        picture = tmp_path / "page.png"
        browser.screenshot(picture)
        assert picture.stat().st_size > 20_000
        if folder := os.environ.get("SCREENSHOTS"):
            picture.replace(f"{folder}/page-{width}-{'dark' if dark else 'light'}.png")
        for finished in (False, True):
            aggregator.status = status(outcome="No result: 2 of 5, 4 are needed.", finished=finished)
            browser.until(f"document.getElementById('outcome').dataset.tone === '{'good' if finished else 'bad'}'")
            assert browser.ask(CONTRAST) == []
        aggregator.answer = PlainTextResponse("", 503)
        for over in (True, False):
            browser.until(NOTICE)
            assert browser.ask(CONTRAST) == []
            if folder := os.environ.get("SCREENSHOTS"):
                browser.screenshot(Path(folder) / f"over-{over}-{width}-{'dark' if dark else 'light'}.png")
            aggregator.status = STATUS
            browser.open(server.url)


# All elements with words of their own whose contrast with what is behind them is below 4.5.
CONTRAST = """
(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")]
    .filter(element => element.checkVisibility() && [...element.childNodes].some(each => each.data?.trim()))
    .map(element => {
      const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), element.outerHTML];
    })
    .filter(([ratio]) => ratio < 4.5);
})()
"""
