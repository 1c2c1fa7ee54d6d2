"""What the command line says of backups, of what was put back, and of checks: lines for a person, values for a script.

Pure, as `report` is.
"""

from collections.abc import Iterator
from typing import Any

from newsletter.backup import Backup
from newsletter.migrations import HEAD
from newsletter.restoring import Restored
from newsletter.schedule import Slot
from newsletter.soundness import Check

_MARKS = {True: "ok  ", False: "BAD ", None: "note"}


def backup_lines(made: Backup) -> Iterator[str]:
    """Where a backup is, and what went for it."""
    yield f"{made.file}: {made.size_bytes:,} bytes, of a database of {made.database_bytes:,}; read back, and whole"
    for old in made.pruned:
        yield f"taken away: {old.name}"
    for remark in made.remarks:
        yield f"note: {remark}"


def backup_json(made: Backup) -> dict[str, Any]:
    """The same."""
    return {
        "file": str(made.file),
        "at": made.at.isoformat(),
        "instance": made.instance,
        "revision": made.revision,
        "size_bytes": made.size_bytes,
        "database_bytes": made.database_bytes,
        "pruned": [str(old) for old in made.pruned],
        "remarks": list(made.remarks),
    }


def restored_lines(restored: Restored) -> Iterator[str]:
    """What stands there now, what it may not know, and what to do, in that order."""
    since = f"{restored.inside.at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"put back: {restored.file.name}, of database {restored.inside.instance}, made {since}"
    if restored.kept is not None:
        yield f"the database that stood there is kept as {restored.kept}"
    yield "dispatch is HALTED: nothing is sent from it until newsletter unhalt"
    yield f"NOT KNOWN to it: whatever happened from {since} to {restored.at:%Y-%m-%d %H:%M:%S} UTC"
    for name, slots in restored.slots.items():
        yield f"  {name}: {_spanned(slots)}"
    if restored.sent_since is None:
        if restored.kept is not None:
            yield "  the database that stood there cannot be asked what it sent"
    else:
        told = ", ".join(restored.sent_since) or "nothing"
        yield f"  the database that stood there had started since: {told}"
    if restored.open_editions:
        yield f"{restored.open_editions} of its editions were open when it was copied: who waited may have their mail"
    yield "do not send for those slots before you know what went out: docs/recovery.md, “A restored backup”"
    if restored.older:
        yield f"it is of revision {restored.inside.revision}, and this program wants {HEAD}: newsletter db upgrade"


def _spanned(slots: tuple[Slot, ...]) -> str:
    if not slots:
        return "no slot since"
    if len(slots) == 1:
        return f"the edition of {slots[0]} may have gone out"
    return f"{len(slots)} editions may have gone out, of {slots[0]} to {slots[-1]}"


def restored_json(restored: Restored) -> dict[str, Any]:
    """The same."""
    return {
        "file": str(restored.file),
        "instance": restored.inside.instance,
        "revision": restored.inside.revision,
        "older": restored.older,
        "unknown_from": restored.inside.at.isoformat(),
        "unknown_to": restored.at.isoformat(),
        "halted": restored.reason,
        "kept": restored.kept,
        "open_editions": restored.open_editions,
        "slots": {name: [str(slot) for slot in slots] for name, slots in restored.slots.items()},
        "sent_since": list(restored.sent_since) if restored.sent_since is not None else None,
    }


def check_lines(found: Check) -> Iterator[str]:
    """What was found, a line each."""
    for finding in found.findings:
        yield f"{_MARKS[finding.ok]}  {finding.what}"


def check_json(found: Check) -> dict[str, Any]:
    """The same."""
    return {
        "at": found.at.isoformat(),
        "sound": found.sound,
        "revision": found.revision,
        "findings": [{"ok": finding.ok, "what": finding.what} for finding in found.findings],
    }
