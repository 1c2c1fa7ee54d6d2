"""Sources -> Briefs in the store; and which of them an edition takes.

Collecting recognises a brief again by the source's own name for it, by its web address, or by its very content, so that
a renamed file or a rebuilt feed repeats nothing. A source that fails costs itself: how it failed, and since when, is
kept with it. Deciding (`decide`) is a function of values: each revision is taken, left with a reason, or carried over
to the next edition; what is under embargo is not decided at all.
"""

import errno
import hashlib
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlmodel import Session

from newsletter import __version__, formats, shelf
from newsletter.brief import Brief, is_day, page_of
from newsletter.errors import BriefError, CollectError
from newsletter.fetch import Fetched, Fetcher, FetchError, Validators
from newsletter.formats.beside import Reader
from newsletter.models import SourceRecord, Verdict
from newsletter.settings import Endpoint, Feed, Folder, Newsletter
from newsletter.shelf import Found, Shelf, Sighted
from newsletter.store import Candidate, Ruling
from subscribers import reading, transaction

Source = Folder | Feed | Endpoint

FIRST_WAIT = timedelta(minutes=1)  # after the second failure in a row; then it doubles
LONGEST_WAIT = timedelta(hours=6)
_AT_ONCE = 50  # briefs a transaction, so that no write lock is held past the 250 ms that other processes count on
_HOSTS_AT_ONCE = 8
_WORTH_A_PROCESS = 5  # sources asked: to start a process takes as long as to read ten feeds
_READ_AHEAD = 2  # answers
_TOGETHER_S = 1.0  # sources that are unchanged are put on record together, at most so late
_LOOK_AGAIN = 0.2  # seconds
_LONGEST_NAME = 500  # as `Sighting.guid`
_FAULTS_KEPT = 5  # of a reading, to be told again while the source stays as it is

# ------------------------------------------------------------------------------------------ collecting


@dataclass(frozen=True, slots=True)
class Collected:
    """What one source gave: how many briefs, of them new and revised, and what could not be read.

    `error` is set where the source as a whole could not be read; then the rest is empty. `unchanged` is True where it
    gives what it gave last time, as its server or its bytes say.
    """

    source: str
    seen: int = 0
    new: int = 0
    revised: int = 0
    faults: tuple[BriefError, ...] = ()
    remarks: tuple[str, ...] = ()
    error: CollectError | None = None
    unchanged: bool = False


def collect(
    engine: Engine,
    sources: Mapping[str, Source],
    fetcher: Fetcher,
    now: datetime,
    *,
    impatient: bool = False,
    fresh: timedelta | None = None,
    known: "Folders | None" = None,
    stop: threading.Event | None = None,
    give_way: Callable[[threading.Event], None] = lambda stop: None,  # noqa: ARG005 # to nobody
) -> list[Collected]:
    """Read every source and put what is new on record. A broken source or brief costs itself and nothing else.

    Web addresses are asked side by side, those of one host one after the other. A source that failed several times is
    left alone for a while, unless the caller is `impatient`; one whose server named a time is left alone until then.
    One that was asked within `fresh` is not asked again, and gives what it gave then (None: each is asked). Folders
    are read each time, those that are `known` only where a file changed. At `stop` those not answered yet are left out.
    `give_way` is called between sources: it waits for whatever is more urgent.
    """
    stop = stop or threading.Event()
    collected = {
        name: _collect_folder(engine, name, source, known, now)
        for name, source in sources.items()
        if isinstance(source, Folder)
    }
    fetched = {name: source for name, source in sources.items() if not isinstance(source, Folder)}
    wanted: dict[str, Feed | Endpoint] = {}
    with reading(engine) as session:
        records = shelf.source_records(session, fetched)
        for name, source in fetched.items():
            record = same_place(records.get(name), source)
            if record and fresh is not None and timedelta(0) <= now - record.asked_at <= fresh:
                collected[name] = _as_last_time(record)
            elif record and (until := record.not_before) and until > now and (record.wished or not impatient):
                collected[name] = Collected(name, error=CollectError(name, source.url, _left_alone(record, until)))
            else:
                wanted[name] = source
        # Before anything is asked: what another process records meanwhile is newer than the answer that we wait for.
        before = {name: shelf.sightings(session, name) for name in wanted}
    answers = _ask(wanted, records, fetcher, stop)
    unchanged: dict[str, Fetched] = {}
    written_at = time.monotonic()
    try:
        for name, answer, read in _read_beside(answers, wanted, records, fetcher.largest_bytes):
            give_way(stop)
            source = wanted[name]
            if isinstance(answer, FetchError):
                collected[name] = _failed(engine, name, source, answer.what, retry_after=answer.retry_after, now=now)
            elif read is not None:
                collected[name] = _take(engine, name, source, answer, read, before[name], now)
            else:
                unchanged[name] = answer
            if len(unchanged) >= _AT_ONCE or time.monotonic() - written_at > _TOGETHER_S:
                collected |= _unchanged(engine, records, unchanged, now)
                unchanged, written_at = {}, time.monotonic()
    finally:  # whatever came of another source, these have been asked
        collected |= _unchanged(engine, records, unchanged, now)
    return [collected[name] for name in sources if name in collected]


def _as_last_time(record: SourceRecord) -> Collected:
    """What a source gave when it was asked last."""
    if record.failures:
        return Collected(record.name, error=CollectError(record.name, record.url, record.error or "it failed"))
    remarks = tuple(f"{fault} (as last time)" for fault in record.faults)
    return Collected(record.name, record.briefs or 0, remarks=remarks, unchanged=True)


@dataclass(frozen=True, slots=True)
class Due:
    """Which sources are to be read now, and when the next ones are (now, where more are due than were wanted)."""

    sources: dict[str, Source]
    next_at: datetime


def due(session: Session, sources: Mapping[str, Source], now: datetime, every: timedelta, most: int) -> Due:
    """The folders, and of the other sources at most so many that were not asked within `every`, longest ago first.

    One that is to be left alone is not among them. What was asked in the future, by a clock that was put back since,
    is due.
    """
    asked = shelf.asked(session)
    begins = datetime.min.replace(tzinfo=UTC)
    waits: list[tuple[datetime, str]] = []  # when a source is due, the one that waited longest first
    for name, source in sources.items():
        if isinstance(source, Folder):
            continue
        at = begins
        if (told := asked.get(name)) is not None and told.url == source.url:
            at = told.asked_at + every if told.asked_at <= now else begins
            at = max(at, told.not_before or begins)
        waits.append((at, name))
    waits.sort()
    ready = [name for at, name in waits if at <= now]
    chosen = {*ready[:most]}
    later = min((at for at, _ in waits if at > now), default=now + every)
    given = {name: source for name, source in sources.items() if isinstance(source, Folder) or name in chosen}
    return Due(given, now if len(ready) > most else min(later, now + every))


class Folders:
    """What this process read in folders last, so that files which nobody touched need not be read for each newsletter.

    A file counts as untouched where its size, its times of change (the one that `touch` and `cp -p` cannot set among
    them) and its number in the file system are the same. What was changed just before it was read is read again: times
    are as coarse as two seconds on some file systems, and a second change would not show.
    """

    _settled = 2.0  # seconds: FAT's, the coarsest that is in use

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._last: dict[str, tuple[Path, _Print, dict[str, str], Collected]] = {}

    def look(self, files: Sequence[Path]) -> "_Print | None":
        """What the files look like; None where one of them is too young, or cannot be looked at."""
        young = self._now() - self._settled
        seen = []
        for file in files:
            try:
                told = file.stat()
            except OSError:
                return None
            if max(told.st_mtime, told.st_ctime) > young:
                return None
            seen.append((str(file), told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino))
        return tuple(seen)

    def unchanged(self, name: str, folder: Path, looks: "_Print", before: Mapping[str, Sighted]) -> Collected | None:
        """What a folder gave last, where it looks the same, and all of that stands on record; else None."""
        path, looked, gave, collected = self._last.get(name, (None, None, None, None))
        same = path == folder and looked == looks and gave == _standing(before)
        return replace(collected, new=0, revised=0, unchanged=True) if same and collected else None

    def keep(self, name: str, folder: Path, looked: "_Print", gave: dict[str, str], collected: Collected) -> None:
        """Keep what a folder gave that looked like this before it was read."""
        self._last[name] = (folder, looked, gave, collected)


_Print = tuple[tuple[str, int, int, int, int], ...]


def _collect_folder(engine: Engine, name: str, source: Folder, known: Folders | None, now: datetime) -> Collected:
    with reading(engine) as session:
        before = shelf.sightings(session, name)  # before the files: what another process records since is not undone
    try:
        files = _files(source.path)
    except OSError as error:
        what = error.strerror or type(error).__name__
        return Collected(name, error=CollectError(name, str(source.path), what))
    looks = known.look(files) if known else None
    if known and looks is not None and (last := known.unchanged(name, source.path, looks, before)) is not None:
        return last
    found: list[tuple[str, Brief]] = []
    faults: list[BriefError] = []
    remarks: list[str] = []
    for file in files:
        guid = file.relative_to(source.path).as_posix()
        try:
            guid.encode()
            data = _read(file)
        except UnicodeEncodeError:
            faults.append(BriefError(ascii(guid).strip("'"), None, "expected a file name in UTF-8"))
            continue
        except OSError as error:
            faults.append(BriefError(guid, None, f"cannot be read: {error.strerror}"))
            continue
        read = formats.read(data, guid)
        faults.extend(read.faults)
        remarks.extend(read.remarks)
        several = len(read.briefs) + len(read.faults) > 1
        found.extend(zip(_names(f"{guid}#", read) if several else [guid], read.briefs, strict=False))
    new, revised, _ = _record(engine, name, before, found, now, whole=True)
    collected = Collected(name, len(found), new, revised, tuple(faults), tuple(remarks))
    # Looked at again: a file that was changed while it was read looks otherwise now, or is young.
    if known and looks is not None and known.look(files) == looks:
        known.keep(name, source.path, looks, {guid: brief.content_hash for guid, brief in found}, collected)
    return collected


def _read(file: Path) -> bytes:
    """The bytes of an ordinary file, one more than a reader takes at most. A pipe or a device could go on for ever."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    with file.open("rb") as opened:
        return opened.read(formats.LARGEST_FEED_BYTES + 1)


def _names(prefix: str, read: formats.Reading) -> list[str]:
    """A name for each brief of a reading, no two the same: the file's own, else its slug and, if need be, its turn.

    Of an answer from the web (without a `prefix`) the page comes before the slug: a headline that recurs, such as
    “Weather”, names a story of each day.
    """
    given: set[str] = set()
    names = []
    for brief, own in zip(read.briefs, read.names, strict=True):
        page = page_of(brief.url) if brief.url and not prefix else None
        name = whole = own if own is not None else page or brief.slug
        turn = 1
        while name in given:
            turn += 1
            name = f"{whole}-{turn}"
        given.add(name)
        names.append(_fitting(f"{prefix}{name}"))
    return names


def _fitting(name: str) -> str:
    """A name that fits its column. Of one too long the end is hashed, so that two such names stay two."""
    name = name.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL keeps none
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 25]}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _files(folder: Path) -> list[Path]:
    """The brief files of a folder and those below it, in a stable order; hidden ones and other kinds left out."""
    if not folder.is_dir():
        raise NotADirectoryError(0, "there is no such folder")
    list(folder.iterdir())  # raises where the folder itself may not be read; rglob would keep silent
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in formats.ENDINGS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.is_dir()  # whatever else stands there is read, or told as a fault
    )


# ------------------------------------------------------------------------------------------ asking


def same_place(record: SourceRecord | None, source: Source) -> SourceRecord | None:
    """What is known of a source, None where it has moved since: another address is another server's business."""
    there = None if isinstance(source, Folder) else source.url
    return record if record is not None and record.url == there else None


def _left_alone(record: SourceRecord, until: datetime) -> str:
    if record.wished:
        return f"its server asks to be left alone until {until:%Y-%m-%d %H:%M} UTC; the last answer: {record.error}"
    return (
        f"left alone until {until:%Y-%m-%d %H:%M} UTC: it failed {record.failures} times in a row, the last time: "
        f"{record.error}; newsletter collect --now asks it at once"
    )


def patience(failures: int) -> timedelta | None:
    """How long to leave a source alone after so many failures in a row: a single one may be chance, so none."""
    if failures < 2:  # noqa: PLR2004 # the second
        return None
    return min(FIRST_WAIT * (1 << min(failures - 2, 16)), LONGEST_WAIT)


Answer = Fetched | FetchError


def _ask(
    sources: Mapping[str, Feed | Endpoint],
    records: Mapping[str, SourceRecord],
    fetcher: Fetcher,
    stop: threading.Event,
) -> Iterator[tuple[str, Answer]]:
    """Ask every address; give the answers as they come, never more than a few waiting in memory, until `stop`.

    One thread a host: a slow one holds up nobody else.
    """
    hosts: dict[str, list[str]] = {}
    for name, source in sources.items():
        hosts.setdefault((urlsplit(source.url).hostname or "").lower(), []).append(name)
    answers: queue.Queue[tuple[str, Answer]] = queue.Queue(maxsize=2)
    over = threading.Event()

    def ask(names: Sequence[str]) -> None:
        down: dict[str, FetchError] = {}  # places that cannot even be connected to are not tried again for others
        for name in names:
            if over.is_set():
                return
            source = sources[name]
            place = urlsplit(source.url).netloc.lower()
            answer = down.get(place) or _ask_one(source, same_place(records.get(name), source), fetcher)
            if isinstance(answer, FetchError) and answer.host_is_down:
                down[place] = answer
            while not over.is_set():  # nobody takes it any more, then
                with suppress(queue.Full):
                    answers.put((name, answer), timeout=_LOOK_AGAIN)
                    break

    pool = ThreadPoolExecutor(_HOSTS_AT_ONCE, thread_name_prefix="fetch")
    try:
        asking = [pool.submit(ask, names) for names in hosts.values()]
        left = len(sources)
        while left and not stop.is_set():
            try:
                yield answers.get(timeout=_LOOK_AGAIN)
                left -= 1
            except queue.Empty:
                if all(one.done() for one in asking) and answers.empty():
                    raise next(
                        (fault for one in asking if (fault := one.exception())), RuntimeError("no answer")
                    ) from None
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _ask_one(source: Feed | Endpoint, record: SourceRecord | None, fetcher: Fetcher) -> Answer:
    fresh = record is not None and record.reader == __version__  # another version may read more in the same bytes
    known = Validators(record.etag, record.last_modified) if record is not None and fresh else Validators()
    try:
        return fetcher.get(source.url, known)
    except FetchError as error:
        return error
    except Exception as error:  # noqa: BLE001 # a bug costs its source, never the others nor the edition
        return FetchError(f"could not be asked: {error!r}")


def _read_beside(
    answers: Iterator[tuple[str, Answer]],
    sources: Mapping[str, Feed | Endpoint],
    records: Mapping[str, SourceRecord],
    largest: int,
) -> Iterator[tuple[str, Answer, formats.Reading | None]]:
    """Read the answers that are new while others are awaited or recorded; None for one that says what it said before.

    Many are read in a process of their own. Never more than a few wait in memory.
    """
    reader = Reader() if len(sources) >= _WORTH_A_PROCESS else None
    read = reader.read if reader else formats.read

    def reading_of(name: str, answer: Answer) -> formats.Reading | None:
        if isinstance(answer, FetchError) or _is_known(same_place(records.get(name), sources[name]), answer):
            return None
        return read(answer.body or b"", name, base=answer.url, charset=answer.charset, largest=largest)

    pool = ThreadPoolExecutor(1, thread_name_prefix="read")
    waiting: deque[tuple[str, Answer, Future[formats.Reading | None]]] = deque()
    try:
        for name, answer in answers:
            waiting.append((name, answer, pool.submit(reading_of, name, answer)))
            while waiting and (len(waiting) > _READ_AHEAD or waiting[0][2].done()):
                first = waiting.popleft()
                yield first[0], first[1], first[2].result()
        for first in waiting:
            yield first[0], first[1], first[2].result()
    finally:
        if reader:
            reader.close()  # first: what is being read has nobody to take it any more
        pool.shutdown(cancel_futures=True)


def _digest(answer: Fetched) -> str | None:
    return hashlib.sha256(answer.body).hexdigest() if answer.body is not None else None


def _is_known(record: SourceRecord | None, answer: Fetched) -> bool:
    """Whether a source says what it said before, as its server or its bytes have it."""
    same = answer.body is None or (record and record.reader == __version__ and record.body_hash == _digest(answer))
    return record is not None and bool(same)


def _moved(name: str, answer: Fetched) -> list[str]:
    return [f"{name}: has moved for good to {answer.moved}: name that in the configuration"] if answer.moved else []


def _unchanged(
    engine: Engine, records: Mapping[str, SourceRecord], answers: Mapping[str, Fetched], now: datetime
) -> dict[str, Collected]:
    """Put on record, in one transaction, that sources say what they said before: of each there is a record.

    What another process has recorded since we asked is newer, and stays.
    """
    collected: dict[str, Collected] = {}
    if not answers:
        return collected
    with transaction(engine) as session:
        for name, answer in answers.items():
            if shelf.source_record(session, name).asked_at == records[name].asked_at:
                shelf.source_unchanged(session, name, answer.validators.etag, answer.validators.last_modified, now)
            remarks = (*_moved(name, answer), *(f"{fault} (as last time)" for fault in records[name].faults))
            collected[name] = Collected(name, records[name].briefs or 0, remarks=remarks, unchanged=True)
    return collected


def _take(  # noqa: PLR0917 # what is asked, what it said, and what is known of it
    engine: Engine,
    name: str,
    source: Feed | Endpoint,
    answer: Fetched,
    read: formats.Reading,
    before: Mapping[str, Sighted],
    now: datetime,
) -> Collected:
    """Put on record what a source answered: its briefs, and how it fared. `before` is what it had given until then."""
    if read.faults and not read.briefs:
        return _failed(engine, name, source, read.faults[0].what, now=now)
    found = list(zip(_names("", read), read.briefs, strict=True))
    new, revised, overtaken = _record(engine, name, before, found, now, whole=False)
    fared = SourceRecord(
        name=name,
        url=source.url,
        reader=__version__,
        etag=None if overtaken else answer.validators.etag,
        last_modified=None if overtaken else answer.validators.last_modified,
        body_hash=None if overtaken else _digest(answer),
        briefs=len(found),
        faults=[str(fault) for fault in read.faults[:_FAULTS_KEPT]],
        asked_at=now,
        succeeded_at=now,
    )
    with transaction(engine) as session:  # last: killed before it, the source is asked and read again
        shelf.source_read(session, fared)
    return Collected(name, len(found), new, revised, read.faults, (*_moved(name, answer), *read.remarks))


def _failed(
    engine: Engine,
    name: str,
    source: Feed | Endpoint,
    what: str,
    *,
    retry_after: timedelta | None = None,
    now: datetime,
) -> Collected:
    with transaction(engine) as session:
        record = shelf.source_failed(session, name, source.url, what, now)
        wait: timedelta | None = retry_after or patience(record.failures)
        record.not_before = now + wait if wait else None
        record.wished = bool(retry_after)
    return Collected(name, error=CollectError(name, source.url, what))


# ------------------------------------------------------------------------------------------ recording


def _record(
    engine: Engine,
    source: str,
    before: Mapping[str, Sighted],
    given: Sequence[tuple[str, Brief]],
    now: datetime,
    *,
    whole: bool,
) -> tuple[int, int, int]:
    """Write what is new; give how many briefs are new, how many revised, and of how many another process was quicker.

    Where `given` is the `whole` source, a name that it no longer gives is withdrawn, so that deleting a file, or
    marking it as a draft, before the edition starts is enough to hold a brief back; when the file comes back, so does
    the brief. A feed shows its newest entries only, so nothing follows from what it no longer gives. What another
    process has recorded since `before` was read is newer than what we hold, and stays.
    """
    found = [Found.of(guid, brief) for guid, brief in given]
    standing = _standing(before)
    changed = [one for one in found if standing.get(one.guid) != one.content_hash]
    gone = list(standing.keys() - {one.guid for one in found}) if whole else []
    shared = _shared_pages(found)
    new = revised = overtaken = 0
    for start in range(0, len(changed), _AT_ONCE):
        with transaction(engine) as session:
            at_hand = Shelf(session, source, changed[start : start + _AT_ONCE], now)
            for one in changed[start : start + _AT_ONCE]:
                last = before[one.guid].content_hash if one.guid in before else None
                if at_hand.hash_of(one.guid) != last:
                    overtaken += at_hand.hash_of(one.guid) != one.content_hash
                    continue
                made = _record_one(at_hand, one, shared, last=last)
                new, revised = new + (made == "new"), revised + (made == "revised")
            at_hand.write()
    for start in range(0, len(gone), _AT_ONCE):
        with transaction(engine) as session:
            shelf.withdraw(session, source, gone[start : start + _AT_ONCE], now)
    return new, revised, overtaken


def _standing(before: Mapping[str, Sighted]) -> dict[str, str]:
    """The hashes of what a source still gives, by its own names."""
    return {guid: row.content_hash for guid, row in before.items() if row.gone_at is None}


def _shared_pages(found: Sequence[Found]) -> frozenset[str]:
    """The pages that a source gives for several stories at once: they tell no story from another."""
    stories: dict[str, set[str]] = {}
    for one in found:
        if one.page:
            stories.setdefault(one.page, set()).add(one.brief.slug)
    return frozenset(page for page, slugs in stories.items() if len(slugs) > 1)


def _record_one(at_hand: Shelf, found: Found, shared: Collection[str], *, last: str | None) -> str:
    """Record one brief under its name; say whether it is "new", "revised" or "known".

    `last` is the hash of what the source gave under that name the last time.
    """
    known = at_hand.by_name(found.guid)
    if known and not same_story(known.brief, found.brief):
        known = None  # the file's name, or the feed's guid, now stands for another story
    if known is None and found.page and found.page not in shared:
        known = at_hand.by_page(found.page)
        if known and known.here and not same_telling(known.brief, found.brief):
            known = None  # a page whose content is exchanged: yesterday's story stood there
    known = known or at_hand.by_content(found.content_hash)
    if known is None:
        at_hand.add(found)
        return "new"
    # Of two sources with one story the latest word counts; but a summary is no word against facts and narratives.
    tells = known.told_here or _is_full(found.brief) or not _is_full(known.brief)
    if tells and found.content_hash not in {known.content_hash, last}:
        at_hand.revise(known, found)
        return "revised"
    at_hand.see(known, found)
    return "known"


def _is_full(brief: Brief) -> bool:
    return bool(brief.facts or brief.narratives)


def same_story(before: Brief, after: Brief) -> bool:
    """Whether two briefs under one name are one story, corrected, or two stories.

    The same page or headline makes one story; so does any fact that stayed word for word (any narrative, where one of
    them has no facts), unless each has a page of its own: then a name was used again.
    """
    pages = [page_of(brief.url) if brief.url else None for brief in (before, after)]
    if all(pages):
        return pages[0] == pages[1] or before.headline == after.headline
    if before.headline == after.headline or before.slug == after.slug:
        return True
    if before.facts and after.facts:
        return not {fact.text for fact in before.facts}.isdisjoint(fact.text for fact in after.facts)
    return not _told(before).isdisjoint(_told(after))


def same_telling(before: Brief, after: Brief) -> bool:
    """Whether two briefs of one source at one page, under two names, are one story: a feed that was rebuilt.

    They are where the headline stayed and no date speaks against it, where the instant stayed (a day is many stories'),
    or any part of what is told. A column that stands at one page under one headline each day is another story each day.
    """
    dates = {before.published, after.published} - {None}
    if (before.headline == after.headline or before.slug == after.slug) and len(dates) < 2:  # noqa: PLR2004 # none, or one
        return True
    if before.published is not None and before.published == after.published and not is_day(before.published):
        return True
    return not _told(before).isdisjoint(_told(after))


def _told(brief: Brief) -> set[str]:
    told = {fact.text for fact in brief.facts} | {view.text for view in brief.narratives}
    return told | ({brief.summary} if brief.summary else set())


# ------------------------------------------------------------------------------------------ looking


NEW = "(new)"  # the name of a source that is none yet


@dataclass(frozen=True, slots=True)
class Look:
    """What a web address would give as a source, before it is one. `feeds` are those that a web page names."""

    url: str
    answer: Fetched
    read: formats.Reading
    feeds: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """The kind of source that it would be."""
        is_json = (self.answer.body or b"").lstrip()[:1] in {b"{", b"["}
        return "json" if is_json and not any(self.read.names) else "feed"

    @property
    def is_empty(self) -> bool:
        """True for a feed that can be read and holds nothing yet."""
        return not self.read.briefs and not self.read.faults


def look(url: str, fetcher: Fetcher) -> Look:
    """Ask an address and read what it gives, on record nowhere. Raises CollectError where there is no answer."""
    try:
        answer = fetcher.get(url)
    except FetchError as error:
        raise CollectError(NEW, url, error.what) from None
    body = answer.body or b""
    read = formats.read(body, NEW, base=answer.url, charset=answer.charset, largest=fetcher.largest_bytes)
    feeds = () if read.briefs else tuple(formats.feeds_in(body, answer.url))
    return Look(url, answer, read, feeds)


# ------------------------------------------------------------------------------------------ deciding


@dataclass(frozen=True, slots=True)
class Selection:
    """What an edition would take, in order, and what becomes of the other candidates, with reasons."""

    taken: tuple[Candidate, ...]
    left: tuple[tuple[Candidate, str], ...]
    carried: tuple[tuple[Candidate, str], ...]
    waiting: tuple[tuple[Candidate, str], ...]

    def rulings(self) -> list[Ruling]:
        """The decisions to write. What waits is not decided."""
        return [
            *(
                Ruling(candidate.brief_id, candidate.revision, candidate.source, Verdict.TAKEN, position=position)
                for position, candidate in enumerate(self.taken, start=1)
            ),
            *(Ruling(c.brief_id, c.revision, c.source, Verdict.LEFT, reason) for c, reason in self.left),
            *(Ruling(c.brief_id, c.revision, c.source, Verdict.CARRIED, reason) for c, reason in self.carried),
        ]


def decide(
    candidates: Sequence[Candidate], newsletter: Newsletter, known_sources: Collection[str], now: datetime
) -> Selection:
    """Decide about each candidate, once. Pure.

    `known_sources` are those the newsletter took from before: of the others, whatever does not fit into this edition is
    left rather than carried over, so that a first run over a full archive is bounded.
    """
    left: list[tuple[Candidate, str]] = []
    waiting: list[tuple[Candidate, str]] = []
    wanted: list[Candidate] = []
    topics = [topic.casefold() for topic in newsletter.topics]
    for candidate in candidates:
        published = candidate.brief.published
        age = now - candidate.first_seen_at
        if published is not None and published > now:
            waiting.append((candidate, f"not before {published:%Y-%m-%d %H:%M} UTC"))
        elif candidate.went_out is not None:
            left.append((candidate, f"an earlier revision went out on {candidate.went_out}"))
        elif topics and not any(topic.casefold() in topics for topic in candidate.brief.topics):
            left.append((candidate, "none of its topics is wanted"))
        elif age > newsletter.max_age:
            left.append((candidate, f"waited longer than max_age ({_days(newsletter.max_age)})"))
        else:
            wanted.append(candidate)
    wanted = _ordered(wanted, newsletter)
    taken, rest = wanted[: newsletter.max_briefs], wanted[newsletter.max_briefs :]
    carried = [(c, "the edition is full") for c in rest if c.source in known_sources]
    left += [(c, "older than the first edition takes") for c in rest if c.source not in known_sources]
    return Selection(tuple(taken), tuple(left), tuple(carried), tuple(waiting))


def round_up(candidates: Sequence[Candidate], newsletter: Newsletter, period: str) -> Selection:
    """Decide about what another newsletter carried in a period: the best of it, and nothing is carried over. Pure."""
    topics = [topic.casefold() for topic in newsletter.topics]
    wanted = [one for one in candidates if not topics or any(topic.casefold() in topics for topic in one.brief.topics)]
    left = [(one, "none of its topics is wanted") for one in candidates if one not in wanted]
    wanted = _ordered(wanted, newsletter)
    left += [(one, f"the round-up of {period} is full") for one in wanted[newsletter.max_briefs :]]
    return Selection(tuple(wanted[: newsletter.max_briefs]), tuple(left), (), ())


def _ordered(wanted: Sequence[Candidate], newsletter: Newsletter) -> list[Candidate]:
    ordered = sorted(wanted, key=_instant, reverse=newsletter.order != "oldest")
    if newsletter.order == "topics":
        topics = [topic.casefold() for topic in newsletter.topics]
        ordered.sort(key=lambda candidate: _topic_rank(candidate.brief, topics))
    return ordered


def _instant(candidate: Candidate) -> datetime:
    return candidate.brief.when or candidate.first_seen_at


def _topic_rank(brief: Brief, topics: Sequence[str]) -> int:
    ranks = [topics.index(topic.casefold()) for topic in brief.topics if topic.casefold() in topics]
    return min(ranks, default=len(topics))


def _days(span: timedelta) -> str:
    hours = int(span.total_seconds() // 3600)
    return f"{hours // 24} d" if hours % 24 == 0 else f"{hours} h"
