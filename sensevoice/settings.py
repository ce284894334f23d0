"""What the environment says: `SENSEVOICE_PORT=8000` and the like. Only the entry points (apps/) read it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sensevoice.options import Precision

Hub = Literal["modelscope", "huggingface"]
PageLanguage = Literal["auto", "zh", "en"]
SpokenLanguage = Literal["auto", "zh", "en", "yue", "ja", "ko"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: separated by commas


def _default_spool() -> Path:
    """A folder of this user's own: another's could hold links that lead elsewhere."""
    return Path(tempfile.gettempdir()) / f"sensevoice-spool-{os.getuid() if hasattr(os, 'getuid') else 0}"


class Settings(BaseSettings):
    """Defaults of the page, the service and the command line; options given on the command line win."""

    model_config = SettingsConfigDict(env_prefix="SENSEVOICE_", env_ignore_empty=True, extra="ignore")

    # which model, and where it runs
    model: str | None = Field(
        None,
        description="Model folder, hub id, or 'starter'. "
        "Unset: the official model if it is cached or the hub answers, else the starter.",
    )
    hub: Hub = Field("modelscope", description="The hub that model ids are looked up on.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:n.")
    precision: Precision = Field(
        "auto",
        description="Number format: auto, fp32, fp16, bf16 or int8. "
        "auto: fp16 on GPUs, int8 for large models on processors that gain by it, else fp32.",
    )
    offline: bool = Field(False, description="Never touch the network.")

    # where the page and the service listen
    host: str = Field("0.0.0.0", description="Address to listen on; 127.0.0.1 for this machine only.")
    port: int = Field(6006, ge=0, le=65_535, description="TCP port; 0 takes any free one.")

    # what the user sees and says
    ui: bool = Field(True, description="Serve the page beside the HTTP service.")
    lang: PageLanguage = Field("auto", description="Language of the page; auto follows the browser.")
    language: SpokenLanguage = Field("auto", description="What is spoken, unless a request says otherwise.")

    # what is refused
    max_duration_s: float = Field(
        12 * 3600.0, gt=0, description="Longest recording that is accepted, in seconds."
    )
    max_upload_mb: float = Field(
        2_048.0, gt=0, description="Largest upload that is accepted, in MiB (2**20 bytes)."
    )
    head_timeout_s: float = Field(
        10.0, gt=0, description="Longest time that the head of one request may take, in seconds."
    )
    upload_timeout_s: float = Field(
        900.0, gt=0, description="Longest time that one upload may take, in seconds."
    )
    upload_idle_s: float = Field(30.0, gt=0, description="Longest pause within one upload, in seconds.")
    decode_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Longest time that decoding may take to come one minute further, in seconds.",
    )
    request_timeout_s: float = Field(
        3_600.0,
        gt=0,
        description="Longest time from the end of an upload to its reply, waiting included, in seconds.",
    )
    rate_per_minute: int = Field(
        0,
        ge=0,
        description="Transcriptions that one key, or one address without keys, may start in a minute; "
        "0: any number.",
    )

    # jobs
    job_dir: Path = Field(
        Path("~/.local/share/sensevoice/jobs"),
        description="Folder for the jobs' database and recordings; it must be on a local disk.",
    )
    job_ttl_s: float = Field(
        7 * 86_400.0, gt=0, description="How long a finished job's transcripts are kept, in seconds."
    )
    job_threads: int = Field(1, ge=1, le=64, description="Recordings of jobs that are worked on at once.")
    job_max_files: int = Field(100, ge=1, description="Most recordings in one job.")
    job_max_queued: int = Field(1_000, ge=1, description="Most recordings that wait, of all jobs together.")
    webhook_secret: SecretStr | None = Field(
        None,
        description="Key of the webhooks' HMAC-SHA256 signature; unset, jobs with a webhook are refused.",
    )
    webhook_allow_private: bool = Field(
        False, description="Also send webhooks to loopback, private and other addresses that are not public."
    )
    webhook_timeout_s: float = Field(
        15.0, gt=0, le=60, description="Longest that one attempt at a webhook may take in all, in seconds."
    )
    webhook_attempts: int = Field(10, ge=1, description="How often a webhook is tried before it is given up.")
    webhook_backoff_s: float = Field(
        10.0,
        gt=0,
        description="Wait after the first failed attempt, in seconds; it doubles each time, up to 1 h.",
    )

    # how much is done at a time
    workers: int = Field(
        0,
        ge=0,
        description="Transcriptions that run at the same time, in threads; 0: 2 on a processor, 16 on a GPU.",
    )
    queue_length: int = Field(
        256, ge=0, description="Requests that may wait for a worker; further ones are refused."
    )

    # live streams
    stream_max_streams: int = Field(16, ge=1, description="Most live streams that are open at once.")
    stream_max_duration_s: float = Field(
        4 * 3600.0, gt=0, description="Longest live stream, in seconds of sound."
    )
    stream_idle_s: float = Field(
        30.0, gt=0, description="Longest time without a message from a live stream's client, in seconds."
    )
    stream_max_message_kb: int = Field(
        512, ge=1, le=1_024, description="Largest message of a live stream, in KiB (1,024 bytes)."
    )
    stream_draft_every_ms: int = Field(
        400, ge=100, description="New speech after which a live stream's draft is renewed, in milliseconds."
    )

    # who may use the service
    api_keys: Names = Field(
        (), repr=False, description="Keys that are accepted, separated by commas; unset: no key is needed."
    )
    cors_origins: Names = Field(
        (), description="Web sites whose scripts may call the service, separated by commas; * for all."
    )

    # where uploads live until they are answered
    spool_dir: Path = Field(
        default_factory=_default_spool, description="Folder for uploads; emptied of each after its reply."
    )

    # how it ends
    grace_s: float = Field(
        30.0,
        ge=0,
        description="Longest time that running requests are given to finish on SIGTERM, in seconds.",
    )

    # what is logged
    log_level: LogLevel = Field("info", description="Least severe messages that are logged.")
    log_format: LogFormat = Field(
        "auto", description="json: one object a line; text; auto: text on a terminal, else json."
    )
    log_transcripts: bool = Field(False, description="Also log what was said, which is private by default.")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value
