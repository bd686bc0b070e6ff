"""Ctrl-C during a sweep: the first asks the runs to stop after their step, the second ends them."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self


class Interrupts:
    """Counts Ctrl-C while it is open: the first is only noted, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._told = 0
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ctrl-C is not ours to handle
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def news(self) -> bool:
        """Whether there was one since the last question."""
        told, self._told = self._told, self.count
        return self._told > told

    def _note(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
