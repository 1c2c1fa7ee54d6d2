"""A newsletter's briefs and settings made into the draft of an edition. Functions of values; the templates are read."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from newsletter.brief import Brief
from newsletter.collect import Collected, Selection
from newsletter.compile import Compiled, compile_message
from newsletter.edition import Contents, Correction, Sender
from newsletter.errors import ConfigurationError
from newsletter.mime import HeaderError, Mould
from newsletter.schedule import Slot
from newsletter.settings import Settings
from subscribers import parse


@dataclass(frozen=True)
class Draft:
    """An edition before its audience is frozen. `compiled` is None, and `skipped` says why, where it is too thin."""

    slot: Slot
    collected: list[Collected]
    selection: Selection
    compiled: Compiled | None
    skipped: str | None


def draft_edition(settings: Settings, name: str, slot: Slot, collected: list[Collected], selection: Selection) -> Draft:
    """The draft of a slot, compiled where enough briefs are taken. Raises CompileError and ConfigurationError."""
    newsletter = settings.newsletter(name)
    taken = [candidate.brief for candidate in selection.taken]
    if len(taken) < newsletter.min_briefs:
        found = f"{len(taken)} brief{'' if len(taken) == 1 else 's'}"
        return Draft(slot, collected, selection, None, f"{found}, fewer than min_briefs = {newsletter.min_briefs}")
    return Draft(slot, collected, selection, compile_edition(settings, name, slot, taken), None)


def compile_edition(
    settings: Settings,
    name: str,
    slot: Slot,
    briefs: Sequence[Brief],
    *,
    proof: bool = False,
    corrections: tuple[Correction, ...] = (),
) -> Compiled:
    """The mail and the archive form of an edition of these briefs. Raises CompileError and ConfigurationError."""
    folder = settings.templates.path
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"templates.path: there is no folder {folder}", file=settings.file)
    contents = replace(_contents(settings, name, slot, briefs, proof=proof), corrections=corrections)
    compiled = compile_message(contents, sender_of(settings, name), folder)
    try:
        Mould(compiled.message)
    except HeaderError as error:
        raise ConfigurationError(f"newsletters.{name}: {error}", file=settings.file) from None
    return compiled


def _contents(settings: Settings, name: str, slot: Slot, briefs: Sequence[Brief], *, proof: bool) -> Contents:
    newsletter = settings.newsletter(name)
    told = "".join(brief.model_dump_json() for brief in briefs) + newsletter.model_dump_json()
    nonce = "d" + secrets.token_hex(3)
    while nonce in told:
        nonce = "d" + secrets.token_hex(3)
    full = newsletter.full_briefs
    cut = frozenset(range(full, len(briefs))) if full is not None else frozenset()
    return Contents(name, newsletter, settings.site, slot, tuple(briefs), nonce, proof, cut)


def sender_of(settings: Settings, name: str) -> Sender:
    """The constant headers of a newsletter's mails."""
    newsletter = settings.newsletter(name)
    mailbox = newsletter.mailbox
    return Sender(
        newsletter_id=name,
        from_name=mailbox.display_name or newsletter.title,
        from_address=mailbox.addr_spec,
        reply_to=newsletter.reply_to,
        list_name=newsletter.title,
        list_id=settings.list_id_of(name),
        site_url=settings.site.url,
        leave_mailbox=parse(newsletter.leave_mailbox).address if newsletter.leave_mailbox else None,
    )
