"""What `make bench` prints: compiling by stage, filling, sending, and starting, each beside its target and a reference.

Medians of several rounds; rounds of a thing and of its reference take turns, so that a machine whose speed drifts
spoils neither. References: npm's mjml where node is at hand (installed into build/, announced), and the standard
library's EmailMessage.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from benchmarks.clock import idle, punctual
from benchmarks.collecting import ENTRIES, FEEDS, collect_twice
from benchmarks.dispatching import dispatch
from benchmarks.events import take_alone, take_over_http
from benchmarks.personalizations import build_requests
from benchmarks.smtp import send as send_by_smtp
from benchmarks.transfers import one_click_beside_an_import, transfer
from newsletter import compile as compiler
from newsletter import formats, markup
from newsletter.edition import Contents, DeliveryId, Message, Recipient, Sender
from newsletter.mime import Mould
from newsletter.schedule import Slot
from newsletter.settings import Newsletter, Site

ROOT = Path(__file__).parent.parent
ROUNDS = 15


def contents() -> Contents:
    """The eight example briefs: 21 kB of text and 7 kB of addresses."""
    files = sorted((ROOT / "examples" / "briefs").iterdir())
    briefs = [brief for file in files for brief in formats.read(file.read_bytes(), file.name).briefs]
    newsletter = Newsletter.model_validate({"title": "Bench", "from": "B <b@news.example.org>", "lists": ["l"]})
    site = Site(name="Bench", url="https://news.example.org", postal_address="1 Bench Street")
    slot = Slot(datetime(2026, 11, 23, 7), "UTC")  # noqa: DTZ001 # wall-clock time has no zone
    return Contents("daily", newsletter, site, slot, tuple(briefs), "d4f0a1")


SENDER = Sender("daily", "Bench", "b@news.example.org", None, "Bench", "daily.example.org", "https://news.example.org")


def median_ms(*things: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The median time of each thing in milliseconds; the things take turns."""
    took: list[list[float]] = [[] for _ in things]
    for _ in range(rounds):
        for index, thing in enumerate(things):
            start = time.perf_counter()
            thing()
            took[index].append((time.perf_counter() - start) * 1000)
    return [statistics.median(one) for one in took]


def row(what: str, figure: str, target: str = "") -> None:
    """One line of the report."""
    print(f"  {what:<46} {figure:>22}   {target}")


def compiling() -> tuple[Message, str]:
    """Compile the eight briefs, stage by stage; give the Message and its MJML."""
    made = contents()
    print("compiling an edition of 8 rich briefs, warm (median of 15)")
    compiled = compiler.compile_message(made, SENDER)
    environments = compiler._environments(made, None)  # noqa: SLF001 # stages are timed one by one
    body = "digest/body.mjml.j2"
    annotated = compiler._render(environments, body, made)  # noqa: SLF001 # the same
    mjml = markup.bare(annotated)
    html = compiler.to_html(mjml, body)
    inlined = compiler.inline(html)
    stages: dict[str, Callable[[], object]] = {
        "whole": lambda: compiler.compile_message(made, SENDER),
        "  jinja2, HTML": lambda: compiler._render(environments, body, made),  # noqa: SLF001 # the same
        "  jinja2, text": lambda: compiler._render(environments, "digest/body.txt.j2", made),  # noqa: SLF001 # the same
        "  our MJML lint": lambda: markup.lint(annotated, body),
        "  mjml (MRML)": lambda: compiler.to_html(mjml, body),
        "  premailer": lambda: compiler.inline(html),
        "  tidy": lambda: compiler.tidy(inlined),
        "  reading the HTML for its checks": lambda: markup.read_html(compiled.message.html),
    }
    for (name, _), took in zip(stages.items(), median_ms(*stages.values()), strict=True):
        row(name, f"{took:.1f} ms", "under 60 ms" if name == "whole" else "")
    row("HTML, fields filled", f"{compiled.html_bytes:,} bytes", "at most 84,000")
    row("peak memory of a process that compiles once", f"{_peak_mb('compile'):.0f} MB", "under 120 MB")
    row("first compile of a process", f"{_cold_ms():.0f} ms", "")
    return compiled.message, mjml


def _cold_ms() -> float:
    code = (
        "import benchmarks.__main__ as b, time\nc = b.contents()\nstart = time.perf_counter()\n"
        "b.compiler.compile_message(c, b.SENDER)\nprint((time.perf_counter() - start) * 1000)"
    )
    took = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT).stdout)
        for _ in range(3)
    ]
    return statistics.median(took)


def _peak_mb(what: str) -> float:
    out = subprocess.run([sys.executable, "-m", "benchmarks", what], capture_output=True, check=True, cwd=ROOT).stdout
    return float(out)


def against_npm(mjml: str) -> None:
    """Compare with npm's mjml on the same source, in one node process, warm."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        row("npm's mjml", "no node at hand", "")
        return
    folder = ROOT / "build" / "bench-node"
    if not (folder / "node_modules" / "mjml").exists():
        print("  (installing npm's mjml 4 into build/bench-node, once)")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "mjml@4"], check=False
        )
        if done.returncode:
            row("npm's mjml", "cannot be installed", "")
            return
    script = (
        "const mjml2html=require('mjml');const s=require('fs').readFileSync(0,'utf8');const t=[];"
        "for(let i=0;i<12;i++){const a=process.hrtime.bigint();mjml2html(s,{validationLevel:'skip'});"
        "t.push(Number(process.hrtime.bigint()-a)/1e6)}t.sort((a,b)=>a-b);console.log(t[6])"
    )
    ours = median_ms(lambda: compiler.to_html(mjml, "bench"))[0]
    theirs = float(
        subprocess.run([node, "-e", script], input=mjml.encode(), capture_output=True, check=True, cwd=folder).stdout
    )
    row("npm's mjml on the same MJML, warm", f"{theirs:.1f} ms", f"MRML is {theirs / ours:.0f} times as fast")


def filling(message: Message) -> None:
    """Fill one Message for many recipients, against EmailMessage."""
    print("filling (one core)")
    mould = Mould(message)
    date = datetime(2026, 11, 23, 7, tzinfo=UTC)
    readers = [
        Recipient(DeliveryId(f"{n:024x}"), f"reader{n}@example.org", f"Reader Nr {n}", f"{n:022d}") for n in range(2000)
    ]
    few = readers[:60]

    def ours() -> None:
        for reader in readers:
            mould.fill(reader, date)

    def standard() -> None:
        for reader in few:
            values = reader.values(SENDER)
            made = EmailMessage(policy=SMTP)
            made["From"], made["To"] = (
                f"{SENDER.from_name} <{SENDER.from_address}>",
                f"{reader.name} <{reader.address}>",
            )
            made["Subject"], made["Date"] = message.subject, format_datetime(date)
            made["List-Unsubscribe"] = f"<{values['leave_url']}>"
            made.set_content(message.fill(message.text, values))
            made.add_alternative(message.fill(message.html, values), subtype="html")
            made.as_bytes()

    fast, slow = median_ms(ours, standard, rounds=5)
    rate, reference = len(readers) / fast * 1000, len(few) / slow * 1000
    row("from pre-encoded segments", f"{rate:,.0f} messages/s", "at least 30,000")
    row("EmailMessage, the same text", f"{reference:,.0f} messages/s", f"we are {rate / reference:.0f} times as fast")
    row("size of a message", f"{len(mould.fill(readers[0], date)):,} bytes", "")


def whole_job() -> None:
    """Time the commands that a person runs."""
    print("commands, as whole processes (median of 5)")
    newsletter = str(Path(sys.executable).parent / "newsletter")
    times = []
    with tempfile.TemporaryDirectory() as name:
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([newsletter, "--help"], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        row("newsletter --help", f"{statistics.median(times):.2f} s", "within 0.4 s")
        jobs = []
        for round_ in range(5):
            folder = Path(name) / str(round_)
            shutil.copytree(ROOT / "examples", folder / "examples")
            config = str(folder / "examples" / "newsletter.toml")
            start = time.perf_counter()
            people = ["--from", str(folder / "examples" / "subscribers.txt"), "--evidence", "bench"]
            subprocess.run(
                [newsletter, "subscribers", "add", "--config", config, *people], capture_output=True, check=True
            )
            subprocess.run([newsletter, "send", "daily", "--config", config, "--json"], capture_output=True, check=True)
            jobs.append(time.perf_counter() - start)
        row("the demo's main job, installed", f"{statistics.median(jobs):.2f} s", "under 5 s")


def collecting() -> None:
    """Collect 200 feeds over HTTP, twice."""
    print(f"collecting {FEEDS} feeds of {ENTRIES} entries over HTTP on loopback, as a whole process")
    found = collect_twice()
    first, second = found["first"], found["second"]
    row(
        f"first run, {found['bytes'] / 1e6:.0f} MB, {first['new']:,} briefs new",
        f"{first['seconds']:.1f} s",
        "under 10 s",
    )
    row("its peak memory", f"{first['megabytes']:.0f} MB", "under 150 MB")
    asked = second["asked"]
    row("second run, nothing new", f"{second['seconds']:.1f} s", f"{asked.get('unchanged', 0)} answers “unchanged”")
    row("feeds sent whole a second time", f"{asked.get('whole', 0)}", "0")


def requesting() -> None:
    """Build requests to SendGrid, against the package's own way."""
    print("building and serialising a request to SendGrid for 1,000 people, six fields (median of 25)")
    cold, warm, theirs = build_requests()
    row("joined from ready pieces, an edition's first", f"{cold:.1f} ms", "under 3 ms")
    row("an edition's next", f"{warm:.1f} ms", "no target")
    row("the package's Mail, the same request", f"{theirs:.1f} ms", f"we are {theirs / cold:.0f} times as fast")


def sending_by_smtp() -> None:
    """Send into Postfix's smtp-sink, in turns with smtp-source and with smtplib."""
    print("sending by SMTP into smtp-sink on loopback, a copy filled for each recipient (median of 5)")
    for size, count, target in ((60_000, 6_000, 1.0), (5_000, 16_000, 1.5)):
        for connections in (4, 16):
            rates = send_by_smtp(size, connections, count=count, rounds=5)
            if rates is None:
                row("smtp-sink, smtp-source", "not at hand", "they are Postfix's: apt-get install postfix")
                return
            row(f"{size:,} bytes, {connections} connections", f"{rates.ours:,.0f} messages/s")
            times = rates.ours / rates.source
            row("  smtp-source -d", f"{rates.source:,.0f} messages/s", f"we: {times:.2f} times; at least {target}")
            times = rates.ours / rates.smtplib
            row("  EmailMessage, smtplib", f"{rates.smtplib:,.0f} messages/s", f"we: {times:.0f} times; at least 15")


def transferring() -> None:
    """Import a million people twice, and export them, as whole commands, while another process writes beside them."""
    print("importing and exporting 1,000,000 people into SQLite, as whole processes, beside a process that writes")
    found = transfer()
    for run, target in (("first", "at least 50,000 rows/s"), ("second", "at least 50,000 rows/s")):
        one = found[run]
        row(f"{run} import, {one['seconds']:.1f} s", f"{one['rows_per_second']:,.0f} rows/s", target)
        row("  longest write lock", f"{one['longest_lock_ms']:.0f} ms", "at most 250 ms")
        row("  longest wait of the other's write", f"{one['others']['longest_ms']:.0f} ms", "under 1,000 ms")
        row("  memory", f"{one['megabytes']:.0f} MB", "under 200 MB")
    one = found["export"]
    row("export as CSV", f"{one['rows_per_second']:,.0f} rows/s", "at least 150,000 rows/s")
    row("  memory", f"{one['megabytes']:.0f} MB", "under 200 MB")
    posts = one_click_beside_an_import()
    row(
        f"{posts['posts']} one-click POSTs beside an import, longest", f"{posts['longest_ms']:.0f} ms", "under 1,000 ms"
    )


def dispatching() -> None:
    """Freeze and dispatch to 10,000, 100,000 and 1,000,000 people through SendGrid's API, played by a sink."""
    print("dispatching through SendGrid's API into a sink on loopback, the ledger in SQLite, as whole processes")
    for people in (10_000, 100_000, 1_000_000):
        one = dispatch(people)
        each = one["dispatch_s"] / one["people"] * 1e6
        row(f"freezing {people:,}", f"{one['freeze_s']:.2f} s", "under 4 s" if people == 1_000_000 else "")
        waves = f"  in {one['waves']} waves, of people in all zones"
        row(waves, f"{one['waves_s']:.2f} s", "under 4 s" if people == 1_000_000 else "")
        row("  dispatching", f"{one['people'] / one['dispatch_s']:,.0f} recipients/s", "at least 80,000 recipients/s")
        row("  a recipient", f"{each:.1f} µs", "the same at every size")
        row("  of a processor", f"{one['processor_s'] / one['people'] * 1e6:.1f} µs")
        row("  memory, early and at most", f"{one['early_mb']:.0f} and {one['peak_mb']:.0f} MB", "under 250 MB, flat")


def taking_events() -> None:
    """Take 200,000 signed events in posts of 1,000: by the function, and by `newsletter serve` over HTTP."""
    print("taking 200,000 events of SendGrid's webhook in posts of 1,000, verified, fates moved, SQLite")
    alone, served = take_alone(100_000), take_over_http(100_000)
    row("the function alone", f"{alone['per_second']:,.0f} events/s", "at least 15,000 events/s")
    row("  the last tenth of them", f"{alone['at_the_end']:,.0f} events/s")
    row("  longest post", f"{alone['longest_ms']:.0f} ms", "under 250 ms, most of it with the write lock")
    row("  of the database, an event", f"{alone['bytes_an_event']:.0f} bytes")
    row("newsletter serve, over HTTP", f"{served['per_second']:,.0f} events/s", "at least 15,000 events/s")
    row(
        "  a page meanwhile, median and longest",
        f"{served['page_median_ms']:.0f} and {served['page_longest_ms']:.0f} ms",
    )


def keeping_time() -> None:
    """What the scheduler costs when nothing is to do, and how late editions are while thousands of feeds are read."""
    print("the scheduler, as a whole process")
    one = idle()
    row("with nothing to do, of a core", f"{one['cpu_percent']:.2f} %", "under 1 %")
    row("  memory", f"{one['megabytes']:.0f} MB", "under 130 MB")
    late = punctual()
    row("1,000 newsletters, 5,000 feeds: editions", f"{late['editions']:,.0f}")
    row("  from slot to first copy, median", f"{late['median_s']:.2f} s", "under 1 s")
    row("  of a hundred the latest, and of all", f"{late['p99_s']:.2f} and {late['longest_s']:.2f} s")
    row("  of a core, and memory", f"{late['cpu_percent']:.0f} %, {late['megabytes']:.0f} MB")


def main() -> None:
    """Print everything; with an argument, be the process whose memory is measured."""
    if sys.argv[1:] == ["compile"]:
        compiler.compile_message(contents(), SENDER)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), "machine": os.uname().machine}))
    message, mjml = compiling()
    against_npm(mjml)
    filling(message)
    whole_job()
    requesting()
    sending_by_smtp()
    collecting()
    transferring()
    dispatching()
    taking_events()
    keeping_time()


if __name__ == "__main__":
    main()
