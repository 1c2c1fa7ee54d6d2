"""`newsletter doctor --deep` and `--message`: what is wrong is named with what to do, and a stranger's "
"answer breaks nothing."""

import base64
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from newsletter.deliverability import delivered, examine, records
from newsletter.deliverability.lookup import Lookup
from newsletter.edition import DeliveryId, Finding, Message, Recipient, Sender
from newsletter.errors import ConfigurationError
from newsletter.mime import Mould
from newsletter.providers.dkim import public_record, signer
from newsletter.settings import Settings
from tests import test_cli
from tests.conftest import CONFIGURATION, Desk
from tests.name_server import GARBAGE, SERVFAIL, SILENT, serving, txt
from tests.test_cli import Command

run = test_cli.run  # a fixture of theirs, under the name that tests ask for

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
FROM = "news.example.org"
SMTP = """\
[provider]
kind = "smtp"
host = "mx.example.org"
bounce_domain = "bounce.news.example.org"
dkim.domain = "news.example.org"
dkim.selector = "news1"
"""
SENDGRID = '[provider]\nkind = "sendgrid"\n'
Zone = dict[str, str | list[str]]


def key(bits: int = 2_048) -> str:
    """An RSA key, as NEWSLETTER_DKIM_KEY holds it, the same each time."""
    return _key(bits)


@cache
def _key(bits: int) -> str:
    private = rsa.generate_private_key(65_537, bits).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return base64.b64encode(private).decode()


def record(bits: int = 2_048) -> str:
    published = public_record(key(bits))
    assert published is not None
    return published


def settings(folder: Path, provider: str = SMTP, environ: dict[str, str] | None = None) -> Settings:
    file = folder / "newsletter.toml"
    before, _, after = CONFIGURATION.partition("[provider]")
    file.write_text(f"{before}{provider}\n[sources.desk]{after.partition('[sources.desk]')[2]}", encoding="utf-8")
    return Settings.load(file, {"NEWSLETTER_DKIM_KEY": key()} if environ is None else environ)


def sound() -> Zone:
    """A zone with nothing wrong in it."""
    return {
        "news.example.org TXT": [txt("something=else"), txt("v=spf1 ip4:8.8.4.4 include:more.example.org -all")],
        "bounce.news.example.org TXT": txt("v=spf1 ip4:8.8.4.4 -all"),
        "more.example.org TXT": txt("v=spf1 ip6:2001:4860::/32 ~all"),
        "news1._domainkey.news.example.org TXT": txt(record()),
        "_dmarc.example.org TXT": txt("v=DMARC1; p=reject; rua=mailto:dmarc@example.org"),
        "news.example.org MX": "10 mx.example.org.",
        "bounce.news.example.org MX": "10 mx.example.org.",
        "mx.example.org A": "8.8.4.4",
        "4.4.8.8.in-addr.arpa PTR": "mx.example.org.",
    }


Look = Callable[..., list[Finding]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def through(zone: Zone, provider: str = SMTP, selectors: Sequence[str] = (), **faults: str) -> list[Finding]:
        with serving(zone, {name.replace("__", "."): fault for name, fault in faults.items()}) as server:
            lookup = Lookup(server.address, each=timedelta(seconds=1))
            environ = {"SENDGRID_API_KEY": "SG.x"} if provider == SENDGRID else None
            return list(examine(settings(tmp_path, provider, environ), lookup, selectors))

    return through


def wrong(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.ok is False]


def notes(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.ok is None]


def only(said: list[str]) -> str:
    assert len(said) == 1, said
    return said[0]


def test_a_sound_domain_has_no_fault_and_no_note(look: Look) -> None:
    findings = look(sound())
    assert [finding.what for finding in findings if not finding.ok] == []
    said = "\n".join(finding.what for finding in findings)
    for told in (
        "SPF of bounce.news.example.org: mx.example.org passes",
        "SPF of news.example.org: one record, 1 of 10 look-ups, -all",
        "DKIM key news1._domainkey.news.example.org: rsa, 2048 bits",
        "DMARC of news.example.org: policy reject, told by example.org",
        "DKIM of news.example.org and SPF of the return path bounce.news.example.org aligned with From",
        "MX of news.example.org (from): mx.example.org",
        "reverse DNS of mx.example.org (8.8.4.4): “mx.example.org”, and back",
    ):
        assert told in said


# ---------------------------------------------------------------------------------------------- SPF


@pytest.mark.parametrize(
    ("spf", "says"),
    [
        (None, ("there is none", 'publish bounce.news.example.org. TXT "v=spf1 ip4:')),
        (["v=spf1 -all", "v=spf1 ~all"], ("there are 2 SPF records where one may be",)),
        ("v=spf1 +all", ("lets every server in the world pass", "end it in “~all”")),
        ("v=spf1 all", ("lets every server in the world pass",)),
        ("v=spf1 ip4:0.0.0.0/0 -all", ("lets every server in the world pass",)),
        ("v=spf1 include:open.example.org -all", ("lets every server in the world pass",)),
        ("v=spf1 include:none.example.org -all", ("include names none.example.org, which has no SPF record",)),
        ("v=spf1 include:two.example.org -all", ("which has 2 SPF records",)),
        ("v=spf1 include:circle.example.org -all", ("include of circle.example.org goes in a circle",)),
        ("v=spf1 ipv4:8.8.4.4 -all", ("“ipv4:8.8.4.4” is no SPF term",)),
        ("v=spf1 ip4:8.8.4 -all", ("“ip4:8.8.4” is no SPF term",)),
        ("v=spf1 ip4:8.8.4.4-all", ("is no SPF term",)),
        ("v=spf1 inclüde:x \x1b[31m -all", ("is no SPF term",)),
        (f"v=spf1 include:{'a' * 300}.example.org -all", ("is no SPF term",)),
    ],
)
def test_a_fault_of_spf_is_named_with_what_to_do(
    look: Look, spf: str | list[str] | None, says: tuple[str, ...]
) -> None:
    zone = sound() | {
        "open.example.org TXT": txt("v=spf1 +all"),
        "two.example.org TXT": [txt("v=spf1 -all"), txt("v=spf1 ~all")],
        "circle.example.org TXT": txt("v=spf1 include:round.example.org -all"),
        "round.example.org TXT": txt("v=spf1 include:circle.example.org -all"),
    }
    del zone["bounce.news.example.org TXT"]
    if spf is not None:
        zone["bounce.news.example.org TXT"] = [txt(one) for one in ([spf] if isinstance(spf, str) else spf)]
    found = wrong(look(zone))
    for told in says:
        assert told in found[0]
    assert all("SPF of bounce.news.example.org" in one for one in found)
    assert all(one.isprintable() for one in found)


@pytest.mark.parametrize(("includes", "counted", "good"), [(3, 10, True), (4, 11, False)])
def test_look_ups_are_counted_through_includes_redirects_and_hosts(
    look: Look, includes: int, counted: int, *, good: bool
) -> None:
    # a, mx, exists, ptr: 4; the includes; the last of them 2 of its own; the redirect 1.
    terms = " ".join(f"include:i{n}.example.org" for n in range(includes))
    zone = sound() | {
        "bounce.news.example.org TXT": txt(
            f"v=spf1 a:mx.example.org mx:news.example.org exists:%{{i}}.example.org ptr {terms} redirect=r.example.org"
        ),
        "r.example.org TXT": txt("v=spf1 ip4:8.8.4.4 -all"),
        **{f"i{n}.example.org TXT": txt("v=spf1 ip4:8.8.8.8 -all") for n in range(1, includes)},
        "i0.example.org TXT": txt("v=spf1 a:mx.example.org mx:news.example.org -all"),
    }
    findings = look(zone)
    if good:
        assert wrong(findings) == []
        assert f"{counted} of 10 look-ups, -all" in "".join(finding.what for finding in findings)
    else:
        assert f"it takes {counted} look-ups where 10 are allowed" in only(wrong(findings))


def test_what_the_all_of_an_include_says_is_not_the_records_own(look: Look) -> None:
    zone = sound() | {"bounce.news.example.org TXT": txt("v=spf1 ip4:8.8.4.4 include:more.example.org")}
    assert "it has no “all” at its end" in only([one for one in notes(look(zone)) if "bounce" in one])


def test_an_open_record_under_a_minus_lets_nobody_pass(look: Look) -> None:
    zone = sound() | {
        "bounce.news.example.org TXT": txt("v=spf1 ip4:8.8.4.4 -include:open.example.org -all"),
        "open.example.org TXT": txt("v=spf1 +all"),
    }
    assert wrong(look(zone)) == []


def test_a_tree_of_includes_without_end_is_walked_only_so_far(tmp_path: Path) -> None:
    zone = sound() | {"bounce.news.example.org TXT": txt("v=spf1 include:n0.example.org include:n0.example.org -all")}
    for n in range(60):
        zone[f"n{n}.example.org TXT"] = txt(f"v=spf1 {' '.join([f'include:n{n + 1}.example.org'] * 50)} -all")
    with serving(zone) as server:
        found = wrong(list(examine(settings(tmp_path), Lookup(server.address))))
        assert "it takes more than 40 look-ups" in only(found)
        assert len(server.asked) < 100


def test_more_than_two_look_ups_that_find_nothing_break_the_record(look: Look) -> None:
    zone = sound() | {
        "bounce.news.example.org TXT": txt("v=spf1 a:x.example.org a:y.example.org mx:z.example.org -all")
    }
    assert "3 of its look-ups find nothing, where 2 may" in only(wrong(look(zone)))


def test_a_server_that_spf_does_not_name_is_a_note_with_the_term_to_add(look: Look) -> None:
    zone = sound() | {"bounce.news.example.org TXT": txt("v=spf1 ip4:8.8.8.8 -all")}
    findings = look(zone)
    assert wrong(findings) == []
    assert "add “ip4:8.8.4.4” then" in only(notes(findings))


# ---------------------------------------------------------------------------------------------- DKIM


@pytest.mark.parametrize(
    ("published", "says"),
    [
        (None, ("there is none", 'TXT "v=DKIM1; k=rsa; p=MII')),
        ("v=DKIM1; k=rsa; p=", ("its p= is empty: the key is revoked",)),
        ("v=DKIM1; k=rsa", ("it has no p=",)),
        ("v=DKIM1; k=rsa; p=%%%", ("its p= is no base64",)),
        ("v=DKIM1; k=rsa; p=AAAA", ("its p= is no RSA key",)),
        ("v=DKIM2; p=AAAA", ("it begins with v=“DKIM2”",)),
        ("v=DKIM1; k=dsa; p=AAAA", ("its k=“dsa” is neither rsa nor ed25519",)),
        ("v=DKIM1; h=sha1; p=AAAA", ("leaves out sha256",)),
        ("v=DKIM1; s=tlsrpt; p=AAAA", ("is not for mail",)),
        ("v=DKIM1; p=AAAA; p=BBBB", ("it says p= twice",)),
        ("\x00\xff;;;=", ("is not of the form tag=value",)),
        ("another", ("it is not the key in NEWSLETTER_DKIM_KEY", 'TXT "v=DKIM1; k=rsa; p=MII')),
        ("twice", ("there are 2 TXT records where one may be",)),
    ],
)
def test_a_fault_of_the_key_is_named_with_the_record_to_publish(
    look: Look, published: str | None, says: tuple[str, ...]
) -> None:
    zone = sound()
    name = "news1._domainkey.news.example.org TXT"
    del zone[name]
    match published:
        case "another":
            zone[name] = txt(record(1_024))
        case "twice":
            zone[name] = [txt(record()), txt("v=DKIM1; p=")]
        case str():
            zone[name] = txt(published)
    found = only(wrong(look(zone)))
    for told in says:
        assert told in found
    assert found.isprintable()
    assert key() not in found


def test_a_short_key_is_a_note_and_a_test_key_another(tmp_path: Path) -> None:
    zone = sound() | {"news1._domainkey.news.example.org TXT": txt(record(1_024).replace("k=rsa", "k=rsa; t=y:s"))}
    with serving(zone) as server:
        findings = list(
            examine(settings(tmp_path, environ={"NEWSLETTER_DKIM_KEY": key(1_024)}), Lookup(server.address))
        )
    assert wrong(findings) == []
    assert [one for one in notes(findings) if "1024 bits; 2048 are what" in one]
    assert [one for one in notes(findings) if "it says that it is a test" in one]


def test_sendgrids_keys_are_looked_for_by_their_cnames_at_the_domain_or_above_it(look: Look) -> None:
    zone = {name: data for name, data in sound().items() if "_domainkey" not in name}
    zone |= {
        "s1._domainkey.example.org CNAME": "s1.domainkey.u1.wl1.sendgrid.net.",
        "s1.domainkey.u1.wl1.sendgrid.net TXT": txt(record()),
        "s2._domainkey.example.org CNAME": "s2.domainkey.u1.wl1.sendgrid.net.",
        "s2.domainkey.u1.wl1.sendgrid.net TXT": txt(record()),
    }
    findings = look(zone, SENDGRID)
    assert wrong(findings) == []
    said = "\n".join(finding.what for finding in findings)
    assert "DKIM key s1._domainkey.example.org (by CNAME at s1.domainkey.u1.wl1.sendgrid.net): rsa, 2048 bits" in said
    assert "DKIM of example.org aligned with From" in said
    del zone["s2.domainkey.u1.wl1.sendgrid.net TXT"]
    assert "its CNAME leads to s2.domainkey.u1.wl1.sendgrid.net, where nothing is" in only(wrong(look(zone, SENDGRID)))
    bare = {name: data for name, data in zone.items() if "domainkey" not in name}
    missing = [one for one in wrong(look(bare, SENDGRID)) if "DKIM" in one]
    assert len(missing) == 2
    assert all("CNAME, with the target that SendGrid shows" in one for one in missing)


def test_an_ed25519_key_is_read(tmp_path: Path) -> None:
    private = base64.b64encode(ed25519.Ed25519PrivateKey.generate().private_bytes_raw()).decode()
    published = public_record(private)
    assert published is not None
    with serving(sound() | {"news1._domainkey.news.example.org TXT": txt(published)}) as server:
        findings = list(examine(settings(tmp_path, environ={"NEWSLETTER_DKIM_KEY": private}), Lookup(server.address)))
    assert wrong(findings) == []
    assert "not every mailbox provider verifies ed25519" in only(notes(findings))


# ---------------------------------------------------------------------------------------------- DMARC, MX


@pytest.mark.parametrize(
    ("dmarc", "says"),
    [
        (None, ("there is no record", "v=DMARC1; p=none; rua=mailto:dmarc@news.example.org")),
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], ("there are 2 records where one may be",)),
        ("v=DMARC1; p=quarantaine", ("p=“quarantaine” is none of none, quarantine, reject",)),
        ("v=DMARC1; nonsense", ("“nonsense” is not of the form tag=value",)),
        ("v=DMARC1; p=reject; rua=dmarc@example.org", ("is no mailto: address",)),
        (
            "v=DMARC1; p=reject; rua=mailto:a@reports.example.net",
            ("does not say that it takes them", "news.example.org._report._dmarc.reports.example.net. TXT"),
        ),
    ],
)
def test_a_fault_of_dmarc_is_named_with_what_to_do(
    look: Look, dmarc: str | list[str] | None, says: tuple[str, ...]
) -> None:
    zone = sound()
    del zone["_dmarc.example.org TXT"]
    if dmarc is not None:
        zone["_dmarc.news.example.org TXT"] = [txt(one) for one in ([dmarc] if isinstance(dmarc, str) else dmarc)]
    found = only(wrong(look(zone)))
    for told in says:
        assert told in found


def test_reports_may_go_to_a_domain_that_agrees(look: Look) -> None:
    zone = sound() | {
        "_dmarc.news.example.org TXT": txt("v=DMARC1; p=reject; rua=mailto:a@reports.example.net!10m"),
        "news.example.org._report._dmarc.reports.example.net TXT": txt("v=DMARC1"),
    }
    assert wrong(look(zone)) == []


@pytest.mark.parametrize(
    ("tags", "bounces", "good"),
    [("", "bounce.example.org", True), ("; aspf=s", "bounce.news.example.org", False), ("", "mail.example.com", False)],
)
def test_alignment_is_judged_as_the_record_asks(look: Look, tags: str, bounces: str, *, good: bool) -> None:
    zone = sound() | {"_dmarc.example.org TXT": txt(f"v=DMARC1; p=reject; rua=mailto:d@example.org{tags}")}
    zone |= {f"{bounces} TXT": txt("v=spf1 ip4:8.8.4.4 -all"), f"{bounces} MX": "10 mx.example.org."}
    provider = f'[provider]\nkind = "smtp"\nhost = "mx.example.org"\nbounce_domain = "{bounces}"\n'
    found = [one for one in wrong(look(zone, provider)) if "DMARC" in one]
    assert bool(found) is not good
    if not good:
        assert f"the return path's {bounces} not aligned with news.example.org" in only(found)


@pytest.mark.parametrize(
    ("mx", "says"),
    [
        (None, "there is none, and no address"),
        ("0 .", "it is a null MX"),
        ("10 gone.example.org.", "“gone.example.org” has no address"),
        ("10 8.8.4.4.", "an MX names a host, never an address"),
    ],
)
def test_a_domain_that_takes_no_mail_is_named(look: Look, mx: str | None, says: str) -> None:
    zone = sound()
    del zone["bounce.news.example.org MX"]
    if mx is not None:
        zone["bounce.news.example.org MX"] = mx
    found = only(wrong(look(zone)))
    assert says in found
    assert "(bounce_domain)" in found


# ---------------------------------------------------------------------------------------------- strangers' answers


@pytest.mark.parametrize("fault", [SILENT, SERVFAIL, GARBAGE])
def test_without_answers_every_line_says_so_and_none_is_a_fault(tmp_path: Path, fault: str) -> None:
    with serving({}, {"*": fault}) as server:
        lookup = Lookup(server.address, each=timedelta(seconds=0.2))
        findings = list(examine(settings(tmp_path), lookup))
        assert len(findings) >= 6
        assert {finding.ok for finding in findings} == {None}
        assert all("not looked at: " in finding.what for finding in findings)
        if fault == SILENT:  # after two that nobody answers, nobody is there
            assert len(set(server.asked)) <= 2


def test_no_network_at_all_is_said_at_once(tmp_path: Path) -> None:
    findings = list(examine(settings(tmp_path), Lookup("127.0.0.1:1", each=timedelta(seconds=0.2))))
    assert {finding.ok for finding in findings} == {None}
    assert all("is there a network?" in finding.what or "did not answer" in finding.what for finding in findings)


def test_all_look_ups_together_are_bounded_in_time(tmp_path: Path) -> None:
    ticks = itertools.count(0, 10)
    with serving(sound()) as server:
        lookup = Lookup(server.address, overall=timedelta(seconds=30), monotonic=lambda: float(next(ticks)))
        findings = list(examine(settings(tmp_path), lookup))
        assert len(server.asked) <= 3
    assert any("no time was left: all look-ups together take at most 30 s" in one for one in notes(findings))
    assert wrong(findings) == []


def test_cnames_in_a_circle_are_one_line(look: Look) -> None:
    zone = sound()
    del zone["news1._domainkey.news.example.org TXT"]
    zone |= {
        "news1._domainkey.news.example.org CNAME": "a.example.org.",
        "a.example.org CNAME": "b.example.org.",
        "b.example.org CNAME": "a.example.org.",
    }
    assert "its CNAMEs go in a circle" in only(wrong(look(zone)))


def test_huge_records_are_read_and_never_quoted_whole(look: Look) -> None:
    huge = "v=spf1 " + "ä" * 20_000
    zone = sound() | {
        "bounce.news.example.org TXT": txt(huge),
        "_dmarc.news.example.org TXT": txt("v=DMARC1; " + "x" * 40_000),
    }
    found = wrong(look(zone))
    assert len(found) == 2
    assert all(len(one) < 500 and one.isascii() is False and one.isprintable() for one in found)


@given(st.binary(max_size=200))
def test_whatever_a_record_holds_is_a_key_or_a_fault_of_one_line(data: bytes) -> None:
    for prefix in (b"", b"v=DKIM1; p=", b"v=DKIM1; k=ed25519; p="):
        told = ""
        try:
            assert records.key_of(prefix + data).bits > 0
        except records.RecordFault as error:
            told = str(error)
        assert told == "" or told.isprintable()


@pytest.mark.parametrize("given_", ["dns.example.org", "1.2.3", "1.2.3.4:0", "1.2.3.4:70000", "[::1", ""])
def test_a_name_server_is_an_address(given_: str) -> None:
    if not given_:
        Lookup(given_)
        return
    with pytest.raises(ConfigurationError, match="--nameserver: expected an address"):
        Lookup(given_)


# ---------------------------------------------------------------------------------------------- a mail that arrived


SENDER = Sender(
    "daily", "The Test Digest", f"digest@{FROM}", None, "The Test Digest", f"daily.{FROM}", "https://news.example.org"
)
MAIL = Message(
    subject="News", html="<p>Hello</p>", text="Hello", sender=SENDER, nonce="0123456789ab", slot="2026-11-24T07:00"
)


def arrived(change: Callable[[bytes], bytes] = lambda mail: mail, *, signed: bool = True, before: bytes = b"") -> bytes:
    """A mail of ours as a mailbox shows it; `change` is made to it before it is signed."""
    recipient = Recipient(DeliveryId("00cd522acee8e41951800df1"), "reader@example.net", "Reader", "TOKEN")
    mail = change(Mould(MAIL).fill(recipient, NOW))
    signature = signer(FROM, "news1", key())(mail) if signed else b""
    return (
        b"Return-Path: <x@bounce.news.example.org>\r\n"
        b"Received: from mx.example.org by mx.example.net; Tue, 24 Nov 2026 08:00:05 +0000\r\n"
        b"Authentication-Results: mx.example.net;\r\n spf=pass (ok) smtp.mailfrom=bounce.news.example.org;\r\n"
        b" dkim=pass header.d=news.example.org; dmarc=pass\r\n" + before + signature + mail
    )


Show = Callable[..., list[Finding]]


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Show]:
    with serving(sound()) as server:

        def through(mail: bytes) -> list[Finding]:
            return list(delivered.examine(mail, settings(tmp_path), Lookup(server.address), NOW))

        yield through


@pytest.mark.parametrize("form", ["as it came", "LF alone", "from an mbox"])
def test_a_mail_that_arrived_sound_has_no_fault(show: Show, form: str) -> None:
    mail = arrived()
    mail = mail.replace(b"\r\n", b"\n") if form == "LF alone" else mail
    mail = b"From x@bounce Tue Nov 24 08:00:05 2026\r\n" + mail if form == "from an mbox" else mail
    findings = show(mail)
    assert [finding.what for finding in findings if not finding.ok] == []
    said = "\n".join(finding.what for finding in findings)
    for told in (
        "from news.example.org, sender of daily",
        "“mx.example.net” found spf=pass, dkim=pass, dmarc=pass",
        "DKIM signature 1 (news1._domainkey.news.example.org): good, rsa, 2048 bits",
        "the signature of news.example.org vouches for it; the return path, “bounce.news.example.org”, is aligned",
        "both headers are there, at “news.example.org”, signed by news.example.org",
        "List-Id “daily.news.example.org”, one of this configuration's",
        "bytes of HTML, beside plain text",
    ):
        assert told in said
    assert "reader@" not in said
    assert "TOKEN" not in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.replace(b"https://", b"http://"), "its link is http, not https"),
        (lambda m: m.replace(b"=One-Click", b"=one-click"), "List-Unsubscribe-Post says something else than"),
        (
            lambda m: m.replace(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b""),
            "1 List-Unsubscribe and 0",
        ),
        (
            lambda m: m.replace(b"Content-Type: text/plain", b"Content-Type: text/enriched"),
            "there is no plain text part",
        ),
        (lambda m: m.replace(b"<p>Hello", b"<p>" + b"Hello=\r\n" * 25_000), "Gmail hides what is past 102,400"),
        (lambda m: m.replace(b"List-Id: ", b"X-List-Id: "), "message: List-Id: there are 0"),
        (lambda m: b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\n" + m, "message: Date: there are 2"),
    ],
)
def test_a_fault_of_the_mail_is_named(show: Show, change: Callable[[bytes], bytes], says: str) -> None:
    found = wrong(show(arrived(change)))
    assert says in only(found)


def test_a_mail_that_was_changed_on_its_way_has_no_good_signature(show: Show) -> None:
    found = wrong(show(arrived().replace(b"<p>Hello", b"<p>Hallo")))
    assert "the body is not the one that was signed" in found[0]
    assert any("no good signature is of that domain" in one for one in found)
    assert any("no good signature covers List-Unsubscribe" in one for one in found)


def test_one_click_needs_a_signature_that_covers_both_headers(show: Show) -> None:
    mail = Mould(MAIL).fill(Recipient(DeliveryId("0" * 24), "reader@example.net", "Reader", "TOKEN"), NOW)
    pem = b"-----BEGIN RSA PRIVATE KEY-----\n" + base64.encodebytes(base64.b64decode(key()))
    signature = dkim.sign(
        mail,
        b"news1",
        FROM.encode(),
        pem + b"-----END RSA PRIVATE KEY-----\n",
        include_headers=[b"from", b"subject", b"list-unsubscribe"],
    )
    found = only(wrong(show(signature + mail)))
    assert "no good signature covers List-Unsubscribe and List-Unsubscribe-Post" in found


def test_only_the_topmost_result_is_believed_and_none_that_the_sender_wrote(show: Show) -> None:
    forged = b"Authentication-Results: mx.example.net; dmarc=pass\r\n"
    mail = arrived().replace(b"spf=pass (ok)", b"spf=fail").replace(b"dmarc=pass", b"dmarc=fail")
    assert (
        "“mx.example.net” found spf=fail, dkim=pass, dmarc=fail"
        in wrong(show(mail.replace(b"DKIM-Sig", forged + b"DKIM-Sig", 1)))[0]
    )
    written = arrived(lambda mail: mail.replace(b"Subject:", forged + b"Subject:", 1))
    without = written.replace(written[written.index(b"Authentication-Results") : written.index(b"DKIM-Sig")], b"")
    assert "is not the receiving host's, and is not believed" in only(notes(show(without)))


def test_a_notice_needs_no_way_to_leave(show: Show) -> None:
    def notice(mail: bytes) -> bytes:
        lines = [line for line in mail.split(b"\r\n") if not line.startswith(b"List-")]
        return b"Auto-Submitted: auto-generated\r\n" + b"\r\n".join(lines)

    assert wrong(show(arrived(notice))) == []


def test_without_answers_a_mail_is_not_called_unsigned(tmp_path: Path) -> None:
    with serving({}, {"*": SILENT}) as server:
        lookup = Lookup(server.address, each=timedelta(seconds=0.2))
        findings = list(delivered.examine(arrived(), settings(tmp_path), lookup, NOW))
    assert wrong(findings) == []
    assert any("is not known" in one for one in notes(findings))


@given(st.binary(max_size=400))
def test_whatever_a_file_holds_every_finding_is_one_printable_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    told = settings(tmp_path_factory.getbasetemp())
    head = b"From: a@b\r\nDKIM-Signature: "
    results = b"Received: ;" + data + b"\r\nDate: " + data + b"\r\nAuthentication-Results: " + data
    leaving = b"List-Unsubscribe: <https://" + data + b">\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n"
    for mail in (data, head + data, results, leaving):
        lookup = Lookup("127.0.0.1:1", overall=timedelta())  # no time for any look-up
        for finding in delivered.examine(mail, told, lookup, NOW):
            assert finding.what.isprintable()


@pytest.mark.parametrize(
    "mail",
    [
        b"From: " + b"<(" * 50_000,
        b"From: a@b\r\nAuthentication-Results: mx; " + b"(" * 100_000,
        b"List-Id: " + b"<" * 100_000,
        b"List-Unsubscribe: " + b"<" * 100_000 + b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click",
        b"DKIM-Signature: " + b"h=" * 50_000,
        b"DKIM-Signature: v=1; a=rsa-sha256; d=news.example.org; s=news1; x=" + b"9" * 10_000,
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n" * 20_000,
    ],
    ids=["brackets", "comments", "List-Id", "links", "tags", "digits", "parts"],
)
def test_a_hostile_mail_costs_a_few_lines_and_no_traceback(show: Show, mail: bytes) -> None:
    findings = show(mail + b"\r\n\r\n")
    assert wrong(findings)
    assert all(len(finding.what) < 600 and finding.what.isprintable() for finding in findings)


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_adds_what_is_found_outside_and_fails_where_something_is_wrong(
    run: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    desk.people(desk.open(), 1)
    zone = sound()
    with serving(zone) as server:
        plain = run("doctor", "--deep", "--nameserver", server.address, "--selector", "news1")
        assert (plain.code, plain.err) == (0, "")
        assert "outbox" in plain.out
        assert "ok    DKIM key news1._domainkey.news.example.org: rsa, 2048 bits" in plain.out
        said = run("doctor", "--deep", "--nameserver", server.address, "--json").json
        assert {"ok", "what"} == set(said[0])
        asked = len(server.asked)
        assert "DKIM" not in run("doctor").out
        assert len(server.asked) == asked, "without --deep nobody is asked"
    with serving({name: data for name, data in zone.items() if "_dmarc" not in name}) as server:
        failed = run("doctor", "--deep", "--nameserver", server.address)
        assert failed.code == 1
        assert "BAD   DMARC of news.example.org: there is no record; " in failed.out


def test_a_mail_alone_is_looked_at_without_the_database(
    run: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    (desk.folder / "newsletter.db").unlink(missing_ok=True)
    (desk.folder / "arrived.eml").write_bytes(arrived())
    with serving(sound()) as server:
        shown = run("doctor", "--message", "arrived.eml", "--nameserver", server.address)
        assert all(line.startswith("ok    message: ") for line in shown.out.splitlines())
        assert (shown.code, shown.err) == (0, "")
        assert not (desk.folder / "newsletter.db").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--selector", "s1"), "--selector goes with --deep"),
        (("--nameserver", "9.9.9.9"), "--nameserver goes with --deep or --message"),
        (("--deep", "--nameserver", "here"), "--nameserver: expected an address such as"),
        (("--message", "missing.eml"), "missing.eml: No such file or directory"),
        (("--message", "empty.eml"), "expected a mail of at most 30,000,000 bytes, found an empty file"),
    ],
)
def test_a_mistake_is_one_line(
    run: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(desk.folder)
    (desk.folder / "empty.eml").write_bytes(b"\n")
    failed = run("doctor", *arguments)
    assert failed.code == 2
    assert says in failed.err
    assert failed.err.count("\n") == 1
