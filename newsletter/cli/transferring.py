"""The list in bulk: import and export. The commands are put into the group `subscribers`."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from newsletter.cli._shell import DEFAULT, AsJson, Config, actor, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

if TYPE_CHECKING:
    from newsletter.newsroom import Newsroom
    from newsletter.transferring import Account

_OUTPUT = Path("-")


class Format(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSON = "json"


class StateName(StrEnum):
    """The states of a subscription, as `subscribers.State`, which would take its time to load."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    UNSUBSCRIBED = "unsubscribed"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, also zipped; - for standard input.")],
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="The only list where there is one.")] = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="New people are confirmed; needs --evidence. Else they are pending.")
    ] = False,
    evidence: Annotated[str | None, typer.Option(metavar="TEXT", help="How their consent is known.")] = None,
    suppressions: Annotated[
        bool, typer.Option("--suppressions", help="The file lists addresses never to be mailed.")
    ] = False,
    trial: Annotated[bool, typer.Option("--dry-run", help="Say what would come of it; change nothing.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where refused rows go; else FILE.rejects.csv, here.")
    ] = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Import people, or addresses never to be mailed. Mails nobody; who left, bounced or complained stays so."""
    _check_options(to, evidence, confirmed=confirmed, suppressions=suppressions)
    from newsletter.transferring import import_file

    with opened(config) as newsroom:
        account = import_file(
            newsroom,
            file,
            to=None if suppressions else _list(newsroom, to),
            evidence=evidence.strip() if evidence else None,
            actor=actor(),
            rejects=rejects,
            trial=trial,
        )
    if as_json:
        print_json(imported_json(account))
    else:
        print_lines(imported_lines(account))


def export(
    to: Annotated[str | None, typer.Option("--list", metavar="SLUG", help="All lists where left out.")] = None,
    states: Annotated[
        list[StateName] | None, typer.Option("--state", help="Only this one; may be given several times.")
    ] = None,
    written_as: Annotated[Format, typer.Option("--format", help="CSV, or one JSON array.")] = Format.CSV,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="- for standard output.")] = _OUTPUT,
    suppressions: Annotated[
        bool, typer.Option("--suppressions", help="The addresses never to be mailed, instead.")
    ] = False,
    config: Config = DEFAULT,
) -> None:
    """Write the subscriptions to a file, a row each, by list and address. Who was erased is not in it."""
    if suppressions and (to is not None or states):
        raise ConfigurationError("--suppressions are of no list and no state: leave out --list and --state")
    from newsletter.transferring import export_people, export_suppressed
    from subscribers import State

    as_json = written_as is Format.JSON
    with opened(config) as newsroom:
        if suppressions:
            count = export_suppressed(newsroom, out, as_json=as_json)
        else:
            count = export_people(newsroom, out, to=to, states=[State(one) for one in states or ()], as_json=as_json)
    if out != _OUTPUT:
        print(f"{count:,} rows written to {out}, readable by you alone")


def _check_options(to: str | None, evidence: str | None, *, confirmed: bool, suppressions: bool) -> None:
    if suppressions and (to is not None or confirmed or evidence is not None):
        raise ConfigurationError("--suppressions hold for every list: leave out --list, --confirmed and --evidence")
    if confirmed and not (evidence or "").strip():
        raise ConfigurationError("--confirmed needs --evidence: say how the consent of these people is known")
    if evidence is not None and not confirmed:
        raise ConfigurationError("--evidence is of people who are confirmed: add --confirmed, or leave it out")


def _list(newsroom: "Newsroom", slug: str | None) -> str:
    from newsletter.transferring import known_lists

    if slug is not None:
        return slug
    known = known_lists(newsroom)
    if len(known) > 1:
        raise ConfigurationError(f"name a list with --list: {', '.join(known)}")
    return known[0]


# ------------------------------------------------------------------------------------------ what is said


def imported_lines(account: "Account") -> Iterator[str]:
    """What came of an import, for a person."""
    done = account.imported
    for sheet, encoding in zip(done.sheets, done.encodings, strict=False):
        found = f"export of {sheet.system}" if sheet.system else "addresses" if sheet.delimiter is None else "CSV"
        between = {None: "", "\t": ", tabs between columns"}.get(
            sheet.delimiter, f", “{sheet.delimiter}” between columns"
        )
        yield f"{sheet.name}: {found}, {encoding}{between}"
    into = f"list {account.to}, new people {account.state}" if account.to else "addresses never to be mailed"
    yield (
        f"{done.rows:,} rows into {into}: {done.added:,} added, {done.updated:,} updated, "
        f"{done.unchanged:,} unchanged, {done.refused:,} refused"
    )
    yield from (f"    {often:,} {remark}" for remark, often in sorted(done.remarks.items()))
    yield from (f"    refused {often:,}: {why}" for why, often in done.reasons.most_common())
    if account.rejects is not None:
        yield f"each refused row, with its line and reason, is in {account.rejects}"
    if account.trial:
        yield "that was a trial: the list is as it was"


def imported_json(account: "Account") -> dict[str, Any]:
    """The same for a script."""
    done = account.imported
    return {
        "file": account.file,
        "list": account.to,
        "state": account.state,
        "trial": account.trial,
        "rows": done.rows,
        "added": done.added,
        "updated": done.updated,
        "unchanged": done.unchanged,
        "refused": done.refused,
        "reasons": dict(done.reasons.most_common()),
        "remarks": dict(done.remarks),
        "files": [
            {"name": sheet.name, "system": sheet.system or None, "delimiter": sheet.delimiter, "encoding": encoding}
            for sheet, encoding in zip(done.sheets, done.encodings, strict=False)
        ],
        "rejects": str(account.rejects) if account.rejects else None,
        "longest_lock_ms": round(done.longest_lock.total_seconds() * 1000, 1),
    }
