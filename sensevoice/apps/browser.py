"""What the page owes to the browser: its language, its looks, and nothing fetched from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensevoice.strings import LANGS, choose_lang, text

LANG_COOKIE = "sensevoice_lang"
LANG_COOKIE_AGE_S = 365 * 24 * 3600
LOCALES = {"zh": "zh-CN", "en": "en"}  # as Gradio names its own translations
CSS = Path(__file__).with_name("page.css")
TIMELINE_JS = Path(__file__).with_name("timeline.js")
UPLOADS_JS = Path(__file__).with_name("uploads.js")

# the reader's own fonts: a web font would need the network
FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "sans-serif",
)
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Calm and blue."""
    return gr.themes.Default(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=FONTS,
        font_mono=MONO_FONTS,
    ).set(
        body_background_fill="*neutral_50",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_large_radius="10px",
        block_radius="12px",
        block_label_text_color="*neutral_600",
        block_title_text_weight="600",
        block_shadow="none",
    )


def request_lang(headers: Mapping[str, str], query: str = "", fixed: str = "auto") -> str:
    """The language to answer in: the fixed one, else `?lang=`, else the cookie's, else the browser's."""
    asked = parse_qs(query).get("lang", [""])[-1]
    for candidate in (fixed, asked, _cookie(headers.get("cookie", ""))):
        if candidate in LANGS:
            return candidate
    return choose_lang(headers.get("accept-language"))


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(LANG_COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


class PageLanguage:
    """ASGI middleware that decides the page's language before the browser's script does.

    Gradio translates in the browser, by `navigator.language` alone. It cannot be told which language to
    use, so the page is told that the browser prefers the chosen one.
    """

    def __init__(self, app: ASGIApp, fixed: str = "auto") -> None:
        self.app = app
        self.fixed = fixed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the page itself in its language; pass everything else on."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        lang = request_lang(Headers(scope=scope), query, self.fixed)
        chosen_here = self.fixed not in LANGS and lang in parse_qs(query).get("lang", [])
        await self.app(_uncompressed(scope), receive, _Translated(send, lang, remember=chosen_here))


def _uncompressed(scope: Scope) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": headers}


class _Translated:
    """`send`, with the language written into the HTML that goes through it."""

    def __init__(self, send: Send, lang: str, *, remember: bool) -> None:
        self.send = send
        self.lang = lang
        self.remember = remember
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        if message["type"] != "http.response.body":
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if message.get("more_body", False):
            return
        headers = MutableHeaders(raw=self.start["headers"])
        if headers.get("content-type", "").startswith("text/html"):
            self.body = _with_language(self.body, self.lang)
            self._describe(headers)
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": self.body})

    def _describe(self, headers: MutableHeaders) -> None:
        headers["content-length"] = str(len(self.body))
        headers["content-language"] = LOCALES[self.lang]
        headers["cache-control"] = "no-store"
        headers.add_vary_header("Accept-Language, Cookie")
        if self.remember:
            cookie = f"{LANG_COOKIE}={self.lang}; Path=/; Max-Age={LANG_COOKIE_AGE_S}; SameSite=Lax"
            headers.append("set-cookie", cookie)


def _with_language(html: bytes, lang: str) -> bytes:
    html = html.replace(b'lang="en"', f'lang="{LOCALES[lang]}"'.encode(), 1)
    return html.replace(b"<head>", b"<head>" + _language_script(lang).encode(), 1)


def _language_script(lang: str) -> str:
    locale, title = json.dumps(LOCALES[lang]), json.dumps(text("page.title", lang))
    return (
        "<script>"
        f'Object.defineProperty(navigator,"language",{{get:()=>{locale}}});'
        f'Object.defineProperty(navigator,"languages",{{get:()=>[{locale}]}});'
        f"let config;Object.defineProperty(window,'gradio_config',{{get:()=>config,"
        f"set:(value)=>{{config={{...value,title:{title}}};}}}});"
        "</script>"
    )


def take_uploads_only(audio: gr.Audio) -> None:
    """Keep the server from fetching the addresses that a client may name instead of uploading."""
    move = audio.async_move_resource_to_block_cache

    async def move_upload(source: str | Path | None) -> str | None:
        if str(source).lower().startswith(("http://", "https://")):
            raise gr.Error(text("error.address", "en"), print_exception=False)
        return await move(source)

    # on the instance, since Gradio writes a .pyi file beside any module that subclasses a component
    audio.async_move_resource_to_block_cache = move_upload  # type: ignore[method-assign, assignment]


def translations(texts: Callable[[str], dict[str, str]]) -> gr.I18n:
    """Gradio's own translation table, filled with what `texts` says in each of our languages."""
    chinese = texts("zh")
    return gr.I18n(**{"en": texts("en"), "zh": chinese, "zh-CN": chinese, "zh-TW": chinese})
