"""Every sentence that a person reads, in Chinese and in English, in one table.

>>> text("page.start", "zh")
'开始 AI 识别'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sensevoice.errors import SenseVoiceError

LANGS = ("zh", "en")
DEFAULT_LANG = "zh"
UNEXPECTED_ERROR = "error.unexpected"
UNNAMED_SOURCE = "the recording"  # what audio.source_name calls bytes and arrays

STRINGS: dict[str, dict[str, str]] = {
    # the page's frame
    "page.title": {
        "zh": "🎙 SenseVoice 智能语音识别控制台",
        "en": "🎙 SenseVoice Speech Recognition Console",
    },
    "page.tagline": {
        "zh": "说了什么、哪种语言、什么情绪、还有哪些声音，一次听清。",
        "en": "What was said, in which language, with which emotion, and what else was heard.",
    },
    "page.other_lang": {"zh": "English", "en": "中文"},
    "page.footer": {
        "zh": "当前模型 <b>{model}</b>，许可：{licence}。"
        "模型结构与标签体系来自 {sensevoice} 与 {funasr}（阿里巴巴通义实验室，"
        "FunASR 模型开源许可协议），使用官方权重时请保留出处与模型名称。",
        "en": "Model in use: <b>{model}</b>, licence: {licence}. "
        "Architecture and tags are those of {sensevoice} and {funasr} (Tongyi Lab, Alibaba Group; "
        "FunASR Model Open Source License); keep the attribution and the model's name when you use "
        "the official weights.",
    },
    "banner.starter": {
        "zh": "<b>正在使用随附的入门模型。</b>它体积小，几乎只用合成语音训练，仅供离线体验，"
        "准确率远不及官方模型。联网后运行 <code>sensevoice download</code> 再重新启动即可换用官方 "
        "SenseVoiceSmall，也可用 <code>--model 模型文件夹</code> 指定。",
        "en": "<b>This is the bundled starter model.</b> It is small, trained almost only on synthetic "
        "speech, and meant for a first look offline; the official model is far more accurate. To use "
        "SenseVoiceSmall, run <code>sensevoice download</code> with a connection and restart, or name a "
        "folder with <code>--model</code>.",
    },
    # what goes in
    "page.audio": {"zh": "上传音频或直接录音", "en": "Upload a recording, or record one"},
    "page.language": {"zh": "语言", "en": "Spoken language"},
    "language.auto": {"zh": "auto 自动识别", "en": "auto (detect)"},
    "language.zh": {"zh": "zh 中文", "en": "zh Chinese"},
    "language.en": {"zh": "en 英文", "en": "en English"},
    "language.yue": {"zh": "yue 粤语", "en": "yue Cantonese"},
    "language.ja": {"zh": "ja 日语", "en": "ja Japanese"},
    "language.ko": {"zh": "ko 韩语", "en": "ko Korean"},
    "page.start": {"zh": "开始 AI 识别", "en": "Start recognition"},
    "page.stop": {"zh": "停止", "en": "Stop"},
    "page.examples": {"zh": "没有录音？试试示例", "en": "No recording at hand? Try an example"},
    "example.zh": {"zh": "中文", "en": "Chinese"},
    "example.en": {"zh": "英文", "en": "English"},
    "example.yue": {"zh": "粤语", "en": "Cantonese"},
    "example.ja": {"zh": "日语", "en": "Japanese"},
    "example.ko": {"zh": "韩语", "en": "Korean"},
    "page.login": {
        "zh": "此页面需要登录：密码是服务的密钥，用户名任意。",
        "en": "This page asks for a login: the password is a key of the service, the name is up to you.",
    },
    "example.events": {"zh": "笑声掌声", "en": "Sounds"},
    # options
    "page.options": {"zh": "更多选项", "en": "More options"},
    "option.use_itn": {"zh": "添加标点并转换数字", "en": "Punctuation, and numbers as digits"},
    "option.show_neutral": {"zh": "显示“中性”和“说话声”标签", "en": "Show the tags “neutral” and “speech”"},
    "option.ban_emo_unk": {
        "zh": "总是给出情绪（禁用“未知”）",
        "en": "Always name an emotion (never “unknown”)",
    },
    "option.emotion_threshold": {"zh": "情绪置信度阈值", "en": "Emotion threshold"},
    "option.emotion_threshold_info": {
        "zh": "概率低于此值的情绪标为“不确定”。",
        "en": "An emotion less probable than this is marked “uncertain”.",
    },
    "option.allowed_languages": {"zh": "自动识别时只考虑", "en": "When detecting, consider only"},
    "option.allowed_languages_info": {
        "zh": "不选则五种语言都考虑。",
        "en": "Leave empty for all five languages.",
    },
    # what comes out
    "page.result": {"zh": "识别结果", "en": "Transcript"},
    "page.result_placeholder": {
        "zh": "识别出的文字、情绪与声音事件会显示在这里。",
        "en": "The text appears here, with its emotions and sound events.",
    },
    "page.downloads": {"zh": "下载", "en": "Download"},
    "page.counts": {"zh": "情绪与声音事件统计", "en": "Emotions and sound events"},
    "counts.kind": {"zh": "类别", "en": "Kind"},
    "counts.label": {"zh": "标签", "en": "Tag"},
    "counts.count": {"zh": "次数", "en": "Segments"},
    "counts.emotion": {"zh": "情绪", "en": "Emotion"},
    "counts.event": {"zh": "声音事件", "en": "Sound event"},
    # the timeline
    "timeline.title": {"zh": "时间轴", "en": "Timeline"},
    "timeline.hint": {"zh": "点击任意一行，播放这段录音", "en": "Click a line to hear it"},
    "timeline.play": {"zh": "播放 {start} 至 {end}", "en": "Play {start} to {end}"},
    "timeline.skipped": {"zh": "未检测到语音，已跳过", "en": "No speech found, skipped"},
    "timeline.uncertain": {"zh": "不确定", "en": "uncertain"},
    "timeline.runner_up": {
        "zh": "{label} {percent} %，其次 {runner_up}",
        "en": "{label} {percent} %, then {runner_up}",
    },
    "timeline.probability": {"zh": "{label} {percent} %", "en": "{label} {percent} %"},
    "timeline.unplayable": {
        "zh": "浏览器无法播放这种格式，识别结果不受影响。",
        "en": "The browser cannot play this format; the transcript is not affected.",
    },
    # the status line
    "status.ready": {"zh": "就绪：请上传或录制一段音频。", "en": "Ready. Upload or record something."},
    "status.loaded": {
        "zh": "音频已就绪，点击“开始 AI 识别”。",
        "en": "The recording is ready: press “Start recognition”.",
    },
    "status.working": {
        "zh": "正在识别 {done} / {total}",
        "en": "Recognising {done} of {total}",
    },
    "bench.model": {
        "zh": "{model}，{device}，精度 {precision}，加载用时 {seconds} 秒",
        "en": "{model} on {device}, precision {precision}, loaded in {seconds} s",
    },
    "bench.row": {
        "zh": "{name}：{sound} 秒音频用时 {took} 秒，RTFx {rtfx}",
        "en": "{name}: {sound} s of sound in {took} s, RTFx {rtfx}",
    },
    "bench.detect": {"zh": "语音检测", "en": "speech detection"},
    "bench.recognise": {"zh": "语音识别", "en": "recognition"},
    "bench.recording": {"zh": "完整识别 {name}", "en": "all of {name}"},
    "status.working_on": {"zh": "正在识别，已完成 {done}", "en": "Recognising, {done} done"},
    "status.reading": {"zh": "正在读取音频…", "en": "Reading the recording…"},
    "status.stopped": {"zh": "已停止。", "en": "Stopped."},
    "status.duration": {"zh": "音频时长", "en": "Audio"},
    "status.elapsed": {"zh": "用时", "en": "Took"},
    "status.rtfx": {"zh": "速度 RTFx", "en": "RTFx"},
    "status.language": {"zh": "主要语言", "en": "Language"},
    "status.segments": {"zh": "片段", "en": "Segments"},
    "status.nothing_heard": {
        "zh": "没有检测到语音。请确认录音音量，或换一段音频。",
        "en": "No speech was found. Check the recording's level, or try another.",
    },
    # lengths of time
    "time.seconds": {"zh": "{seconds} 秒", "en": "{seconds} s"},
    "time.minutes": {"zh": "{minutes} 分 {seconds} 秒", "en": "{minutes} min {seconds} s"},
    "time.hours": {"zh": "{hours} 小时 {minutes} 分", "en": "{hours} h {minutes} min"},
    # the server's own words
    "server.open": {
        "zh": "页面地址 {url}（按 Ctrl+C 停止）",
        "en": "The page is at {url} (press Ctrl+C to stop)",
    },
    "server.model": {"zh": "模型：{model}", "en": "Model: {model}"},
    "server.starter": {
        "zh": "模型：{model}，即随附的入门模型，只用于离线体验。"
        "联网后运行 sensevoice download 可换用官方模型。",
        "en": "Model: {model}, the bundled starter, for a first look offline. "
        "Run `sensevoice download` with a connection to get the official one.",
    },
    "source.unnamed": {"zh": "这段录音", "en": "The recording"},
    # errors, by class
    "error.no_audio": {
        "zh": "请先上传一段音频，或用麦克风录一段。",
        "en": "Upload a recording first, or record one with the microphone.",
    },
    "error.address": {
        "zh": "服务器不会下载网址，请直接上传文件。",
        "en": "The server does not fetch addresses: upload the file itself.",
    },
    UNEXPECTED_ERROR: {
        "zh": "识别时出现意外问题，已记入日志。请重试；若反复出现，请把日志发给管理员。",
        "en": "Something unexpected went wrong, and was logged. Try again; if it happens again, "
        "send the log to whoever runs this server.",
    },
    "error.SenseVoiceError": {
        "zh": "请求未能完成。请重试。",
        "en": "The request could not be completed. Try again.",
    },
    "error.AudioError": {
        "zh": "这段录音无法使用。请换一个文件。",
        "en": "This recording cannot be used. Try another file.",
    },
    "error.NoSuchAudioError": {
        "zh": "找不到文件“{name}”。请检查路径后重试。",
        "en": "There is no file “{name}”. Check the path and try again.",
    },
    "error.EmptyAudioError": {
        "zh": "“{name}”里没有声音。请重新录制或导出。",
        "en": "{name} holds no sound. Record or export it again.",
    },
    "error.NotAudioError": {
        "zh": "“{name}”不是可读取的录音。请使用 wav、mp3、m4a、flac、ogg、opus、webm、mp4 等音频或视频文件。",
        "en": "{name} cannot be read as a recording. Use a sound or video file such as wav, mp3, m4a, "
        "flac, ogg, opus, webm or mp4.",
    },
    "error.NoAudioStreamError": {
        "zh": "“{name}”没有音轨。请选择有声音的文件。",
        "en": "{name} has no sound track. Choose a file with sound.",
    },
    "error.TruncatedAudioError": {
        "zh": "“{name}”不完整：应有 {declared_s}，只读到 {decoded_s}。文件可能没有复制完整，请重新上传。",
        "en": "{name} breaks off after {decoded_s} of {declared_s}. The file was probably not copied "
        "whole: upload it again.",
    },
    "error.AudioTooLongError": {
        "zh": "“{name}”超过了 {limit_s} 的时长上限。请把它切成几段，或调高上限。",
        "en": "{name} is longer than the limit of {limit_s}. Cut it into shorter files, or raise the limit.",
    },
    "error.OptionError": {
        "zh": "有一个选项的取值无效。请检查后重试。",
        "en": "One of the options has a value that cannot be used. Check it and try again.",
    },
    "error.UnknownLanguageError": {
        "zh": "不支持的语言“{language}”：请从 {choices} 中选择。",
        "en": "Unknown language “{language}”: choose one of {choices}.",
    },
    "error.UnknownFormatError": {
        "zh": "不支持的格式“{name}”：请从 {choices} 中选择。",
        "en": "Unknown format “{name}”: choose one of {choices}.",
    },
    "error.JobError": {
        "zh": "这个任务未能完成。请重试。",
        "en": "The job could not be handled. Try again.",
    },
    "error.JobNotFoundError": {
        "zh": "找不到任务“{job}”：它可能已被删除或已过期。",
        "en": "There is no job “{job}” here: it may have been deleted, or have expired.",
    },
    "error.JobNotFinishedError": {
        "zh": "“{name}”尚未完成（{state}）。请在完成后再取结果。",
        "en": "{name} is not finished ({state}): ask for its result once it is done.",
    },
    "error.JobFileFailedError": {
        "zh": "“{name}”没有结果（{kind}）：{reason}。",
        "en": "{name} has no result ({kind}): {reason}.",
    },
    "error.CrashingFileError": {
        "zh": "处理“{name}”时程序崩溃了 {attempts} 次，不再重试。请把录音转换成其他格式，并报告此问题。",
        "en": "The program ended {attempts} times while it worked on {name}, so it is not tried again. "
        "Convert the recording to another format, and report this.",
    },
    "error.IdempotencyError": {
        "zh": "Idempotency-Key“{key}”已用于另一个请求：文件或选项不同时请换一个新的键。",
        "en": "The Idempotency-Key “{key}” belongs to another request: use a new key for new files or options.",
    },
    "error.WebhookRefusedError": {
        "zh": "这个 webhook 地址无法使用：{reason}。",
        "en": "This webhook cannot be used: {reason}.",
    },
    "error.JobStoreError": {
        "zh": "任务数据库无法使用：{reason}。",
        "en": "The database of jobs cannot be used: {reason}.",
    },
    "error.ModelError": {
        "zh": "模型无法使用。请联系管理员。",
        "en": "The model cannot be used. Ask whoever runs this server.",
    },
    "error.ModelNotFoundError": {
        "zh": "找不到模型“{model}”：请给出 SenseVoice 格式的文件夹，或 iic/SenseVoiceSmall 这样的模型编号。",
        "en": "There is no model at “{model}”: give a folder in SenseVoice's layout, or a hub id such as "
        "iic/SenseVoiceSmall.",
    },
    "error.ModelFileError": {
        "zh": "模型文件 {path} 无法使用：{reason}。",
        "en": "The model file {path} cannot be used: {reason}.",
    },
    "error.ChecksumError": {
        "zh": "{path} 与官方发布的文件不一致：SHA-256 应为 {expected}，实为 {found}。请删除后重新下载。",
        "en": "{path} is not the published file: its SHA-256 is {found}, not {expected}. Delete it and "
        "download it again.",
    },
    "error.HubUnreachableError": {
        "zh": "无法连接模型库 {hub}。请检查网络，或指定本地模型文件夹。",
        "en": "The model hub {hub} cannot be reached. Check the connection, or give a local model folder.",
    },
    "error.DeviceError": {
        "zh": "这台机器上没有设备“{device}”：请从 {available} 中选择。",
        "en": "There is no device “{device}” here: choose one of {available}.",
    },
    "error.PrecisionError": {
        "zh": "{device} 上不能使用精度“{precision}”：请从 {choices} 中选择。",
        "en": "The precision “{precision}” cannot be had on {device}: choose one of {choices}.",
    },
    "error.SegmentTooLargeError": {
        "zh": "一个 {duration_s} 的片段放不进设备内存。请减小单个片段的最大时长，或释放设备内存。",
        "en": "A segment of {duration_s} does not fit into the device's memory. "
        "Set a shorter longest segment, or free memory on the device.",
    },
    "error.DatasetError": {
        "zh": "{path} 不能用作训练数据：{reasons}。",
        "en": "{path} cannot be used as training data: {reasons}.",
    },
    "error.UnknownModelError": {
        "zh": "没有模型“{name}”：请从 {choices} 中选择。",
        "en": "There is no model “{name}” here: choose one of {choices}.",
    },
    "error.OptionConflictError": {
        "zh": "{option} 只能与 {needs} 一起使用。",
        "en": "{option} can only be used with {needs}.",
    },
    "error.ServiceError": {
        "zh": "服务暂时无法完成请求。请稍后重试。",
        "en": "The service cannot complete the request. Try again later.",
    },
    "error.UnauthorizedError": {
        "zh": "此服务需要密钥：请发送请求头 Authorization: Bearer <密钥>。",
        "en": "This service needs a key: send the header `Authorization: Bearer <key>`.",
    },
    "error.ForeignOriginError": {
        "zh": "来自 {origin} 的网页不能使用本服务。管理员可通过 SENSEVOICE_CORS_ORIGINS 允许它。",
        "en": "Pages of {origin} may not use this service. Whoever runs it can allow them "
        "with SENSEVOICE_CORS_ORIGINS.",
    },
    "error.RateLimitError": {
        "zh": "此密钥每分钟的请求超过了 {per_minute} 次。请在 {retry_s}后重试。",
        "en": "More than {per_minute} requests a minute with this key. Try again in {retry_s}.",
    },
    "error.UploadTooLargeError": {
        "zh": "文件超过了 {limit_mb} MB 的上传上限。请压缩或切分后再上传。",
        "en": "The upload is larger than the limit of {limit_mb} MB. Compress or split it, and try again.",
    },
    "error.UploadTimeoutError": {
        "zh": "上传太慢，超过了 {limit_s}的时限。请检查网络后重试。",
        "en": "The upload came too slowly: the limit is {limit_s}. Check the connection, and try again.",
    },
    "error.HeadTimeoutError": {
        "zh": "未能在 {limit_s}内收到完整的请求头。请检查网络后重试。",
        "en": "The head of the request did not come within {limit_s}. Check the connection, and try again.",
    },
    "error.StorageFullError": {
        "zh": "服务器没有空间保存上传的文件。请稍后重试，或通知管理员。",
        "en": "The service has no room left to store the upload. Try again later, or tell whoever runs it.",
    },
    "error.QueueFullError": {
        "zh": "已有 {length} 个请求在排队。请在 {retry_s}后重试。",
        "en": "{length} requests are waiting already. Try again in {retry_s}.",
    },
    "error.ShuttingDownError": {
        "zh": "服务正在关闭。请稍后重试。",
        "en": "The service is shutting down. Try again in a moment.",
    },
    "error.DecodeTimeoutError": {
        "zh": "未能在 {limit_s}内完成解码。请转换成 wav 或 flac 后重试。",
        "en": "The recording could not be decoded within {limit_s}. "
        "Convert it to wav or flac, and try again.",
    },
    "error.RequestTimeoutError": {
        "zh": "未能在 {limit_s}内完成识别。请缩短录音，或使用 /v1/jobs。",
        "en": "The transcription was not finished within {limit_s}. "
        "Send shorter recordings, or use /v1/jobs.",
    },
    "error.MemoryFullError": {
        "zh": "模型内存不足。请稍后重试，或缩短录音。",
        "en": "The model ran out of memory. Try again later, or send shorter recordings.",
    },
    "error.WorkerDiedError": {
        "zh": "识别在服务内部中断。请重试。",
        "en": "The transcription was interrupted inside the service. Try again.",
    },
    "error.TooManyStreamsError": {
        "zh": "已有 {limit} 路实时识别在进行。请稍后重试。",
        "en": "{limit} live streams are open already. Try again in a moment.",
    },
    "error.StreamIdleError": {
        "zh": "超过 {limit_s}没有收发数据，连接已关闭。请重新连接。",
        "en": "Nothing was sent or received for {limit_s}, so the stream was closed. Connect again.",
    },
    "error.MessageTooLargeError": {
        "zh": "单条消息超过了 {limit_kb} KiB 的上限。请分成更小的片段发送。",
        "en": "A message is larger than the limit of {limit_kb} KiB. Send the sound in smaller pieces.",
    },
}


def text(key: str, lang: str, /, **values: object) -> str:
    """The sentence `key` in `lang`, with its placeholders filled; KeyError for an unknown key."""
    row = STRINGS[key]
    return row.get(lang, row[DEFAULT_LANG]).format_map(values) if values else row.get(lang, row[DEFAULT_LANG])


def error_text(error: BaseException, lang: str) -> str:
    """What to tell a person about `error`: never a stack trace, nor anything of an unexpected error."""
    if not isinstance(error, SenseVoiceError):
        return text(UNEXPECTED_ERROR, lang)
    return text(_error_key(type(error)), lang, **_readable(error.facts, lang))


def duration_text(seconds: float, lang: str) -> str:
    """A length of time as a person says it: "8.4 秒", "3 min 05 s", "12 小时 00 分"."""
    if round(seconds, 1) < 60:
        return text("time.seconds", lang, seconds=f"{seconds:.1f}")
    minutes, whole_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return text("time.minutes", lang, minutes=minutes, seconds=f"{whole_seconds:02d}")
    return text("time.hours", lang, hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def choose_lang(accept_language: str | None, *, default: str = DEFAULT_LANG) -> str:
    """The first of our languages in an Accept-Language header, by its weights (RFC 9110, 12.5.4)."""
    for tag in _by_weight((accept_language or "").split(",")):
        primary = tag.split("-")[0].lower()
        if primary in LANGS:
            return primary
    return default


def _by_weight(ranges: Iterable[str]) -> list[str]:
    """Language tags, the most wanted first; those that are refused (q=0) or malformed are left out."""
    parts = (part.partition(";") for part in ranges)
    weighted = [(_weight(parameters), tag.strip()) for tag, _, parameters in parts]
    return [tag for weight, tag in sorted(weighted, key=lambda pair: -pair[0]) if weight > 0]


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _error_key(kind: type[BaseException]) -> str:
    """The row of the class, or of the nearest ancestor that has one."""
    return next(key for base in kind.__mro__ if (key := f"error.{base.__name__}") in STRINGS)


def _readable(facts: Mapping[str, object], lang: str) -> dict[str, object]:
    """Facts as a sentence shows them: lengths of time in words, an unnamed source by a name."""
    return {key: _readable_fact(key, value, lang) for key, value in facts.items()}


def _readable_fact(key: str, value: object, lang: str) -> object:
    if key.endswith("_s") and isinstance(value, int | float):
        return duration_text(value, lang)
    if key == "name" and value == UNNAMED_SOURCE:
        return text("source.unnamed", lang)
    return value
