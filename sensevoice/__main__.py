"""`python -m sensevoice`: the command line."""

from __future__ import annotations

from sensevoice.apps.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
