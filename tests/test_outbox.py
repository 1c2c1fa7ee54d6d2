"""newsletter/providers/outbox.py: one whole file a recipient, once, whatever happens meanwhile."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from newsletter.edition import AttemptId, DeliveryId, Message, Receipt, Recipient, Result, Sender, spelling
from newsletter.errors import OutcomeUnknown, ProviderRefused
from newsletter.providers.outbox import OutboxProvider
from tests.strict_mail import read

NOW = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
SENDER = Sender("daily", "Daily", "daily@example.org", None, "Daily", "daily.example.org", "https://example.org")
MESSAGE = Message(SENDER, "Today", "<p>Hello</p>", f"Hello {spelling('d4f0a1', 'name', html=False)}\n", "d4f0a1")
PEOPLE = [Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", f"Reader {n}", f"t{n}") for n in range(5)]


@pytest.fixture
def outbox(tmp_path: Path) -> OutboxProvider:
    return OutboxProvider(tmp_path / "mail" / "outbox", clock=lambda: NOW)


def submit(
    outbox: OutboxProvider,
    people: Sequence[Recipient] = PEOPLE,
    message: Message = MESSAGE,
    started: Callable[[], None] = lambda: None,
    attempt: str = "a1",
) -> list[Receipt]:
    return list(outbox.submit(message, people, AttemptId(attempt), started))


def results(receipts: list[Receipt]) -> list[Result]:
    return [receipt.result for receipt in receipts]


def names_in(outbox: OutboxProvider, part: str) -> list[str]:
    return sorted(path.name for path in (outbox.path / part).iterdir())


def failing(real: Callable[..., Any], error: int, *, after: int = 0) -> Callable[..., Any]:
    """A system call that works so many times and then fails like that."""
    left = iter(range(after))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    return call


# ---------------------------------------------------------------------------------------------- one file each


def test_each_recipient_gets_one_whole_mail_of_their_own(outbox: OutboxProvider) -> None:
    assert results(submit(outbox)) == [Result.ACCEPTED] * 5
    assert names_in(outbox, "new") == [f"{person.delivery}.eml" for person in PEOPLE]
    assert names_in(outbox, "tmp") == []
    for person in PEOPLE:
        mail = read(outbox.file_of(person).read_bytes())
        assert mail.mailbox("To") == (person.name, person.address)
        assert mail.text == f"Hello {person.name}\r\n"


def test_files_are_0600_and_folders_0700_whatever_the_umask(outbox: OutboxProvider) -> None:
    before = os.umask(0)
    try:
        submit(outbox)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (outbox.path, *outbox.path.rglob("*"))}
    folders = {"outbox", "tmp", "new", "cur"}
    assert {mode for name, mode in modes.items() if name in folders} == {0o700}
    assert {mode for name, mode in modes.items() if name not in folders} == {0o600}


def test_a_folder_that_somebody_opened_to_a_group_stays_as_they_made_it(outbox: OutboxProvider) -> None:
    (outbox.path / "new").mkdir(parents=True)
    (outbox.path / "new").chmod(0o750)
    submit(outbox)
    assert (outbox.path / "new").stat().st_mode & 0o777 == 0o750


# ---------------------------------------------------------------------------------------------- once


def test_calling_again_under_the_same_ids_writes_nothing_and_accepts_again(outbox: OutboxProvider) -> None:
    submit(outbox)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (outbox.path / "new").iterdir()}
    changed = replace(MESSAGE, subject="Other")
    assert results(submit(outbox, message=changed, attempt="a2")) == [Result.ACCEPTED] * 5
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in (outbox.path / "new").iterdir()} == before


@pytest.mark.parametrize("suffix", ["", ":2,", ":2,S", ":2,FRS"])
def test_what_a_mail_client_moved_to_cur_is_not_written_again(outbox: OutboxProvider, suffix: str) -> None:
    submit(outbox)
    for person in PEOPLE[:3]:
        file = outbox.file_of(person)
        file.rename(outbox.path / "cur" / f"{file.name}{suffix}")
    assert results(submit(outbox, attempt="a2")) == [Result.ACCEPTED] * 5
    assert len(names_in(outbox, "new")) == 2
    assert len(names_in(outbox, "cur")) == 3


def test_what_moves_to_cur_while_we_look_is_not_written_again(
    outbox: OutboxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(outbox)
    look = os.scandir

    def move_then_look(path: Any) -> Any:
        for person in PEOPLE if Path(path).name == "cur" else ():
            file = outbox.file_of(person)
            file.rename(outbox.path / "cur" / f"{file.name}:2,S")
        return look(path)

    monkeypatch.setattr(os, "scandir", move_then_look)
    assert results(submit(outbox, attempt="a2")) == [Result.ACCEPTED] * 5
    monkeypatch.undo()
    assert names_in(outbox, "new") == []


@pytest.mark.parametrize("attempts", [("a1", "a2"), ("a1", "a1")], ids=["two attempts", "one attempt"])
def test_the_same_batch_from_two_threads_gives_one_whole_file_each(
    outbox: OutboxProvider, attempts: tuple[str, str]
) -> None:
    """Regression: two threads shared a draft, so that one wrote into what the other had moved to new/."""
    people = [Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", None, f"t{n}") for n in range(100)]
    together = threading.Barrier(2)
    found: list[Result] = []

    def run(attempt: str) -> None:
        found.extend(results(submit(outbox, people, started=lambda: void(together.wait()), attempt=attempt)))

    threads = [threading.Thread(target=run, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Result.ACCEPTED] * 200
    assert names_in(outbox, "new") == [f"{person.delivery}.eml" for person in people]
    assert names_in(outbox, "tmp") == []
    for person in people:
        assert read(outbox.file_of(person).read_bytes()).mailbox("To") == ("", person.address)


def void(_: object) -> None:
    """For a callback that must give nothing."""


# ---------------------------------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_between_tmp_and_new_leaves_no_half_file(
    outbox: OutboxProvider, monkeypatch: pytest.MonkeyPatch, call: str, error: type[BaseException]
) -> None:
    submit(outbox, PEOPLE[:1])

    def interrupted(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(error):
        submit(outbox)
    assert names_in(outbox, "new") == [f"{PEOPLE[0].delivery}.eml"]
    assert names_in(outbox, "tmp") == []


KILLED = """
import sys
from pathlib import Path
from tests.test_outbox import MESSAGE, NOW
from newsletter.edition import AttemptId, DeliveryId, Message, Recipient
from newsletter.providers.outbox import OutboxProvider
people = [Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", None, "t") for n in range(10_000)]
big = Message(MESSAGE.sender, "Today", "<p>Hello</p>\\n" * 5_000, MESSAGE.text, MESSAGE.nonce)
print("ready", flush=True)
list(OutboxProvider(Path(sys.argv[1]), clock=lambda: NOW).submit(big, people, AttemptId("a"), lambda: None))
"""


def test_a_kill_at_any_moment_leaves_only_whole_files_in_new(outbox: OutboxProvider) -> None:
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(outbox.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 10
            standing = len(list((outbox.path / "new").glob("*")))
            while len(list((outbox.path / "new").glob("*"))) < standing + 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        files = list((outbox.path / "new").iterdir())
        assert len(files) >= standing + 5
        for path in files:
            read(path.read_bytes())
    assert results(submit(outbox)) == [Result.ACCEPTED] * 5


def test_what_a_kill_left_in_tmp_is_removed_after_36_hours_and_not_before(outbox: OutboxProvider) -> None:
    submit(outbox)
    old, young = outbox.path / "tmp" / "old.a", outbox.path / "tmp" / "young.a"
    for draft, hours in ((old, 37), (young, 35)):
        draft.write_bytes(b"From: ")
        os.utime(draft, (time.time() - hours * 3600,) * 2)
    submit(outbox)
    assert names_in(outbox, "tmp") == ["young.a"]


# ---------------------------------------------------------------------------------------------- faults


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size; skips where we may not mount one."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs leave to mount a tmpfs; the same faults are played by other tests here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_accepts_what_fits_and_leaves_the_rest_untried(outbox: OutboxProvider) -> None:
    with small_disk(outbox.path, 256):
        big = replace(MESSAGE, html="<p>Hello</p>\n" * 8_000)  # 104 kB: two fit
        receipts = submit(outbox, message=big)
        assert results(receipts) == [Result.ACCEPTED] * 2 + [Result.NOT_TRIED] * 3
        assert receipts[-1].reason == f"{outbox.path}: {os.strerror(errno.ENOSPC)}"
        assert names_in(outbox, "tmp") == []
        for person in PEOPLE[:2]:
            read(outbox.file_of(person).read_bytes())
        with pytest.raises(ProviderRefused, match=os.strerror(errno.ENOSPC)):
            submit(outbox, PEOPLE[2:], message=big)
        again = results(submit(outbox, message=big))
        assert again == [Result.ACCEPTED] * 2 + [Result.NOT_TRIED] * 3, "what stands is accepted on a full disk, too"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_fault_half_way_keeps_what_was_written(
    outbox: OutboxProvider, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """The faults are played, since no test can wear out a disk."""
    submit(outbox, [])
    monkeypatch.setattr(os, call, failing(getattr(os, call), error, after=2))
    faulty = submit if call == "rename" else submit_without_flush(monkeypatch)
    assert results(faulty(outbox)) == [Result.ACCEPTED] * 2 + [Result.NOT_TRIED] * 3
    assert len(names_in(outbox, "new")) == 2
    assert names_in(outbox, "tmp") == []


def submit_without_flush(monkeypatch: pytest.MonkeyPatch) -> Callable[[OutboxProvider], list[Receipt]]:
    """Submitting where flushing a folder always works, so that only the files' own flushes fail."""
    monkeypatch.setattr("newsletter.providers.outbox._flush_folder", void)
    return submit


def test_where_the_folders_names_cannot_be_flushed_the_outcome_is_unknown(
    outbox: OutboxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it came out as a bare OSError."""
    submit(outbox, [])
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, after=5))
    with pytest.raises(OutcomeUnknown, match=os.strerror(errno.EIO)):
        submit(outbox)
    monkeypatch.undo()
    assert results(submit(outbox)) == [Result.ACCEPTED] * 5


def test_a_read_only_folder_is_refused_before_anything_started(
    outbox: OutboxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system call is played, since nothing is read-only to root."""
    started: list[bool] = []
    monkeypatch.setattr(os, "mkdir", failing(os.mkdir, errno.EROFS))
    with pytest.raises(ProviderRefused, match=os.strerror(errno.EROFS)):
        submit(outbox, started=lambda: started.append(True))
    assert started == []
    (finding,) = outbox.check()
    assert finding.ok is False
    assert os.strerror(errno.EROFS) in finding.what


def test_a_folder_that_turned_read_only_takes_nobody_and_marks_nobody(outbox: OutboxProvider) -> None:
    with small_disk(outbox.path, 256):
        submit(outbox, PEOPLE[:1])
        remount = ["mount", "-o", "remount,ro", str(outbox.path)]
        subprocess.run(remount, check=True)
        with pytest.raises(ProviderRefused, match=os.strerror(errno.EROFS)):
            submit(outbox, PEOPLE[1:])
        assert outbox.check()[0].ok is False
        subprocess.run([*remount[:2], "remount,rw", remount[3]], check=True)
        assert results(submit(outbox)) == [Result.ACCEPTED] * 5


@pytest.mark.parametrize("part", ["", "tmp", "new", "cur"])
def test_a_file_where_a_folder_should_be_is_refused(outbox: OutboxProvider, part: str) -> None:
    file = outbox.path / part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    with pytest.raises(ProviderRefused, match="outbox refuses: "):
        submit(outbox)
    assert outbox.check()[0].ok is False


def test_a_message_whose_headers_cannot_be_written_is_refused_for_everybody(outbox: OutboxProvider) -> None:
    """Regression: it came out as a bare ValueError, which reads as a bug of the provider's."""
    with pytest.raises(ProviderRefused, match="List-Id"):
        submit(outbox, message=replace(MESSAGE, sender=replace(SENDER, list_id="x")))
    with pytest.raises(ProviderRefused, match="control"):
        submit(outbox, message=replace(MESSAGE, subject="a\r\nb"))


def test_one_bad_address_is_refused_alone_and_its_reason_names_nobody(outbox: OutboxProvider) -> None:
    people = [PEOPLE[0], PEOPLE[1]._replace(address="reader1\r\nBcc: eve@example.org"), PEOPLE[2]]
    receipts = submit(outbox, people)
    assert results(receipts) == [Result.ACCEPTED, Result.REFUSED, Result.ACCEPTED]
    assert receipts[1].reason
    assert "example" not in receipts[1].reason
    assert "reader" not in receipts[1].reason
    assert len(names_in(outbox, "new")) == 2


def test_what_started_raises_goes_through_and_nothing_is_written(outbox: OutboxProvider) -> None:
    def lost() -> None:
        raise LookupError("the claim is lost")

    with pytest.raises(LookupError):
        submit(outbox, started=lost)
    assert names_in(outbox, "new") == []


def test_doctor_sees_that_the_folder_can_be_written_and_leaves_nothing(outbox: OutboxProvider) -> None:
    (finding,) = outbox.check()
    assert finding.ok is True
    assert [path.name for path in outbox.path.rglob("*") if path.is_file()] == []
    outbox.close()
