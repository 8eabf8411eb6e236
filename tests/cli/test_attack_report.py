"""The attacks' report: what it concludes, that it needs nothing from outside, and that both forms hold everything."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from made_up_findings import cosines, findings, game, report, setting, told_apart

from collabsecure.attacks.attack import Figure, Finding, Score
from collabsecure.attacks.record import finding_from_json, finding_to_json
from collabsecure_cli.attack_figures import plots
from collabsecure_cli.attack_page import page
from collabsecure_cli.attack_state import AttackState, Done

_VOID = {"meta", "br", "hr", "img", "input", "link"}


class Tags(HTMLParser):
    """Which elements there are; that each is closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def held(of, words):
    return next(claim for claim in of.claims if words in claim.claim)


def attributed(value):
    figure = Figure(name="attributed", value=value, error=0.04, chance=0.2)
    return Finding(attack="attribution", view="sum", setting=setting(5, 20), score=Score(figures=(figure,)))


def test_the_sentence_is_proven_where_nobody_is_found_and_everything_edited_is():
    assert report().sentence.holds is True
    assert report().failures == ()
    assert "Holds in this run" in page(report())
    who, what = report().because
    assert "0.210 (chance 0.2 ± 0.16)" in who.says
    assert "AUC" in what.says


def test_the_sentence_is_refuted_where_clients_are_found():
    found = report([attributed(0.9), told_apart("membership", "sum", setting(5, 20), shift=9)])
    assert found.sentence.holds is False
    assert "Refuted by this run" in page(found)


def test_the_sentence_is_refuted_where_candidates_cannot_be_told_apart():
    assert report([attributed(0.2), told_apart("membership", "sum", setting(5, 20), shift=0)]).sentence.holds is False


def test_what_was_not_tried_is_not_taken_to_hold():
    nothing = report([])
    assert nothing.sentence.holds is None
    assert {claim.holds for claim in nothing.claims} == {None}
    assert "Not decided by this run" in page(nothing)
    assert report([attributed(0.2)]).sentence.holds is None


def test_of_what_was_tried_on_too_few_edits_it_is_told_what_came_of_it():
    """A real session of four edits: all are found, and yet "not tested" would be what stands there."""
    few = setting(1, 4)
    found = report(
        [told_apart("membership", "sum", few, shift=12), told_apart("published delta", "delta", few, shift=12)]
    )
    for claim in (held(found, "A sum tells"), held(found, "The published model")):
        assert claim.holds is None
        assert "AUC 1.000 came of it" in claim.says
        assert claim.says.endswith("That is no sign of safety.")
        assert claim.says in found.to_text()
    assert "Claims that this run does not test: 9" in found.to_text()


def test_claims_that_nothing_is_about_are_told_together():
    tags = Tags(page(report([told_apart("membership", "sum", setting(5, 20), shift=12)])))
    assert tags.text.count("Nothing in this run is about") == 1
    assert tags.text.count("not tested") == 1
    assert "(nothing on plain, masked, ckks-aggregator, delta)" in " ".join(tags.text)


def test_that_topics_tell_whose_edits_are_whose_is_said_beside_that_sums_do_not():
    def by_topic(value):
        figure = Figure(name="attributed", value=value, error=0.06, chance=0.25)
        of = setting(4, 12, note="each topic is edited by 1 of the clients")
        return Finding(attack="attribution by topic", view="sum", setting=of, score=Score(figures=(figure,)))

    claim = held(report([attributed(0.2), by_topic(1.0)]), "what kind of facts")
    assert claim.holds is True
    assert claim.is_good_news is False
    assert "attributed 1.000 (chance 0.25 ± 0.24), each topic is edited by 1 of the clients" in claim.says
    assert held(report([by_topic(0.3)]), "what kind of facts").holds is False


def test_a_control_that_stays_silent_makes_a_run_prove_nothing():
    silent = report([*findings(), game("masked", "no mask", value=0.5, must=True)])
    (reason,) = silent.failures
    assert "a control did not fire" in reason
    text = page(silent)
    assert "This run proves nothing." in text
    assert "Holds in this run" not in text
    assert silent.to_text().startswith("This run proves nothing:")


def test_an_attack_that_finds_what_is_not_there_makes_a_run_prove_nothing():
    honest = told_apart("membership", "sum", setting(5, 20), shift=9)
    (reason,) = report([replace(honest, null=honest.score)]).failures
    assert "an attack found what is not there" in reason


def test_a_protected_upload_that_is_told_apart_is_said_first():
    broken = report([game("masked", "as the protocol does it", value=0.9, must=False)])
    assert broken.failures == ()
    (what,) = broken.broken
    assert "0.900" in what
    assert "What should give nothing away did." in page(broken)
    assert held(broken, "Masked and encrypted").holds is False


@pytest.mark.parametrize(
    ("words", "failed"),
    [
        ("cannot be recovered", cosines("reconstruction", setting(1, 500, d_in=1024), 0.84)),
        ("n > d", told_apart("membership", "sum", setting(10, 500, d_in=256), shift=0.0)),
        ("Masked and encrypted", game("masked", "as the protocol does it", value=0.5, must=False)),
    ],
)
def test_that_an_attack_failed_proves_nothing_by_itself(words, failed):
    """The last would hold with controls beside it."""
    claim = held(report([failed]), words)
    assert claim.holds is None
    assert claim.is_good_news is None
    assert claim.says.startswith("not refuted, which is no proof: ")


def test_defences_say_nothing_about_what_undefended_sums_give_away():
    defended = [each for each in findings() if any(figure.name == "ES" for figure in each.score.figures)]
    assert report(defended).because[1].holds is None


def test_a_defence_that_stops_one_attack_is_drawn_where_the_best_one_gets():
    also = (Figure(name="ES", value=0.9), Figure(name="AUC by guessed residuals", value=1.0, error=0.03, chance=0.5))
    blinded = told_apart("defence", "sum", setting(5, 20, note="keys blinded by a secret matrix"), shift=0, more=also)
    (plot,) = [plot for plot in plots([blinded]) if plot.slug == "defences"]
    (series,) = plot.series
    assert (series.label, *series.x, *series.y) == ("keys blinded", 0.9, 1.0)


def test_sums_of_more_edits_than_a_key_is_long_are_told_of_by_themselves():
    claim = held(report(), "n > d")
    assert claim.holds is False
    assert "n = 3.3 d" in claim.says


def test_one_size_is_no_plot_of_sizes():
    """A real session's: alone in a field that is all chance, it looks as if nothing was found."""
    tried = (("membership", "sum"), ("published delta", "delta"))
    few = [told_apart(attack, view, setting(1, 4), shift=12) for attack, view in tried]
    assert not {"size", "delta"} & {plot.slug for plot in plots(few)}
    assert {"size", "delta"} <= {plot.slug for plot in plots(findings())}


def test_what_is_not_of_the_model_is_told_from_what_is():
    made = told_apart("membership", "sum", setting(10, 5, keys="synthetic", d_in=256), shift=9)
    own = told_apart("membership", "sum", setting(5, 20), shift=9)
    assert "2 findings on sum, 1 of them with synthetic keys, not the model’s" in page(report([made, own]))
    assert "of them with synthetic keys" not in page(report([own]))


def test_the_page_needs_nothing_from_outside_and_runs_nothing():
    html = page(report())
    tags = Tags(html)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in tags.seen}
    for tag, attributes in tags.seen:
        assert not {"src", "href", "style", "onload"} & set(attributes), tag
    assert "://" not in html
    assert "@import" not in html
    assert "url(" not in html
    (policy,) = [found["content"] for _, found in tags.seen if found.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_the_page_shows_every_plot_with_its_words():
    html = page(report())
    tags = Tags(html)
    drawings = [attributes for tag, attributes in tags.seen if tag == "svg"]
    assert len(drawings) == 7
    identities = {attributes["id"] for _, attributes in tags.seen if "id" in attributes}
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= identities
    assert not re.search(r"\bnan\b|\binf\b", " ".join(str(found) for tag, found in tags.seen if tag != "meta"))


def test_the_page_names_each_view_with_who_has_it_and_each_figure_beside_its_null():
    text = " ".join(Tags(page(report())).text)
    for words in ("A plain upload", "A masked upload", "An encrypted upload", "The sum", "The published update"):
        assert words in text
    assert "control fired" in text
    assert "silent" in text
    assert "10 clients × 100 edits: needs 3,000 records" in text
    assert "collabsecure attack --suite quick --out report" in text


def test_words_from_files_are_no_markup():
    evil = "<script>alert(1)</script>{{claims}}"
    html = page(report([told_apart("<b>", "sum", setting(note=evil), shift=3)], target=evil, command=evil))
    assert "<script>" not in html
    assert html.count("{{claims}}") >= 2  # what looks like a placeholder stays as it is


def test_a_report_of_one_finding_is_a_page_too():
    for each in findings():
        Tags(page(report([each])))


def test_json_holds_every_finding_and_no_number_that_is_none():
    odd = Score(figures=(Figure(name="AUC", value=math.nan), Figure(name="seconds", value=math.inf)))
    strange = Finding(attack="membership", view="sum", setting=setting(), score=odd)
    data = json.loads(json.dumps(report([*findings(), strange]).to_json(), allow_nan=False))
    assert data["format"] == "collabsecure attack report 1"
    assert set(data) == {
        "format", "collabsecure_version", "written", "suite", "target", "views", "seed", "command", "seconds",
        "verdict", "left_out", "findings",
    }  # fmt: skip
    assert set(data["verdict"]) == {"sentence", "controls_failed", "promises_broken", "claims"}
    for claim in (data["verdict"]["sentence"], *data["verdict"]["claims"]):
        assert set(claim) == {"claim", "holds", "says"}
    for found in data["findings"]:
        assert set(found) == {"attack", "view", "setting", "score", "null", "must", "seconds"}
        assert set(found["setting"]) == {
            "keys", "layers", "d_in", "d_out", "num_clients", "edits_per_client", "note",
        }  # fmt: skip
        for figure in found["score"]["figures"]:
            assert set(figure) == {"name", "value", "error", "chance", "is_chance"}
            assert figure["value"] is None or math.isfinite(figure["value"])
    assert [figure["value"] for figure in data["findings"][-1]["score"]["figures"]] == [None, None]


def test_findings_come_back_from_json_as_they_were():
    for each in findings():
        data = finding_to_json(each)
        again = finding_from_json(json.loads(json.dumps(data)))
        assert finding_to_json(again) == data
        assert again.setting == each.setting
        assert again.score.figures == each.score.figures
        for curve, before in zip(again.score.curves, each.score.curves, strict=True):
            np.testing.assert_array_equal(curve.y, before.y)


@pytest.mark.parametrize("damage", [lambda data: data.pop("score"), lambda data: data.update(more=1)])
def test_what_is_no_finding_is_refused(damage):
    data = finding_to_json(findings()[0])
    damage(data)
    with pytest.raises(ValueError, match="expected what this version writes"):
        finding_from_json(data)


def test_state_keeps_what_was_found_and_forgets_what_is_of_another_run(tmp_path):
    state = AttackState(tmp_path / "state", of=("quick", "0"))
    assert state.read("an experiment") is None
    state.write("an experiment", Done(findings=findings(), seconds=2.5))
    again = AttackState(tmp_path / "state", of=("quick", "0")).read("an experiment")
    assert again.seconds == 2.5
    assert list(map(finding_to_json, again.findings)) == list(map(finding_to_json, findings()))
    assert AttackState(tmp_path / "state", of=("quick", "1")).read("an experiment") is None
    assert state.read("an-experiment") is None  # nearly the same file name
    (path,) = (tmp_path / "state").iterdir()
    path.write_text(path.read_text()[:-20])
    assert state.read("an experiment") is None


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_shows_it_on_desks_and_phones_in_the_light_and_in_the_dark(tmp_path):
    (tmp_path / "report.html").write_text(page(report()), encoding="utf-8")
    backgrounds = set()
    with Browser() as browser:
        for width, dark in ((1280, False), (360, False), (360, True)):
            browser.look(width=width, dark=dark)
            browser.open(f"file://{tmp_path / 'report.html'}")
            assert browser.ask("document.documentElement.scrollWidth") <= width
            outside = (
                "[...document.querySelectorAll('svg text')].filter(text => {"
                "const own = text.getBoundingClientRect(), all = text.closest('figure').getBoundingClientRect();"
                "return own.right > all.right + 1 || own.left < all.left - 1}).map(text => text.textContent)"
            )
            assert browser.ask(outside) == []
            backgrounds.add(browser.ask("getComputedStyle(document.body).backgroundColor"))
        assert browser.errors == []
    assert len(backgrounds) == 2
