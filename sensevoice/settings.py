"""What the environment says: `SENSEVOICE_PORT=8000` and the like. Only the entry points (apps/) read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sensevoice.options import Precision

Hub = Literal["modelscope", "huggingface"]
PageLanguage = Literal["auto", "zh", "en"]
SpokenLanguage = Literal["auto", "zh", "en", "yue", "ja", "ko"]
LogLevel = Literal["debug", "info", "warning", "error"]


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
        "auto: int8 for large models on processors that gain by it, fp16 on GPUs, else fp32.",
    )
    offline: bool = Field(False, description="Never touch the network.")

    # where the page and the service listen
    host: str = Field("0.0.0.0", description="Address to listen on; 127.0.0.1 for this machine only.")
    port: int = Field(6006, ge=0, le=65_535, description="TCP port; 0 takes any free one.")

    # what the user sees and says
    lang: PageLanguage = Field("auto", description="Language of the page; auto follows the browser.")
    language: SpokenLanguage = Field("auto", description="What is spoken, unless a request says otherwise.")

    # what is refused
    max_duration_s: float = Field(
        12 * 3600.0, gt=0, description="Longest recording that is accepted, in seconds."
    )
    max_upload_mb: float = Field(
        2_048.0, gt=0, description="Largest upload that is accepted, in MiB (2**20 bytes)."
    )

    # what is logged
    log_level: LogLevel = Field("info", description="Least severe messages that are logged.")
