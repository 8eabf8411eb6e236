"""The status page as it leaves the server: complete without a script, and nobody's words become markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from statuses import CLIENTS, STATUS, a_client, status

from collabsecure_cli.status import PHASES, in_bytes, page
from collabsecure_protocols import ServerState


class Reader(HTMLParser):
    """What a reader without a script sees, and which elements there are."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self._inside = "", [], []
        self.feed(html)
        assert not self._inside, "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "!doctype"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag

    def handle_data(self, data):
        if self._inside and self._inside[-1] not in ("script", "style"):
            self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_says_everything_without_a_script():
    html, _ = page(STATUS)
    text = " ".join(Reader(html).text.split())
    for words in (
        "capitals-2025-autumn", "gpt2-xl", "layer-synchronous", "Masked input", "Sum 2 of 5: layer 14", "1 of 5",
        "5 min 12 s", "2 waited for, 2 arrived, 1 left out", "257.6 MB", "30 min 34 s", "98.3 MB", "1 h 2 min ago",
        "never", "Universitätsklinikum Süd, Abteilung Dokumentation", "9f86d081 884c7d65", "hides who edited",
    ):  # fmt: skip
        assert words in text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_place_on_the_page(phase):
    states = re.findall(r'<li data-state="(\w+)"', page(status(phase=phase))[0])
    assert states.count("current") == (phase in list(PHASES)[:2] or phase in list(PHASES)[3:6])
    assert states == sorted(states, key=["done", "current", "ahead"].index)


def test_the_page_knows_the_servers_states_and_merging():
    assert set(PHASES) == {*ServerState, "MERGING", "OPENING"}


def test_operators_words_never_become_markup():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{honest}}&amp;"
    plain = Reader(page(STATUS)[0])
    html, _ = page(
        status(
            task=evil,
            model=evil,
            flow=evil,
            sum_name=evil,
            outcome=evil,
            version=evil,
            clients=tuple(a_client(client.number, evil, client.standing) for client in CLIENTS),
        )
    )
    found = Reader(html)
    assert [tag for tag, _ in found.tags if tag != "noscript"] == [
        tag for tag, attributes in plain.tags if tag != "noscript" and "http-equiv" not in attributes
    ]
    assert found.text.count(evil) == 5 + 7  # each name once; the task is in the title too


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else():
    html, headers = page(STATUS)
    directives = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert directives[directive] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r'\s(?:src|href|style|on\w+)="', html)


def test_a_table_is_a_table_and_only_the_phase_is_announced():
    found = Reader(page(STATUS)[0])
    assert [attributes["scope"] for attributes in found.attributes("th")] == ["col"] * 5 + ["row"] * 5
    assert [attributes for _, attributes in found.tags if "aria-live" in attributes] == [
        {"id": "phase", "aria-live": "polite"}
    ]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_before_the_first_sum_and_without_a_deadline_nothing_is_made_up():
    html, _ = page(status(phase="ADVERTISE_KEYS", sum_name=None, sum_index=0, seconds_left=None, phase_seconds=None))
    assert "5 sums to come" in html
    assert '<div id="time" hidden>' in html


@pytest.mark.parametrize(("finished", "tone"), [(True, "good"), (False, "bad")])
def test_an_outcome_is_a_banner(finished, tone):
    html, _ = page(status(outcome="It is over.", finished=finished))
    assert f'data-tone="{tone}" >It is over.</p>' in html


def test_json_holds_every_field():
    found = json.loads(json.dumps(STATUS.to_json()))
    assert found["phase"] == "MASKED_INPUT"
    assert found["clients"][3] == {
        "number": 4, "name": "dave", "standing": "left out", "bytes_received": 1234, "last_seen_seconds": 3725.0,
    }  # fmt: skip
    assert len(found) == 16


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (5e15, "5000.0 TB")],
)
def test_bytes_are_said_with_one_decimal(count, text):
    assert in_bytes(count) == text
