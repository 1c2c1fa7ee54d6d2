"""Contents -> Message: Jinja, then MJML, then inlining, then checks. And the same edition as a page of the archive.

Two kinds of fault are told apart. A fault of the template (an unknown tag, no link to leave by, an open field) raises
CompileError with template and line: nothing is ever sent half-compiled. A fault of the content (a relative link, a
picture without alt text, a brief too long) costs that element, with a remark for the report, and never the morning.

The archive form is for everybody, so that it holds nothing that is one reader's, and no mail program cuts it, so that
every brief is whole in it. Its faults stop nothing: the archive then shows the mail, filled with what is nobody's.

The home of jinja2, mjml and premailer. Their oddities, seen and worked around here: MRML writes a lower-case doctype
that premailer drops (quirks mode), and its reset rules must not be inlined (26 kB a digest).
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    TemplateRuntimeError,
    TemplateSyntaxError,
)
from jinja2.ext import Extension
from markupsafe import Markup
from mjml import mjml2html

from newsletter import languages, markup, typesetting
from newsletter.brief import Brief, Image
from newsletter.edition import (
    FIELDS,
    NOTICE_FIELDS,
    Contents,
    DeskContents,
    Message,
    NoticeContents,
    Sender,
    spelling,
)
from newsletter.errors import CompileError

CLIP_BYTES = 102_400  # Gmail shows the first 102 KiB of HTML and hides the rest, the unsubscribe link with it
WARN_BYTES = 90_000  # from here on one more brief would clip

_BUILT_IN = Path(__file__).parent / "_templates" / "email"


def template_folder() -> Path:
    """The built-in templates: inside the installed package, else in the repository beside it."""
    return _BUILT_IN if _BUILT_IN.is_dir() else Path(__file__).parent.parent / "templates" / "email"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A Message, its archive form, and what the report should say of how they came to be.

    `archive` has no open field. `html_bytes` and `shortened` are the mail's.
    """

    message: Message
    archive: Message
    remarks: tuple[str, ...]
    html_bytes: int
    shortened: int


def compile_message(contents: Contents, sender: Sender, override: Path | None = None) -> Compiled:
    """Compile an edition, as a mail and for the archive. Templates are read from the disk each time, `override` first.

    Raises CompileError for a fault of the template in the mail; one that only the archive form has is a remark.
    Contents must hold at least one brief.
    """
    contents, remarks = presentable(contents)
    whole = replace(contents, cut=frozenset())
    environments = _environments(contents, override)
    while True:
        message = _compile_once(contents, sender, environments)
        size = message.html_bytes
        if size <= CLIP_BYTES:
            break
        contents, what = _shorten(contents, size)
        remarks.append(what)
    if size > WARN_BYTES:
        remarks.append(f"the HTML is {size:,} bytes; past {CLIP_BYTES:,} briefs are shortened")
    archive = _archive_form(whole, message, environments, remarks)
    return Compiled(message, archive, tuple(remarks), size, len(contents.cut))


def _shorten(contents: Contents, size: int) -> tuple[Contents, str]:
    """The contents with their longest brief shortened: to "read on" first, to its headline where all are short.

    Raises CompileError where even headlines are too much, which is a fault of the template.
    """
    sizes = [len(brief.model_dump_json()) for brief in contents.briefs]
    whole = [index for index in range(len(sizes)) if index not in contents.cut]
    told = [index for index, brief in enumerate(contents.briefs) if brief.facts or brief.narratives or brief.summary]
    if not told:
        raise CompileError(
            f"{contents.newsletter.template}/body.mjml.j2",
            None,
            f"gives {size:,} bytes of HTML from headlines alone; Gmail clips past {CLIP_BYTES:,}",
        )
    longest = max(whole or told, key=lambda index: sizes[index])
    brief = contents.briefs[longest]
    if whole:
        said = f"{brief.slug}: shortened to “read on”, the mail was {size:,} bytes"
        few = tuple(fact.model_copy(update={"citations": fact.citations[:3]}) for fact in brief.facts)
        lede = typesetting.clip(brief.summary, 420) if brief.summary and not few else None
        fewer = brief.model_copy(update={"facts": few, "summary": lede})
        cut_briefs = (*contents.briefs[:longest], fewer, *contents.briefs[longest + 1 :])
        return replace(contents, briefs=cut_briefs, cut=contents.cut | {longest}), said
    # Not validated again, which would refuse it: without facts and narratives it is no brief, but still a headline.
    bare = brief.model_copy(update={"facts": (), "narratives": (), "summary": None})
    briefs = (*contents.briefs[:longest], bare, *contents.briefs[longest + 1 :])
    return replace(contents, briefs=briefs), f"{brief.slug}: shortened to its headline, the mail was {size:,} bytes"


# ------------------------------------------------------------------------------------------ content faults


def presentable(contents: Contents) -> tuple[Contents, list[str]]:
    """The contents without what cannot stand in a mail, and a remark for each thing left out."""
    remarks: list[str] = []
    briefs = tuple(_presentable(brief, remarks) for brief in contents.briefs)
    return replace(contents, briefs=briefs), remarks


def _presentable(brief: Brief, remarks: list[str]) -> Brief:
    def web(url: str | None, what: str) -> str | None:
        """A link as it may stand in a mail, None where it may not; then says what is left out."""
        found = typesetting.web_link(url)
        if url is not None and found is None:
            remarks.append(f"{brief.slug}: {what} is left out, it is not an absolute web address: {url[:80]}")
        return found

    facts = tuple(
        fact.model_copy(
            update={
                "citations": tuple(
                    citation.model_copy(update={"url": url})
                    for citation in fact.citations
                    if (url := web(citation.url, "a citation")) is not None
                )
            }
        )
        for fact in brief.facts
    )
    forecasts = tuple(one.model_copy(update={"url": web(one.url, "a forecast's link")}) for one in brief.forecasts)
    image = brief.image
    if image and image.url and (fault := _picture_fault(image)):
        remarks.append(f"{brief.slug}: its picture is left out, {fault}")
        image = None
    url = web(brief.url, "its link")
    return brief.model_copy(update={"url": url, "image": image, "facts": facts, "forecasts": forecasts})


def _picture_fault(image: Image) -> str | None:
    if typesetting.web_link(image.url, secure=True) is None:
        return f"it is not at an absolute https address: {(image.url or '')[:80]}"
    return "it has no alt text" if image.alt is None else None


# ------------------------------------------------------------------------------------------ rendering


class _Field:
    """A field in a template. It stands by itself: a filter would work on its spelling, not on its value."""

    def __init__(self, name: str, said: str) -> None:
        self.name, self.said = name, said

    def _refuse(self) -> NoReturn:
        raise TemplateRuntimeError(f"fields.{self.name} is filled later, for each reader: it takes no filter and no ~")

    __str__ = __html__ = __len__ = __iter__ = _refuse


class _Fields:
    """`fields` in a template: each name gives its spelling; a wrong one is a fault that names the right ones.

    Where there are `values`, as for the archive, each name gives its text at once, which is like any other text.
    """

    def __init__(
        self, nonce: str, values: Mapping[str, str] | None, known: Mapping[str, str] = FIELDS, *, html: bool
    ) -> None:
        self._nonce, self._values, self._known, self._html = nonce, values, known, html

    def __getattr__(self, name: str) -> _Field | str:
        if name.startswith("_") or name not in self._known:
            raise _UnknownField(name, self._known)
        if self._values is not None:
            return self._values[name]
        return _Field(name, spelling(self._nonce, name, html=self._html))


def _finalize(value: object) -> object:
    """What an expression leaves on the page: a field that nothing has touched becomes its spelling."""
    return Markup(value.said) if isinstance(value, _Field) else value  # noqa: S704 # our own spelling of a known name


class _UnknownField(TemplateError):
    def __init__(self, name: str, known: Mapping[str, str]) -> None:
        super().__init__(f"there is no field “{name}” (there is: {', '.join(known)})")


class _Annotating(Extension):
    """Notes file and line in each tag of an MJML template (see `newsletter.markup`)."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        del filename
        return markup.annotate(source, name) if name and name.endswith(".mjml.j2") else source


@dataclass(frozen=True, slots=True)
class _Environments:
    folders: tuple[Path, ...]
    html: Environment
    text: Environment


def _standing(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """The templates in the folders that come before the built-in one."""
    return tuple(sorted(file.as_posix() for folder in folders[:-1] for file in folder.rglob("*.j2")))


@lru_cache(maxsize=8)
def _environments_of(
    folders: tuple[Path, ...], zone: str, language: str | None = None, *, standing: tuple[str, ...] = ()
) -> _Environments:
    """`language` is set where templates hold words of ours to be translated: notices do.

    `standing` names the files that take the place of built-in ones: of a template that it has read Jinja sees when it
    is changed or gone, and not when another one is put before it.
    """
    del standing

    def make(*, html: bool) -> Environment:
        made = Environment(
            loader=FileSystemLoader(folders),
            autoescape=html,  # noqa: S701 # off for the text part and the subject alone, which are no markup
            undefined=StrictUndefined,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=True,
            extensions=[_Annotating] if html else [],
        )
        made.filters.update(typesetting.filters(zone))
        if language is not None:
            made.add_extension("jinja2.ext.i18n")
            made.install_gettext_translations(languages.words(language), newstyle=True)  # type: ignore[attr-defined] # the extension's
        return made

    return _Environments(folders, make(html=True), make(html=False))


def _environments(contents: Contents, override: Path | None) -> _Environments:
    folders = (override, template_folder()) if override else (template_folder(),)
    return _environments_of(folders, contents.newsletter.zone, standing=_standing(folders))


def _context(contents: Contents, values: Mapping[str, str] | None = None, *, html: bool) -> dict[str, Any]:
    """What a template sees; docs/templates.md lists it. With `values` for its fields it is the archive form's."""
    return {
        "newsletter": contents.newsletter,
        "newsletter_id": contents.newsletter_id,
        "site": contents.site,
        "slot": contents.slot,
        "briefs": contents.briefs,
        "cut": contents.cut,
        "proof": contents.proof,
        "archive": values is not None,
        "corrections": contents.corrections,
        "minutes": typesetting.minutes(contents.briefs),
        "preheader": typesetting.preheader(contents.briefs),
        "view_url": contents.view_url,
        "sign_up_url": contents.sign_up_url,
        "privacy_url": contents.privacy_url,
        "postal_address": contents.postal_address,
        "fields": _Fields(contents.nonce, values, html=html),
    }


def _render(environments: _Environments, name: str, contents: Contents, values: Mapping[str, str] | None = None) -> str:
    return _rendered(environments, name, _context(contents, values, html=_is_html(name)))


def _is_html(name: str) -> bool:
    return name.endswith(".mjml.j2")


def _rendered(environments: _Environments, name: str, context: Mapping[str, Any]) -> str:
    environment = environments.html if _is_html(name) else environments.text
    try:
        return environment.get_template(name).render(context)
    except TemplateNotFound as error:
        raise CompileError(
            str(error.name or name), None, f"there is no such template in {_listed(environments)}"
        ) from None
    except TemplateSyntaxError as error:
        raise CompileError(error.name or name, error.lineno, error.message or "cannot be read") from None
    except Exception as error:
        where, line = _template_line(error, environments.folders, name)
        raise CompileError(where, line, f"{error}" or type(error).__name__) from error


def _listed(environments: _Environments) -> str:
    return " or ".join(str(folder) for folder in environments.folders)


def _template_line(error: BaseException, folders: Sequence[Path], name: str) -> tuple[str, int | None]:
    """Template and line of an error: the innermost frame of its traceback that is a template's."""
    found: tuple[str, int | None] = (name, None)
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        for folder in folders:
            if file.is_relative_to(folder):
                found = (file.relative_to(folder).as_posix(), trace.tb_lineno)
        trace = trace.tb_next
    return found


# ------------------------------------------------------------------------------------------ the stages


def _compile_once(contents: Contents, sender: Sender, environments: _Environments) -> Message:
    body, text_name, subject_name = _names(contents)
    annotated = _render(environments, body, contents)
    markup.lint(annotated, body)
    html = tidy(inline(to_html(markup.bare(annotated), body)))
    text = _tidy_text(_render(environments, text_name, contents))
    subject = " ".join(_render(environments, subject_name, contents).split())
    message = Message(sender, subject, html, text, contents.nonce, str(contents.slot))
    _check(message, contents, body, text_name, subject_name)
    return message


def _names(contents: Contents) -> tuple[str, str, str]:
    """The templates of a mail: of its HTML, its text, its subject."""
    folder = contents.newsletter.template
    return f"{folder}/body.mjml.j2", f"{folder}/body.txt.j2", f"{folder}/subject.txt.j2"


def _archive_form(contents: Contents, mail: Message, environments: _Environments, remarks: list[str]) -> Message:
    """The edition as the archive shows it; where the templates give no such form, the mail with its fields filled."""
    try:
        return _compile_archive(contents, mail, environments)
    except CompileError as error:
        remarks.append(f"the archive shows this edition as the mail has it, since its own form has a fault: {error}")
        return mail.archived()


def _compile_archive(contents: Contents, mail: Message, environments: _Environments) -> Message:
    """The templates' own form for the archive. Browsers read <style>, so nothing is inlined: that takes longest."""
    body, text_name, _ = _names(contents)
    values = mail.sender.archive_values()
    annotated = _render(environments, body, contents, values)
    markup.lint(annotated, body)
    html = to_html(markup.bare(annotated), body).replace(_IGNORED, "")
    text = _tidy_text(_render(environments, text_name, contents, values))
    for name, part in ((body, html), (text_name, text)):
        if contents.nonce in part.casefold():
            raise CompileError(name, None, "leaves a field unfilled")
    return replace(mail, html=html, text=text)


_IGNORED = ' data-premailer="ignore"'


# ------------------------------------------------------------------------------------------ notices


def compile_notice(contents: NoticeContents, sender: Sender, override: Path | None = None) -> Message:
    """Compile a mail outside any edition, in its language. Raises CompileError for a fault of the template."""
    folders = (override, template_folder()) if override else (template_folder(),)
    language = languages.negotiate([contents.language])
    environments = _environments_of(folders, contents.newsletter.zone, language, standing=_standing(folders))
    body, text_name, subject_name = (f"{contents.kind}/{part}.j2" for part in ("body.mjml", "body.txt", "subject.txt"))
    annotated, told, subject = (
        _rendered(environments, name, _notice_context(contents, language, html=_is_html(name)))
        for name in (body, text_name, subject_name)
    )
    markup.lint(annotated, body)
    html = tidy(inline(to_html(markup.bare(annotated), body)))
    welcome = contents.kind == WELCOME
    message = Message(sender, " ".join(subject.split()), html, _tidy_text(told), contents.nonce, auto=not welcome)
    _check_notice(message, contents, (body, text_name, subject_name))
    return message


WELCOME = "welcome"
"""The one notice that belongs to a list: it can be left from, and says so in its headers."""


def _notice_context(contents: NoticeContents, language: str, *, html: bool) -> dict[str, Any]:
    """What a notice's template sees; docs/templates.md lists it."""
    return {
        "kind": contents.kind,
        "newsletter": contents.newsletter,
        "newsletter_id": contents.newsletter_id,
        "site": contents.site,
        "language": language,
        "direction": languages.direction(language),
        "lists": contents.lists,
        "latest": contents.latest,
        "minutes": int(contents.link_lasts.total_seconds() // 60),
        "days": max(1, contents.request_lasts.days),
        "privacy_url": contents.privacy_url,
        "postal_address": contents.postal_address,
        "fields": _Fields(contents.nonce, None, NOTICE_FIELDS, html=html),
    }


def _check_notice(message: Message, contents: NoticeContents, names: tuple[str, str, str]) -> None:
    body, text_name, subject_name = names
    if not message.subject or f"[[{contents.nonce}." in message.subject:
        raise CompileError(subject_name, None, "expected a subject of one line without fields")
    wanted = {"action_url"} | ({"leave_url"} if contents.kind == WELCOME else set())
    _, shown = markup.read_html(message.html)
    address = " ".join(contents.postal_address.split())
    for name, part, seen in ((body, message.html, shown), (text_name, message.text, " ".join(message.text.split()))):
        if contents.nonce in message.fill(part, dict.fromkeys(NOTICE_FIELDS, "")).casefold():
            raise CompileError(name, None, "leaves a field unfilled")
        for field in wanted:
            if spelling(contents.nonce, field, html=name == body) not in part:
                raise CompileError(name, None, f"leads nowhere: put {{{{ fields.{field} }}}} into it")
        if address not in seen:
            raise CompileError(name, None, "does not show the postal address: put {{ postal_address }} into it")


def compile_desk(contents: DeskContents, sender: Sender, override: Path | None = None) -> Message:
    """Compile a mail to the desk, in English. It has no fields. Raises CompileError for a fault of the template."""
    folders = (override, template_folder()) if override else (template_folder(),)
    environments = _environments_of(folders, contents.newsletter.zone, standing=_standing(folders))
    body, text_name, subject_name = (f"desk/{part}.j2" for part in ("body.mjml", "body.txt", "subject.txt"))
    context = {
        "newsletter": contents.newsletter,
        "newsletter_id": contents.newsletter_id,
        "site": contents.site,
        "language": languages.SOURCE,
        "direction": "ltr",
        "subject": contents.subject,
        "said": contents.said,
    }
    annotated, told, subject = (_rendered(environments, name, context) for name in (body, text_name, subject_name))
    markup.lint(annotated, body)
    html = tidy(inline(to_html(markup.bare(annotated), body)))
    message = Message(sender, " ".join(subject.split()), html, _tidy_text(told), contents.nonce, auto=True)
    command = contents.said.command
    _, shown = markup.read_html(message.html)
    for name, seen in ((body, shown), (text_name, message.text)):
        if command is not None and command not in seen:
            raise CompileError(name, None, "does not show the command: put {{ said.command }} into it")
    if not message.subject:
        raise CompileError(subject_name, None, "gives an empty subject")
    return message


# ------------------------------------------------------------------------------------------ MJML, CSS


def to_html(mjml: str, template: str) -> str:
    """Compile MJML with MRML; its doctype in capitals and its reset marked, as premailer needs them."""
    try:
        html = str(mjml2html(mjml, fonts={}))
    except ValueError as error:
        raise CompileError(template, None, f"the MJML compiler refuses it: {error}") from None
    html = html.replace("<!doctype html>", "<!DOCTYPE html>", 1)
    head, found, rest = html.partition("</head>")
    first = head.find('<style type="text/css">\n#outlook')
    if found and first >= 0:
        end = head.find("</style>", first)
        head = head[:first] + f'<style type="text/css"{_IGNORED}>' + head[first + 23 : end] + head[end:]
        head = re.sub(r'<style type="text/css">(?=@media|\s*\.moz)', f'<style type="text/css"{_IGNORED}>', head)
        head = head.replace('<style media="screen', f'<style{_IGNORED} media="screen')
    # The preview is hidden three ways more; white type of one pixel is how spammers hide words, and filters count it.
    rest = rest.replace("display:none;font-size:1px;color:#ffffff;line-height:1px;", "display:none;", 1)
    return head + found + rest


def inline(html: str) -> str:
    """Write the rules of <style> into the elements they match; marked styles stay in the head as they are."""
    from premailer import Premailer  # noqa: PLC0415 # 0.1 s (it loads requests), which only a compiling pays

    return str(
        Premailer(
            html,
            strip_important=False,
            keep_style_tags=False,
            remove_classes=False,
            allow_network=False,
            allow_loading_external_files=False,
            disable_link_rewrites=True,
            disable_validation=True,
            align_floating_images=False,
            disable_basic_attributes=["align", "valign", "bgcolor", "width", "height", "border", "cellpadding"],
            cssutils_logging_level=logging.CRITICAL,
        ).transform()
    )


_TAG = re.compile(r"<!--.*?-->|<[a-zA-Z](?:[^\"'>]|\"[^\"]*\"|'[^']*')*>", re.DOTALL)
_QUOTED = re.compile(r'( ?)([\w:-]+)="([^"]*)"')


def tidy(html: str) -> str:
    """Take out what no client reads: classes that no rule left in the head names, and blanks between rules.

    premailer leaves "<" and ">" bare in attributes, where Outlook would read a conditional comment: they are escaped.
    """
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL))
    named = set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", styles))

    def attribute(match: re.Match[str]) -> str:
        blank, name, value = match.groups()
        if name == "class":
            value = " ".join(one for one in value.split() if one in named)
            return f'{blank}class="{value}"' if value else ""
        if name == "style":
            value = value.replace("; ", ";")
        return f'{blank}{name}="{value.replace("<", "&lt;").replace(">", "&gt;")}"'

    def tag(match: re.Match[str]) -> str:
        found = match[0]
        return found if found.startswith("<!--") else _QUOTED.sub(attribute, found)

    head, body_tag, body = html.partition("<body")
    head = re.sub(r"(<style[^>]*>)(.*?)(</style>)", lambda m: m[1] + _squeeze(m[2]) + m[3], head, flags=re.DOTALL)
    return head + _TAG.sub(tag, body_tag + body)


def _squeeze(css: str) -> str:
    return re.sub(r"\s*([{};:,])\s*", r"\1", re.sub(r"\s+", " ", css)).replace(";}", "}").strip()


def _tidy_text(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n") + "\n"


# ------------------------------------------------------------------------------------------ template faults


def _check(message: Message, contents: Contents, body: str, text_name: str, subject_name: str) -> None:
    """Refuse a Message that must not be sent, whatever the templates were thought to do. Raises CompileError."""
    opening = f"[[{contents.nonce}."
    if not message.subject:
        raise CompileError(subject_name, None, "gives an empty subject")
    if opening in message.subject:
        raise CompileError(subject_name, None, "holds a field; a subject is the same for everybody")
    elements, shown = markup.read_html(message.html)
    for name, part, html in ((body, message.html, True), (text_name, message.text, False)):
        filled = message.fill(part, dict.fromkeys(FIELDS, ""))
        if contents.nonce in filled.casefold():
            at = filled.casefold().index(contents.nonce)
            raise CompileError(name, None, f"leaves a field unfilled: {filled[max(0, at - 2) : at + 38]!r}")
        needed = spelling(contents.nonce, "leave_url", html=html)
        given = [element.attributes.get("href") for element in elements if element.name == "a"] if html else [part]
        if not any(needed in (place or "") for place in given):
            where = "in the href of a link" if html else "as it is"
            raise CompileError(name, None, f"has no way to leave: put {{{{ fields.leave_url }}}} {where}")
        address = " ".join(contents.postal_address.split())
        if address not in (shown if html else " ".join(part.split())):
            raise CompileError(name, None, "does not show the postal address: put {{ postal_address }} into it")
    leaving = _links_to(spelling(contents.nonce, "leave_url", html=True), message.html)
    if not any(map(_is_seen, leaving)):
        raise CompileError(body, None, "has a way to leave that nobody can see: the link holds no words")
    _check_elements(elements, opening, body)


def _check_elements(elements: list[markup.Element], opening: str, body: str) -> None:
    for what in markup.bad_links(elements, opening):
        raise CompileError(body, None, what)
    for element in elements:
        if element.name == "img" and not (element.attributes.get("alt") is not None and element.attributes.get("src")):
            raise CompileError(body, None, "has a picture without src or alt")


def _links_to(target: str, html: str) -> list[str]:
    """What stands inside the links whose address holds a text."""
    return re.findall(rf'<a\b[^>]*href="[^"]*{re.escape(target)}[^"]*"[^>]*>(.*?)</a>', html, re.DOTALL)


def _is_seen(inner: str) -> bool:
    """Whether a link's inside shows a reader anything: words, or a picture with a description."""
    return bool(re.sub(r"<[^>]*>|&nbsp;|&#160;|\s", "", inner) or re.search(r'<img\b[^>]*alt="[^"]+"', inner))
