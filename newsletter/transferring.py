"""The list in bulk, as an operator moves it: out of a file, into a file. Mails nobody.

Here files are opened, written and named; what a row means is decided in `subscribers`. What holds people's addresses is
readable by its owner only, and takes its place when it is whole.
"""

import csv
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from newsletter.errors import ConfigurationError
from newsletter.newsroom import Newsroom
from subscribers import State, list_by_slug, reading
from subscribers.errors import UnknownList
from subscribers.rows import LARGEST_HERE_BYTES, Part, Refusal, beside, read
from subscribers.transfer import (
    Imported,
    Orders,
    export_csv,
    export_json,
    export_suppressions,
    guarded,
    import_rows,
    rehearsal,
)

INPUT = Path("-")  # standard input, or output
REJECTED = ("file", "line", "reason", "row")
"""The columns of a file of refused rows; `row` is the row as it stood."""


@dataclass(frozen=True)
class Account:
    """An import, for telling. `rejects` is where the refused rows are, None where there are none.

    `to` and `state` are None for suppressions; a trial wrote nothing to the list.
    """

    file: str
    to: str | None
    state: State | None
    imported: Imported
    rejects: Path | None
    trial: bool


def import_file(
    newsroom: Newsroom,
    file: Path,
    *,
    to: str | None,
    evidence: str | None,
    actor: str,
    rejects: Path | None = None,
    trial: bool = False,
) -> Account:
    """Import people to a list, confirmed where `evidence` says how their consent is known, else pending.

    `to` None: the file lists addresses not to be mailed. `file` - is standard input. Refused rows are written to
    `rejects`, by default in the working directory. Raises ConfigurationError, and whatever `import_rows` raises.
    """
    if to is not None:
        _check_list(newsroom, to)
    name = "standard input" if file == INPUT else file.name
    place = rejects or Path(f"{name.replace(' ', '-')}.rejects.csv")
    orders = Orders(to, evidence, name, actor, newsroom.clock(), newsroom.settings.erasure_secret)
    with _opened(file) as source, _rejects(place) as refused:
        parts = _parts(source, name, to)
        if trial:
            with rehearsal(newsroom.engine) as engine:
                done = import_rows(engine, parts, orders, refuse=refused)
        else:
            done = import_rows(newsroom.engine, parts, orders, refuse=refused)
    state = None if to is None else State.CONFIRMED if evidence else State.PENDING
    return Account(name, to, state, done, place if refused.count else None, trial)


def export_people(newsroom: Newsroom, out: Path, *, to: str | None, states: Sequence[State], as_json: bool) -> int:
    """Write subscriptions, of one list or all, to a file or (-) to standard output; how many. Raises UnknownList."""
    write = export_json if as_json else export_csv
    if to is not None:
        with reading(newsroom.engine) as session:
            list_by_slug(session, to)  # before a file is begun
    with _written(out) as stream:
        return write(newsroom.engine, stream, to=to, states=states)


def export_suppressed(newsroom: Newsroom, out: Path, *, as_json: bool) -> int:
    """Write the addresses that must not be mailed; how many. Who was erased is not among them."""
    with _written(out) as stream:
        return export_suppressions(newsroom.engine, stream, as_json=as_json)


def known_lists(newsroom: Newsroom) -> list[str]:
    """The lists that newsletters go to."""
    return sorted({slug for newsletter in newsroom.settings.newsletters.values() for slug in newsletter.lists})


def _check_list(newsroom: Newsroom, slug: str) -> None:
    known = known_lists(newsroom)
    if slug in known:
        return
    try:
        with reading(newsroom.engine) as session:
            list_by_slug(session, slug)
    except UnknownList:
        raise ConfigurationError(f"no newsletter goes to a list “{slug}” (there is: {', '.join(known)})") from None


# ------------------------------------------------------------------------------------------ in


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == INPUT:
        yield sys.stdin.buffer
        return
    try:
        source = file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=str(file)) from None
    with source:
        yield source


def _parts(source: BinaryIO, name: str, to: str | None) -> Iterator[Part]:
    """The rows of a file; those of a large one, or of one whose size is not known, read by a process of its own."""
    try:
        status = os.fstat(source.fileno())
    except OSError:  # it has no descriptor
        return read(source, name, suppressions=to is None, to=to)
    small = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_HERE_BYTES
    return (read if small else beside)(source, name, suppressions=to is None, to=to)


class _Rejects:
    """Takes refused rows; the file is begun with the first."""

    def __init__(self, file: Path) -> None:
        self.count = 0
        self._file = file
        self._stream: IO[str] | None = None

    def __call__(self, name: str, refusal: Refusal) -> None:
        if self._stream is None:
            self._stream = _private(_beside(self._file))
            csv.writer(self._stream, lineterminator="\n").writerow(REJECTED)
        line, _, why, row = refusal
        csv.writer(self._stream, lineterminator="\n").writerow((name, line, why, guarded(row)))
        self.count += 1

    def close(self) -> None:
        """Put the file in its place; where nothing was refused, one of an earlier import goes."""
        if self._stream is not None:
            _finish(self._stream, self._file)
            return
        with suppress(OSError, UnicodeDecodeError):
            with self._file.open(encoding="utf-8") as old:
                ours = old.readline() == f"{','.join(REJECTED)}\n"
            if ours:
                self._file.unlink()


@contextmanager
def _rejects(file: Path) -> Iterator[_Rejects]:
    taking = _Rejects(file)
    try:
        yield taking
    finally:  # what was refused before a fault in the file is worth as much
        taking.close()


# ------------------------------------------------------------------------------------------ out


@contextmanager
def _written(out: Path) -> Iterator[IO[str]]:
    if out == INPUT:
        yield sys.stdout
        sys.stdout.flush()
        return
    part = _beside(out)
    stream = _private(part)
    try:
        yield stream
    except BaseException:
        stream.close()
        part.unlink(missing_ok=True)
        raise
    _finish(stream, out)


def _beside(file: Path) -> Path:
    """Where a file is written until it is whole; always the same, so that what a kill leaves is written over."""
    return file.with_name(f".{file.name}.part")


def _private(file: Path) -> IO[str]:
    try:
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", file=str(file)) from None
    return open(descriptor, "w", encoding="utf-8", newline="", buffering=1 << 20)  # noqa: PTH123 # a descriptor


def _finish(stream: IO[str], file: Path) -> None:
    with stream:
        stream.flush()
        os.fsync(stream.fileno())
    try:
        _beside(file).replace(file)
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", file=str(file)) from None
