"""Events of a run, at a limited rate, and the request to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

INTERVAL_SECONDS = 0.2  # between plain progress messages of a run


class Emitter:
    """Passes a run's messages on; points of the curve all, bare step counts now and then.

    Args:
        send: takes a message.
        stopped: whether the run was told to stop; asked after every step.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]) -> None:
        self._send, self._stopped = send, stopped
        self._last = 0.0

    def __call__(self, message: dict[str, Any]) -> None:
        """Pass a message on.

        Raises:
            KeyboardInterrupt: when the run was told to stop and is not done anyway.
        """
        if message.get("name") != "done" and self._stopped():
            raise KeyboardInterrupt
        now = time.monotonic()
        plain = message["event"] == "step" and "loss" not in message
        if plain and message["step"] != message["steps"] and now - self._last < INTERVAL_SECONDS:
            return
        self._last = now
        self._send(message)
