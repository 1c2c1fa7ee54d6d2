"""Sources -> Briefs in the store; and which of them an edition takes.

Collecting recognises a brief again by the source's own name for it, by its web address, or by its very content, so that
a renamed file or a rebuilt feed repeats nothing. Deciding (`decide`) is a function of values: each revision is taken,
left with a reason, or carried over to the next edition; what is under embargo is not decided at all.
"""

import errno
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session

from newsletter import formats, store
from newsletter.brief import Brief
from newsletter.errors import BriefError, CollectError
from newsletter.models import Sighting, Verdict
from newsletter.settings import Folder, Newsletter
from newsletter.store import Candidate, Ruling
from subscribers import reading, transaction

_AT_ONCE = 50  # briefs a transaction, so that no write lock is held past the 250 ms that other processes count on

# ------------------------------------------------------------------------------------------ collecting


@dataclass(frozen=True, slots=True)
class Collected:
    """What one source gave: how many briefs, of them new and revised, and what could not be read.

    `error` is set where the source as a whole could not be read; then the rest is empty.
    """

    source: str
    seen: int = 0
    new: int = 0
    revised: int = 0
    faults: tuple[BriefError, ...] = ()
    remarks: tuple[str, ...] = ()
    error: CollectError | None = None


def collect(engine: Engine, sources: Mapping[str, Folder], now: datetime) -> list[Collected]:
    """Read every source and put what is new on record. A broken source or brief costs itself and nothing else."""
    return [_collect_one(engine, name, source, now) for name, source in sources.items()]


def _collect_one(engine: Engine, name: str, source: Folder, now: datetime) -> Collected:
    with reading(engine) as session:
        before = store.sightings(session, name)  # before the files: what another process records since is not undone
    try:
        files = _files(source.path)
    except OSError as error:
        what = error.strerror or type(error).__name__
        return Collected(name, error=CollectError(name, str(source.path), what))
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
        found.extend(zip(_names(guid, read.briefs) if several else [guid], read.briefs, strict=False))
    new, revised = _record(engine, name, before, found, now)
    return Collected(name, len(found), new, revised, tuple(faults), tuple(remarks))


def _read(file: Path) -> bytes:
    """The bytes of an ordinary file, one more than a reader takes at most. A pipe or a device could go on for ever."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    with file.open("rb") as opened:
        return opened.read(formats.LARGEST_FILE_BYTES + 1)


def _names(guid: str, briefs: Sequence[Brief]) -> list[str]:
    """A name for each brief of a file, by its slug; where two share one, by the number of its turn, too."""
    turns: Counter[str] = Counter()
    names = []
    for brief in briefs:
        turns[brief.slug] += 1
        names.append(f"{guid}#{brief.slug}" + (f"-{turns[brief.slug]}" if turns[brief.slug] > 1 else ""))
    return names


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


def _record(
    engine: Engine, source: str, before: Mapping[str, Sighting], found: Sequence[tuple[str, Brief]], now: datetime
) -> tuple[int, int]:
    """Write what is new; give how many briefs are new and how many revised. Opens no write lock where nothing is.

    A name that the folder no longer gives is withdrawn, so that deleting a file, or marking it as a draft, before the
    edition starts is enough to hold a brief back; when the file comes back, so does the brief. What another process
    has recorded since `before` was read is newer than what we hold, and stays.
    """

    def gave(guid: str) -> str | None:
        """The hash of what stood there under that name until now."""
        return before[guid].content_hash if guid in before and before[guid].gone_at is None else None

    changed = [(guid, brief) for guid, brief in found if gave(guid) != brief.content_hash]
    given = {guid for guid, _ in found}
    gone = [guid for guid, sighting in before.items() if sighting.gone_at is None and guid not in given]
    new = revised = 0
    for start in range(0, len(changed), _AT_ONCE):
        with transaction(engine) as session:
            for guid, brief in changed[start : start + _AT_ONCE]:
                if store.sighting_hash(session, source, guid) != _hash_of(before.get(guid)):
                    continue
                made = _record_one(session, source, guid, brief, before=_hash_of(before.get(guid)), now=now)
                new, revised = new + (made == "new"), revised + (made == "revised")
    for start in range(0, len(gone), _AT_ONCE):
        with transaction(engine) as session:
            store.withdraw(session, source, gone[start : start + _AT_ONCE], now)
    return new, revised


def _record_one(session: Session, source: str, guid: str, brief: Brief, *, before: str | None, now: datetime) -> str:
    """Record one brief under its name; say whether it is "new", "revised" or "known"."""
    said = "known"
    known = store.brief_by_guid(session, source, guid)
    if known and not same_story(known.brief, brief):
        known = None  # the file's name, or the feed's guid, now stands for another story
    if known is None:
        known = store.brief_by_url(session, brief.url) if brief.url else None
        known = known or store.brief_by_content(session, source, brief.content_hash)
    if known is None:
        record, said = store.add_brief(session, brief, now), "new"
    else:
        record = known.record
        if brief.content_hash not in {record.content_hash, before}:
            store.add_revision(session, record, brief, now)
            said = "revised"
    store.see(session, source, guid, record, brief.content_hash)
    session.flush()
    return said


def _hash_of(sighting: Sighting | None) -> str | None:
    return sighting.content_hash if sighting else None


def same_story(before: Brief, after: Brief) -> bool:
    """Whether two briefs under one name are one story, corrected, or two stories.

    The same address or headline makes one story; so does any fact that stayed word for word (any narrative, where
    one of them has no facts).
    """
    if before.url and after.url:
        return before.url == after.url or before.headline == after.headline
    if before.headline == after.headline or before.slug == after.slug:
        return True
    if before.facts and after.facts:
        return not {fact.text for fact in before.facts}.isdisjoint(fact.text for fact in after.facts)
    return not _told(before).isdisjoint(_told(after))


def _told(brief: Brief) -> set[str]:
    return {fact.text for fact in brief.facts} | {view.text for view in brief.narratives}


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
    wanted.sort(key=_instant, reverse=newsletter.order != "oldest")
    if newsletter.order == "topics":
        wanted.sort(key=lambda candidate: _topic_rank(candidate.brief, topics))
    taken, rest = wanted[: newsletter.max_briefs], wanted[newsletter.max_briefs :]
    carried = [(c, "the edition is full") for c in rest if c.source in known_sources]
    left += [(c, "older than the first edition takes") for c in rest if c.source not in known_sources]
    return Selection(tuple(taken), tuple(left), tuple(carried), tuple(waiting))


def _instant(candidate: Candidate) -> datetime:
    return candidate.brief.when or candidate.first_seen_at


def _topic_rank(brief: Brief, topics: Sequence[str]) -> int:
    ranks = [topics.index(topic.casefold()) for topic in brief.topics if topic.casefold() in topics]
    return min(ranks, default=len(topics))


def _days(span: timedelta) -> str:
    hours = int(span.total_seconds() // 3600)
    return f"{hours // 24} d" if hours % 24 == 0 else f"{hours} h"
