"""The page in a real browser. Exact contents come from canned answers, the main journeys from the starter."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pysubs2
import pytest
import webvtt
from browsing import PHONE, Visit, launch, serving, visiting, write_tone
from fakes import SEGMENTS, FakeTranscriber, segment
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Playwright, sync_playwright

import sensevoice
from sensevoice.apps import ui
from sensevoice.options import LANGUAGES
from sensevoice.pipeline import Progress
from sensevoice.settings import Settings
from sensevoice.strings import text

# the server runs in this process, and what Gradio warns of is not ours
pytestmark = pytest.mark.filterwarnings("default")

STARTER = Path(sensevoice.__file__).parent / "starter"
CHINESE_RESULT = (
    "[开心] 今天天气真好，我们去公园走走吧！\n好啊，听说那里的樱花开了。\n[笑声]\n"
    "[悲伤?] Let us meet at half past three.\n[掌声]"
)
ENGLISH_RESULT = (
    "[Happy] 今天天气真好，我们去公园走走吧！\n好啊，听说那里的樱花开了。\n[Laughter]\n"
    "[Sad?] Let us meet at half past three.\n[Applause]"
)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright)
    yield browser
    browser.close()


@pytest.fixture(scope="module", autouse=True)
def gradio_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository's clips, or one of our own where they are not there yet."""
    if ui.EXAMPLES.is_dir():
        yield ui.EXAMPLES
        return
    folder = tmp_path_factory.mktemp("examples")
    write_mp3(folder / "zh.mp3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ui, "EXAMPLES", folder)
        yield folder


@pytest.fixture(scope="module")
def fake() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture(scope="module")
def url(fake: FakeTranscriber, examples: Path, gradio_cache: Path) -> Iterator[str]:
    with serving(fake, Settings(offline=True)) as url:
        yield url


@pytest.fixture(scope="module")
def transcriber() -> Any:
    """The real starter if it has been trained, else canned answers."""
    if not (STARTER / "model.pt").is_file():
        print("no starter model here: canned answers")
        return FakeTranscriber()
    from sensevoice.pipeline import Transcriber

    print(f"with the starter model {STARTER}")
    return Transcriber.load("starter", device="cpu", offline=True)


@pytest.fixture(scope="module")
def real_url(transcriber: Any, examples: Path, gradio_cache: Path) -> Iterator[str]:
    with serving(transcriber, Settings(offline=True)) as url:
        yield url


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    with visiting(browser, url) as visit:
        yield visit


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "会议 记录 (1).wav")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.mp3"
    path.write_bytes(b"this was never a recording" * 400)
    return path


def write_mp3(path: Path) -> Path:
    tone = write_tone(path.with_suffix(".wav"), 4.0)
    with av.open(str(tone)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libmp3lame", rate=16_000)
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    tone.unlink()
    return path


def write_video(path: Path) -> Path:
    with av.open(str(path), "w") as target:
        picture = target.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            target.mux(picture.encode(frame))
        target.mux(picture.encode(None))
    return path


# What it says, and in which language --------------------------------------------------------------


def test_the_page_is_chinese_for_a_chinese_browser(visit: Visit) -> None:
    page = visit.page
    assert page.title() == "🎙 SenseVoice 智能语音识别控制台"
    assert page.inner_text("h1") == "🎙 SenseVoice 智能语音识别控制台"
    assert "上传音频或直接录音" in page.inner_text("#sv-audio")
    assert page.inner_text("#sv-start") == "开始 AI 识别"
    assert "识别结果" in page.inner_text("#sv-result")
    assert page.get_attribute("#sv-result textarea", "rows") == "12"
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert "__i18n__" not in page.content().split("</script>")[-1]


def test_the_languages_are_offered_by_code_and_name(visit: Visit) -> None:
    visit.page.click("#sv-language input")
    options = visit.page.locator("#sv-language [role=option]").all_inner_texts()
    assert [option.replace("✓", "").strip() for option in options] == [
        "auto 自动识别", "zh 中文", "en 英文", "yue 粤语", "ja 日语", "ko 韩语",
    ]  # fmt: skip


def test_the_start_button_is_blue(visit: Visit) -> None:
    colour = visit.page.evaluate("getComputedStyle(document.querySelector('#sv-start')).backgroundColor")
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert blue > 2 * max(red, green)


def test_the_page_is_english_for_an_english_browser(browser: Browser, url: str) -> None:
    with visiting(browser, url, locale="en-US") as visit:
        assert visit.page.title() == "🎙 SenseVoice Speech Recognition Console"
        assert visit.page.inner_text("#sv-start") == "Start recognition"
        assert "Click to Upload" in visit.page.inner_text("#sv-audio")
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in visit.everything().replace("中文", ""))


def test_a_browser_of_another_language_gets_chinese(browser: Browser, url: str) -> None:
    with visiting(browser, url, locale="fr-FR") as visit:
        assert visit.page.inner_text("#sv-start") == "开始 AI 识别"
        assert "点击上传" in visit.page.inner_text("#sv-audio")


def test_the_reader_can_switch_the_language_and_it_stays(browser: Browser, url: str, tone: Path) -> None:
    with visiting(browser, url) as visit:
        visit.page.click("#sv-header a")
        visit.page.wait_for_selector("#sv-start :text('Start'), #sv-start:has-text('Start')")
        visit.page.goto(url)
        visit.page.wait_for_selector("#sv-start:has-text('Start recognition')")
        assert visit.transcribe(tone) == ENGLISH_RESULT


@pytest.mark.parametrize(("lang", "locale"), [("zh", "en-US"), ("en", "zh-CN")])
def test_the_lang_option_fixes_the_language(browser: Browser, lang: str, locale: str, tone: Path) -> None:
    with (
        serving(FakeTranscriber(), Settings(lang=lang)) as url,  # type: ignore[arg-type]
        visiting(browser, url + "?lang=" + ("en" if lang == "zh" else "zh"), locale=locale) as visit,
    ):
        assert visit.page.inner_text("#sv-start") == text("page.start", lang)
        assert visit.page.locator("#sv-header a").count() == 0
        assert visit.transcribe(tone) == (CHINESE_RESULT if lang == "zh" else ENGLISH_RESULT)


@pytest.mark.parametrize("is_starter", [True, False])
def test_the_banner_is_there_only_for_the_starter(browser: Browser, is_starter: bool) -> None:
    with (
        serving(FakeTranscriber(is_starter=is_starter), Settings()) as url,
        visiting(browser, url) as visit,
    ):
        assert ("sensevoice download" in visit.everything()) == is_starter
        assert "FunASR" in visit.page.inner_text(".sv-footer")


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_nothing_sticks_out_of_a_phones_screen(browser: Browser, url: str, locale: str, tone: Path) -> None:
    with visiting(browser, url, locale=locale, viewport=PHONE, is_mobile=True, has_touch=True) as visit:
        visit.transcribe(tone)
        visit.page.click("#sv-options button")
        assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


# The main journey ---------------------------------------------------------------------------------


def test_an_uploaded_recording_is_read_back_with_its_tags(visit: Visit, tone: Path) -> None:
    assert visit.transcribe(tone) == CHINESE_RESULT
    status = visit.status().replace("\n", " ")
    assert "音频时长 12.5 秒" in status
    assert "用时" in status
    assert "RTFx" in status
    visit.page.wait_for_selector("#sv-counts svg.marks")
    assert "声音事件" in visit.page.inner_text("#sv-counts")


def test_the_result_can_be_copied(visit: Visit, tone: Path) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.transcribe(tone)
    visit.page.hover("#sv-result")
    visit.page.click("#sv-result button")
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate("navigator.clipboard.readText()") == CHINESE_RESULT


def test_the_chosen_language_and_options_reach_the_model(
    visit: Visit, fake: FakeTranscriber, tone: Path
) -> None:
    visit.page.click("#sv-language input")
    visit.page.click("#sv-language [role=option] >> nth=3")
    visit.page.click("#sv-options button")
    visit.page.get_by_label("添加标点并转换数字").uncheck()
    visit.page.get_by_label("总是给出情绪").check()
    visit.page.get_by_role("checkbox", name="ko 韩语").check()
    visit.transcribe(tone)
    asked = fake.asked[-1]
    assert (asked.language, asked.use_itn, asked.ban_emo_unk) == ("yue", False, True)
    assert (asked.allowed_languages, asked.emotion_threshold, asked.show_neutral) == (("ko",), 0.5, False)


def test_neutral_is_shown_when_asked_for(visit: Visit, tone: Path) -> None:
    visit.page.click("#sv-options button")
    visit.page.get_by_label("显示“中性”").check()
    assert "[中性] 好啊，听说那里的樱花开了。" in visit.transcribe(tone)


def test_every_format_can_be_downloaded_and_read(visit: Visit, tone: Path, tmp_path: Path) -> None:
    visit.transcribe(tone)
    paths = {}
    for name in ("txt", "json", "srt", "vtt", "tsv"):
        with visit.page.expect_download() as download:
            visit.page.click(f"#sv-download-{name}")
        assert download.value.suggested_filename == f"会议_记录_1.{name}"
        paths[name] = tmp_path / f"download.{name}"
        download.value.save_as(paths[name])
    assert paths["txt"].read_text("utf-8") == CHINESE_RESULT + "\n"
    subtitles = pysubs2.load(str(paths["srt"]))
    assert len(subtitles) >= len(SEGMENTS)
    assert (subtitles[0].start, subtitles[-1].end) == (400, 11_800)
    assert len(webvtt.read(str(paths["vtt"]))) == len(subtitles)


def test_partial_text_and_progress_appear_while_it_runs(browser: Browser, tone: Path) -> None:
    slow = FakeTranscriber(pause_s=1.0)
    with serving(slow, Settings()) as url, visiting(browser, url) as visit:
        visit.upload(tone)
        visit.start()
        visit.page.wait_for_function("document.querySelector('#sv-result textarea').value.includes('樱花')")
        assert "[掌声]" not in visit.result()
        assert visit.page.is_disabled("#sv-start")
        assert "正在识别 0:0" in visit.status()
        assert visit.page.locator(".sv-progress").count() == 1
        assert visit.finished() == CHINESE_RESULT
        assert visit.page.is_enabled("#sv-start")


def test_a_run_can_be_stopped_and_another_started(browser: Browser, tone: Path) -> None:
    slow = FakeTranscriber(SEGMENTS * 20, pause_s=0.4)
    with serving(slow, Settings()) as url, visiting(browser, url) as visit:
        visit.upload(tone)
        visit.start()
        visit.page.wait_for_function("document.querySelector('#sv-result textarea').value.includes('樱花')")
        visit.page.click("#sv-stop")
        visit.page.wait_for_selector('.sv-status[data-state="stopped"]')
        assert_comes_to_rest(slow)
        slow.segments, slow.pause_s = SEGMENTS, 0.0
        visit.start()
        assert visit.finished() == CHINESE_RESULT


def test_a_run_ends_when_its_reader_leaves(browser: Browser, tone: Path) -> None:
    slow = FakeTranscriber(SEGMENTS * 40, pause_s=0.2)
    with serving(slow, Settings()) as url:
        with visiting(browser, url) as visit:
            visit.upload(tone)
            visit.start()
            visit.page.wait_for_function(
                "document.querySelector('#sv-result textarea').value.includes('樱花')"
            )
        assert_comes_to_rest(slow)


def assert_comes_to_rest(slow: FakeTranscriber) -> None:
    """No report of progress for two seconds, although there was more to do."""
    deadline = time.monotonic() + 20
    seen, since = slow.reports, time.monotonic()
    while time.monotonic() - since < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        if slow.reports != seen:
            seen, since = slow.reports, time.monotonic()
    assert seen < len(slow.segments)
    assert time.monotonic() < deadline


# What can go wrong --------------------------------------------------------------------------------


def test_without_audio_the_page_asks_for_some(visit: Visit) -> None:
    visit.start()
    assert visit.failed() == "请先上传一段音频，或用麦克风录一段。"


def test_a_broken_file_gets_a_sentence_and_the_next_one_a_result(
    visit: Visit, broken: Path, tone: Path
) -> None:
    visit.upload(broken)
    visit.start()
    assert visit.failed().startswith("“broken.mp3”不是可读取的录音。")
    assert visit.page.inner_text("[data-testid=toast-text]") == visit.status()
    assert "Traceback" not in visit.everything()
    visit.page.click("[data-testid=toast-close]")
    visit.page.click("#sv-audio [aria-label='清除'], #sv-audio [aria-label='Clear']")
    assert visit.transcribe(tone) == CHINESE_RESULT


def test_a_failed_run_takes_the_earlier_result_away(visit: Visit, broken: Path, tone: Path) -> None:
    visit.transcribe(tone)
    visit.page.click("#sv-audio [aria-label='清除'], #sv-audio [aria-label='Clear']")
    visit.upload(broken)
    visit.start()
    visit.failed()
    assert visit.result() == ""
    assert visit.page.locator(".sv-line").count() == 0
    assert visit.page.is_disabled("#sv-download-srt")


def test_an_unexpected_error_is_logged_and_gives_nothing_away(
    visit: Visit, fake: FakeTranscriber, tone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.error = RuntimeError("/secret/path exploded")
    try:
        visit.upload(tone)
        with caplog.at_level(logging.ERROR):
            visit.start()
            assert visit.failed() == text("error.unexpected", "zh")
    finally:
        fake.error = None
    assert "secret" not in visit.everything()
    assert "/secret/path exploded" in caplog.text


def test_a_video_file_is_taken_although_gradio_would_refuse_it(visit: Visit, tmp_path: Path) -> None:
    assert visit.transcribe(write_video(tmp_path / "talk.mp4")) == CHINESE_RESULT


def test_words_that_look_like_html_stay_words(browser: Browser, tmp_path: Path) -> None:
    trap = "<img src=x onerror=\"document.title='caught'\"> & <b>bold</b>"
    sly = FakeTranscriber((segment(0.0, 2.0, trap),))
    recording = write_tone(tmp_path / "<img src=x onerror=alert(1)>.wav", 2.0)
    with serving(sly, Settings()) as url, visiting(browser, url) as visit:
        assert visit.transcribe(recording) == trap
        assert visit.page.inner_text(".sv-words >> nth=0") == trap
        assert visit.page.locator("#sv-timeline img").count() == 0
        assert visit.page.title() == text("page.title", "zh")


def test_a_recording_without_speech_says_so(browser: Browser, tone: Path) -> None:
    with serving(FakeTranscriber(()), Settings()) as url, visiting(browser, url) as visit:
        assert visit.transcribe(tone) == ""
        assert visit.status() == text("status.nothing_heard", "zh")


# The timeline -------------------------------------------------------------------------------------


def timeline_audio(visit: Visit, expression: str) -> Any:
    return visit.page.evaluate(f"window.svAudio.{expression}")


def test_the_timeline_has_a_line_for_each_segment_and_each_long_gap(visit: Visit, tone: Path) -> None:
    visit.transcribe(tone)
    lines = [line.split("\n")[-1] for line in visit.page.locator(".sv-words").all_inner_texts()]
    assert lines == [s.text for s in SEGMENTS if s.text] + ["未检测到语音，已跳过"]
    assert visit.page.locator(".sv-mark").count() == len(SEGMENTS)
    assert visit.page.inner_text(".sv-chip[data-uncertain]").replace("\n", " ") == "😔 悲伤 41 % · 不确定"
    assert visit.page.get_attribute(".sv-chip[data-uncertain]", "title") == "悲伤 41 %，其次 中性"


def test_clicking_a_line_plays_that_part_of_the_recording(visit: Visit, tone: Path) -> None:
    visit.transcribe(tone)
    line = visit.page.locator(".sv-line").nth(1)
    line.click()
    visit.page.wait_for_function("window.svAudio.currentTime > 4.2 && !window.svAudio.paused")
    assert 3.9 <= timeline_audio(visit, "currentTime") <= 6.2
    assert line.get_attribute("aria-pressed") == "true"
    visit.page.wait_for_function("window.svAudio.paused")
    assert 6.2 <= timeline_audio(visit, "currentTime") < 6.5
    assert line.get_attribute("aria-pressed") == "false"


def test_clicking_a_playing_line_stops_it_and_another_takes_over(visit: Visit, tone: Path) -> None:
    visit.transcribe(tone)
    visit.page.locator(".sv-line").nth(0).click()
    visit.page.wait_for_function("!window.svAudio.paused")
    visit.page.locator(".sv-mark").nth(2).click()
    visit.page.wait_for_function("window.svAudio.currentTime > 6.9 && !window.svAudio.paused")
    assert visit.page.locator('.sv-line[aria-pressed="true"]').count() == 1
    visit.page.locator(".sv-line").nth(2).click()
    visit.page.wait_for_function("window.svAudio.paused")
    assert visit.page.locator('.sv-line[aria-pressed="true"]').count() == 0


# With the starter, where there is one -------------------------------------------------------------


def test_an_example_clip_comes_back_readable(browser: Browser, real_url: str) -> None:
    with visiting(browser, real_url) as visit:
        visit.page.click("#sv-examples button >> nth=0")
        visit.page.wait_for_selector("#sv-status :text-matches('点击')")
        visit.start()
        assert len(visit.finished()) >= 4
        assert "中文" in visit.status()


def test_srt_of_an_example_is_valid(browser: Browser, real_url: str, examples: Path, tmp_path: Path) -> None:
    with visiting(browser, real_url) as visit:
        visit.transcribe(next(examples.glob("*.mp3")))
        with visit.page.expect_download() as download:
            visit.page.click("#sv-download-srt")
        download.value.save_as(tmp_path / "clip.srt")
    subtitles = pysubs2.load(str(tmp_path / "clip.srt"))
    assert len(subtitles) >= 1
    assert all(line.start < line.end for line in subtitles)
    assert all(a.end <= b.start for a, b in pairwise(subtitles))


def test_a_recording_from_the_microphone_is_transcribed(
    playwright: Playwright, real_url: str, examples: Path, tmp_path: Path
) -> None:
    microphone = write_microphone(next(examples.glob("*.mp3")), tmp_path / "microphone.wav")
    browser = launch(
        playwright,
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    )
    with visiting(browser, real_url, permissions=["microphone"]) as visit:
        visit.page.click("[data-testid=source-select] button >> nth=1")
        visit.page.click("#sv-audio .record-button")
        visit.page.wait_for_timeout(4000)
        visit.page.click("#sv-audio .stop-button")
        visit.page.wait_for_selector("#sv-status :text-matches('点击')")
        visit.start()
        assert visit.finished() != ""
    browser.close()


def write_microphone(clip: Path, path: Path) -> Path:
    """What Chromium's fake microphone plays: 48 kHz mono wav."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


# Programs and strangers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_gradio_client_gets_the_json_of_the_service(client: Client, tone: Path, lang: str) -> None:
    answer = client.predict(handle_file(str(tone)), lang, api_name="/transcribe")
    assert [part["text"] for part in answer["segments"]] == [part.text for part in SEGMENTS]
    assert (answer["model"], answer["options"]["language"]) == ("fake-starter", lang)


def test_a_gradio_client_is_told_what_is_wrong(client: Client, broken: Path) -> None:
    with pytest.raises(AppError, match="不是可读取的录音"):
        client.predict(handle_file(str(broken)), "zh", api_name="/transcribe")


def test_transcribe_is_all_that_programs_are_offered(client: Client) -> None:
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/transcribe"]


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "http://127.0.0.1:1/x.wav", "file:///etc/passwd"])
def test_a_stranger_cannot_make_the_server_read_other_files(
    url: str, fake: FakeTranscriber, path: str
) -> None:
    asked = len(fake.asked)
    recording = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(f"{url}gradio_api/call/transcribe", json={"data": [recording, "zh"]})
    answer = httpx.get(f"{url}gradio_api/call/transcribe/{call.json()['event_id']}", timeout=60)
    assert answer.text.startswith("event: error")
    assert "Traceback" not in answer.text
    assert len(fake.asked) == asked


def test_a_stranger_cannot_make_the_server_fetch_an_address(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    async def fetch(address: str, cache_dir: str) -> str:
        fetched.append(address)
        return __file__

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    recording = {"path": "http://example.com/a.wav", "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(f"{url}gradio_api/call/transcribe", json={"data": [recording, "zh"]})
    answer = httpx.get(f"{url}gradio_api/call/transcribe/{call.json()['event_id']}", timeout=60)
    assert answer.text.startswith("event: error")
    assert fetched == []


def test_a_stranger_cannot_fetch_files_of_the_server(url: str) -> None:
    for path in ("/etc/passwd", __file__, ui.__file__):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code == 403


def test_the_page_and_the_service_share_one_address(url: str, tone: Path) -> None:
    assert httpx.get(f"{url}health").json()["model"] == "fake-starter"
    reply = httpx.post(f"{url}transcribe", files={"file": tone.read_bytes()}, data={"lang": "zh"})
    assert reply.json()["segments"][0]["emotion"] == "HAPPY"


def test_a_page_without_example_clips_works(
    browser: Browser, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui, "EXAMPLES", Path("/nowhere"))
    with serving(FakeTranscriber(), Settings()) as url, visiting(browser, url) as visit:
        assert visit.page.locator("#sv-examples").count() == 0
        assert visit.transcribe(tone) == CHINESE_RESULT


def test_exports_leave_no_files_outside_gradios_cache(
    visit: Visit, tone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(ours))
    visit.transcribe(tone)
    visit.page.wait_for_timeout(500)
    assert list(ours.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/tmp/x/会议 记录 (1).m4a", "会议_记录_1"),
        ("../../etc/passwd", "passwd"),
        ("a" * 200 + ".wav", "a" * 60),
        ("/tmp/....wav", "transcript"),
        ("C:\\Users\\me\\talk.wav", "C_Users_me_talk"),
    ],
)
def test_a_download_is_named_after_the_upload_but_safely(path: str, stem: str) -> None:
    assert ui.safe_stem(path) == stem


def test_a_recording_of_unknown_length_shows_what_is_done_and_no_share_of_it() -> None:
    known, unknown = Progress("recognise", 65.0, 130.0), Progress("recognise", 65.0, 0.0)
    assert "Recognising 1:05 of 2:10" in ui._progress_status(known, "en")
    assert "Recognising, 1:05 done" in ui._progress_status(unknown, "en")
    assert "data-unknown" in ui._progress_status(unknown, "zh")
    assert "data-unknown" not in ui._progress_status(known, "zh")
