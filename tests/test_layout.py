"""Where things live: each vendor has one home. (That imports point down is import-linter's, in `make lint`.)"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HOMES = {
    "alembic": ["newsletter/migrations/"],
    "babel": ["newsletter/languages.py"],
    "boto3": ["newsletter/providers/ses.py"],
    "botocore": ["newsletter/providers/ses.py"],
    "click": ["newsletter/cli/"],
    "cryptography": ["newsletter/deliverability/records.py", "newsletter/names.py", "newsletter/providers/dkim.py"],
    "cronsim": ["newsletter/schedule.py"],
    "dkim": ["newsletter/providers/dkim.py"],
    "dns": ["newsletter/deliverability/lookup.py"],
    "dotenv": ["newsletter/settings.py"],
    "email_validator": ["subscribers/address.py"],
    "fastapi": ["newsletter/web/"],
    "httpcore2": ["newsletter/fetch.py", "newsletter/guard.py"],
    "httpx2": ["newsletter/fetch.py"],
    "jinja2": ["newsletter/compile.py", "newsletter/web/"],
    "lxml": ["newsletter/archive.py", "newsletter/formats/", "newsletter/markup.py"],
    "markdown_it": ["newsletter/formats/markdown.py"],
    "mjml": ["newsletter/compile.py"],
    "nh3": ["newsletter/formats/html.py"],
    "prometheus_client": ["newsletter/metrics.py"],
    "psycopg": ["subscribers/drivers.py"],
    "premailer": ["newsletter/compile.py"],
    "python_http_client": ["newsletter/providers/sendgrid.py"],
    "rich": ["newsletter/cli/sending.py"],
    "sendgrid": ["newsletter/providers/sendgrid.py"],
    "sqlite3": [
        "newsletter/backup.py",
        "newsletter/migrations/",
        "newsletter/restoring.py",
        "newsletter/soundness.py",
        "subscribers/drivers.py",
    ],
    "starlette": ["newsletter/web/"],
    "tomllib": ["newsletter/settings.py"],
    "typer": ["newsletter/cli/"],
    "uvicorn": ["newsletter/web/app.py"],
    "yaml": ["newsletter/formats/markdown.py"],
}


@cache
def _files() -> list[Path]:
    return [file for package in ("newsletter", "subscribers") for file in sorted((ROOT / package).rglob("*.py"))]


@cache
def _nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


@cache
def _imported(file: Path) -> set[str]:
    """The top-level names of what a file imports anywhere, also inside functions and for types alone."""
    found = set()
    for node in _nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("vendor", HOMES)
def test_a_vendor_lives_in_one_home(vendor: str) -> None:
    users = [file.relative_to(ROOT).as_posix() for file in _files() if vendor in _imported(file)]
    strays = [user for user in users if not user.startswith(tuple(HOMES[vendor]))]
    assert strays == []


def test_the_homes_are_not_out_of_date() -> None:
    for vendor, homes in HOMES.items():
        if vendor != "click":  # typer may carry its own
            assert any(
                vendor in _imported(file)
                for file in _files()
                if file.relative_to(ROOT).as_posix().startswith(tuple(homes))
            )


def test_the_list_knows_nothing_of_newsletters() -> None:
    users = [file.name for file in (ROOT / "subscribers").rglob("*.py") if "newsletter" in _imported(file)]
    assert users == []


def test_only_the_guarded_client_and_providers_ask_the_web() -> None:
    clients = re.compile(r"\b(import|from) (http\.client|urllib\.request|urllib3|requests|aiohttp|httpx|ftplib)\b")
    askers = [
        file.relative_to(ROOT).as_posix() for file in _files() if clients.search(file.read_text(encoding="utf-8"))
    ]
    assert [asker for asker in askers if not asker.startswith("newsletter/providers/")] == []


def test_nobody_reads_the_environment_but_the_command_line() -> None:
    readers = [
        file.relative_to(ROOT).as_posix()
        for file in _files()
        for node in _nodes(file)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert set(readers) == {"newsletter/cli/_shell.py"}


def test_printing_is_the_command_lines_alone() -> None:
    printers = [
        file.relative_to(ROOT).as_posix()
        for file in _files()
        for node in _nodes(file)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert {printer.rpartition("/")[0] for printer in printers} == {"newsletter/cli"}


def test_the_command_line_opens_no_database_session() -> None:
    openers = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "newsletter" / "cli").glob("*.py")
        if re.search(r"\b(reading|transaction|Session)\b", file.read_text(encoding="utf-8"))
    ]
    assert openers == []
