"""A request's signature is of one client, method, target and offset, and of nothing else."""

import base64

import pytest
from light_session import SERVER, make_session

from collabsecure_cli.authorization import authorization, is_authentic
from collabsecure_protocols import InvalidSession
from collabsecure_protocols.keys import Label, context

LIGHT = make_session(num_clients=3)
SESSION = LIGHT.session
HEADER = authorization(SESSION, LIGHT.identities[2], "PATCH", "sums/1", 17)
SIGNATURE = HEADER.partition("signature=")[2]


def test_right_signature_is_authentic_again_and_again():
    for _ in range(3):
        assert is_authentic(SESSION, 2, HEADER, "PATCH", "sums/1", 17)
    assert authorization(SESSION, LIGHT.identities[2], "PATCH", "sums/1", 17) == HEADER


@pytest.mark.parametrize(
    ("client", "method", "target", "offset"),
    [(1, "PATCH", "sums/1", 17), (3, "PATCH", "sums/1", 17), (0, "PATCH", "sums/1", 17), (4, "PATCH", "sums/1", 17),
     (2, "POST", "sums/1", 17), (2, "patch", "sums/1", 17), (2, "PATCH", "sums/0", 17), (2, "PATCH", "sums/1/", 17),
     (2, "PATCH", "sums/1", 0), (2, "PATCH", "sums/1", 18), (2, "PATCHsums", "/1", 17), (2, "", "", 0)],
)  # fmt: skip
def test_signature_is_good_for_nothing_else(client, method, target, offset):
    assert not is_authentic(SESSION, client, HEADER, method, target, offset)


def test_signature_of_another_session_or_identity_is_none():
    assert not is_authentic(make_session(num_clients=3, seed=8).session, 2, HEADER, "PATCH", "sums/1", 17)
    other = authorization(SESSION, LIGHT.identities[3], "PATCH", "sums/1", 17)
    assert not is_authentic(SESSION, 2, other, "PATCH", "sums/1", 17)
    assert not is_authentic(SESSION, 2, other.replace("client=3", "client=2"), "PATCH", "sums/1", 17)
    with pytest.raises(InvalidSession):
        authorization(SESSION, SERVER, "PATCH", "sums/1", 17)  # the server asks for nothing


def test_signature_under_a_message_or_a_result_is_none_under_a_request():
    for label in set(Label) - {Label.TRANSPORT}:
        signed = LIGHT.identities[2].sign(context(label, SESSION.transcript, 2, b"PATCH", b"sums/1", 17))
        header = f"Collabsecure client=2, signature={base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"
        assert not is_authentic(SESSION, 2, header, "PATCH", "sums/1", 17)


@pytest.mark.parametrize(
    "header",
    ["", "Collabsecure", "Bearer x", HEADER + " ", " " + HEADER, HEADER + "=", HEADER + "\n", HEADER[:-1],
     HEADER.lower(), HEADER.replace(", ", ","), HEADER.replace("client=2", "client=02"),
     HEADER.replace("client=2", "client=+2"), HEADER.replace("client=2", "client=99999"),
     HEADER.replace("client=2", "client=123456789"), HEADER.replace("client=2", "client=²"),
     HEADER.replace("client=2", "client=٢"), HEADER.replace("client=2, ", ""), HEADER + ", " + HEADER,
     f"Collabsecure client=2, signature={'A' * 86}", f"Collabsecure client=2, signature={'/' * 86}",
     f"Collabsecure client=2, signature={SIGNATURE[:-2]}==", "x" * 10**6, "Collabsecure " * 10**4, "\udcff" * 50],
)  # fmt: skip
def test_malformed_header_is_no_signature_and_no_error(header):
    assert not is_authentic(SESSION, 2, header, "PATCH", "sums/1", 17)


def test_flipping_any_bit_of_the_signature_breaks_it():
    raw = base64.urlsafe_b64decode(SIGNATURE + "==")
    for at in range(0, 512, 7):
        flipped = bytearray(raw)
        flipped[at // 8] ^= 1 << at % 8
        header = f"Collabsecure client=2, signature={base64.urlsafe_b64encode(flipped).rstrip(b'=').decode()}"
        assert not is_authentic(SESSION, 2, header, "PATCH", "sums/1", 17)


@pytest.mark.parametrize(("target", "offset"), [("", 0), ("ü/☃", 0), ("x" * 10_000, 10**15), ("a\0b", 1)])
def test_any_target_and_offset_can_be_signed(target, offset):
    header = authorization(SESSION, LIGHT.identities[1], "GET", target, offset)
    assert is_authentic(SESSION, 1, header, "GET", target, offset)
