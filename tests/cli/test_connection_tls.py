"""Whom the client's line trusts: certificates, proxies, and what is said when it does not."""

import ssl

import pytest
from certificates import issue, make_authority
from connecting import connections, in_turn
from stubs import Time, answer, answering

from collabsecure.errors import BadFile
from collabsecure_cli.answers import NoAnswer


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def connect(time):
    with connections(time) as connect:
        yield connect


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


def tls(issued):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


def test_certificate_of_an_authority_that_was_given_is_trusted(connect, authority):
    with answering(in_turn(answer()), tls(issue(authority, "sum.example"))) as stub:
        connect(stub.url, ca=authority.certificate).post(b"x")
    assert len(stub.asked) == 1


def test_untrusted_certificate_ends_it_at_once_and_the_line_names_ca(connect, time, authority):
    with (
        answering(in_turn(answer()), tls(issue(authority, "sum.example"))) as stub,
        pytest.raises(NoAnswer, match=r"a certificate that is not trusted here \(.*\).*--ca FILE"),
    ):
        connect(stub.url).post(b"x")
    assert time.pauses == []
    assert stub.asked == []


def test_certificate_of_another_host_is_not_trusted(connect, authority, time):
    with (
        answering(in_turn(answer()), tls(issue(authority, "other.example", ips=("127.0.0.9",)))) as stub,
        pytest.raises(NoAnswer, match=r"not trusted here \(.*127\.0\.0\.1"),
    ):
        connect(stub.url, ca=authority.certificate).post(b"x")


def test_certificate_files_that_are_none_are_named(connect, tmp_path, authority):
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(BadFile, match="no certificates"):
        connect("https://127.0.0.1:1", ca=tmp_path / "no.pem")
    issued = issue(authority, "client")
    with pytest.raises(BadFile, match="no certificate with its key"):
        connect("https://127.0.0.1:1", ca=authority.certificate, certificate=(issued.certificate, tmp_path / "no.pem"))


def test_proxies_of_the_environment_are_for_https_alone(connect, monkeypatch):
    with answering(in_turn(answer())) as stub, answering(in_turn(answer(200, b"proxy"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        connect(stub.url).post(b"x")
    assert proxy.asked == []


@pytest.mark.parametrize("proxy", ["nonsense", "gopher://127.0.0.1:1", "http://127.0.0.1:port"])
def test_proxy_of_the_environment_that_is_none_is_said_in_one_line(connect, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises((BadFile, NoAnswer)) as refused:
        connect("https://127.0.0.1:1", patience=1).post(b"x")
    assert str(refused.value).isprintable()
