"""The HTTP service: one router for each resource, composed by `create_app`."""

from sensevoice.apps.api.app import create_app
from sensevoice.apps.api.errors import STATUS

__all__ = ["STATUS", "create_app"]
