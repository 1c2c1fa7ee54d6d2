"""A file of people, read row by row: any encoding, any delimiter, zipped or not, in memory that does not grow with it.

What a row is worth is decided here (an address, a name on one line, a standing that we know), without the database:
what comes out are `Piece`s of people and of refused rows. People are sorted by key within a window, so that the
database meets them in the order of its indexes; rows of the same person keep the order of the file.

Large files are read by a second process (`beside`), which runs this module with little else, and ends with its
parent. What it says comes back as JSON.
"""

import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
import zoneinfo
from codecs import BOM_UTF8, getincrementaldecoder
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, BinaryIO, NamedTuple

from subscribers import dialects
from subscribers.address import _COMMON, _LONGEST, _LONGEST_LOCAL, LONGEST_NAME, clean_name, parse
from subscribers.dialects import Columns
from subscribers.errors import AddressError, TransferError

LONGEST_ROW = 131_072  # characters; as csv.field_size_limit has it by default, so that no field meets that limit
_LONGEST_ROW_BYTES = 4 * LONGEST_ROW
_LONGEST_QUOTED_LINES = 1000  # a cell with more lines than that is a quote that somebody forgot to close
_WINDOW_ROWS = 50_000  # sorted at once: 20 MB, and enough that a batch touches a tenth of an index
_WINDOW_CHARACTERS = 6_000_000  # the same for wide rows
_PIECE_ROWS = 1_000
_PIECE_CHARACTERS = 100_000
_WINDOW_REFUSED = 10_000
_READY_PIECES = 60  # 6 MB; a little more than a window, so that the next is read while this one is written
LARGEST_HERE_BYTES = 1_000_000  # a smaller file is read faster than a process starts (0.1 s)
LARGEST_UNPACKED_BYTES = 8 << 30  # of all files of a zip; 100 million rows
_DENSEST = 200  # unpacked to packed bytes; CSV reaches 30, a bomb of zeros 1,000 (DEFLATE's limit)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,3}")  # RFC 5646, short of its rare forms
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # controls but the tab
_GUARDED = re.compile(r"'+[=+\-@\t\r]")  # as `subscribers.transfer` guards a cell
_LONGEST_TOPIC, _MOST_TOPICS = 64, 50

Refusal = tuple[int, str, str, str]
"""A row that was refused: its line, why in a few words (to count by), why in a sentence, and the row itself."""


class Sheet(NamedTuple):
    """The beginning of a file: its name, the system that it comes from (empty: none that we know), its delimiter."""

    name: str
    system: str
    delimiter: str | None


class Piece(NamedTuple):
    """People of a file, column by column, and rows that were refused. `last` is the end of a window.

    `more` holds what few rows have: (index, language, zone, topics, paused until), each None where not given.
    """

    lines: list[int]
    keys: list[str]
    addresses: list[str]
    names: list[str | None]
    standings: list[str]
    more: list[tuple[int, str | None, str | None, list[str] | None, str | None]]
    rows: list[str]
    refused: list[Refusal]
    last: bool


class End(NamedTuple):
    """The end of a file: its encoding, and what was left out of rows that were taken, each with how often."""

    encoding: str
    remarks: dict[str, int]


Part = Sheet | Piece | End


def read(source: BinaryIO, name: str, *, suppressions: bool, to: str | None = None) -> Iterator[Part]:
    """Read a file of people, or each CSV of a zip. `to` is the list that they are for. Raises TransferError."""
    stream: Any = source if isinstance(source, io.BufferedReader) else io.BufferedReader(source)
    if stream.peek(4)[:4] == b"PK\x03\x04":
        yield from _unpacked(stream, name, suppressions=suppressions, to=to)
        return
    yield from _Reader(_as_utf8(stream), name, suppressions=suppressions, to=to).parts()


# ------------------------------------------------------------------------------------------ zip


def _unpacked(stream: "io.BufferedReader[Any]", name: str, *, suppressions: bool, to: str | None) -> Iterator[Part]:
    packed: IO[bytes] = stream
    if not stream.seekable():
        packed = tempfile.TemporaryFile()  # noqa: SIM115 # it ends with the generator
        while data := stream.read(1 << 20):
            packed.write(data)
        packed.seek(0)
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [one for one in archive.infolist() if _is_csv(one.filename)]
            if not members:
                raise TransferError(f"{name}: expected a zip with a CSV file in it, found none")
            if sum(one.file_size for one in members) > LARGEST_UNPACKED_BYTES or any(
                one.file_size > max(_DENSEST * one.compress_size, 1 << 20) for one in members
            ):
                raise TransferError(f"{name}: expected a list of people, found a zip that unpacks to far too much")
            for member in members:
                if member.flag_bits & 1:
                    raise TransferError(f"{name}: expected a zip without a password")
                with archive.open(member) as unpacked:
                    within = f"{name}/{member.filename.rpartition('/')[2]}"
                    text = _as_utf8(io.BufferedReader(unpacked))
                    yield from _Reader(text, within, suppressions=suppressions, to=to).parts()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise TransferError(f"{name}: expected a zip, found a damaged one ({error})") from None
    except OSError as error:
        raise TransferError(f"{name}: cannot be read: {error.strerror or error}") from None
    finally:
        if packed is not stream:
            packed.close()


def _is_csv(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith((".csv", ".tsv", ".txt")) and not name.startswith("__MACOSX") and base[:1] != "."


# ------------------------------------------------------------------------------------------ encodings


class _Recoded(io.RawIOBase):
    """Bytes in another encoding as UTF-8, with line ends that we know. What cannot be read becomes U+FFFD."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream, self._left = stream, b""
        self._decoder = getincrementaldecoder(encoding)("replace")
        self._wide = encoding != "utf-8"
        self.encoding = encoding.upper() if self._wide else "UTF-8"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            data = self._stream.read(1 << 16)
            if self._wide:
                text = self._decoder.decode(data, final=not data)
                self._left = text.encode("utf-8", "replace")
            else:
                self._left = data.replace(b"\r", b"\n")
            if not data:
                break
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _as_utf8(stream: "io.BufferedReader[Any]") -> "io.BufferedReader[Any]":
    """UTF-16 and the line ends of old Macs made UTF-8; UTF-8 and Windows-1252 are told apart row by row."""
    head = stream.peek(4096)[:4096]
    odd, even = head[1::2], head[::2]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        recoded = _Recoded(stream, "utf-16")
    elif len(head) >= 8 and odd.count(0) * 5 > len(odd) * 2 and even.count(0) * 10 < len(even):  # noqa: PLR2004 # enough to tell
        recoded = _Recoded(stream, "utf-16-le")
    elif len(head) >= 8 and even.count(0) * 5 > len(even) * 2 and odd.count(0) * 10 < len(odd):  # noqa: PLR2004 # the same
        recoded = _Recoded(stream, "utf-16-be")
    elif head.count(b"\r") > 1 and b"\n" not in head:
        recoded = _Recoded(stream, "utf-8")
    else:
        return stream
    return io.BufferedReader(recoded, 1 << 16)


# ------------------------------------------------------------------------------------------ rows


class _Reader:
    def __init__(self, stream: "io.BufferedReader[Any]", name: str, *, suppressions: bool, to: str | None) -> None:
        self._stream, self._name, self._suppressions, self._to = stream, name, suppressions, to
        raw = getattr(stream, "raw", None)
        self._wide = raw.encoding if isinstance(raw, _Recoded) and raw.encoding != "UTF-8" else None
        self._encoding: str | None = None  # None: ASCII so far
        self._line = 0
        self._again: deque[tuple[int, bytes]] = deque()
        self._remarks: Counter[str] = Counter()
        self._refused: list[Refusal] = []
        self._delimiter: str | None = None

    def parts(self) -> Iterator[Part]:
        columns = self._columns()
        if columns is None:
            yield Sheet(self._name, "", None)
        else:
            yield Sheet(self._name, columns.system, columns.delimiter)
            yield from self._windows(columns)
        yield End(self._wide or self._encoding or "ASCII", dict(self._remarks))

    def _columns(self) -> Columns | None:
        """How to read it, by its first line that is not empty. None for an empty file."""
        mark = None
        while (first := self._next_line()) is not None:
            number, raw = first
            text = self._decoded(raw.removeprefix(BOM_UTF8) if number == 1 else raw)
            if raw.startswith(BOM_UTF8):
                self._encoding = "UTF-8"
            line = (text or "").lstrip("\ufeff").rstrip("\r\n")
            if found := re.fullmatch(r"sep=([,;\t|])", line):  # Excel's own way to say it
                mark = found[1]
                continue
            if not line.strip() or (line.startswith("#") and "@" not in line):
                continue
            if text is None or len(raw) > _LONGEST_ROW_BYTES or "\0" in line:
                raise TransferError(f"{self._name}:{number}: expected CSV text")
            columns = dialects.columns(line, self._name, suppressions=self._suppressions)
            self._delimiter = columns.delimiter
            if mark and columns.delimiter != mark and columns.width == 1:
                raise TransferError(f"{self._name}:{number}: expected columns with “{mark}” between them")
            if not columns.header:
                self._again.append((number, line.encode()))
            return columns
        return None

    def _windows(self, columns: Columns) -> Iterator[Piece]:
        window: list[Any] = []
        append = window.append
        person = self._person
        size = 0
        for number, text, fields in self._records():
            size += len(text) + 40
            found = person(columns, number, text, fields)
            if found is not None:
                append(found)
            if len(window) >= _WINDOW_ROWS or size >= _WINDOW_CHARACTERS or len(self._refused) >= _WINDOW_REFUSED:
                yield from self._pieces(window, size)
                window.clear()
                size = 0
        yield from self._pieces(window, size)

    def _pieces(self, window: list[Any], size: int) -> Iterator[Piece]:
        window.sort(key=itemgetter(0))  # stable: rows of one person stay in the order of the file
        refused, self._refused = self._refused, []
        step = min(_PIECE_ROWS, max(1, _PIECE_CHARACTERS * len(window) // max(size, 1)))
        for start in range(0, len(window), step):
            part = window[start : start + step]
            keys, lines, addresses, names, standings, more, rows = map(list, zip(*part, strict=True))
            rare = [(index, *what) for index, what in enumerate(more) if what is not None]
            yield Piece(lines, keys, addresses, names, standings, rare, rows, [], last=False)
        yield Piece([], [], [], [], [], [], [], refused, last=True)

    # ---------------------------------------------------------------------------------- lines and records

    def _next_line(self) -> tuple[int, bytes] | None:
        if self._again:
            return self._again.popleft()
        raw = self._stream.readline(_LONGEST_ROW_BYTES + 1)
        if not raw:
            return None
        self._line += 1
        return self._line, raw

    def _records(self) -> Iterator[tuple[int, str, list[str] | None]]:
        """Each record with the line it begins at, and its cells where they are known; what is none is refused."""
        readline, again, decoded = self._stream.readline, self._again, self._decoded
        while True:
            if again:
                number, raw = again.popleft()
            else:
                raw = readline(_LONGEST_ROW_BYTES + 1)
                if not raw:
                    return
                self._line = number = self._line + 1
            text = decoded(raw)
            if len(raw) > LONGEST_ROW and (text is None or len(text) > LONGEST_ROW):
                self._skip_rest(raw)
                self._refuse(number, "too long", f"expected a row of at most {LONGEST_ROW:,} characters", raw[:1000])
            elif text is None:
                self._refuse(number, "other encoding", f"expected {self._wide or 'UTF-8'}, found other bytes", raw)
            elif '"' in text and self._delimiter is not None:
                yield from self._quoted(number, raw, text)
            else:
                yield number, text, None

    def _quoted(self, number: int, raw: bytes, text: str) -> Iterator[tuple[int, str, list[str]]]:
        """A record with quotes, which may go on over several lines."""
        delimiter = self._delimiter
        if (fields := dialects.cells(text.rstrip("\r\n"), delimiter)) is not None:
            yield number, text, fields
            return
        taken: list[tuple[int, bytes]] = []
        whole = text
        # A quoted cell ends on a line with an odd number of quotes; only there is it worth looking.
        if text.count('"') % 2:
            while len(taken) < _LONGEST_QUOTED_LINES and len(whole) <= LONGEST_ROW:
                following = self._next_line()
                if following is None:
                    break
                taken.append(following)
                line = self._decoded(following[1])
                if line is None:
                    break
                whole += line
                if line.count('"') % 2:
                    if (fields := dialects.cells(whole.rstrip("\r\n"), delimiter)) is not None:
                        yield number, whole, fields
                        return
                    break
        self._again.extendleft(reversed(taken))  # each of those lines is read for itself
        self._refuse(number, "quotes not in pairs", "expected quotes in pairs, around a whole cell", raw)

    def _skip_rest(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(1 << 16)

    def _decoded(self, raw: bytes) -> str | None:
        """A line as text, None where it cannot be read.

        UTF-8 where that reads it. The first line that needs more than ASCII settles what the file is: if it was UTF-8,
        a line that is not is damaged and refused; if not, the file is Windows-1252 wherever it is not UTF-8.
        """
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            if self._encoding == "UTF-8":
                return None
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                return None
            self._encoding = "Windows-1252"
            return text
        if self._encoding is None and not text.isascii():
            self._encoding = "UTF-8"
        return None if self._wide and "\ufffd" in text else text

    def _refuse(self, number: int, short: str, why: str, row: bytes | str) -> None:
        text = row if isinstance(row, str) else row.decode("utf-8", "backslashreplace")
        self._refused.append((number, short, why, text.rstrip("\r\n")))

    # ---------------------------------------------------------------------------------- one row

    def _person(self, columns: Columns, number: int, text: str, fields: list[str] | None) -> tuple[Any, ...] | None:
        """A row's person: key, line, address, name, standing, what is rare, the row. None: an empty line is no row."""
        row = text.rstrip("\r\n")
        if fields is None:
            fields = row.split(columns.delimiter) if columns.delimiter else dialects.cells(row, None)
        if not row or not fields or not any(fields) or (row[0] == "#" and not columns.header):
            return None
        try:
            self._check(columns, row, fields)
            if columns.ours:
                fields = [cell[1:] if cell[:1] == "'" and _GUARDED.match(cell) else cell for cell in fields]
            address, key, within = mailbox(fields[columns.address].strip())
            standing = _standing(columns, fields) if columns.tells else columns.otherwise
            name = _name(_joined(fields, columns), columns) or within
            return key, number, address, name, standing, self._more(columns, fields), row
        except AddressError as error:
            self._refuse(number, "no address", str(error), row)
        except _Refused as error:
            self._refuse(number, error.short, str(error), row)
        return None

    def _check(self, columns: Columns, row: str, fields: list[str]) -> None:
        if "\0" in row:
            raise _Refused("NUL byte", "expected text, found a NUL byte")
        if len(fields) != columns.width and (len(fields) < columns.width or any(fields[columns.width :])):
            raise _Refused("wrong number of columns", f"expected {columns.width} columns, found {len(fields)}")
        if columns.to is not None and self._to is not None and fields[columns.to] != self._to:
            raise _Refused("another list", "expected a row of the list imported to, found another's")

    def _more(self, columns: Columns, fields: list[str]) -> tuple[Any, ...] | None:
        """Language, zone, topics and pause, where a row has any that can be used."""
        found = tuple(
            self._read(what, fields[index].strip(), reader) if index is not None else None
            for what, index, reader in (
                ("language", columns.language, _language),
                ("time zone", columns.zone, _zone),
                ("topics", columns.topics, _topics),
                ("paused_until", columns.paused, _instant),
            )
        )
        return found if any(found) else None

    def _read(self, what: str, cell: str, reader: Callable[[str], Any]) -> Any:
        if not cell:
            return None
        found = reader(cell)
        if not found:
            self._remarks[f"{what} that could not be read, left out"] += 1
        return found


class _Refused(Exception):
    """A row is none that can be taken: why, in a few words to count by, and in a sentence."""

    def __init__(self, short: str, why: str) -> None:
        self.short = short
        super().__init__(why)


def mailbox(given: str) -> tuple[str, str, str | None]:
    """Address, key and name of a mailbox, as `subscribers.address.parse` reads it; most at a glance."""
    if _COMMON.fullmatch(given) and len(given) <= _LONGEST:
        at = given.index("@")
        if at <= _LONGEST_LOCAL:
            key = given.lower()  # of ASCII, what NFKC and casefold make of it
            return (given if key == given else given[:at] + key[at:]), key, None
    found = parse(given)
    return found.address, found.key, found.name


def _standing(columns: Columns, fields: list[str]) -> str:
    found = columns.standing(fields)
    if found is None:
        raise _Refused("unknown status", "expected a status that is known here")
    return found


def _joined(fields: list[str], columns: Columns) -> str:
    if columns.name is not None and (name := fields[columns.name].strip(" \t")):
        return name
    parts = [fields[index].strip(" \t") for index in (columns.first, columns.last) if index is not None]
    return " ".join(part for part in parts if part)


def _name(name: str, columns: Columns) -> str | None:
    """As `subscribers.address.clean_name`, most at a glance; what would break a header or a spreadsheet is refused."""
    if not name:
        return None
    if name[0] == "=" and not columns.ours:
        raise _Refused("formula for a name", "expected a name, found a formula")
    if name.isprintable():
        if name.isascii() and "  " not in name and len(name) <= LONGEST_NAME:
            return name
    elif _BREAKS.search(name):
        raise _Refused("control characters in a name", "expected a name on one line, without control characters")
    return clean_name(name)


def _language(cell: str) -> str | None:
    return cell.replace("_", "-") if _LANGUAGE.fullmatch(cell) else None


def _zone(cell: str) -> str | None:
    return cell if cell in _zones() else None


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _topics(cell: str) -> list[str] | None:
    """The topics of a cell: a JSON array of texts as we export them, or words with commas or semicolons between."""
    if cell.startswith("["):
        try:
            found = json.loads(cell)
        except ValueError:
            return None
    else:
        found = re.split(r"[,;]", cell)
    if not all(isinstance(one, str) for one in found):
        return None
    topics = list(dict.fromkeys(one.strip() for one in found if one.strip()))
    return topics if len(topics) <= _MOST_TOPICS and all(len(one) <= _LONGEST_TOPIC for one in topics) else None


def _instant(cell: str) -> str | None:
    """An instant as the database keeps it, in UTC; None where it is none or has no zone."""
    with suppress(ValueError):
        found = datetime.fromisoformat(cell)
        if found.tzinfo is not None:
            return found.astimezone(UTC).isoformat()
    return None


# ------------------------------------------------------------------------------------------ in a process of its own

# The package's own __init__ brings the tables and what they need: 35 MB that a reader of rows has no use for.
_BOOT = (
    "import sys, types\n"
    "package = types.ModuleType('subscribers')\n"
    "package.__path__ = [sys.argv[1]]\n"
    "sys.modules['subscribers'] = package\n"
    "from subscribers.rows import serve\n"
    "serve(*sys.argv[2:])\n"
)


def beside(source: BinaryIO, name: str, *, suppressions: bool, to: str | None = None) -> Iterator[Part]:
    """As `read`, by a process of its own. `source` must have a file descriptor, and be at its beginning."""
    package = str(Path(__file__).parent)
    command = [sys.executable, "-P", "-c", _BOOT, package, name, "suppressions" if suppressions else "", to or ""]
    try:
        started = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603 # this very module
    except OSError:  # no process to be had: then this one reads
        yield from read(source, name, suppressions=suppressions, to=to)
        return
    with started as process:
        assert process.stdout is not None
        # A pipe holds less than a piece: without somebody who takes them in, the two would wait for each other in turn.
        ready: Queue[bytes] = Queue(_READY_PIECES)
        over = threading.Event()
        taker = threading.Thread(target=_take, args=(process.stdout, ready, over), daemon=True)
        taker.start()
        try:
            while line := ready.get():
                kind, *what = json.loads(line)
                if kind == "done":
                    return
                if kind == "error":
                    raise TransferError(what[0])
                yield _KINDS[kind](*what)
            raise TransferError(f"{name}: the process that reads it has ended before its end; run it again")
        finally:
            process.kill()
            over.set()
            with suppress(Empty):
                ready.get_nowait()  # it may wait for a place
            taker.join()


def _take(said: IO[bytes], ready: "Queue[bytes]", over: threading.Event) -> None:
    """Take in what the other process says, until it ends; an empty line is the end."""
    for line in said:
        ready.put(line)
        if over.is_set():
            return
    ready.put(b"")


_KINDS: dict[str, type[Any]] = {"Sheet": Sheet, "Piece": Piece, "End": End}


def serve(name: str, suppressions: str, to: str) -> None:
    """What the other process does: read its input, say on its output what came of it, and end with its parent."""
    gc.disable()  # nothing here refers to itself, and looking through a window's rows takes a fifth of the time
    with suppress(BrokenPipeError, KeyboardInterrupt), open(0, "rb") as source, open(1, "w", encoding="utf-8") as out:
        try:
            parts = read(source, name, suppressions=bool(suppressions), to=to or None)
            out.writelines(json.dumps([type(part).__name__, *part]) + "\n" for part in parts)
            out.write('["done"]\n')
        except TransferError as error:
            out.write(json.dumps(["error", str(error)]) + "\n")
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                os._exit(1)
            out.write(json.dumps(["error", f"{name}: cannot be read: {error.strerror or error}"]) + "\n")
