"""What arrived, held against what the ledger says: person by person. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

NOT_SENT = frozenset({"refused", "cancelled", "skipped", "suppressed"})
WORDS = ("accepted", "refused", "suppressed", "skipped", "cancelled", "unknown", "waiting")


@dataclass(frozen=True)
class Judgement:
    """What became of an edition. All but `received` and `unknown` must be nothing.

    `missing`: was to be mailed, got nothing, and no word of the ledger says why. `twice`: got more than one copy.
    `wrong`: what the ledger or a report says is not so, each as a sentence.
    """

    received: int
    unknown: int
    missing: tuple[str, ...]
    twice: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def broken(self) -> bool:
        """Whether a promise was."""
        return bool(self.missing or self.twice or self.wrong)


@dataclass(frozen=True)
class Books:
    """What the database says of an edition, read past the program: its state, its candidates, a word a person."""

    state: str
    candidates: int
    words: Mapping[str, str] = field(repr=False)  # address -> one of WORDS


def judge(
    audience: Collection[str],
    excluded: Collection[str],
    received: Mapping[str, int],
    books: Books,
    *,
    told: Mapping[str, int] | None = None,
    named: Collection[str] | None = None,
    unknown_allowed: int | None = None,
) -> Judgement:
    """Compare. `audience` is everybody on the list, `excluded` who of them must not be mailed.

    `told` is the tally as the program prints it, `named` whom it lists as unknown; None: not asked.
    """
    words = books.words
    missing: list[str] = []
    wrong: list[str] = []
    for address in audience:
        word, copies = words.get(address), received.get(address, 0)
        said = _wrong_about(address, word, copies, excluded=address in excluded)
        if said:
            wrong.append(said)
        elif not copies and address not in excluded and word in {None, "waiting", "suppressed", "skipped"}:
            missing.append(f"{address}: on record {word}")
    strangers = sorted(set(received) - set(audience))
    wrong += [f"{address}: received, and not on the list" for address in strangers]
    sums = Counter(words.values())
    if books.candidates != len(audience) or sum(sums.values()) != len(audience):
        wrong.append(f"{len(audience)} on the list, {books.candidates} candidates, {sum(sums.values())} on record")
    if told is not None:
        counted = {word: sums.get(word, 0) for word in WORDS}
        if counted != {word: told.get(word, 0) for word in WORDS} or told.get("candidates") != books.candidates:
            wrong.append(f"the tally says {dict(told)}, the rows say {counted}")
    unknown = {address for address, word in words.items() if word == "unknown"}
    if named is not None and set(named) != unknown:
        wrong.append(f"{len(unknown)} are unknown, and {len(set(named) & unknown)} of them are named")
    if unknown_allowed is not None and len(unknown) > unknown_allowed:
        wrong.append(f"{len(unknown)} are unknown; at most {unknown_allowed} can have been in the provider's hands")
    twice = tuple(f"{address}: {copies} copies" for address, copies in received.items() if copies > 1)
    return Judgement(sum(received.values()), len(unknown), tuple(missing), twice, tuple(wrong))


def _wrong_about(address: str, word: str | None, copies: int, *, excluded: bool) -> str | None:
    """What the ledger says of one person that is not so, as a sentence."""
    if excluded and (copies or word not in NOT_SENT):
        return f"{address} must not be mailed: {copies} copies, on record {word}"
    if word == "accepted" and not copies:
        return f"{address} is on record as accepted, and nothing was received"
    if word in NOT_SENT and copies:
        return f"{address} is on record as {word}, and {copies} copies were received"
    return None
