"""Around talkative or slow work: transformers kept quiet (its report lists a fresh head as wrong), no cycle search."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Errors only and no progress bars, until the end of the block; then as it was."""
    from transformers import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def gc_paused(lasting: bool = False) -> Iterator[None]:
    """Pause the search for unreachable cycles: while millions of values are made, it takes longer than making them.

    Args:
        lasting: what was made stays, as imported modules do: it is not searched afterwards either, which would begin
            with all of it at once. A forked process then writes less to the pages it shares.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()
        if was:
            gc.enable()
