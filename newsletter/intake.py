"""What the command line says of sources and briefs, for a person and for a script, as report.py does of editions.

Pure: values in, lines or JSON-ready values out.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from newsletter import typesetting
from newsletter.brief import Brief
from newsletter.collect import NEW, Collected, Look, Source
from newsletter.newsroom import SourceAccount
from newsletter.settings import Folder
from newsletter.store import OnRecord


def collected_lines(collected: Iterable[Collected]) -> Iterator[str]:
    """What could not be read, and what was read but not used."""
    for one in collected:
        if one.error:
            yield str(one.error)
        yield from (str(fault) for fault in one.faults)
        yield from one.remarks


def collected_line(one: Collected) -> str:
    """What one source gave, in a line."""
    if one.error:
        return f"{one.source}: could not be read"
    if one.unchanged:
        return f"{one.source}: {one.seen} briefs, nothing new since it was read last"
    return f"{one.source}: {one.seen} briefs, {one.new} new, {one.revised} revised"


def collected_json(one: Collected) -> dict[str, Any]:
    """What one source gave."""
    return {
        "source": one.source,
        "seen": one.seen,
        "new": one.new,
        "revised": one.revised,
        "unchanged": one.unchanged,
        "faults": [str(fault) for fault in one.faults],
        "remarks": list(one.remarks),
        "error": str(one.error) if one.error else None,
    }


def source_lines(account: SourceAccount) -> Iterator[str]:
    """A source, and how it has fared."""
    source, fared = account.source, account.fared
    yield f"{account.name}  {source.kind}  {_place(source)}"
    given = f"{account.briefs:,} briefs on record"
    if isinstance(source, Folder):
        yield f"    {given}; a folder is read whole each time"
        return
    if fared is None:
        yield f"    {given}; never asked yet"
        return
    read = f"read {_instant(fared.succeeded_at)}, {fared.briefs or 0:,} briefs" if fared.succeeded_at else "never read"
    yield f"    {given}; last {read}" if fared.succeeded_at else f"    {given}; {read}"
    yield from (f"    not readable: {fault}" for fault in fared.faults)
    if fared.failures:
        often = "once" if fared.failures == 1 else f"{fared.failures:,} times in a row"
        yield f"    FAILED {often}, last {_instant(fared.failed_at)}: {fared.error}"
    elif fared.failed_at:
        yield f"    failed {fared.failures_ever:,} times in all, last {_instant(fared.failed_at)}: {fared.error}"
    if account.left_alone_until:
        why = "as its server asks" if fared.wished else "because it keeps failing"
        yield f"    left alone until {_instant(account.left_alone_until)}, {why}"


def source_json(account: SourceAccount) -> dict[str, Any]:
    """The same for a script; `fetched` is null for a folder and for what was never asked."""
    source, fared = account.source, account.fared
    return {
        "name": account.name,
        "kind": source.kind,
        "place": _place(source),
        "briefs": account.briefs,
        "fetched": None
        if fared is None
        else {
            "asked_at": _iso(fared.asked_at),
            "succeeded_at": _iso(fared.succeeded_at),
            "failed_at": _iso(fared.failed_at),
            "error": fared.error,
            "failures": fared.failures,
            "failures_ever": fared.failures_ever,
            "briefs": fared.briefs,
            "faults": list(fared.faults),
            "left_alone_until": _iso(account.left_alone_until),
            "as_its_server_asks": fared.wished,
        },
    }


def _place(source: Source) -> str:
    return str(source.path) if isinstance(source, Folder) else source.url


def _instant(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant else "never"


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def look_lines(found: Look) -> Iterator[str]:
    """What an address would give as a source, and what to write to make it one."""
    answer, briefs = found.answer, found.read.briefs
    yield answer.url
    if answer.moved:
        yield f"  moved for good to {answer.moved}: use that address"
    kept = [
        word for word, value in (("ETag", answer.validators.etag), ("date", answer.validators.last_modified)) if value
    ]
    cheap = (
        f"answers “unchanged” by {' and '.join(kept)}" if kept else "is read whole each time: it gives no ETag, no date"
    )
    yield f"  {len(answer.body or b''):,} bytes, {answer.content_type or 'of no named type'}; {cheap}"
    full = sum(bool(brief.facts or brief.narratives) for brief in briefs)
    if briefs:
        yield f"  {len(briefs):,} briefs: {full:,} with facts or narratives, {len(briefs) - full:,} with a summary only"
        lacks = {
            "without a date": sum(brief.published is None and brief.updated is None for brief in briefs),
            "without an address": sum(brief.url is None for brief in briefs),
            "without a picture that can be shown (https, with a description)": sum(
                not (brief.image and (brief.image.url or "").startswith("https:") and brief.image.alt)
                for brief in briefs
            ),
        }
        yield from (f"  {count:,} {what}" for what, count in lacks.items() if count)
    elif found.is_empty:
        yield "  no entries yet"
    else:
        yield "  nothing that could be read as a brief"
    yield from (f"  not readable: {_in_lines(str(fault))}" for fault in found.read.faults)
    yield from (f"  note: {_in_lines(remark)}" for remark in found.read.remarks)
    for number, brief in enumerate(briefs[:_SHOWN], start=1):
        date = f"{brief.when:%Y-%m-%d}" if brief.when else "no date"
        yield f"  {number:>2}  {date}  {brief.headline}"
    if len(briefs) > _SHOWN:
        yield f"      and {len(briefs) - _SHOWN:,} more"
    if briefs or found.is_empty:
        yield "To make it a source:"
        yield f'  [sources.NAME]\n  kind = "{found.kind}"\n  url = "{answer.moved or found.url}"'
    if found.feeds:
        yield "That is a web page. It names these feeds:"
        yield from (f"  {url}  {title}" for title, url in found.feeds)


def _in_lines(said: str) -> str:
    """What a reader said of an answer that has no name yet."""
    return re.sub(rf"^{re.escape(NEW)}:(\d+): ", r"line \1: ", said).removeprefix(f"{NEW}: ")


_SHOWN = 10  # headlines; enough to know a feed by


def look_json(found: Look) -> dict[str, Any]:
    """The same for a script, with the briefs whole."""
    answer = found.answer
    return {
        "url": found.url,
        "final_url": answer.url,
        "moved": answer.moved,
        "kind": found.kind,
        "bytes": len(answer.body or b""),
        "content_type": answer.content_type,
        "etag": answer.validators.etag,
        "last_modified": answer.validators.last_modified,
        "briefs": [brief.model_dump(mode="json") for brief in found.read.briefs],
        "faults": [str(fault) for fault in found.read.faults],
        "remarks": list(found.read.remarks),
        "feeds": [{"title": title, "url": url} for title, url in found.feeds],
    }


def brief_lines(brief: Brief) -> Iterator[str]:
    """A brief as its reader understood it."""
    yield brief.headline
    image = brief.image and " · ".join(part for part in (brief.image.url, brief.image.alt, brief.image.credit) if part)
    details = {
        "url": brief.url,
        "published": brief.published,
        "updated": brief.updated,
        "topics": ", ".join(brief.topics),
        "image": image,
        "split": brief.split,
        "language": brief.language,
    }
    yield from (f"  {key}: {value}" for key, value in details.items() if value)
    if brief.summary:
        yield typesetting.wrap(brief.summary, "  ", "  ")
    for fact in brief.facts:
        yield typesetting.wrap(fact.text, "  • ", "    ")
        yield from (f"      {citation.title or ''} <{citation.url}>" for citation in fact.citations)
    for view in brief.narratives:
        yield f"  {view.label}{f' [{view.stance}]' if view.stance else ''}"
        yield typesetting.wrap(view.text, "    ", "    ")
    for forecast in brief.forecasts:
        chance = "no probability" if forecast.probability is None else typesetting.percent(forecast.probability)
        yield f"  forecast: {chance}, {forecast.forecaster or 'nobody named'}"
        yield typesetting.wrap(forecast.statement, "    ", "    ")


def record_lines(row: OnRecord) -> Iterator[str]:
    """A brief on record, where it was found, and what newsletters decided about it."""
    record, decisions = row.record, row.decisions
    yield f"{record.id:>5}  {record.headline}"
    if record.pulled_at is not None:
        why = f": {record.pull_reason}" if record.pull_reason else ""
        yield f"       PULLED {record.pulled_at:%Y-%m-%d %H:%M} UTC by {record.pulled_by}{why}"
    said = "; ".join(
        f"{decision.newsletter}: {decision.verdict}"
        + (f" ({decision.reason})" if decision.reason else "")
        + ("" if decision.final else ", not final")
        for decision in decisions
    )
    places = [f"{one.source}/{one.guid}{' (withdrawn)' if one.gone_at else ''}" for one in row.sightings]
    yield f"       {', '.join(places) or 'no longer in any source'}, revision {record.revision}. {said or 'undecided'}"


def record_json(row: OnRecord) -> dict[str, Any]:
    """The same for a script."""
    record, decisions = row.record, row.decisions
    return {
        "id": record.id,
        "pulled": record.pulled_at,
        "headline": record.headline,
        "sightings": [
            {"source": one.source, "guid": one.guid, "withdrawn": one.gone_at is not None} for one in row.sightings
        ],
        "url": record.url,
        "revision": record.revision,
        "first_seen_at": record.first_seen_at.isoformat(),
        "decisions": [
            {
                "newsletter": decision.newsletter,
                "revision": decision.revision,
                "verdict": decision.verdict,
                "reason": decision.reason,
                "final": decision.final,
            }
            for decision in decisions
        ],
    }
