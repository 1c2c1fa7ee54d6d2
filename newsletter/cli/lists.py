"""The lists: what they are, and how people join them."""

from typing import Annotated

import typer

from newsletter.cli._shell import DEFAULT, AsJson, Config, opened, print_json, print_lines
from newsletter.errors import ConfigurationError

app = typer.Typer(rich_markup_mode=None, help="The lists that newsletters go to.")

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The list's name in the configuration.")]
NameOption = Annotated[str | None, typer.Option("--name", help="What people see it called.")]
Description = Annotated[str | None, typer.Option("--description", help="What people are told who think of joining.")]
Public = Annotated[
    bool | None, typer.Option("--public/--private", help="Whether it is on the sign-up pages, and its archive indexed.")
]
OptInOption = Annotated[
    str | None, typer.Option("--opt-in", metavar="double|single", help="Whether a request is confirmed by a link.")
]
Welcome = Annotated[bool | None, typer.Option("--welcome/--no-welcome", help="Mail whoever joins the latest edition.")]


@app.callback(invoke_without_command=True)
def lists(context: typer.Context, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show the lists, and how many people stand on each."""
    if context.invoked_subcommand is not None:
        return
    from newsletter import people, roster

    with opened(config) as newsroom:
        accounts = people.lists(newsroom)
    if as_json:
        print_json([roster.list_json(one) for one in accounts])
    else:
        for one in accounts:
            print_lines(roster.list_lines(one))


@app.command("create")
def create(  # typer's options
    slug: Slug,
    name: NameOption = None,
    description: Description = None,
    public: Public = None,
    opt_in: OptInOption = None,
    welcome: Welcome = None,
    config: Config = DEFAULT,
) -> None:
    """Make a list. Those that newsletters go to are made by themselves."""
    import re

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", slug):
        raise ConfigurationError("expected a list's name of A-Z, a-z, 0-9, “.”, “_”, “-”, at most 64 characters")
    _change(config, slug, name, description, public, opt_in, welcome, new=True)
    print(f"made the list {slug}")


@app.command("set")
def change(
    slug: Slug,
    name: NameOption = None,
    description: Description = None,
    public: Public = None,
    opt_in: OptInOption = None,
    welcome: Welcome = None,
    config: Config = DEFAULT,
) -> None:
    """Change what a list is called, says of itself, and how people join it."""
    if name is None and description is None and public is None and opt_in is None and welcome is None:
        raise ConfigurationError("say what to change: --name, --description, --public, --private, --opt-in, --welcome")
    _change(config, slug, name, description, public, opt_in, welcome)
    print(f"changed the list {slug}")


def _change(
    config: Config,
    slug: str,
    name: str | None,
    description: str | None,
    public: bool | None,
    opt_in: str | None,
    welcome: bool | None,
    *,
    new: bool = False,
) -> None:
    from newsletter import people
    from subscribers import OptIn

    for what, value, most in (("--name", name, 200), ("--description", description, 1_000)):
        if value is not None and (not value.strip() or len(value) > most or not value.isprintable()):
            raise ConfigurationError(f"{what}: expected a text on one line, of at most {most} characters")
    if opt_in is not None and opt_in not in set(OptIn):
        raise ConfigurationError(f"--opt-in: expected double or single, found “{opt_in}”")
    with opened(config) as newsroom:
        people.change_list(
            newsroom,
            slug,
            new=new,
            name=name,
            description=description,
            public=public,
            opt_in=OptIn(opt_in) if opt_in else None,
            welcome=welcome,
        )


@app.command("embed")
def embed(slug: Slug, config: Config = DEFAULT) -> None:
    """Print HTML for the desk's own site: a sign-up form that works without JavaScript."""
    from newsletter import people, roster

    with opened(config) as newsroom:
        found = next((one for one in people.lists(newsroom) if one.slug == slug), None)
        if found is None:
            raise ConfigurationError(f"there is no list “{slug}”")
        if not found.public:
            raise ConfigurationError(f"the list “{slug}” is private: newsletter lists set {slug} --public")
        print_lines(roster.embed_lines(newsroom.settings.site.url, found))
