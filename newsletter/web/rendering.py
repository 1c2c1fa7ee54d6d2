"""The pages as HTML: the templates in `pages/`, in a visitor's language, and the headers that they are served with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from newsletter import languages
from newsletter.settings import Settings

FOLDER = Path(__file__).parent / "pages"
STYLE = FOLDER / "style.css"
_STRICT = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors {ancestors}"
)
POLICY = _STRICT.format(ancestors="'none'")
EMBEDDED_POLICY = _STRICT.format(ancestors="*")  # the one page that is meant to stand in others' pages
EDITION_POLICY = (  # an edition's own styles stand in its elements, and its pictures anywhere
    "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


@cache
def style_tag() -> str:
    """What tells one version of the stylesheet from another."""
    return hashlib.sha256(STYLE.read_bytes()).hexdigest()[:12]


@cache
def _environment(language: str) -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_translations(languages.words(language), newstyle=True)  # type: ignore[attr-defined] # the extension's
    return made


@dataclass(frozen=True)
class Pages:
    """Renders pages of one site."""

    settings: Settings

    def language(self, request: Request, *known: str | None) -> str:
        """The language to speak: what the visitor chose, what is known of them, what their browser asks for."""
        accepted = request.headers.get("accept-language", "")
        chosen = request.query_params.get("lang")
        return languages.negotiate([chosen, *known, accepted], next(iter(self.settings.newsletters.values())).language)

    def page(
        self,
        request: Request,
        template: str,
        language: str,
        *,
        status: int = 200,
        policy: str = POLICY,
        index: bool = False,
        **context: object,
    ) -> HTMLResponse:
        """A page. Kept by nobody, and by default not to be indexed."""
        html = (
            _environment(language)
            .get_template(f"{template}.html.j2")
            .render(
                lang=language,
                dir=languages.direction(language),
                site=self.settings.site,
                style_url=f"/style.css?{style_tag()}",
                languages=self._languages(request, language),
                privacy_url=self.settings.site.privacy_url or "/privacy",
                **context,
            )
        )
        headers = {"Content-Security-Policy": policy, "Content-Language": language, "Cache-Control": "no-store"}
        if not index:
            headers["X-Robots-Tag"] = "noindex"
        return HTMLResponse(html, status, headers)

    def _languages(self, request: Request, current: str) -> Sequence[tuple[str, str, str, bool]]:
        # Of a page that a form was sent to, the link would ask for it without the form: only GET may be asked again.
        asked = [(key, value) for key, value in request.query_params.multi_items() if key != "lang"]
        path = request.url.path if request.method in {"GET", "HEAD"} else "/"
        path = f"/{path.lstrip('/')}"  # "//host/" would lead to another site
        return [
            (code, name, f"{path}?{urlencode([*asked, ('lang', code)])}", code == current)
            for code, name in languages.LANGUAGES.items()
        ]
