"""Chooses the formulation of a task for a model family, before anything is loaded.

A form's plan is what the record keeps of the choice. ``head``: a fresh head on the model; ``words`` and ``text``:
label texts scored by a language model; ``answer``: generated text; ``lm``: every token of a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.protocols import Task

if TYPE_CHECKING:
    from bench.models.loading import ModelSource
    from bench.tasks.formulations.base import Formulation, FormulationContext, Plan

_HEADS = {"decoder": "causal-lm", "encoder-decoder": "seq2seq"}
_AUTO = {"encoder": "head", "decoder": "head", "encoder-decoder": "text"}
_SAMPLE = 200
_KINDS = {"generation": "generation", "language-modelling": "language modelling, for there is text and no label"}
_OR_T5 = {"generation": " or an encoder-decoder such as t5-small", "language-modelling": ""}


def choose(task: Task, model: str, family: str) -> dict[str, Any]:
    """The plan of a task on a model: ``name``, ``model_kind`` (its head, one of KINDS) and its own options.

    Args:
        model: what the person called it, for messages.
        family: of ``bench.models.loading.family``.

    Raises:
        RequestError: when the task cannot be put to such a model; says what to take instead.
    """
    shown = task.kind == "image-classification"
    if shown != (family == "vision"):
        sees, needs = ("images", "text") if family == "vision" else ("text", "images")
        other = "a vision model such as vit-base" if shown else "a text model such as minilm"
        raise RequestError(
            f"Task '{task.name}' is about {needs}, and model '{model}' reads {sees}: take {other}.", code="unsupported"
        )
    if shown:
        return {"name": "head", "model_kind": task.kind}
    if task.kind in ("classification", "regression"):
        return _classification(task, model, family)
    if family == "encoder":
        raise RequestError(
            f"Task '{task.name}' ({_KINDS[task.kind]}) needs a model that writes text, and '{model}' is an encoder: "
            f"take a decoder such as smollm2-135m{_OR_T5[task.kind]}.",
            code="unsupported",
        )
    if task.kind == "language-modelling":
        if family != "decoder":
            raise RequestError(
                f"Task '{task.name}' models text from left to right, and '{model}' is an encoder-decoder: take a "
                "decoder such as smollm2-135m.",
                code="unsupported",
            )
        return {"name": "lm", "model_kind": "causal-lm"}
    from bench.tasks.formulations.prompt_template import default_template

    asked: Any = task
    plan = {"name": "answer", "model_kind": _HEADS[family]}
    template = unescaped(asked.template) if asked.template else default_template(asked.text)
    _template(asked, template)
    return {**plan, "template": template, "max_new_tokens": asked.max_new_tokens}


def _classification(task: Any, model: str, family: str) -> dict[str, Any]:
    wanted = getattr(task, "form", "auto")
    form = _AUTO[family] if wanted == "auto" else wanted
    if wanted == "auto" and task.kind == "regression":
        form = "head"
    given = [name for name in ("template", "words") if getattr(task, name, None)]
    if form == "head":
        if given and wanted != "auto":
            raise RequestError(
                f"task.{given[0]} is for form=words and form=text; this run has form=head.", code="conflict"
            )
        if given and _declares(task):
            name = "text" if family == "encoder-decoder" else "words"
            raise RequestError(
                f"task.{given[0]} is for label words, and '{model}' has a head by default: add --set task.form={name}."
                if family != "encoder"
                else f"task.{given[0]} is for models that write text; '{model}' is an encoder and has a head.",
                code="unsupported",
            )
        return {"name": "head", "model_kind": task.kind}
    if task.kind == "regression":
        raise RequestError(
            f"Task '{task.name}' is about numbers, which label words cannot say: use task.form=head.",
            code="unsupported",
        )
    fits = {"decoder": "words", "encoder-decoder": "text"}.get(family)
    if fits is None:
        raise RequestError(
            f"task.form={form}: '{model}' is an encoder and writes no text, so it cannot score label words: use "
            "task.form=head, or a decoder.",
            code="unsupported",
        )
    if form != fits:
        kind = "a decoder" if family == "decoder" else "an encoder-decoder"
        raise RequestError(
            f"task.form={form}: '{model}' is {kind}, whose form with label texts is task.form={fits}.",
            code="unsupported",
        )
    if not _declares(task):
        raise RequestError(
            f"Task '{task.name}' does not say which columns are its text, so it has no form={form}.", code="unsupported"
        )
    return _label_words(task, form, _HEADS[family])


def _declares(task: Any) -> bool:
    """Whether a classification task declares its text and label columns, which label texts need."""
    return isinstance(getattr(task, "text", None), tuple) and isinstance(getattr(task, "label", None), str)


def _label_words(task: Any, form: str, head: str) -> dict[str, Any]:
    from bench.tasks.formulations.label_scoring import label_texts
    from bench.tasks.formulations.prompt_template import default_template

    try:
        texts = label_texts(task, tuple(task.words))
    except ValueError as error:
        raise RequestError(f"Task '{task.name}': {error}.", code="invalid-value") from error
    template = unescaped(task.template) if task.template else default_template(task.text)
    _template(task, template)
    return {"name": form, "model_kind": head, "template": template, "words": list(texts)}


def unescaped(text: str) -> str:
    """A template as a command line gives it: the two characters \\n are a new line."""
    return text.replace("\\n", "\n")


def _template(task: Task, text: str) -> None:
    from bench.tasks.formulations.prompt_template import Template

    try:
        Template(text)
    except ValueError as error:
        raise RequestError(f"Task '{task.name}': {error}.", code="invalid-value") from error


def check_columns(task: Task, plan: Plan, columns: list[str]) -> None:
    """Check that the columns of a plan's template exist (RequestError)."""
    from bench.tasks.formulations.prompt_template import Template

    if plan.get("template"):
        try:
            template = Template(plan["template"])
            template.check(columns)
        except ValueError as error:
            raise RequestError(f"Task '{task.name}': {error}", code="invalid-value") from error
        if not template.columns:
            raise RequestError(
                f"Task '{task.name}': the template {template.text!r} has no column: every prompt would be the same.",
                code="invalid-value",
            )
        answer = getattr(task, "label", None)
        if answer in template.columns:
            raise RequestError(
                f"Task '{task.name}': the template {template.text!r} holds '{answer}', which is the answer.",
                code="invalid-value",
            )


def amounts(task: Any, plan: Plan, train: Any, source: ModelSource, max_length: int) -> dict[str, float]:
    """How many examples a training row makes: ``blocks_per_row`` for language modelling, else nothing (one).

    Taken from 200 rows spread over the data, so that a pass over it is about what it says without tokenising all.
    """
    from bench.models import loading
    from bench.tasks.formulations.language_modeling import split
    from bench.tasks.formulations.prompt_template import Words

    if plan["name"] != "lm":
        return {}
    count = min(len(train), _SAMPLE)
    rows = train[[index * len(train) // count for index in range(count)]]
    found = Words(loading.tokenizer(source), None).whole(task.texts(rows))
    return {"blocks_per_row": round(sum(len(split(ids, max_length)) for ids in found) / count, 4)}


def check_room(plan: Plan, backbone: Any, max_length: int) -> None:
    """Raise ValueError where prompt and answer are longer than a decoder's positions."""
    from bench.models.forward_args import positions

    limit = positions(backbone) if plan["model_kind"] == "causal-lm" else None
    answer = plan.get("max_new_tokens", 0)
    if limit is not None and max_length + answer > limit:
        raise ValueError(
            f"max_length {max_length} and max_new_tokens {answer} are more than this model's {limit} positions: use "
            f"--max-length {max(4, limit - answer)} or a smaller --set task.max_new_tokens"
        )


def check_module(plan: Plan, module: Any, name: str) -> None:
    """Raise ValueError where a method's module cannot be used with a formulation."""
    from bench.tasks.formulations import decoding

    if plan["name"] == "answer":
        decoding.check(module, name)


def scored_as_trained(plan: Plan) -> bool:
    """Whether dev rows are encoded as training rows are; with label texts they are not."""
    return plan["name"] not in ("words", "text")


def reads_text(task: Task) -> bool:
    """Whether the model of a task needs its tokenizer."""
    return task.kind != "image-classification"


def make(plan: Plan, task: Task, source: ModelSource, context: FormulationContext) -> Formulation:
    """The formulation of a plan, for one run.

    Raises:
        RequestError: when the model's tokenizer or preprocessing cannot be used for it.
    """
    from bench.tasks.formulations.generation import Answer
    from bench.tasks.formulations.label_scoring import LabelWords
    from bench.tasks.formulations.language_modeling import LanguageModelling
    from bench.tasks.formulations.prompt_template import Template, Words

    if plan["name"] == "head":
        return _head(task, source, context)
    start = None
    if plan["model_kind"] == "seq2seq":
        start = context.config.decoder_start_token_id
        if start is None:
            raise RequestError(f"Model '{source.name}': its config.json has no decoder_start_token_id.", code="damaged")
    words = Words(context.tokenizer, start)
    if words.end is None:
        raise RequestError(
            f"Model '{source.name}': its tokenizer has no end-of-text token, which answers end with.",
            code="unsupported",
        )
    if plan["name"] == "lm":
        return LanguageModelling(task, context, words)
    template = Template(plan["template"])
    if plan["name"] == "answer":
        return Answer(task, context, words, template, plan["max_new_tokens"])
    return LabelWords(task, context, words, template, tuple(plan["words"]))


def _head(task: Any, source: ModelSource, context: FormulationContext) -> Formulation:
    import numpy as np

    from bench.data.encoding import Rows, encode
    from bench.tasks.formulations.classifier_head import Head
    from bench.tasks.formulations.image_inputs import Pixels, look

    if reads_text(task):

        def texts(rows: Any, key: str) -> Rows:
            return encode(rows, task, context.tokenizer, context.longest, key)

        return Head(task, context, texts)
    how = look(source.location, source.revision, context.config)

    def pictures(rows: Any, key: str) -> Rows:
        return Pixels(rows, task.image, np.asarray(rows[task.label], dtype=np.int64), how)

    return Head(task, context, pictures)
