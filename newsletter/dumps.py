"""PostgreSQL's own programs: pg_dump writes an archive, pg_restore reads it, psql puts it back in one transaction.

They are given what the server was reached by in their environment, where no other user of the machine can read it, and
never on the command line. What they say goes out as one line without rows or addresses.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from newsletter.errors import BackupError
from newsletter.providers.scrubbing import scrub

MAGIC = b"PGDMP"  # how an archive of pg_dump's custom format begins
_PIECE = 1 << 20
_LOCK_WAIT = "10s"  # pg_dump's for a table that an upgrade changes, as long as any writer of ours waits
_WHAT_TO_INSTALL = (
    "install the client programs of PostgreSQL, of the server's version or newer (the package postgresql-client), or "
    "name their folder as programs under [backup]"
)
_ENTRY = re.compile(r"\d+; \d+ \d+ (TABLE DATA|[A-Z ]+?) (\S+) (\S+)(?: .*)?")
_MISMATCH = re.compile(r"server version: (\S+).*?; pg_dump version: (\S+)", re.DOTALL)


class Programs:
    """The programs of a folder, or of the PATH, as they reach the database of an engine."""

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self._engine, self._folder = engine, folder
        self._environment: Mapping[str, str] | None = None

    def dump(self, file: Path, tables: Sequence[str]) -> None:
        """Write an archive of tables ("schema.name") as one state of them, while others write."""
        named = [f"--table={table}" for table in tables]
        options = [
            "--format=custom",
            "--no-owner",
            "--no-privileges",
            "--no-password",
            f"--lock-wait-timeout={_LOCK_WAIT}",
        ]
        self._run("pg_dump", *options, *named, f"--file={file}")

    def tables(self, file: Path) -> list[tuple[str, str]]:
        """The schema and name of each table whose rows an archive holds."""
        listed = self._run("pg_restore", "--list", str(file))
        entries = [match for line in listed.splitlines() if (match := _ENTRY.fullmatch(line))]
        return [(match[2], match[3]) for match in entries if match[1] == "TABLE DATA"]

    def verify(self, file: Path) -> None:
        """Read all of an archive. Raises BackupError where it is damaged."""
        self._run("pg_restore", f"--file={os.devnull}", str(file), name=file)

    def rows(self, file: Path, table: str) -> list[dict[str, str | None]]:
        """The rows of a small table in an archive, as texts by column."""
        told = self._run("pg_restore", "--data-only", f"--table={table}", "--file=-", str(file), name=file)
        columns: list[str] = []
        rows: list[dict[str, str | None]] = []
        for line in told.splitlines():
            if match := re.match(r"COPY \S+ \((.*)\) FROM stdin;", line):
                columns = [name.strip(' "') for name in match[1].split(",")]
            elif line == r"\.":
                columns = []
            elif columns:
                rows.append({name: _plain(value) for name, value in zip(columns, line.split("\t"), strict=True)})
        return rows

    def load(self, file: Path, before: str, after: str) -> None:
        """Execute statements, the archive, and statements again, in one transaction: all of it or nothing.

        The last word, COMMIT, is said when the archive was read to its end; without it, as after a kill, the server
        undoes all.
        """
        command = [self._find("psql"), "--no-psqlrc", "--quiet", "--no-password", "--file=-"]
        settings = ["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"]
        reading = [self._find("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
        with (
            subprocess.Popen(  # noqa: S603 # a program of the operator's choice, no shell
                [*command, *settings],
                env=self.reach(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as server,
            subprocess.Popen(  # noqa: S603 # the same
                reading, env=_PLAIN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as archive,
        ):
            assert server.stdin is not None
            assert server.stderr is not None
            with suppress(BrokenPipeError):  # psql has ended and says why
                _pass_on(archive, server.stdin, f"BEGIN;\n{before}\n")
                whole = archive.wait() == 0
                server.stdin.write(f"\n{after}\nCOMMIT;\n".encode() if whole else b"\nROLLBACK;\n")
            with suppress(BrokenPipeError):
                server.stdin.close()
            said = server.stderr.read().decode(errors="replace")
        if server.returncode:
            raise BackupError(self._engine.url.database or "the database", f"nothing was changed: {_line(said)}")
        if archive.returncode:
            raise BackupError(file.name, "it is damaged: pg_restore cannot read it to its end; nothing was changed")

    def _find(self, program: str) -> str:
        found = shutil.which(program, path=str(self._folder) if self._folder else None)
        if found is None:
            where = f"in {self._folder}" if self._folder else "on the PATH"
            raise BackupError(program, f"there is no such program {where}: {_WHAT_TO_INSTALL}")
        return found

    def reach(self) -> Mapping[str, str]:
        """The variables by which libpq's programs reach the server as the engine does.

        libpq itself tells them, with whatever it took from its own environment, a service or a password file.
        """
        if self._environment is None:
            with self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                told = {option.envvar: option.val for option in driver.pgconn.info if option.envvar and option.val}
            self._environment = _PLAIN | {name.decode(): value.decode() for name, value in told.items()}
        return self._environment

    def _run(self, program: str, *arguments: str, name: Path | None = None) -> str:
        done = subprocess.run(  # noqa: S603 # a program of the operator's choice, no shell
            [self._find(program), *arguments],
            env=self.reach() if program == "pg_dump" else _PLAIN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        said = done.stderr.decode(errors="replace")
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        if versions := _MISMATCH.search(said):
            what = f"it is of version {versions[2]}, and the server of {versions[1]}: {_WHAT_TO_INSTALL}"
            raise BackupError(program, what)
        if name is not None:
            raise BackupError(name.name, f"it is damaged: {_line(said)}")
        raise BackupError(program, _line(said))


_PLAIN: dict[str, str] = {"PATH": os.defpath, "LC_ALL": "C"}


def _pass_on(archive: "subprocess.Popen[bytes]", to: IO[bytes], first: str) -> None:
    to.write(first.encode())
    assert archive.stdout is not None
    for piece in iter(lambda: archive.stdout.read(_PIECE), b""):  # type: ignore[union-attr] # it is there
        to.write(piece)


def _line(said: str) -> str:
    """What a program says, as one line: the first error, without details, which hold rows."""
    lines = [line for line in said.splitlines() if line.strip() and not re.match(r"(DETAIL|CONTEXT|HINT|LINE)\b", line)]
    error = next((line for line in lines if "ERROR" in line or "error:" in line), lines[0] if lines else "no reason")
    return scrub(re.sub(r"^(psql:<stdin>:\d+: |psql: |pg_dump: |pg_restore: )?(error: |ERROR: +)?", "", error))


def _plain(value: str) -> str | None:
    r"""A value of COPY's text form (PostgreSQL's documentation of COPY): \N is NULL, and a backslash hides another."""
    if value == r"\N":
        return None
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), value)
