"""The hosts about a sender: who takes the mail that is answered or bounces (MX), and what the mail server is called."""

from collections.abc import Iterator, Sequence

from newsletter.deliverability.findings import unlearnt, wrong
from newsletter.deliverability.lookup import Address, Lookup, Unanswered, Unusable
from newsletter.deliverability.records import quoted
from newsletter.deliverability.senders import Way, address_in
from newsletter.edition import Finding
from newsletter.settings import Settings
from subscribers import parse

_LOOKED_AT = 5  # hosts of an MX, addresses of a host, names of an address


def mailboxes(settings: Settings, way: Way) -> dict[str, list[str]]:
    """The domains that take mail for us, and as what."""
    roles: dict[str, list[str]] = {}
    for newsletter in settings.newsletters.values():
        for role, mailbox in (
            ("from", newsletter.sender),
            ("reply_to", newsletter.reply_to),
            ("leave_mailbox", newsletter.leave_mailbox),
        ):
            if mailbox is not None:
                told = roles.setdefault(parse(mailbox).address.rpartition("@")[2].lower(), [])
                if role not in told:
                    told.append(role)
    if way.bounces is not None:
        roles.setdefault(way.bounces.lower(), []).append("bounce_domain")
    return roles


def exchangers_of(lookup: Lookup, domain: str, roles: Sequence[str]) -> Finding:  # noqa: PLR0911 # a fault each
    """Who takes the mail to a domain. `roles` say as what the configuration names it."""
    about = f"MX of {domain} ({', '.join(roles)})"
    publish = f"publish {domain}. MX 10 and the name of the server that takes its mail"
    nothing = "replies and bounces are lost, and some hosts refuse senders that nobody can answer"
    try:
        exchangers = lookup.exchangers(domain)
        if not exchangers:
            if lookup.addresses(domain):
                why = "mail then goes to the domain's own address (RFC 5321 section 5.1), often a web server's"
                return Finding(ok=None, what=f"{about}: there is none; {why}; {publish}")
            return wrong(about, "there is none, and no address", nothing, publish)
        hosts = [host for _, host in exchangers]
        if hosts == [""]:
            return wrong(about, "it is a null MX (RFC 7505): the domain says that it takes no mail", nothing, publish)
        found = [host for host in hosts[:_LOOKED_AT] if host and lookup.addresses(host)]
    except Unanswered as error:
        return unlearnt(about, error)
    except Unusable as error:
        return wrong(about, f"{error}", nothing, "mend the CNAME")
    if not found:
        named = ", ".join(quoted(host, 60) for host in hosts[:_LOOKED_AT])
        hint = "an MX names a host, never an address" if any(address_in(host) for host in hosts) else "mend the name"
        return wrong(about, f"{named} has no address", nothing, hint)
    return Finding(ok=True, what=f"{about}: {', '.join(found)}")


def reverse(lookup: Lookup, way: Way) -> Iterator[Finding]:
    """What the mail server is called. A service's own servers are the service's to name."""
    host = way.host or ""
    about = f"reverse DNS of {host}"
    if way.include is not None:
        return
    try:
        addresses = [literal] if (literal := address_in(host)) else list(lookup.addresses(host))
    except (Unanswered, Unusable) as error:
        yield unlearnt(about, error)
        return
    public = [address for address in addresses if address.is_global][:_LOOKED_AT]
    if not public:
        what = (
            f"{about}: it has no public address, so from where its mails come is not known here; --message shows "
            "one that arrived"
        )
        yield Finding(ok=None, what=what)
    for address in public:
        yield _called(lookup, f"{about} ({address})", address)


def _called(lookup: Lookup, about: str, address: Address) -> Finding:
    try:
        names = lookup.names_of(address)[:_LOOKED_AT]
        back = [name for name in names if address in lookup.addresses(name)]
    except (Unanswered, Unusable) as error:
        return unlearnt(about, error)
    if back:
        return Finding(ok=True, what=f"{about}: {quoted(back[0])}, and back")
    said = f"the name is {quoted(names[0])}, which does not lead back to it" if names else "it has no name"
    return Finding(
        ok=None,
        what=(
            f"{about}: {said}; Gmail and others refuse mail from such an address, if this is the one that mails "
            "come from; have whoever gave you the address set a PTR record to the server's name"
        ),
    )
