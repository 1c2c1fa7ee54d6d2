"""What an entry says in short: its first paragraphs without what publishing programs add, cut at a sentence's end."""

import re
from collections.abc import Iterable, Iterator, Sequence

from newsletter.brief import one_line
from newsletter.formats.html import Piece, bare
from newsletter.formats.outline import Kind, is_facts, is_sign_up

SUMMARY = 600  # characters, about: what a reader takes in at a glance
_SPARE = 60  # characters that a sentence may go past it
_ENOUGH = 200  # characters: then no paragraph is cut in a sentence to fill up
TITLE = 120  # characters of a headline that is made from the text

_ON = (
    r"(?:continue reading|keep reading|read (?:more|on|the (?:rest|full|whole|original|entire|complete))"
    r"|read full (?:story|article|post)|click here to (?:read|continue)|view (?:the )?(?:original|full|entire))"
)
_BUTTON = (
    r"(?:more|see more|learn more|full (?:story|article|post)|(?:listen|watch|subscribe|sign up|donate)(?: now)?|share"
    r"|share this (?:post|article|story)|leave a comment|\d{0,6} ?comments?|comment|tweet|like|upgrade to paid"
    r"|view in browser|permalink|link|source)"
)
_ARROW = r"[\s.…»›→>:!\]\[()]{0,12}"
_ADDED = re.compile(  # a whole paragraph that is none of the story
    r"the post .{1,400}? (?:appeared first|first appeared) on .{1,200}"
    r"|.{1,400}? was originally published (?:in|on) .{1,200}? on medium, where people .{1,200}"
    r"|.{1,400}? (?:appeared first|first appeared|was first published) (?:on|in|at) .{1,100}"
    r"|thanks for reading .{1,300}|.{1,200} is a reader-supported publication\b.{0,300}"
    rf"|{_ON}(?:{_ARROW}| on .{{1,200}}»)|{_BUTTON}{_ARROW}|continue reading .{{1,250}}[»→]"
    r"|(?:\[?(?:…|\.\.\.)\]?\s?)+|[\s*·•|/_=~#-]+",
    re.IGNORECASE,
)
_LINKS_ALONE = re.compile(rf"(?:{_ON}\b.{{0,250}}|{_BUTTON}{_ARROW})", re.IGNORECASE)
_LINKED_END = re.compile(
    rf"(?:[\s(\[]|\.\.\.|…){{0,9}}\x02[\s(\[]{{0,4}}{_ON}\b[^\x02-\x04]{{0,300}}\x03[^\x02-\x04]*\x04{_ARROW}\Z",
    re.IGNORECASE,
)
_PLAIN_END = re.compile(
    r"(?:\s|\.\.\.|…|\]){1,9}(?:continue reading\b[^.!?]{0,250}[→»]|(?:continue reading|read more)[\s.…»→>]{0,9})\Z",
    re.IGNORECASE,
)
_CUT_END = re.compile(r"\s*(?:\[\s?(?:…|\.{3})\s?\]|\(\s?(?:…|\.{3})\s?\))\s*\Z")
_OPEN_END = re.compile(r"\s*(?:…|\.{3})\Z")
_LONGEST_ADDED, _SHORT = 900, 260
_MAY_BE_ADDED = re.compile(
    r"appeared|published (?:in|on|at)|thanks for reading|reader-supported|(?:continue|keep) reading|read ",
    re.IGNORECASE,
)
_TERMINAL = re.compile(r"[.!?…。！？؟।:;][\"'”’»)\]」』）]*\Z")


def is_added(text: str) -> bool:
    """Whether a paragraph, its links marked, is what a program added: “Read more”, “The post … appeared first on …”."""
    words = bare(text)
    if len(words) > _LONGEST_ADDED or (len(words) > _SHORT and not _MAY_BE_ADDED.search(words)):
        return False
    if _ADDED.fullmatch(words) or is_sign_up(words):
        return True
    links_alone = "\x02" in text and not re.sub("\x02[^\x04]*\x04", "", text).strip(" .|·•,;»→>[]()")
    return links_alone and _LINKS_ALONE.fullmatch(words) is not None


def without_added(text: str) -> str:
    """A paragraph, its links marked, without “[…]” and “Continue reading …” at its end."""
    end = text[-1_000:]
    kept = _LINKED_END.sub("", end) if "\x04" in end[-_TAIL:] else end
    kept = _PLAIN_END.sub("", kept) if "ead" in kept[-300:] else kept
    was_cut = kept != end
    if match := _CUT_END.search(kept):
        kept, was_cut = kept[: match.start()], True
    if not was_cut:
        return text
    kept = _OPEN_END.sub("", text[: len(text) - len(end)] + kept).rstrip()
    return kept if not kept or _TERMINAL.search(bare(kept)) else f"{kept.rstrip(',–—- ')}…"


_TAIL = 15  # what may stand after a link that leads on: an arrow, brackets


def paragraphs_of(pieces: Iterable[Piece]) -> Iterator[str]:
    """The paragraphs of a page as plain text, without headings, captions and what publishing programs add."""
    for piece in pieces:
        if piece.kind is Kind.HEADING or piece.caption or is_added(piece.text) or is_facts(piece.words.strip(": ")):
            continue
        text = bare(without_added(piece.text))
        if text := text if text.isascii() else one_line(text):
            yield f"• {text}" if piece.kind is Kind.BULLET else text


def shortened(paragraphs: Iterable[str], most: int = SUMMARY) -> str:
    """The first paragraphs, an empty line between them, up to the sentence's end that is nearest to `most` characters.

    A sentence is cut, with “…”, only where the first one is longer than that.
    """
    kept: list[str] = []
    length = 0
    for text in paragraphs:
        room = most - length
        if len(text) <= room + _SPARE:
            kept.append(text)
            length += len(text) + 2
            if length >= most:
                break
            continue
        if end := _last_end(text, room + _SPARE):
            kept.append(text[:end])
        elif length < _ENOUGH:
            kept.append(cut_at_word(text, max(room, _ENOUGH)))
        break
    return "\n\n".join(kept)


def cut_at_word(text: str, most: int) -> str:
    """Text of at most so many characters, cut with “…” between two words, or two letters where there is no blank."""
    if len(text) <= most:
        return text
    start = text[: most - 1]
    blank = start.rfind(" ")
    return (start[:blank] if blank > most // 2 else start).rstrip(" ,;:–—-([“‘«") + "…"


_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”’）]*")
_ABBREVIATED = re.compile(
    r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Gov|Sen|Rep|Col|Lt|St|Sr|Jr|No|Nos|vs|Inc|Ltd|Co|Jan|Feb|Mar|Apr|Jun|Jul|Aug"
    r"|Sept?|Oct|Nov|Dec|etc|approx|ca|cf))\.\Z"
)


def _ends(text: str) -> Iterator[int]:
    """Where the sentences of a text end."""
    for match in _END.finditer(text):
        after = text[match.end() : match.end() + 2].lstrip()
        if not after[:1].islower() and not _ABBREVIATED.search(text, max(0, match.end() - 8), match.end()):
            yield match.end()


def _last_end(text: str, most: int) -> int:
    return max((end for end in _ends(text[: most + 1]) if end <= most), default=0)


def enough(paragraphs: Iterable[str], most: int = 2 * SUMMARY) -> Iterator[str]:
    """The paragraphs up to the one that reaches `most` characters: no more are needed for a summary of half of that."""
    length = 0
    for text in paragraphs:
        yield text
        length += len(text)
        if length > most:
            return


def headline_of(paragraphs: Sequence[str]) -> str:
    """A headline for an entry that has none: its first sentence, cut between two words."""
    text = next((found for text in paragraphs if (found := text.removeprefix("• "))), "")
    end = next(_ends(text), len(text))
    return cut_at_word(text[:end], TITLE)
