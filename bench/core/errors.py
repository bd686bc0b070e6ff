"""Errors of a request: what was wrong, the nearest match, what exists; each with a code."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

# The kinds of wrong request. Scripts and tests compare these, not sentences; a name that does not exist has
# ``unknown-`` with what it should have been (``unknown-method``, ``unknown-option``).
Code = Literal[
    "ambiguous",  # several readings: the request must choose one
    "conflict",  # two parts of the request that exclude each other
    "damaged",  # a file of this project, or of a known format, that cannot be read as such
    "duplicate",  # one name defined twice
    "exists",  # would overwrite what is there
    "incomparable",  # runs or folders that cannot be compared
    "invalid-data",  # rows, labels or texts that cannot be used
    "invalid-value",  # a value of the wrong type or outside its range
    "missing",  # something required was not given
    "no-records",  # a folder without (finished) runs
    "not-found",  # a file or folder that does not exist or cannot be read
    "not-written",  # a file or folder that cannot be written
    "package-missing",  # an optional package that is not installed, or too old
    "plugin",  # an error inside a plug-in
    "too-large",  # more memory, disk or rows than there is, or than a limit allows
    "unavailable",  # not on this machine and not to be downloaded: Hub, network, device
    "unsafe",  # needs a flag that permits it: remote code, pickled weights
    "unsupported",  # a combination that cannot work: method and model, task and model, option and method
]


# Names in peft, transformers and papers → the names of options and flags here, for hints.
_NAMES_ELSEWHERE = {
    "gradient_accumulation_steps": ("grad_accum",),
    "init_lora_weights": ("init",),
    "learning_rate": ("lr",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "lora_rank": ("rank",),
    "lr_scheduler_type": ("schedule",),
    "max_grad_norm": ("clip",),
    "max_seq_length": ("max_length",),
    "max_steps": ("steps",),
    "modules_to_save": ("also_train",),
    "num_train_epochs": ("epochs",),
    "num_virtual_tokens": ("length", "tokens"),
    "per_device_eval_batch_size": ("eval_batch_size",),
    "per_device_train_batch_size": ("batch_size",),
    "prefix_length": ("length",),
    "r": ("rank",),
    "reduction_factor": ("reduction",),
    "target_modules": ("targets",),
    "use_dora": ("dora",),
    "use_rslora": ("rslora",),
    "warmup_ratio": ("warmup",),
}


class Fault(str):
    """One mistake in a request: complete sentences, with the code of its kind.

    Attributes:
        code: one of ``Code``, or ``unknown-NAME``.
    """

    code: str

    def __new__(cls, text: str, code: str) -> "Fault":
        fault = super().__new__(cls, text)
        fault.code = code
        return fault

    def within(self, before: str = "", after: str = "") -> "Fault":
        """The same mistake with text before and after it."""
        return Fault(f"{before}{self}{after}", self.code)

    def __reduce__(self) -> tuple[type["Fault"], tuple[str, str]]:
        return Fault, (str(self), self.code)


class RequestError(Exception):
    """A request that was wrong; the command line prints every message with its code and exits with 2.

    Args:
        messages: one mistake in one or more complete sentences, or several, each with its own code.
        code: of a single mistake; ``plugin`` is for errors that a plug-in raises.
    """

    def __init__(self, messages: "str | Sequence[Fault]", code: Code = "plugin") -> None:
        given = [messages] if isinstance(messages, str) else messages
        self.messages = [one if isinstance(one, Fault) else Fault(one, code) for one in given]
        super().__init__("\n".join(self.messages))

    @property
    def codes(self) -> list[str]:
        """The kind of each message."""
        return [message.code for message in self.messages]

    def __reduce__(self) -> tuple[type["RequestError"], tuple[list[Fault]]]:
        return RequestError, (self.messages,)


class ErrorCollector:
    """Collects the messages of request errors, to report them together."""

    def __init__(self) -> None:
        self.messages: list[Fault] = []

    def attempt(self, act: Callable[[], Any]) -> Any:
        """The result of ``act``, or None when it raised a RequestError."""
        try:
            return act()
        except RequestError as error:
            self.messages += [message for message in error.messages if message not in self.messages]
            return None

    def stop(self) -> None:
        """Raise RequestError with everything collected."""
        if self.messages:
            raise RequestError(self.messages)


def fault(text: str, code: Code) -> Fault:
    """A mistake to be reported together with others."""
    return Fault(text, code)


def faults(texts: Iterable[str], code: Code) -> list[Fault]:
    """Several mistakes of one kind; a ``Fault`` among them keeps its own code."""
    return [text if isinstance(text, Fault) else Fault(text, code) for text in texts]


def unknown(kind: str, name: str, known: Iterable[str]) -> Fault:
    """Return the message for a name that does not exist: the nearest match first, then what there is.

    Args:
        kind: what the name should have been, such as ``option of lora``; its last word before "of" is in the code.
    """
    names = sorted(known)
    plain = {known.lstrip("-").replace("-", "_"): known for known in names}
    elsewhere = _NAMES_ELSEWHERE.get(name.lstrip("-").replace("-", "_"), ())
    near = [plain[option] for option in elsewhere if option in plain]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    there = ", ".join(names) if names else "none"
    what = re.split(r" of | in |:", kind)[0].split()[-1]
    return Fault(f"Unknown {kind} '{name}'.{hint} Known: {there}.", f"unknown-{what}")
