"""SenseVoice Studio's server: the page at `/` and the HTTP service beside it, in one process.

    python app_sensevoice.py --port 6006
    uvicorn app_sensevoice:api --port 8000

`demo` (the page) and `api` (the service with the page mounted on it) are built on first use, since
building them loads the model. Options given here win over `SENSEVOICE_*` variables.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sensevoice.apps.server import build, main, page_url, parse_arguments, serve

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

    demo: gr.Blocks
    api: FastAPI

__all__ = ["build", "main", "page_url", "parse_arguments", "serve"]


@cache
def _built() -> dict[str, Any]:
    return dict(zip(("demo", "api"), build(parse_arguments([])), strict=True))


def __getattr__(name: str) -> Any:
    if name in ("demo", "api"):
        return _built()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    raise SystemExit(main())
