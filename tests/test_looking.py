"""What an operator and a monitor are told: status, health, metrics; and that a configuration is taken where it runs."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from newsletter import metrics, presence, status
from newsletter.errors import ConfigurationError
from newsletter.housekeeping import Housekeeping, duties
from newsletter.metrics import Lookout, Server
from newsletter.models import Alarm, Chore, EditionState, Watch
from newsletter.newsroom import Newsroom
from newsletter.processes import this_process
from newsletter.settings import Settings
from subscribers import transaction
from tests.conftest import NOW, Desk

MINUTE = timedelta(minutes=1)
FAR = "far/0a1b2c3d.1/17/99"
GOLDEN = Path(__file__).parent / "golden" / "status.txt"


def at_work(newsroom: Newsroom, owner: str = FAR) -> None:
    presence.register(newsroom, owner)


def some_desk(desk: Desk) -> Newsroom:
    """A desk at work: an edition that went out, one that is held, a chore that fails, an alarm."""
    desk.brief("one")
    newsroom = desk.open()
    desk.people(newsroom, 12)
    at_work(newsroom)
    newsroom.send("daily", "2026-11-23T07:00")
    Housekeeping(newsroom, FAR).run_due()
    desk.brief("two")
    record = newsroom._write("daily", newsroom.draft("daily", newsroom.slot("daily", "2026-11-24T07:00")))
    with transaction(newsroom.engine) as session:
        found = session.get_one(type(record), record.id)
        found.state, found.reason = EditionState.HELD, "nobody approved it in time"
        chore = session.get_one(Chore, "reconcile")
        chore.failures, chore.failed_at, chore.said = 3, NOW, "the database: it was locked"
        chore.succeeded_at = NOW - timedelta(hours=2)
        session.add(Alarm(key="source:desk", what="source desk failed 3 times in a row", since=NOW))
        session.add(Watch(newsletter="daily", since=NOW, schedule="0 7 * * * in UTC", schedule_since=NOW, seen_at=NOW))
    return newsroom


# ------------------------------------------------------------------------------------------ status


def test_golden_status_says_what_is_wrong_first_and_then_how_it_stands(desk: Desk) -> None:
    found = status.look(some_desk(desk))
    told = "\n".join(status.lines(found)) + "\n"
    for name in {one.configuration for one in found.clocks}:
        told = told.replace(name, "0123456789abcdef")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(told, encoding="utf-8")
    assert told == GOLDEN.read_text(encoding="utf-8"), "make golden rewrites it, read the difference"
    assert json.loads(json.dumps(status.as_json(found)))["faults"] == found.faults
    assert "@" not in told + json.dumps(status.as_json(found))


def test_what_an_alarm_says_is_said_once(desk: Desk) -> None:
    newsroom = some_desk(desk)
    before = status.look(newsroom).faults
    assert len(before) == 3
    with transaction(newsroom.engine) as session:
        (edition,) = status.look(newsroom).editions
        session.add(Alarm(key=f"edition {edition.id} tag held", what="it is held", since=NOW))
        session.add(Alarm(key="chore reconcile", what="it keeps failing", since=NOW))
    assert status.look(newsroom).faults == ["source desk failed 3 times in a row", "it is held", "it keeps failing"]


def test_a_quiet_morning_is_well(desk: Desk) -> None:
    desk.brief("one")
    newsroom = desk.open()
    desk.people(newsroom, 3)
    at_work(newsroom)
    newsroom.send("daily", "2026-11-23T07:00")
    Housekeeping(newsroom, FAR).run_due()
    found = status.look(newsroom)
    assert found.faults == []
    assert (found.accepted_last_hour, found.waiting, found.editions) == (3, 0, [])


def test_the_command_says_by_its_exit_code_whether_all_is_well(desk: Desk) -> None:
    newsroom = desk.open()
    command = [sys.executable, "-m", "newsletter", "status", "--config", str(desk.file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, "no clock runs" in told.stdout) == (1, True)
    wall = Newsroom.open(Settings.load(desk.file, {}))
    with closing(wall):
        presence.register(wall, this_process())
        Housekeeping(wall, this_process()).run_due()
        told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        presence.left(wall, this_process())
    assert (told.returncode, json.loads(told.stdout)["ok"]) == (0, True), told.stdout
    newsroom.close()


def test_an_edition_past_its_time_is_overdue_and_one_that_waits_for_a_person_says_so(desk: Desk) -> None:
    newsroom = some_desk(desk)
    desk.rows("UPDATE edition SET state = 'planned', next_at = slot_at WHERE state = 'held'")
    desk.clock.forward(timedelta(days=1))
    (edition,) = status.look(newsroom).editions
    assert edition.overdue
    desk.rows("UPDATE edition SET state = 'paused' WHERE state = 'planned'")
    (edition,) = status.look(newsroom).editions
    assert not edition.overdue
    assert any("is paused: nobody approved it" in fault for fault in status.look(newsroom).faults)


def test_a_chore_that_nobody_does_any_more_is_told_where_a_clock_runs(desk: Desk) -> None:
    newsroom = desk.open()
    at_work(newsroom)
    Housekeeping(newsroom, FAR).run_due()
    desk.clock.forward(timedelta(hours=5))
    assert not [one for one in status.look(newsroom).chores if one.fault], "no clock, no chores: that is told instead"
    presence.seen(newsroom, FAR)
    late = {one.name for one in status.look(newsroom).chores if one.fault}
    assert late == {duty.name for duty in duties(newsroom) if duty.every <= timedelta(hours=1)}


@pytest.mark.sqlite("counts its statements")
def test_a_look_asks_the_database_as_often_for_a_thousand_newsletters_as_for_one(desk: Desk) -> None:
    from sqlalchemy import event

    def asked(newsroom: Newsroom) -> int:
        count = [0]
        event.listen(newsroom.engine, "before_cursor_execute", lambda *_: count.__setitem__(0, count[0] + 1))
        status.look(newsroom)
        return count[0]

    once = asked(desk.open())
    more = "".join(
        f'[newsletters.n{number}]\ntitle = "N"\nfrom = "N <n@news.example.org>"\nlists = ["daily"]\n'
        for number in range(300)
    )
    desk.configure(lambda text: text + more)
    assert asked(desk.open()) == once


# ------------------------------------------------------------------------------------------ health and metrics


@contextmanager
def served(newsroom: Newsroom, ticked: Callable[[], datetime | None]) -> Iterator[tuple[Server, list[float]]]:
    """A server whose lookout looks anew whenever the list's figure moves on."""
    time = [0.0]
    server = Server("127.0.0.1:0", Lookout(lambda: newsroom, ticked, lambda: time[0]))
    try:
        yield server, time
    finally:
        server.close()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_health_says_in_one_line_why_it_is_not_well(desk: Desk) -> None:
    newsroom = desk.open()
    at_work(newsroom)
    ticked: list[datetime | None] = [None]
    with served(newsroom, lambda: ticked[0]) as (server, time):
        assert ask(server.port, "/health") == (503, "no tick yet\n")
        ticked[0] = NOW
        assert ask(server.port, "/health") == (200, "ok\n")
        desk.clock.forward(timedelta(seconds=61))
        code, said = ask(server.port, "/health")
        assert (code, said.startswith("the clock has not ticked since 2026-11-23 08:00:00 UTC")) == (503, True)
        ticked[0] = desk.clock()
        with transaction(newsroom.engine) as session:
            session.add(Chore(name="notices", due_at=NOW, began_at=NOW, failures=9, failed_at=NOW, said="no key"))
        assert ask(server.port, "/health") == (200, "ok\n"), "looked up a moment ago"
        time[0] += 5
        assert ask(server.port, "/health") == (503, "notices: failed 9 times in a row: no key\n")
        desk.rows("ALTER TABLE instance RENAME TO elsewhere")
        time[0] += 5
        code, said = ask(server.port, "/health")
        assert (code, said.startswith("the database: ")) == (503, True)
        code, said = ask(server.port, "/metrics")
        assert (code, "newsletter_database_reachable 0.0" in said) == (200, True)
        desk.rows("ALTER TABLE elsewhere RENAME TO instance")


def test_health_tells_an_overdue_edition(desk: Desk) -> None:
    newsroom = some_desk(desk)
    desk.rows("UPDATE edition SET state = 'planned', next_at = slot_at WHERE state = 'held'")
    desk.rows("DELETE FROM chore")
    desk.clock.forward(timedelta(days=1))
    with served(newsroom, desk.clock) as (server, _):
        assert ask(server.port, "/health") == (503, "overdue: daily 2026-11-24T07:00 (planned)\n")


def test_the_metrics_can_be_read_by_prometheus_and_name_nobody(desk: Desk) -> None:
    newsroom = some_desk(desk)
    with served(newsroom, desk.clock) as (server, _):
        code, text = ask(server.port, "/metrics")
    assert code == 200
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["newsletter_editions", "held"] == 1
    assert found["newsletter_editions", "dispatching"] == 0
    assert found["newsletter_deliveries_accepted_last_hour",] == 12
    assert found["newsletter_deliveries_accepted_per_second",] == 12 / 300
    assert found["newsletter_chore_failures", "reconcile"] == 3
    assert found["newsletter_chore_success_timestamp_seconds", "notices"] == NOW.timestamp()
    assert found["newsletter_edition_closed_timestamp_seconds", "daily"] == NOW.timestamp()
    assert found["newsletter_alarms_open",] == 1
    assert found["newsletter_healthy",] == 0
    assert ("newsletter_build_info", "0.1.0") in found
    assert "@" not in text


def test_everything_that_is_documented_is_served_and_nothing_else(desk: Desk) -> None:
    newsroom = some_desk(desk)
    lookout = Lookout(lambda: newsroom, desk.clock)
    served = {family.name for family in text_string_to_metric_families(lookout.metrics().decode())}
    page = (Path(__file__).parent.parent / "docs" / "scheduling.md").read_text(encoding="utf-8")
    told = {line.split("`")[1].partition("{")[0] for line in page.splitlines() if line.startswith("| `newsletter_")}
    assert told == served


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "BREW"])
def test_only_get_is_answered(desk: Desk, method: str) -> None:
    with served(desk.open(), desk.clock) as (server, _):
        code, said = ask(server.port, "/health", method)
        assert code == 405
        assert method not in said
        assert ask(server.port, "/secret?x=<script>") == (404, "/health and /metrics\n")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health", b"\x16\x03\x01\x02\x00\x01", b"GET /health HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" * 5000],
    ids=["silence", "half a line", "TLS", "half a header", "many lines"],
)
def test_clients_that_never_finish_keep_nobody_from_being_answered(desk: Desk, sent: bytes) -> None:
    with served(desk.open(), desk.clock) as (server, _):
        before = threading.active_count()
        hostile = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
        try:
            for one in hostile:
                try:
                    one.sendall(sent)
                except OSError:
                    continue  # cut off already
            for _ in range(3):
                assert ask(server.port, "/metrics")[0] == 200
            assert threading.active_count() <= before + metrics._AT_ONCE + 1
        finally:
            for one in hostile:
                one.close()


def test_a_client_that_goes_on_for_ever_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_REQUEST_LASTS", 0.2)
    with (
        served(desk.open(), desk.clock) as (server, _),
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow,
    ):
        slow.sendall(b"GET /health HTTP/1.1\r\nX: ")
        assert slow.recv(100) == b"", "closed by the server, long before any time-out of ours"


def test_an_address_that_is_taken_is_one_clear_line(desk: Desk) -> None:
    with (
        served(desk.open(), desk.clock) as (server, _),
        pytest.raises(ConfigurationError, match=r"clock\.listen: cannot listen on 127\.0\.0\.1:\d+: "),
    ):
        Server(f"127.0.0.1:{server.port}", Lookout(desk.open, desk.clock))


# ------------------------------------------------------------------------------------------ presence


def test_a_process_that_is_gone_is_no_longer_told_and_its_row_goes(desk: Desk) -> None:
    newsroom = desk.open()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        owner = f"{this_process().rpartition('/')[0].rpartition('/')[0]}/{process.pid}/{started}"
        presence.register(newsroom, owner)
        assert [one.owner for one in status.look(newsroom).clocks] == [owner]
        process.kill()
    assert status.look(newsroom).clocks == []
    presence.register(newsroom, FAR)
    assert desk.rows("SELECT owner FROM clock_process") == [(FAR,)]


def test_a_silent_process_of_another_machine_is_told_and_then_forgotten(desk: Desk) -> None:
    newsroom = desk.open()
    presence.register(newsroom, FAR)
    desk.clock.forward(timedelta(seconds=61))
    assert any("has said nothing since" in fault for fault in status.look(newsroom).faults)
    presence.seen(newsroom, FAR)
    assert not any("has said nothing" in fault for fault in status.look(newsroom).faults)
    desk.clock.forward(timedelta(hours=2))
    presence.register(newsroom, this_process())
    assert desk.rows("SELECT owner FROM clock_process") == [(this_process(),)]
    presence.seen(newsroom, FAR)
    assert len(desk.rows("SELECT owner FROM clock_process")) == 2, "it lives after all"


def test_it_says_that_it_ticks_three_times_a_minute_and_not_more(desk: Desk) -> None:
    newsroom = desk.open()
    presence.register(newsroom, FAR)
    seen = set()
    for _ in range(60):
        presence.seen(newsroom, FAR)
        seen |= set(desk.rows("SELECT seen_at FROM clock_process"))
        desk.clock.forward(timedelta(seconds=1))
    assert len(seen) == 3


def test_reload_tells_of_each_process_whether_it_took_it_and_why_not(desk: Desk) -> None:
    newsroom = desk.open()
    names = {"took": "a/1.1/1/1", "fault": "b/1.1/2/1", "silent": "c/1.1/3/1", "other": "d/1.1/4/1"}
    for owner in names.values():
        presence.register(newsroom, owner)
    desk.clock.forward(MINUTE)
    desk.configure(lambda text: text.replace("The Test Digest", "Another Digest"))
    new = desk.open()

    def meanwhile(_: float) -> None:
        for name in ("took", "fault", "other"):
            if (asked := presence.reload_wanted(newsroom, names[name])) is not None:
                fault = "newsletter.toml:3: expected\n a web address" if name == "fault" else None
                presence.loaded(new if name != "other" else newsroom, names[name], asked, fault)

    answers = {answer.name: answer for answer in presence.reload(new, timedelta(seconds=1), meanwhile)}
    assert answers["a, process 1"].took
    assert answers["b, process 2"].fault == "newsletter.toml:3: expected a web address"
    assert answers["c, process 3"].fault == "it has not answered yet"
    assert answers["d, process 4"].fault == "it reads another configuration file than this command"
    assert [answer.took for answer in answers.values()].count(True) == 1
    assert presence.reload_wanted(newsroom, names["took"]) is None
    assert any("goes on with the configuration before" in fault for fault in status.look(new).faults)


def test_a_reload_is_taken_by_a_machine_whose_clock_is_behind(desk: Desk) -> None:
    newsroom = desk.open()
    presence.register(newsroom, FAR)

    def behind(_: float) -> None:
        desk.clock.forward(-timedelta(minutes=5))
        if (asked := presence.reload_wanted(newsroom, FAR)) is not None:
            presence.loaded(newsroom, FAR, asked)
        desk.clock.forward(timedelta(minutes=5))

    for _ in range(2):
        desk.clock.forward(-MINUTE)  # the asker's own clock, too
        (answer,) = presence.reload(newsroom, timedelta(seconds=1), behind)
        assert answer.took
        assert presence.reload_wanted(newsroom, FAR) is None


def test_a_configuration_with_a_mistake_is_refused_and_nobody_is_asked(desk: Desk) -> None:
    newsroom = desk.open()
    presence.register(newsroom, FAR)
    desk.configure(lambda text: text.replace("0 7 * * *", "0 7 * *"))
    command = [sys.executable, "-m", "newsletter", "reload", "--wait", "0", "--config", str(desk.file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr.count("\n"), "five cron fields" in told.stderr) == (2, 1, True)
    assert presence.reload_wanted(newsroom, FAR) is None


def test_a_secret_is_no_part_of_a_fingerprint(desk: Desk) -> None:
    before = presence.fingerprint(Settings.load(desk.file, {}))
    assert presence.fingerprint(Settings.load(desk.file, {"NEWSLETTER_SECRET": "x" * 40})) == before
    desk.configure(lambda text: text.replace("0 7", "0 8"))
    assert presence.fingerprint(Settings.load(desk.file, {})) != before
