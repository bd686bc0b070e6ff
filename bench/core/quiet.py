"""Context managers for long calls: transformers without its log messages, Python without garbage collection."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Only errors from transformers and no progress bars in the block (its loading report calls a fresh head wrong)."""
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
    """Pause garbage collection: while millions of objects are created it takes longer than creating them.

    Args:
        lasting: the objects stay, as imported modules do: exclude them from later collections too. A forked process
            then writes less to shared pages.
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
