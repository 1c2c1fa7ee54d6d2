"""How the findings about deliverability are put: what is wrong, why it matters, what to do."""

from newsletter.edition import Finding


def wrong(about: str, what: str, why: str, do: str) -> Finding:
    """A fault of the domain, or of the mail."""
    return Finding(ok=False, what=f"{about}: {what}; {why}; {do}")


def unlearnt(about: str, error: Exception) -> Finding:
    """What could not be looked up: it says nothing of the domain."""
    return Finding(ok=None, what=f"{about}: not looked at: {error}")
