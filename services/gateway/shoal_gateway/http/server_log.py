"""What the HTTP library has to say, without what strangers sent."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger(__name__)


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for aiohttp's server.

    A head that cannot be read is a stranger's fault, and the exception quotes the head, which may
    hold a key: it becomes a line without traceback. Everything else is written as it is.
    """

    def __init__(self) -> None:
        super().__init__(log)

    def exception(self, msg: object, *args: Any, exc_info: Any = True, **more: Any) -> None:
        """What the server calls for every request that ended in an exception."""
        if isinstance(exc_info, HttpProcessingError):
            log.info("head refused", extra={"status": exc_info.code})
        else:
            super().exception(msg, *args, exc_info=exc_info, **more)
