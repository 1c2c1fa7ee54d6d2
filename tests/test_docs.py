"""The documentation says what is there, and all of it: settings, commands, filters, fields, errors, links."""

import inspect
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from newsletter import cli, errors, formats, providers, typesetting
from newsletter import compile as compiler
from newsletter.brief import HEADLINE_CHARACTERS
from newsletter.edition import FIELDS, Contents, Result
from newsletter.formats.json import schema
from newsletter.formats.json import validate as validate_brief
from newsletter.misspelt import tables_of
from newsletter.models import BatchState, EditionState, Fate, Outcome
from newsletter.schedule import Slot
from newsletter.settings import Settings
from tests.conftest import NOW

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
CONFIGURATION, TEMPLATES, ARCHITECTURE = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("configuration", "templates", "architecture")
)

ids = [page.relative_to(ROOT).as_posix() for page in PAGES]


def cells(text: str, columns: int) -> list[list[str]]:
    """The rows of a page's tables that have so many columns, without their headings."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows if len(row) == columns]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of the same level."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# ------------------------------------------------------------------------------------------ settings


def settings_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting below a table, by its dotted name; ID and NAME stand for names that operators choose."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        here = (*path, field.alias or name)
        inner = get_args(field.annotation)[-1] if get_origin(field.annotation) is dict else field.annotation
        named = {"newsletters": "ID", "sources": "NAME"}.get(name)
        tables = tables_of(inner)
        for number, (kind, table) in enumerate(tables.items()):
            for key, setting in settings_of(table, (*here, named) if named else here):
                if not number:
                    yield key, setting
                elif not key.endswith(".kind"):
                    yield f"{key} ({kind})", setting
        if not tables:
            yield ".".join(here), field


SETTINGS = dict(settings_of(Settings))
DOCUMENTED = {row[0].replace("`", ""): row for row in cells(CONFIGURATION, 4)}

MINIMAL = {
    "site": '[site]\nname = "Desk"\nurl = "https://news.example.org"\npostal_address = "Desk, 1 Street, Town"\n',
    "newsletters": (
        '[newsletters.daily]\ntitle = "Daily"\nfrom = "Daily <daily@news.example.org>"\nlists = ["daily"]\n'
    ),
}


def load(text: str, folder: Path) -> Settings:
    """The settings of a piece of configuration, completed with what no configuration can do without."""
    missing = [part for name, part in MINIMAL.items() if name not in tomllib.loads(text)]
    file = folder / "newsletter.toml"
    file.write_text("\n".join([text, *missing]), encoding="utf-8")
    return Settings.load(file, {})


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert set(DOCUMENTED) == set(SETTINGS)


def test_a_setting_is_called_required_or_absent_where_it_is() -> None:
    for name, field in SETTINGS.items():
        said = DOCUMENTED[name][2]
        assert (said == "required") == field.is_required(), name
        if not field.is_required():
            assert (said == "none") == (field.default is None and field.default_factory is None), name


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    tables: dict[str, list[str]] = {}
    for name, row in DOCUMENTED.items():
        if name.endswith(")"):
            continue  # of another kind than the default one: the next test's
        table, _, key = name.replace(".ID.", ".daily.").replace(".NAME.", ".desk.").rpartition(".")
        if row[2] not in {"required", "none"}:
            tables.setdefault(table, []).append(f"{key} = {row[2].strip('`')}")
    needed = {table: part.partition("\n")[2] for part in MINIMAL.values() for table in [part[1 : part.index("]")]]}
    needed["sources.desk"] = 'path = "briefs"\n'
    spelled = "\n".join(
        f"[{table}]\n{needed.get(table, '')}" + "\n".join(tables.get(table, [])) for table in {*needed, *tables}
    )
    assert load(spelled, tmp_path) == load('[sources.desk]\npath = "briefs"\n', tmp_path)


def test_the_documented_defaults_of_other_kinds_are_the_defaults(tmp_path: Path) -> None:
    for name, row in DOCUMENTED.items():
        key, _, kind = name.removesuffix(")").partition(" (")
        if not kind or row[2] in {"required", "none"}:
            continue
        table, _, key = key.rpartition(".")
        least = f'[{table}]\nkind = "{kind}"\n' + {
            "smtp": 'host = "mail.example.org"\n',
            "ses": 'region = "eu-west-1"\n',
        }.get(kind, "")
        assert load(f"{least}{key} = {row[2].strip('`')}\n", tmp_path) == load(least, tmp_path), name


@pytest.mark.parametrize("text", fences(CONFIGURATION, "toml"))
def test_every_example_of_a_configuration_loads(text: str, tmp_path: Path) -> None:
    loaded = load(text, tmp_path)
    assert loaded.newsletters


def test_the_examples_show_every_setting(tmp_path: Path) -> None:
    shown = "".join(fences(CONFIGURATION, "toml"))
    for name in SETTINGS:
        key = name.partition(" ")[0].rpartition(".")[2]
        assert re.search(rf"^{key} = |^\[newsletters\.daily\.{key}\]", shown, re.MULTILINE), name


# ------------------------------------------------------------------------------------------ templates


def context() -> dict[str, Any]:
    settings = Settings.model_validate(tomllib.loads("\n".join(MINIMAL.values())))
    brief = validate_brief({"headline": "Headline", "facts": [{"text": "A fact."}]})
    newsletter = settings.newsletters["daily"]
    contents = Contents("daily", newsletter, settings.site, Slot(NOW.replace(tzinfo=None), "UTC"), (brief,), "d0")
    return compiler._context(contents, html=True)  # the one place that says what templates are given


def names_in(heading: str) -> set[str]:
    return {re.sub(r"\(.*\)$", "", row[0].strip("`")) for row in cells(section(TEMPLATES, heading), 2)}


def test_every_filter_is_documented_and_nothing_else_is() -> None:
    assert names_in("Filters") == set(typesetting.filters("UTC"))


def test_every_field_is_documented_and_nothing_else_is() -> None:
    assert names_in("Fields") == {f"fields.{name}" for name in FIELDS}


def test_every_variable_of_a_template_is_documented_and_nothing_else_is() -> None:
    assert names_in("What a template is given") == set(context())


def test_every_forbidden_element_is_documented() -> None:
    from newsletter.markup import _FORBIDDEN_HTML

    assert {f"`{name}`" for name in _FORBIDDEN_HTML} <= set(re.findall(r"`\w+`", section(TEMPLATES, "Checks")))


# ------------------------------------------------------------------------------------------ commands


def commands(command: Any, name: str = "newsletter") -> Iterator[tuple[str, set[str]]]:
    """Every command with its options; a group that does nothing by itself is none."""
    options = {
        option
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in parameter.opts
        if option != "--help"
    }
    inner = getattr(command, "commands", {})
    if not inner or options:
        yield name, options
    for key, value in inner.items():
        yield from commands(value, f"{name} {key}")


def test_every_command_and_option_is_documented_and_nothing_else_is() -> None:
    rows = cells(section((DOCS / "running.md").read_text(encoding="utf-8"), "Every command"), 3)
    documented = {re.sub(r" \[?[A-Z].*", "", row[0].strip("`")): set(re.findall(r"--[\w-]+", row[1])) for row in rows}
    assert documented == dict(commands(typer.main.get_command(cli.app)))


def test_every_command_that_is_shown_exists() -> None:
    known = dict(commands(typer.main.get_command(cli.app)))
    groups = {name.rpartition(" ")[0] for name in known}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [*re.findall(r"`(newsletter [a-z][^`]*)`", text)]
        shown += [line for fence in fences(text, "sh") for line in re.findall(r"(?<!/)\bnewsletter [a-z].*", fence)]
        for line in shown:
            words = line.partition("#")[0].split()
            name = max((" ".join(words[:n]) for n in (2, 3) if " ".join(words[:n]) in {*known, *groups}), key=len)
            unknown = set(re.findall(r"(?<= )--[a-z-]+", line)) - known.get(name, set())
            assert not unknown, f"{page.name}: {line}"


# ------------------------------------------------------------------------------------------ briefs and errors


def test_the_generated_schema_of_a_brief_is_the_published_one() -> None:
    file = DOCS / "brief.schema.json"
    made = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(made, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == made


@pytest.mark.parametrize(("language", "ending"), [("text", "txt"), ("markdown", "md"), ("json", "json")])
def test_the_sample_briefs_are_read_without_a_remark(language: str, ending: str) -> None:
    (sample,) = fences((DOCS / "briefs.md").read_text(encoding="utf-8"), language)
    read = formats.read(sample.encode(), f"sample.{ending}")
    assert not read.faults
    assert not read.remarks
    (brief,) = read.briefs
    assert len(brief.facts) >= 1
    assert len(brief.narratives) == 2
    assert brief.forecasts[0].probability
    assert brief.split


def test_the_documented_limits_are_the_limits() -> None:
    told = (DOCS / "briefs.md").read_text(encoding="utf-8")
    assert f"at most {HEADLINE_CHARACTERS} characters" in told
    assert f"more than {formats.LARGEST_BRIEF_CHARACTERS:,} characters" in told
    assert f"more than {formats.LARGEST_FILE_BYTES // 1_000_000} MB" in told
    assert all(f"`{ending}`" in told for ending in formats.ENDINGS)
    for page in (TEMPLATES, (DOCS / "deliverability.md").read_text(encoding="utf-8")):
        assert f"{compiler.CLIP_BYTES:,}" in page
        assert f"{compiler.WARN_BYTES:,}" in page


def test_every_error_is_named_in_the_architecture() -> None:
    tree = section(ARCHITECTURE, "Errors")
    named = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {name for name in named if not re.search(rf"\b{name}\b", tree)} == set()


def test_every_state_outcome_and_fate_is_explained_to_operators() -> None:
    told = (DOCS / "dispatch.md").read_text(encoding="utf-8")
    for words, heading in (
        (EditionState, "An edition"),
        (BatchState, "A batch"),
        (Outcome, "Outcomes"),
        (Fate, "Fates"),
    ):
        rows = {row[0].strip("`") for row in cells(section(told, heading), 3)}
        assert rows == {word.value for word in words}, heading


def test_every_module_is_named_in_the_architecture() -> None:
    modules = {
        path.stem if path.is_file() else path.name
        for path in (ROOT / "newsletter").iterdir()
        if (path.suffix == ".py" and not path.stem.startswith("_")) or (path / "__init__.py").is_file()
    }
    told = section(ARCHITECTURE, "The modules")
    assert {name for name in modules if f"**`newsletter.{name}`**" not in told} == set()
    drawn = set(re.findall(r"\w+", fences(section(ARCHITECTURE, "Layers"), "")[0]))
    assert drawn == {*modules, "subscribers"}


# ------------------------------------------------------------------------------------------ adding a provider

PROVIDERS = (DOCS / "adding-a-provider.md").read_text(encoding="utf-8")


def test_what_the_page_on_providers_names_is_there() -> None:
    """Every file, and every name in code: spelled as there."""
    sources = [*(ROOT / "newsletter").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    known = set(re.findall(r"\w+", "".join(file.read_text(encoding="utf-8") for file in sources)))
    known |= {"make", "lint", "lock", "KeyError", "OSError", "pyproject", "toml", "Date"}  # nobody's here
    for shown in re.findall(r"`([^`\n]+)`", PROVIDERS):
        if "/" in shown or shown.endswith(".md"):
            assert (ROOT / shown).exists(), shown
        else:
            assert set(re.findall(r"\w+", shown)) <= known, shown


def test_the_page_on_providers_tells_the_whole_protocol() -> None:
    parts = [name for name in vars(providers.Provider) if not name.startswith("_")]
    assert {name for name in parts if not re.search(rf"`{name}[(`]", PROVIDERS)} == set()
    called = inspect.signature(providers.Provider.submit).parameters
    assert f"`submit({', '.join(list(called)[1:])})`" in PROVIDERS
    facets = [name for name, value in vars(providers).items() if getattr(value, "_is_protocol", False)]
    assert {name for name in facets if name != "Protocol" and name not in PROVIDERS} == set()


def test_the_table_of_answers_has_every_receipt_and_every_error() -> None:
    table = section(PROVIDERS, "3. Which answer means what")
    for name in (*Result.__members__, *(kind.__name__ for kind in errors.DispatchError.__subclasses__())):
        assert re.search(rf"^\|[^|]*\| [^|]*`{name}`", table, re.MULTILINE), name


def test_the_page_on_providers_tells_what_a_harness_has() -> None:
    told = section(PROVIDERS, "9. The conformance suite")
    suite = (ROOT / "tests" / "test_providers.py").read_text(encoding="utf-8")
    harness = suite.partition("class Harness(Protocol):")[2].partition("\n\n\nclass ")[0]
    names = {"cannot", *re.findall(r"^    def (\w+)", harness, re.MULTILINE)}
    assert {name for name in names if f"`{name}" not in told} == set()


# ------------------------------------------------------------------------------------------ the pages themselves


def anchor(heading: str) -> str:
    """A heading's anchor as code hosts make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, place = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{target} leads nowhere"
        assert file.is_relative_to(ROOT), f"{target} leads out of the project"
        if place:
            anchors = {anchor(line) for line in re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE)}
            assert place in anchors, f"{target}: there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", prose(page))
        ahead += [(page.parent / target).resolve() for target in targets]
    assert set(PAGES) <= seen


def test_every_test_that_a_page_names_exists() -> None:
    there = {
        name
        for file in (ROOT / "tests").glob("test_*.py")
        for name in [file.stem, *re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)]
    }
    named = {name for page in PAGES for name in re.findall(r"\btest_\w+", page.read_text(encoding="utf-8"))}
    # CONTRIBUTING.md shows how a test is named by one that is there, too.
    assert named - there == set()


def test_every_recipe_that_a_page_names_is_in_the_makefile() -> None:
    recipes = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^ {4})make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= recipes


def test_the_picture_of_the_readme_is_small() -> None:
    assert 20_000 < (DOCS / "digest.png").stat().st_size < 400_000


def project_files() -> list[Path]:
    """Whatever would be committed: as git tells, else all files but what is made by working here."""
    if shutil.which("git") and (ROOT / ".git").exists():
        said = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        return [file for name in said.stdout.decode().split("\0") if name and (file := ROOT / name).is_file()]
    skipped = {".venv", "demo", "build", "dist", "__pycache__"}
    return [
        file
        for file in ROOT.rglob("*")
        if file.is_file()
        and not any(part in skipped or part.endswith("_cache") for part in file.relative_to(ROOT).parts)
    ]


def test_no_file_names_a_home_directory_or_a_registry() -> None:
    words = ("/root" + "/", "/home" + "/", "pypi.org" + "/simple", "--index" + "-url")
    found = []
    for file in project_files():
        data = file.read_bytes()
        if b"\0" not in data:
            found += [f"{file.relative_to(ROOT)}: {word}" for word in words if word.encode() in data]
    assert found == []
