"""What the owner of a node reads before a daemon of theirs takes part in a session of sums."""

import json

from click.testing import CliRunner
from memory_host import identity, made_session

from collabsecure.integrations.sessions import Summand
from collabsecure_cli.main import main
from collabsecure_cli.session_words import spoken_digest

NASTY = "round\x1b[2J 1"
SESSION = made_session(
    4, {NASTY: {"weights": Summand(shape=(3, 5), bound=4.0), "n": Summand(shape=(1,), bound=1e6, bits=32)}}
)


def show(tmp_path, *options):
    (tmp_path / "session.json").write_text(SESSION.to_json())
    result = CliRunner().invoke(main, ["session", "show", str(tmp_path / "session.json"), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_digest_parties_arrays_and_ranges_are_said_and_nothing_moves_the_cursor(tmp_path):
    said = show(tmp_path)
    assert "\x1b" not in said
    for line in spoken_digest(SESSION.transcript).split("\n"):
        assert line in said
    for text in (
        "3 of the 4 clients must stay",
        "At most 1 client may collude with the server",
        "'weights': 3 × 5 numbers within ±4, 48 bits each",
        "'n': 1 numbers within ±1e+06, 32 bits each",
        "nor a client's values from",
    ):
        assert text in said


def test_programs_get_the_same(tmp_path):
    found = json.loads(show(tmp_path, "--json"))
    assert found["transcript"] == SESSION.transcript.hex()
    assert [client["number"] for client in found["clients"]] == [1, 2, 3, 4]
    assert found["sums"][0]["name"] == NASTY
    assert found["sums"][0]["arrays"][0] == {"name": "weights", "shape": [3, 5], "bound": 4.0, "bits": 48}
    assert found["upload_bytes_total"] == 3 * 5 * 6 + 4
    assert identity(0).reveal().hex() not in json.dumps(found)
