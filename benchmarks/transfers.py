"""Importing and exporting a large list, as the commands that a person runs, while another process writes beside them.

The file has an address and, for every other person, a name, in no order. The second import meets nobody new. The other
process makes a short write every 20 ms, as `serve` and `send` do, and says how long the slowest had to wait. Memory is
that of the command's process and of the one that reads the file beside it, together.

On SQLite by itself; `python -m benchmarks.transfers postgresql://… [ROWS]` does it in an empty database of PostgreSQL.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.collecting import _measured
from newsletter.settings import DATABASE_VARIABLE
from subscribers import connect, transaction

ROWS = 1_000_000
_PROVIDERS = ("example.org", "mail.example.com", "post.example.net")
_CONFIGURATION = (
    '[site]\nname = "Bench"\nurl = "https://news.example.org"\npostal_address = "1 Street"\n'
    '[provider]\nkind = "outbox"\n[sources.desk]\nkind = "folder"\npath = "."\n[newsletters.daily]\n'
    'title = "Daily"\nfrom = "D <d@news.example.org>"\nlists = ["daily"]\n'
)


def write_people(file: Path, rows: int = ROWS) -> None:
    """A file of people, the same for the same number."""
    chance = random.Random(rows)
    with file.open("w", encoding="utf-8") as out:
        out.write("email,name\n")
        for number in range(rows):
            local = f"{chance.choice(('ada', 'Bob', 'carol'))}.{chance.getrandbits(40):x}"
            name = f"Name Number {number}" if number % 2 else ""
            out.write(f"{local}@{chance.choice(_PROVIDERS)},{name}\n")


def transfer(rows: int = ROWS, url: str | None = None) -> dict[str, Any]:
    """Import twice and export once; of each seconds, rows a second, megabytes, and the longest lock and wait in ms.

    `url` is of an empty database of PostgreSQL; None: a new file of SQLite.
    """
    newsletter = [sys.executable, "-m", "newsletter", "subscribers"]
    found: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, file = folder / "newsletter.toml", folder / "people.csv"
        config.write_text(_CONFIGURATION, encoding="utf-8")
        write_people(file, rows)
        told = ["--config", str(config)]
        if url is not None:
            os.environ[DATABASE_VARIABLE] = url
            upgrade = [sys.executable, "-m", "newsletter", "db", "upgrade", *told]
            subprocess.run(upgrade, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*newsletter, "export", *told], check=True, stdout=subprocess.DEVNULL
        )  # makes a file, if it is one
        command = [*newsletter, "import", str(file), "--confirmed", "--evidence", "bench", "--json", *told]
        for run in ("first", "second"):
            with subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.transfers",
                    "beside",
                    url or f"sqlite:///{folder / 'newsletter.db'}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as beside:
                seconds, megabytes, said = _measured(command)
                waits = json.loads(beside.communicate("\n")[0])
            done = json.loads(said)
            found[run] = {
                "seconds": seconds,
                "rows_per_second": rows / seconds,
                "megabytes": megabytes,
                "longest_lock_ms": done["longest_lock_ms"],
                "added": done["added"],
                "unchanged": done["unchanged"],
                "others": waits,
            }
        out = ["--out", str(folder / "out.csv")]
        seconds, megabytes, _ = _measured([*newsletter, "export", *out, *told])
        found["export"] = {"seconds": seconds, "rows_per_second": rows / seconds, "megabytes": megabytes}
    return found


def one_click_beside_an_import(rows: int = 400_000, readers: int = 400) -> dict[str, Any]:
    """Post one click after the other to `serve` while a file is imported: how many, and their longest milliseconds."""
    newsletter = [sys.executable, "-m", "newsletter"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, file = folder / "newsletter.toml", folder / "people.csv"
        config.write_text(_CONFIGURATION, encoding="utf-8")
        (folder / ".env").write_text(f"NEWSLETTER_SECRET={'s' * 40}\nNEWSLETTER_ERASURE_KEY={'e' * 40}\n")
        write_people(file, rows)
        told = ["--config", str(config)]
        people = "\n".join(f"reader{number}@example.org" for number in range(readers))
        add = [*newsletter, "subscribers", "add", "--from", "-", "--evidence", "bench", *told]
        subprocess.run(add, input=people, text=True, check=True, stdout=subprocess.DEVNULL)
        engine = connect(f"sqlite:///{folder / 'newsletter.db'}")
        with engine.connect() as connection:
            links = list(connection.execute(text("SELECT link FROM subscriber")).scalars())
        engine.dispose()
        took: list[float] = []
        serve = [*newsletter, "serve", "--port", "0", *told]
        importing = [*newsletter, "subscribers", "import", str(file), "--confirmed", "--evidence", "bench", *told]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as site:
            assert site.stdout is not None
            url = site.stdout.readline().split()[-1]
            with subprocess.Popen(importing, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None and links:
                    start = time.perf_counter()
                    leave = f"{url}/u/{links.pop()}/daily"
                    with urllib.request.urlopen(leave, b"List-Unsubscribe=One-Click", timeout=30) as answer:
                        assert answer.status == 200
                    took.append((time.perf_counter() - start) * 1000)
                    time.sleep(0.02)
            site.terminate()
    return {"posts": len(took), "longest_ms": max(took), "median_ms": statistics.median(took)}


def _write_beside(url: str) -> None:
    """Make short writes until a line comes in; then tell how many, and of their waits the longest and the 99 %."""
    waits: list[float] = []
    engine = connect(url)
    with transaction(engine) as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS bench (at REAL)"))
    over = _line_waiting()
    while not over():
        start = time.perf_counter()
        with transaction(engine) as session:
            session.execute(text("INSERT INTO bench (at) VALUES (:at)"), {"at": start})
        waits.append((time.perf_counter() - start) * 1000)
        time.sleep(0.02)
    with transaction(engine) as session:
        session.execute(text("DROP TABLE bench"))
    waits.sort()
    print(json.dumps({"writes": len(waits), "longest_ms": waits[-1], "p99_ms": waits[int(len(waits) * 0.99)]}))


def _line_waiting() -> Any:
    import select

    return lambda: select.select([sys.stdin], [], [], 0)[0]


if __name__ == "__main__":
    if sys.argv[1] == "beside":
        _write_beside(sys.argv[2])
    else:
        print(json.dumps(transfer(int(sys.argv[2]) if sys.argv[2:] else ROWS, sys.argv[1]), indent=2))
