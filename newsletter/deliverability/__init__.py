"""`newsletter doctor --deep`: what mailbox providers find when they look up the sender's domains.

SPF, DKIM, DMARC and MX of each newsletter's sender, and what the mail server is called. Asks name servers and nobody
else. Each Finding says what is wrong, why that matters, and what to do, with the record to publish. Where nobody
answers, it is a note: that says nothing of the domain. `delivered` looks at a mail that has arrived.
"""

from collections.abc import Iterator, Sequence

from newsletter.deliverability import hosts
from newsletter.deliverability.lookup import Lookup
from newsletter.deliverability.senders import SenderDomain, Way
from newsletter.edition import Finding
from newsletter.settings import Settings


def examine(settings: Settings, lookup: Lookup, selectors: Sequence[str] = ()) -> Iterator[Finding]:
    """What the DNS says of each newsletter's sender, in the order in which a person would mend it.

    `selectors` are DKIM selectors to look for, besides those that the configuration or the provider implies.
    """
    way = Way.of(settings)
    senders = dict.fromkeys(newsletter.mailbox.domain.lower() for newsletter in settings.newsletters.values())
    for sender in senders:
        yield from SenderDomain(settings, lookup, way, sender).examine(selectors)
    for domain, roles in hosts.mailboxes(settings, way).items():
        yield hosts.exchangers_of(lookup, domain, roles)
    if way.host is not None:
        yield from hosts.reverse(lookup, way)
