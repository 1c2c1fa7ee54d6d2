"""Starting a newsletter: what `newsletter init` writes."""

import os
import secrets
import shlex
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from newsletter import people
from newsletter.errors import ConfigurationError
from newsletter.newsroom import Newsroom
from newsletter.settings import ERASURE_VARIABLE, SECRET_VARIABLE, Settings

SAMPLE_READER = "Sample Reader <reader@example.com>"

_TOML = """\
# A newsletter. Every setting is explained in docs/configuration.md; what is commented out shows its default.
# Secrets do not belong here: they stand in .env beside this file, or in the environment.

[site]
name = "The Daily Desk"                       # the publisher, in the footer
url = "https://news.example.org"              # where links in the mail lead: unsubscribe, preferences, archive
postal_address = "The Daily Desk, 1 Example Street, 10115 Example Town"   # the law wants one in every mail
# privacy_url = "https://news.example.org/privacy"
# sign_up_url = "https://news.example.org/join/daily"

[database]
url = "sqlite:///newsletter.db"               # beside this file

[provider]
kind = "outbox"                               # one .eml a recipient in a folder: nobody is mailed
path = "outbox"

[sources.desk]
kind = "folder"                               # .txt, .md and .json briefs, see docs/briefs.md
path = "briefs"

[dispatch]
# only_to = ["example.org"]                   # while trying out: mail nobody but these addresses or domains
# audience_jump = 2.0                         # ask first when an audience has grown more than this

[newsletters.daily]
title = "The Daily Digest"
# tagline = "The facts first, then the arguments"
from = "The Daily Digest <daily@news.example.org>"
# reply_to = "desk@news.example.org"
lists = ["daily"]                             # newsletter subscribers add ADDRESS --list daily
schedule = "0 7 * * *"                        # minute hour day month weekday (0 is Sunday), on this zone's clock:
zone = "UTC"                                  # such as "Europe/Berlin"
# language = "en"
# min_briefs = 1                              # fewer, and the edition is skipped
# max_briefs = 8                              # more are carried over to the next
# order = "newest"                            # or "oldest", "topics"
# topics = []                                 # only briefs with one of these; empty for all
# accent = "#9b1c31"
"""


def start(directory: Path, *, actor: str) -> Iterator[str]:
    """Write a newsletter into a folder, and say line by line what was made.

    Raises ConfigurationError where there is one already.
    """
    file = directory / "newsletter.toml"
    if file.exists():
        raise ConfigurationError(f"there is a {file} already; init changes nothing")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "briefs").mkdir(exist_ok=True)
    samples = _sample_briefs()
    for name, content in samples:
        _write_new(directory / "briefs" / name, content)
    env = directory / ".env"
    secret = (
        f"# Secrets. Keep this file out of version control, and in your backups.\n"
        f"{SECRET_VARIABLE}={secrets.token_urlsafe(32)}\n"
        f"# Never change this one: erased people are known by it, so that no import mails them again.\n"
        f"{ERASURE_VARIABLE}={secrets.token_urlsafe(32)}\n"
    )
    fresh = _write_new(env, secret.encode(), mode=0o600)
    _write_new(file, _TOML.encode())  # last, so that what failed before it can simply be run again
    yield f"{file}: the configuration, commented"
    if fresh:
        yield f"{env}: fresh secrets, readable by you only"
    yield f"{directory / 'briefs'}: {len(samples)} sample briefs"
    with Newsroom.open(Settings.load(file, {})) as newsroom:
        people.add(
            newsroom, [("sample", SAMPLE_READER)], "daily", evidence="sample subscriber of newsletter init", actor=actor
        )
    yield f"{directory / 'newsletter.db'}: the database, with one sample subscriber on the list “daily”"
    there = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    yield ""
    yield f"Next:  {there}newsletter preview daily --out preview"
    yield f"       {there}newsletter send daily"


def _write_new(file: Path, content: bytes, mode: int = 0o666) -> bool:
    """Write a file whole or not at all. False, and nothing written, where it is there already."""
    if file.exists():
        return False
    draft = file.with_name(f".{file.name}.new")
    try:
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:  # noqa: PTH123 # the mode
            opened.write(content)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _sample_briefs() -> list[tuple[str, bytes]]:
    """The sample briefs: inside the installed package, else in the repository beside it."""
    packaged = Path(str(resources.files("newsletter"))) / "_templates" / "briefs"
    folder = packaged if packaged.is_dir() else Path(__file__).parent.parent / "examples" / "briefs"
    return [(file.name, file.read_bytes()) for file in sorted(folder.iterdir()) if not file.name.startswith("09-")]
