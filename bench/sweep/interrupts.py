"""Ctrl-C during a sweep: the first asks the runs to stop after their step, the second ends them."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self


class Interrupts:
    """Counts Ctrl-C while it is open: the first is only noted, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self._seen = 0
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # in other threads signals cannot be handled
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def pressed(self) -> bool:
        """Whether Ctrl-C was pressed since the last call."""
        before, self._seen = self._seen, self.count
        return self._seen > before

    def _note(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
