"""What a person sees when a request cannot be carried out: what was wrong, the nearest match, what exists."""

import difflib
from collections.abc import Iterable, Sequence


class RequestError(Exception):
    """A request that was wrong; the command line prints every message and exits with 2.

    Args:
        messages: one or more complete sentences, each about one mistake.
    """

    def __init__(self, messages: str | Sequence[str]) -> None:
        self.messages: list[str] = [messages] if isinstance(messages, str) else list(messages)
        super().__init__("\n".join(self.messages))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist: the nearest match first, then what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    there = ", ".join(names) if names else "none"
    return f"Unknown {kind} '{name}'.{hint} Known: {there}."
