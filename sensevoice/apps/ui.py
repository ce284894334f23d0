"""The page: a recording goes in, a tagged transcript comes out, to read, to hear and to download."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd  # type: ignore[import-untyped]
from fastapi import FastAPI
from gradio.i18n import I18nData

import sensevoice
from sensevoice.apps import browser
from sensevoice.errors import SenseVoiceError
from sensevoice.exporters import EXPORTERS, to_dict
from sensevoice.options import LANGUAGES, SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.strings import STRINGS, duration_text, error_text, text
from sensevoice.tags import label
from sensevoice.timeline import clock, tag_counts, timeline_html
from sensevoice.transcript import Transcript, labelled_text

if TYPE_CHECKING:
    from sensevoice.pipeline import Progress, Transcriber
    from sensevoice.settings import Settings

log = logging.getLogger(__name__)

EXAMPLES = Path(sensevoice.__file__).parent.parent / "examples"
EXAMPLE_NAMES = ("zh", "en", "yue", "ja", "ko", "events")
CACHE_SWEEP_S, CACHE_AGE_S = 1800, 6 * 3600  # Gradio's temporary files: how often it looks, what it removes
RUNS_AT_ONCE = 2
QUEUE_LENGTH = 64
TICK_S = 0.5  # how often a run without news lets Gradio see that the reader has left
STEM_LENGTH = 60
COUNT_AXIS_AT_LEAST = 5  # a lower axis would be divided into halves of segments
PAGE_TEXTS = ("page.", "language.", "option.", "example.")
KIND_COLOURS = {"emotion": "#2563eb", "event": "#0d9488"}
LINKS = {
    "sensevoice": '<a href="https://github.com/FunAudioLLM/SenseVoice" rel="noreferrer">SenseVoiceSmall</a>',
    "funasr": '<a href="https://github.com/modelscope/FunASR" rel="noreferrer">FunASR</a>',
}

Updates = dict[Any, Any]  # component -> its update, as Gradio's handlers give them


def create_page(transcriber: Transcriber, settings: Settings) -> gr.Blocks:
    """The page around one transcriber, to be served by `mount_page`."""
    demo = gr.Blocks(
        title=text("page.title", "zh"), analytics_enabled=False, delete_cache=(CACHE_SWEEP_S, CACHE_AGE_S)
    )
    with demo:
        Page(transcriber, settings)
    demo.queue(default_concurrency_limit=RUNS_AT_ONCE, max_size=QUEUE_LENGTH)
    demo.i18n_instance = browser.translations(lambda lang: _page_texts(transcriber, settings, lang))
    return demo


def mount_page(
    app: FastAPI, demo: gr.Blocks, settings: Settings, login: Callable[[str, str], bool] | None = None
) -> FastAPI:
    """Serve `demo` at `/` of `app`, beside the routes that `app` already has.

    `login` says whether a name and a password may see the page; without it, everybody may.
    """
    app.add_middleware(browser.PageLanguage, fixed=settings.lang)
    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        theme=browser.theme(),
        css_paths=[browser.CSS],
        head=f"<script>{browser.UPLOADS_JS.read_text('utf-8')}</script>",
        i18n=demo.i18n_instance,
        allowed_paths=[str(EXAMPLES)] if EXAMPLES.is_dir() else [],
        max_file_size=f"{int(settings.max_upload_mb * 1024)}kb",
        auth=login,
        auth_message=text("page.login", "zh") + "<br>" + text("page.login", "en") if login else None,
        show_error=True,
        footer_links=[],
        run_history=False,  # it would keep transcripts in the browser
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
    # only launch() sets it, and without it Gradio lets clients name any file of the server as their upload
    demo.has_launched = True
    return app


# What is fixed when the page is built -------------------------------------------------------------


def _page_texts(transcriber: Transcriber, settings: Settings, lang: str) -> dict[str, str]:
    """Everything that Gradio translates in the browser."""
    own = {key: row[lang] for key, row in STRINGS.items() if key.startswith(PAGE_TEXTS)}
    return {
        **own,
        "header": _header_html(lang, may_switch=settings.lang == "auto"),
        "banner": f'<div class="sv-banner" role="note">{text("banner.starter", lang)}</div>',
        "footer": _footer_html(transcriber, lang),
        "ready": _status("ready", text("status.ready", lang)),
    }


def _header_html(lang: str, *, may_switch: bool) -> str:
    other = "en" if lang == "zh" else "zh"
    link = f'<a href="?lang={other}" lang="{other}">{text("page.other_lang", lang)}</a>' if may_switch else ""
    words = f"<h1>{text('page.title', lang)}</h1><p>{text('page.tagline', lang)}</p>"
    return f'<div class="sv-header"><div>{words}</div>{link}</div>'


def _footer_html(transcriber: Transcriber, lang: str) -> str:
    info = transcriber.info
    sentence = text("page.footer", lang, model=escape(info.name), licence=escape(info.licence), **LINKS)
    return f'<div class="sv-footer">{sentence}</div>'


def _t(key: str) -> I18nData:
    """A text that Gradio looks up in the reader's language."""
    return I18nData(key)


class Page:
    """The components, and what happens when they are used."""

    def __init__(self, transcriber: Transcriber, settings: Settings) -> None:
        self.transcriber = transcriber
        self.settings = settings
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        gr.HTML(_t("header"), elem_id="sv-header")
        if self.transcriber.info.is_starter:
            gr.HTML(_t("banner"), elem_id="sv-banner")
        with gr.Row(elem_id="sv-columns"):
            with gr.Column(scale=5, min_width=320):
                self._lay_out_input()
            with gr.Column(scale=7, min_width=320):
                self._lay_out_output()
        self.timeline = gr.HTML(
            "", js_on_load=browser.TIMELINE_JS.read_text("utf-8"), elem_id="sv-timeline", visible=False
        )
        gr.HTML(_t("footer"))

    def _lay_out_input(self) -> None:
        self.audio = gr.Audio(
            label=_t("page.audio"),
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],
            elem_id="sv-audio",
        )
        browser.take_uploads_only(self.audio)
        self.examples = self._lay_out_examples()
        self.language = gr.Dropdown(
            [(_t(f"language.{code}"), code) for code in LANGUAGES],
            value=self.settings.language,
            label=_t("page.language"),
            filterable=False,
            elem_id="sv-language",
        )
        with gr.Row(elem_classes="sv-buttons"):
            self.start = gr.Button(_t("page.start"), variant="primary", size="lg", elem_id="sv-start")
            self.stop = gr.Button(
                _t("page.stop"), variant="secondary", size="lg", visible=False, elem_id="sv-stop"
            )
        with gr.Accordion(_t("page.options"), open=False, elem_id="sv-options"):
            self._lay_out_options()

    def _lay_out_examples(self) -> dict[Path, gr.Button]:
        """A button for each example clip that is there; a checkout without clips has none."""
        clips = [path for name in EXAMPLE_NAMES if (path := EXAMPLES / f"{name}.mp3").is_file()]
        if not clips:
            return {}
        gr.Markdown(_t("page.examples"), elem_classes="sv-small-label")
        with gr.Row(elem_classes="sv-buttons", elem_id="sv-examples"):
            return {clip: gr.Button(_t(f"example.{clip.stem}"), size="sm", min_width=64) for clip in clips}

    def _lay_out_options(self) -> None:
        self.use_itn = gr.Checkbox(value=True, label=_t("option.use_itn"))
        self.show_plain = gr.Checkbox(value=False, label=_t("option.show_neutral"))
        self.ban_emo_unk = gr.Checkbox(value=False, label=_t("option.ban_emo_unk"))
        self.emotion_threshold = gr.Slider(
            0,
            1,
            value=TranscribeOptions.emotion_threshold,
            step=0.05,
            label=_t("option.emotion_threshold"),
            info=_t("option.emotion_threshold_info"),
        )
        self.allowed_languages = gr.CheckboxGroup(
            [(_t(f"language.{code}"), code) for code in SPOKEN_LANGUAGES],
            label=_t("option.allowed_languages"),
            info=_t("option.allowed_languages_info"),
        )

    def _lay_out_output(self) -> None:
        self.status = gr.HTML(_t("ready"), elem_id="sv-status")
        self.result = gr.Textbox(
            label=_t("page.result"),
            placeholder=_t("page.result_placeholder"),
            lines=12,
            max_lines=12,
            interactive=False,
            buttons=["copy"],
            elem_id="sv-result",
        )
        gr.Markdown(_t("page.downloads"), elem_classes="sv-small-label")
        with gr.Row(elem_classes="sv-buttons"):
            self.downloads = {
                name: gr.DownloadButton(
                    name.upper(), interactive=False, size="sm", min_width=64, elem_id=f"sv-download-{name}"
                )
                for name in EXPORTERS
            }
        self.counts = gr.BarPlot(label=_t("page.counts"), visible=False, buttons=[], elem_id="sv-counts")

    def _connect(self) -> None:
        outputs = [self.status, self.result, self.counts, self.timeline, self.start, self.stop]
        options = [
            self.use_itn,
            self.show_plain,
            self.ban_emo_unk,
            self.emotion_threshold,
            self.allowed_languages,
        ]
        run = self.start.click(
            self.recognise,
            [self.audio, self.language, *options],
            [*outputs, *self.downloads.values()],
            show_progress="hidden",
            api_visibility="private",
        )
        self.stop.click(
            self.stopped, None, [self.status, self.start, self.stop], cancels=[run], api_visibility="private"
        )
        self.audio.change(
            self.ready, self.audio, self.status, show_progress="hidden", api_visibility="private"
        )
        for clip, button in self.examples.items():
            button.click(_value_of(clip), None, self.audio, show_progress="hidden", api_visibility="private")
        self._offer_to_clients()

    def _offer_to_clients(self) -> None:
        """`gradio_client.Client(url).predict(handle_file(…), "zh", api_name="/transcribe")`."""
        gr.Button(visible=False).click(
            self.transcribe,
            [self.audio, self.language],
            gr.JSON(visible=False),
            api_name="transcribe",
            api_description="Transcribe a recording; the reply is that of POST /transcribe.",
        )

    # What happens when they are used --------------------------------------------------------------

    def ready(self, audio: str | None, request: gr.Request) -> str:
        """Say what to do next, whenever the recording changes."""
        return _status("ready", text("status.loaded" if audio else "status.ready", self._lang(request)))

    def stopped(self, request: gr.Request) -> Updates:
        """Give the start button back, once the run is cancelled."""
        return {self.status: _status("stopped", text("status.stopped", self._lang(request))), **self._idle()}

    def transcribe(self, audio: str | None, language: str, request: gr.Request) -> dict[str, object]:
        """One recording for a program, whose errors are raised."""
        lang = self._lang(request)
        if not audio:
            raise gr.Error(text("error.no_audio", lang), print_exception=False)
        options = TranscribeOptions(language=language, max_duration_s=self.settings.max_duration_s)
        try:
            return to_dict(self.transcriber.transcribe(audio, options))
        except Exception as error:
            raise gr.Error(_sentence(error, lang), print_exception=False) from error

    def recognise(
        self,
        audio: str | None,
        language: str,
        use_itn: bool,
        show_plain: bool,
        ban_emo_unk: bool,
        emotion_threshold: float,
        allowed_languages: list[str],
        request: gr.Request,
    ) -> Iterator[Updates]:
        """One recording for a reader: progress and partial text first, then the result, or a sentence."""
        lang = self._lang(request)
        if not audio:
            yield self._failed(text("error.no_audio", lang), lang)
            return
        try:
            options = TranscribeOptions(
                language=language,
                allowed_languages=tuple(allowed_languages),
                use_itn=use_itn,
                ban_emo_unk=ban_emo_unk,
                emotion_threshold=emotion_threshold,
                show_neutral=show_plain,
                show_speech=show_plain,
                max_duration_s=self.settings.max_duration_s,
            )
            yield from self._run(audio, options, lang)
        except Exception as error:
            yield self._failed(_sentence(error, lang), lang)

    def _run(self, audio: str, options: TranscribeOptions, lang: str) -> Iterator[Updates]:
        began = time.perf_counter()
        yield self._cleared(lang)
        for news in run_in_background(self.transcriber, audio, options):
            if isinstance(news, Transcript):
                yield from self._finished(news, audio, time.perf_counter() - began, lang)
            elif news:
                yield {
                    self.status: _progress_status(news, lang),
                    self.result: labelled_text(news.segments, lang, options=options),
                }
            else:
                yield {self.status: gr.skip()}

    def _cleared(self, lang: str) -> Updates:
        return {
            self.status: _status("working", text("status.reading", lang), fraction=0.0),
            self.start: gr.update(interactive=False),
            self.stop: gr.update(visible=True),
            **self._without_result(),
        }

    def _without_result(self) -> Updates:
        nothing = {button: gr.update(value=None, interactive=False) for button in self.downloads.values()}
        hidden = {self.counts: gr.update(visible=False), self.timeline: gr.update(value="", visible=False)}
        return {self.result: "", **hidden, **nothing}

    def _idle(self) -> Updates:
        return {self.start: gr.update(interactive=True), self.stop: gr.update(visible=False)}

    def _failed(self, sentence: str, lang: str) -> Updates:
        gr.Warning(sentence)
        return {self.status: _status("error", sentence), **self._without_result(), **self._idle()}

    def _finished(self, transcript: Transcript, audio: str, elapsed_s: float, lang: str) -> Iterator[Updates]:
        """Show it all; the files exist until Gradio has taken its own copies."""
        with tempfile.TemporaryDirectory() as folder:
            files = write_exports(transcript, Path(folder), safe_stem(audio), lang)
            yield {
                self.status: _result_status(transcript, elapsed_s, lang),
                self.result: labelled_text(transcript, lang),
                self.counts: counts_plot(transcript, lang),
                self.timeline: gr.update(
                    value=timeline_html(transcript, audio, lang), visible=bool(transcript.segments)
                ),
                **{
                    self.downloads[name]: gr.update(value=str(path), interactive=True)
                    for name, path in files.items()
                },
                **self._idle(),
            }

    def _lang(self, request: gr.Request) -> str:
        return browser.request_lang(request.headers, fixed=self.settings.lang)


def _value_of(clip: Path) -> Any:
    return lambda: str(clip)


def _sentence(error: Exception, lang: str) -> str:
    """What to say of `error`; one that nobody expected goes to the log with its trace."""
    if not isinstance(error, SenseVoiceError):
        log.error("a transcription failed unexpectedly", exc_info=error)
    return error_text(error, lang)


# Running beside the page --------------------------------------------------------------------------


class _StoppedError(Exception):
    """The reader has stopped the run, or left."""


def run_in_background(
    transcriber: Transcriber, source: str, options: TranscribeOptions
) -> Iterator[Progress | Transcript | None]:
    """Yield the progress of a run, None where there is no news, at last the transcript; raise its error.

    Closing the iterator ends the run at its next report of progress.
    """
    news: Queue[Progress | Transcript | Exception] = Queue()
    stopped = Event()

    def report(progress: Progress) -> None:
        if stopped.is_set():
            raise _StoppedError
        news.put(progress)

    def run() -> None:
        try:
            news.put(transcriber.transcribe(source, options, report))
        except Exception as error:
            news.put(error)

    Thread(target=run, name="transcription", daemon=True).start()
    try:
        yield from _until_finished(news)
    finally:
        stopped.set()


def _until_finished(
    news: Queue[Progress | Transcript | Exception],
) -> Iterator[Progress | Transcript | None]:
    while True:
        latest = _latest(news)
        if isinstance(latest, Exception):
            raise latest
        yield latest
        if isinstance(latest, Transcript):
            return


def _latest(
    news: Queue[Progress | Transcript | Exception],
) -> Progress | Transcript | Exception | None:
    """The newest of what is waiting, since each report holds all that the earlier ones held."""
    try:
        latest = news.get(timeout=TICK_S)
        while not news.empty():
            latest = news.get_nowait()
    except Empty:
        return None
    return latest


# How results look ---------------------------------------------------------------------------------


def safe_stem(path: str) -> str:
    """A file name for downloads, made of the upload's own: letters of any script, digits, `-` and `_`.

    >>> safe_stem("/tmp/x/会议 记录 (1).m4a")
    '会议_记录_1'
    """
    words = re.findall(r"[\w-]+", Path(path).stem)
    return "_".join(words)[:STEM_LENGTH].strip("_-") or "transcript"


def write_exports(transcript: Transcript, folder: Path, stem: str, lang: str) -> dict[str, Path]:
    """Write `transcript` in every format; the path of each."""
    paths = {name: folder / f"{stem}{exporter.suffix}" for name, exporter in EXPORTERS.items()}
    for name, path in paths.items():
        path.write_text(EXPORTERS[name].render(transcript, lang), encoding="utf-8", newline="\n")
    return paths


def counts_plot(transcript: Transcript, lang: str) -> Any:
    """The update of the bar plot: a bar for each emotion and event, hidden if there are none."""
    counts = tag_counts(transcript)
    if not counts:
        return gr.update(visible=False)
    x, y, kind = (text(f"counts.{name}", lang) for name in ("label", "count", "kind"))
    bars = [(c.tag.label(lang), c.count, text(f"counts.{c.kind}", lang)) for c in counts]
    return gr.BarPlot(
        pd.DataFrame(bars, columns=[x, y, kind]),
        x=x,
        y=y,
        color=kind,
        x_title=" ",
        color_title=" ",
        y_lim=[0, max(COUNT_AXIS_AT_LEAST, *(c.count for c in counts))],
        sort=[bar[0] for bar in bars],
        color_map={text(f"counts.{name}", lang): colour for name, colour in KIND_COLOURS.items()},
        visible=True,
    )


def _status(state: str, sentence: str, *, fraction: float | None = None) -> str:
    """The status line; `fraction` of the work done adds a bar."""
    bar = ""
    if fraction is not None:
        unknown = "" if fraction > 0 else " data-unknown"
        bar = f'<span class="sv-progress"{unknown}><i style="width:{100 * fraction:.1f}%"></i></span>'
    return _status_line(state, f"<span>{escape(sentence)}</span>{bar}")


def _status_line(state: str, content: str) -> str:
    return f'<div class="sv-status" role="status" data-state="{state}">{content}</div>'


def _progress_status(progress: Progress, lang: str) -> str:
    if progress.done_s <= 0:
        return _status("working", text("status.reading", lang), fraction=0.0)
    done, total = (clock(seconds, tenths=False) for seconds in (progress.done_s, progress.total_s))
    if progress.total_s <= 0:  # a recording that does not say how long it is
        return _status("working", text("status.working_on", lang, done=done), fraction=0.0)
    sentence = text("status.working", lang, done=done, total=total)
    return _status("working", sentence, fraction=min(progress.done_s / progress.total_s, 1.0))


def _result_status(transcript: Transcript, elapsed_s: float, lang: str) -> str:
    if not transcript.segments:
        return _status("done", text("status.nothing_heard", lang))
    facts = {
        "duration": duration_text(transcript.duration_s, lang),
        "elapsed": duration_text(elapsed_s, lang),
        "rtfx": f"{transcript.duration_s / max(elapsed_s, 1e-3):.1f}×",
        "language": label(transcript.language, lang, transcript.tags) or "–",
        "segments": str(len(transcript.segments)),
    }
    items = "".join(
        f"<div><dt>{text(f'status.{key}', lang)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in facts.items()
    )
    return _status_line("done", f"<dl>{items}</dl>")
