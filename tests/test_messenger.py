"""What the desk is told arrives: by mail and by a web address, past faults, halts and kills, with no secret in it."""

import email
import email.policy
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from newsletter import desk, store
from newsletter.compile import compile_desk, template_folder
from newsletter.desk import Said, Urgency, tell_proof
from newsletter.drafting import sender_of
from newsletter.edition import DeskContents, Message, Receipt, Recipient, Result, Sender
from newsletter.errors import CompileError, OutcomeUnknown, Throttled, Unreachable
from newsletter.fetch import Fetcher
from newsletter.messenger import MOST_TRIES, OUT_OF_DATE, DeskSender, as_slack, proof_of
from newsletter.models import Channel, DeskKind, DeskNotice, NoticeState
from newsletter.newsroom import Newsroom
from newsletter.providers import Provider
from newsletter.schedule import Slot
from newsletter.settings import Fetch
from subscribers import Reason, parse, reading, suppress, transaction
from tests.conftest import NOW, Desk
from tests.hook_server import HookServer
from tests.test_desk import DESK, SLOT
from tests.test_notices import Scripted, failing

GOLDEN = Path(__file__).parent / "golden" / "desk"
HELD = Said(
    "The Test Digest 2026-11-23 07:00 is held",
    (("Why", "nobody approved"), ("Edition", "daily, slot 2026-11-23T07:00 UTC"), ("Brief 1", "Cats <b>&</b> dogs")),
    ("Nothing of it goes out by itself any more: a person says whether it does.",),
    "newsletter editions approve daily 2026-11-23T07:00 --revision 3",
    Urgency.NOW,
)
REPORT = Said(
    "The Test Digest 2026-11-23 07:00: 1,204 of 1,210 accepted",
    (
        ("Edition", "daily, slot 2026-11-23T07:00 UTC"),
        ("Candidates", "1,210"),
        ("Accepted", "1,204"),
        ("Refused", "2 (2 no such mailbox)"),
        ("Suppressed", "4"),
        ("Over", "07:01:12 UTC, after 1 min 9 s"),
        ("Brief 1", "The council votes on the bridge, after a debate of eleven hours and a night"),
        ("Left", "An old story: waited longer than max_age (7 days)"),
    ),
)


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with HookServer() as made:
        yield made


@pytest.fixture
def room(desk: Desk, hook: HookServer) -> Newsroom:
    desk.configure(lambda text: text + DESK + '\n[fetch]\nallow_networks = ["127.0.0.1"]\ntimeout = "5s"\n')
    made = desk.open()
    changed = made.settings.desk.model_copy(update={"webhook": SecretStr(hook.url())})
    made.settings = made.settings.model_copy(update={"desk": changed})
    return made


def write(room: Newsroom, kind: DeskKind = DeskKind.ALERT, said: Said = HELD, key: str = "k") -> None:
    with transaction(room.engine) as session:
        desk.tell(session, room.settings, kind, key=key, subject=said.heading, said=said, now=room.clock())


def run(room: Newsroom, provider: Provider | None = None) -> dict[str, int]:
    sender = DeskSender(
        room.engine, room.settings, provider or room.provider, room.fetcher, room.clock, jitter=lambda: 1.0
    )
    return {str(state): count for state, count in sender.run().items()}


def notices(room: Newsroom, channel: Channel | None = None) -> list[DeskNotice]:
    with reading(room.engine) as session:
        return [one for one in desk.listed(session, 100) if channel in {None, one.channel}]


def mails(desk: Desk) -> list[EmailMessage]:
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in desk.mails]


def part(mail: EmailMessage, kind: str) -> str:
    found = mail.get_body((kind,))
    assert found is not None
    return str(found.get_content()).replace("\r\n", "\n")


def forward(desk: Desk, span: timedelta = timedelta(hours=1)) -> None:
    desk.clock.forward(span)


# ------------------------------------------------------------------------------------------ by mail


def test_each_mailbox_of_the_desk_gets_one_mail_that_says_a_program_wrote_it_and_belongs_to_no_list(
    desk: Desk, room: Newsroom
) -> None:
    write(room)
    assert run(room) == {"done": 2}
    assert run(room) == {}
    found = mails(desk)
    assert sorted(mail["To"] for mail in found) == ["Morning desk <desk@news.example.org>", "night@news.example.org"]
    for mail in found:
        assert mail["Subject"] == HELD.heading
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["From"] == "The Test Digest <digest@news.example.org>"
        assert not [name for name in mail if name.lower().startswith("list-")]
        assert HELD.command
        assert HELD.command in part(mail, "plain")


def test_a_mailbox_that_has_taken_it_is_not_mailed_again_while_another_is_deferred(desk: Desk, room: Newsroom) -> None:
    write(room)
    first: list[str] = []

    def one_of_two(recipients: Sequence[Recipient]) -> list[Receipt]:
        first.extend(one.address for one in recipients)
        return [
            Receipt(recipients[0].delivery, Result.ACCEPTED),
            Receipt(recipients[1].delivery, Result.DEFERRED, "greylisted", timedelta(minutes=7)),
        ]

    provider = Scripted([one_of_two])
    assert run(room, provider) == {"done": 1, "pending": 1}
    [mail] = notices(room, Channel.MAIL)
    assert (mail.note, mail.due_at) == ("greylisted", NOW + timedelta(minutes=7))
    assert "@" not in mail.content
    forward(desk)
    assert run(room, provider) == {"done": 1}
    assert provider.calls[1] == [first[1]]


@pytest.mark.parametrize("error", [Unreachable("p", "down"), OutcomeUnknown("p", "cut off"), RuntimeError("a bug")])
def test_what_fails_is_tried_again_and_given_up_at_last(desk: Desk, room: Newsroom, error: Exception) -> None:
    write(room)
    provider = Scripted([failing(error)] * MOST_TRIES)
    for _ in range(MOST_TRIES - 1):
        run(room, provider)
        assert notices(room, Channel.MAIL)[0].state is NoticeState.PENDING
        forward(desk)
    assert run(room, provider) == {"refused": 1}
    assert run(room, provider) == {}


def test_waiting_as_the_provider_asks_uses_up_no_try(desk: Desk, room: Newsroom) -> None:
    write(room)
    run(room, Scripted([failing(Throttled("p", timedelta(minutes=30)))]))
    [mail] = notices(room, Channel.MAIL)
    assert (mail.tries, mail.due_at) == (0, NOW + timedelta(minutes=30))


def test_only_to_and_suppressions_hold_for_the_desk_too(desk: Desk, room: Newsroom) -> None:
    only = room.settings.dispatch.model_copy(update={"only_to": ("desk@news.example.org",)})
    room.settings = room.settings.model_copy(update={"dispatch": only})
    write(room)
    run(room)
    assert [mail["To"] for mail in mails(desk)] == ["Morning desk <desk@news.example.org>"]
    with transaction(room.engine) as session:
        suppress(session, parse("desk@news.example.org"), Reason.OPERATOR, now=NOW, actor="test", note=None)
    write(room, key="another")
    assert run(room) == {"done": 1, "dropped": 1}
    assert len(mails(desk)) == 1


def test_a_notice_that_was_brought_by_a_killed_process_is_brought_again_and_once(desk: Desk, room: Newsroom) -> None:
    write(room)
    code = (
        "import os, signal, sys; from pathlib import Path; from newsletter.newsroom import Newsroom\n"
        "from newsletter.settings import Settings; from newsletter.messenger import DeskSender\n"
        "from tests.conftest import NOW\n"
        "room = Newsroom.open(Settings.load(Path(sys.argv[1]), os.environ), lambda: NOW)\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "room.fetcher.post_json = die\n"
        "DeskSender(room.engine, room.settings, room.provider, room.fetcher, room.clock).run()\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NEWSLETTER_DESK_WEBHOOK": "http://127.0.0.1:9/x"}
    died = subprocess.run([sys.executable, "-c", code, str(desk.file)], env=environ, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    [hook] = notices(room, Channel.HOOK)
    assert hook.state is NoticeState.CALLING
    assert run(room) == {"done": 1}  # the mail; the other is in hands that may be alive
    forward(desk)
    assert run(room) == {"done": 1}
    assert {one.state for one in notices(room)} == {NoticeState.DONE}
    assert len(mails(desk)) == 2


# ------------------------------------------------------------------------------------------ what stands against it


def test_while_dispatch_is_halted_proofs_wait_and_all_else_is_told(
    desk: Desk, room: Newsroom, hook: HookServer
) -> None:
    room.halt("operator:kim", None)
    write(room)
    write(room, DeskKind.REPORT, REPORT, "r")
    write(room, DeskKind.PROOF, REPORT, "p")
    assert run(room) == {"done": 3}
    assert len(hook.posted) == 1
    assert [one.kind for one in notices(room) if one.state is NoticeState.PENDING] == [DeskKind.PROOF]


def test_a_database_that_is_not_claimed_mails_nobody_and_its_alerts_are_told_to_the_webhook_alone(
    room: Newsroom, hook: HookServer
) -> None:
    class Live(Scripted):
        live = True

    provider = Live()
    write(room)
    write(room, DeskKind.REPORT, HELD, "r")
    assert run(room, provider) == {"done": 1}
    assert provider.calls == []
    assert len(hook.posted) == 1


def test_without_a_provider_the_webhook_is_told(room: Newsroom, hook: HookServer) -> None:
    write(room)
    sender = DeskSender(room.engine, room.settings, None, room.fetcher, room.clock)
    assert sender.run() == {NoticeState.DONE: 1}
    assert len(hook.posted) == 1


def test_what_is_out_of_date_is_dropped(desk: Desk, room: Newsroom) -> None:
    write(room)
    forward(desk, OUT_OF_DATE + timedelta(minutes=1))
    assert run(room) == {"dropped": 2}
    assert desk.mails == []


def test_a_broken_template_does_not_keep_the_desk_from_being_told(desk: Desk, room: Newsroom) -> None:
    own = desk.folder / "own" / "desk"
    own.mkdir(parents=True)
    (own / "body.mjml.j2").write_text("{% extends 'nowhere' %}", encoding="utf-8")
    templates = room.settings.templates.model_copy(update={"path": desk.folder / "own"})
    room.settings = room.settings.model_copy(update={"templates": templates})
    write(room)
    assert run(room) == {"done": 2}
    assert len(mails(desk)) == 2


# ------------------------------------------------------------------------------------------ by the webhook


def test_the_webhook_gets_json_that_slack_takes(room: Newsroom, hook: HookServer) -> None:
    write(room)
    run(room)
    [(path, headers, value)] = hook.posted
    assert path == "/services/T0/B0/secret"
    assert headers["content-type"] == "application/json"
    assert HELD.command in value["text"]
    assert value["blocks"][0]["text"]["type"] == "mrkdwn"
    assert "Cats &lt;b&gt;&amp;&lt;/b&gt; dogs" in str(value)


@pytest.mark.parametrize(
    ("answer", "state", "tries"),
    [
        ((204, {}), NoticeState.DONE, 1),
        ((429, {"Retry-After": "120"}), NoticeState.PENDING, 0),
        ((503, {}), NoticeState.PENDING, 1),
        (None, NoticeState.PENDING, 1),
        ((404, {}), NoticeState.REFUSED, 1),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}), NoticeState.REFUSED, 1),
    ],
)
def test_the_webhooks_answer_says_what_comes_next(
    room: Newsroom, hook: HookServer, answer: tuple[int, dict[str, str]] | None, state: NoticeState, tries: int
) -> None:
    hook.answers = [answer]
    write(room)
    run(room)
    [notice] = notices(room, Channel.HOOK)
    assert (notice.state, notice.tries) == (state, tries)
    if answer and answer[0] == 429:
        assert notice.due_at == NOW + timedelta(seconds=120)
    assert len(hook.posted) == 1


def test_the_webhooks_address_is_in_no_log_and_no_row(
    desk: Desk, room: Newsroom, hook: HookServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    write(room)
    hook.answers = [None, (302, {"Location": hook.url("/other")})]
    for _ in range(3):
        run(room)
        forward(desk)
    kept = caplog.text + str(notices(room)) + str(room.settings)
    assert "/services" not in kept
    assert "desk.refused" in caplog.text


def test_a_webhook_inside_a_private_network_is_not_asked_unless_that_is_allowed(
    room: Newsroom, hook: HookServer
) -> None:
    write(room)
    with Fetcher(Fetch(), user_agent="test", clock=room.clock) as strict:
        sender = DeskSender(room.engine, room.settings, None, strict, room.clock)
        assert sender.run() == {NoticeState.PENDING: 1}
    assert hook.posted == []
    assert "allow_networks" in (notices(room, Channel.HOOK)[0].note or "")


@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=120), st.text(), st.lists(st.text(), max_size=5))
def test_whatever_is_said_slack_takes_it(
    heading: str, rows: list[tuple[str, str]], command: str, paragraphs: list[str]
) -> None:
    said = Said(heading, tuple(rows), tuple(paragraphs), command or None, Urgency.LOOK)
    value = as_slack(heading, said)
    texts = [value["text"]]
    assert len(value["blocks"]) <= 50
    for block in value["blocks"]:
        texts += [block["text"]["text"]] if "text" in block else [field["text"] for field in block["fields"]]
        assert len(block.get("fields", ())) <= 10
        assert all(len(field["text"]) <= 2_000 for field in block.get("fields", ()))
    for text in texts:
        assert 0 < len(text) <= 3_600
        assert "<" not in text
        assert ">" not in text


# ------------------------------------------------------------------------------------------ proofs


def drafted(desk: Desk, room: Newsroom) -> Message:
    desk.brief("bridges")
    room._write("daily", room.draft("daily", Slot.parse(SLOT, "UTC")))
    with transaction(room.engine) as session:
        record = store.editions(session, None, 1)[0]
        message = store.message_record(session, record.id or 0)
        assert message is not None
        tell_proof(session, room.settings, record, message, NOW, remarks=["bridges: <no> alt text"])
        return store.load_message(message)


def test_a_proof_is_the_stored_edition_itself_below_a_banner_with_links_that_do_nothing(
    desk: Desk, room: Newsroom
) -> None:
    message = drafted(desk, room)
    assert run(room) == {"done": 1}
    mail = mails(desk)[0]
    assert mail["Subject"] == "[Proof] The Test Digest 2026-11-23 07:00"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "List-Unsubscribe" not in mail
    html = part(mail, "html")
    name, address = ("Morning desk", "desk@news.example.org") if "Morning" in mail["To"] else (None, mail["To"])
    values = {
        "name": name or address,
        "address": address,
        "leave_url": message.sender.leave_url("proof"),
        "preferences_url": message.sender.preferences_url("proof"),
    }
    banner, rest = html.split("</table>", 1)
    before = banner[: banner.index("<table")]
    assert (before + rest).rstrip() == message.fill(message.html, values).rstrip()
    assert "bridges: &lt;no&gt; alt text" in banner
    text = part(mail, "plain")
    assert text.rstrip().endswith(message.fill(message.text, values).rstrip())
    assert text.startswith("PROOF: The Test Digest 2026-11-23 07:00")


def test_a_proof_of_a_draft_that_was_made_anew_is_not_mailed(desk: Desk, room: Newsroom) -> None:
    drafted(desk, room)
    room._write("daily", room.draft("daily", Slot.parse(SLOT, "UTC")))
    assert run(room) == {"dropped": 1}
    assert desk.mails == []


@pytest.mark.parametrize(
    "html",
    [
        "<html><body>X</body></html>",
        "<html><!-- <body> --><head><style>a:before{content:'<body>'}</style></head><BODY class='a>b'>X</BODY></html>",
        "X",
    ],
)
def test_the_banner_stands_before_everything_that_is_shown(html: str) -> None:
    sender = Sender("daily", "Digest", "digest@news.example.org", None, "Daily", "daily.example.org", "https://e.org")
    made = proof_of(Message(sender, "S", html, "T", "n1"), "[Proof] S", HELD)
    at = made.html.index("Proof: ")
    assert made.html.index("X") > at
    assert "<table" not in made.html[: made.html.lower().rfind("<body")] or "<body" not in html.lower()


# ------------------------------------------------------------------------------------------ how it looks


@pytest.mark.parametrize(("name", "said"), [("alert", HELD), ("report", REPORT)])
def test_golden_mail_to_the_desk(desk: Desk, name: str, said: Said) -> None:
    settings = desk.open().settings
    contents = DeskContents("daily", settings.newsletters["daily"], settings.site, said.heading, said, "k0")
    message = compile_desk(contents, sender_of(settings, "daily"))
    for part, text in (("html", message.html), ("txt", message.text)):
        file = GOLDEN / f"{name}.{part}"
        if os.environ.get("UPDATE_GOLDEN"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")


def test_a_template_that_hides_the_command_is_refused(desk: Desk) -> None:
    settings = desk.open().settings
    own = desk.folder / "own" / "desk"
    own.mkdir(parents=True)
    text = (template_folder() / "desk" / "body.txt.j2").read_text(encoding="utf-8")
    (own / "body.txt.j2").write_text(text.replace("said.command }}", "'' }}"), encoding="utf-8")
    contents = DeskContents("daily", settings.newsletters["daily"], settings.site, "S", HELD, "k0")
    with pytest.raises(CompileError, match=r"body\.txt\.j2.*does not show the command"):
        compile_desk(contents, sender_of(settings, "daily"), desk.folder / "own")
