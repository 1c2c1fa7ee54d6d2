"""What is installed is whole: the wheel alone, away from the repository, starts, previews and sends."""

import os
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from newsletter import __version__

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it stands, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing of the repository."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def _run(installed: Path, cwd: Path, *arguments: str) -> str:
    # PYTHONPATH comes before the site-packages, and so before what an editable install put there.
    environ = {**os.environ, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    for needed in (
        "newsletter/py.typed",
        "subscribers/py.typed",
        "newsletter/migrations/versions/0001_first_tables.py",
        "newsletter/_templates/email/digest/body.mjml.j2",
        "newsletter/_templates/email/confirm/subject.txt.j2",
        "newsletter/locale/ar.po",
        "newsletter/web/pages/join.html.j2",
        "newsletter/web/pages/style.css",
        "newsletter/_templates/email/_base/layout.mjml.j2",
        "newsletter/_templates/briefs/01-harbour-tidal-barrier.txt",
    ):
        assert needed in names
    in_tree = {f"newsletter/_templates/email/{file.relative_to(ROOT / 'templates' / 'email')}" for file in _templates()}
    assert in_tree == {name for name in names if name.startswith("newsletter/_templates/email/")}
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"newsletter", "subscribers", "scheduler.py"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".db", ".env"))]


def _templates() -> list[Path]:
    return [file for file in (ROOT / "templates" / "email").rglob("*") if file.is_file()]


def test_the_installed_program_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    program = "import newsletter, subscribers; print(newsletter.__file__); print(subscribers.__file__)"
    said = _run(installed, tmp_path, "-c", program).split()
    assert [Path(file).is_relative_to(installed) for file in said] == [True, True]


def test_the_installed_program_starts_previews_and_sends_away_from_the_repository(
    installed: Path, tmp_path: Path
) -> None:
    said = _run(installed, tmp_path, "-m", "newsletter", "init", "desk")
    assert "8 sample briefs" in said
    desk = tmp_path / "desk"
    checked = _run(installed, desk, "-m", "newsletter", "doctor")
    assert "BAD" not in checked
    _run(installed, desk, "-m", "newsletter", "preview", "daily", "--out", "preview")
    assert (desk / "preview" / "digest.html").stat().st_size > 50_000
    sent = _run(installed, desk, "-m", "newsletter", "send", "daily", "--yes")
    assert "Recipients 1 = 1 accepted" in sent
    assert len(list((desk / "outbox" / "new").glob("*.eml"))) == 1


def test_the_installed_command_is_there(installed: Path, tmp_path: Path) -> None:
    assert _run(installed, tmp_path, str(installed / "bin" / "newsletter"), "--version") == f"{__version__}\n"


def test_the_installed_program_serves_its_pages_and_mails_what_they_ask_for(installed: Path, tmp_path: Path) -> None:
    _run(installed, tmp_path, "-m", "newsletter", "init", "desk")
    desk = tmp_path / "desk"
    file = desk / "newsletter.toml"
    file.write_text(file.read_text() + '\n[subscribers]\nfastest_form = "0s"\n')
    environ = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "newsletter", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=desk, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/join/daily?lang=ar", timeout=10) as answer:
            page = answer.read().decode()
        assert '<html lang="ar" dir="rtl">' in page
        ticket = page.partition('name="ticket" value="')[2].partition('"')[0]
        asked = f"address=ada%40example.org&ticket={ticket}".encode()
        with urllib.request.urlopen(f"{url}/join/daily", asked, timeout=10) as answer:
            assert answer.status == 200
        for _ in range(200):
            if mails := list((desk / "outbox" / "new").glob("n*.eml")):
                break
            time.sleep(0.1)
        process.terminate()
        assert process.wait(20) == 0
    assert b"To: ada@example.org" in mails[0].read_bytes()
