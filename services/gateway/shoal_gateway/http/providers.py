"""Providers over HTTP: their keys, models and health."""

from __future__ import annotations

from aiohttp import web

# Whether callers with an admin's key read what a provider itself says when it refuses.
SHOWS_ADMINS = web.AppKey("shows_admins", bool)
