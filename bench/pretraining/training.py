"""Train one small model from its recipe and write it as a folder that transformers loads."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.pretraining import corpus, embeddings, glyphs
from bench.pretraining.objectives import OBJECTIVES, Text
from bench.pretraining.recipes import LENGTH, RECIPES, SENTINELS, VOCABULARY, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_HELD_OUT = 20  # every so manieth document is only used to measure the loss
_WARM_UP = 0.1
_IMAGES = 40_000
_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate")


def pretrain(name: str, folder: Path, steps: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Pretrain a model of ``RECIPES``; save configuration, fp16 weights, tokenizer and ``pretraining.json``.

    The same seed, Python and number of threads give the same weights.

    Args:
        name: of the recipe.
        folder: to write to.
        steps: optimizer steps; None: the recipe's.
        seed: of the initial weights, the batches and their order.

    Returns:
        The facts of the training, as in ``pretraining.json``.
    """
    recipe = RECIPES[name] if steps is None else dataclasses.replace(RECIPES[name], steps=steps)
    random.seed(seed)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    train = _train_images if recipe.objective == "glyphs" else _train_text
    facts = {"model": name, "objective": recipe.objective, "seed": seed, "steps": recipe.steps, "lr": recipe.lr}
    facts |= {"batch_size": recipe.batch_size, **train(recipe, folder, seed)}
    facts |= {"seconds": round(time.perf_counter() - begun), "threads": torch.get_num_threads()}
    (folder / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def build(recipe: Recipe) -> Any:
    """The model with all that its objective needs, from torch's current seed."""
    import transformers

    config = transformers.AutoConfig.for_model(recipe.family, **recipe.config)
    for name in _DROPOUT:  # too few steps to need it; saved models have the family's own
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if recipe.objective == "glyphs":
        config.num_labels = len(glyphs.LABELS)
    classes = {
        "masked": "BertForPreTraining",
        "causal": "LlamaForCausalLM",
        "spans": "T5ForConditionalGeneration",
        "glyphs": "ViTForImageClassification",
    }
    return getattr(transformers, classes[recipe.objective])(config)


def make_tokenizer(recipe: Recipe, documents: Sequence[str]) -> Any:
    """Train the model's own byte-level BPE tokenizer on the documents, as a transformers fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    if recipe.lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*recipe.special.values()]
    if recipe.objective == "spans":
        special += [f"<extra_id_{index}>" for index in range(SENTINELS)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = _post_processor(recipe, tokenizer)
    names = {f"{role}_token": token for role, token in recipe.special.items()}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=_longest(recipe), **names
    )


def _longest(recipe: Recipe) -> int:
    return int(recipe.config.get("max_position_embeddings", 512))


def _post_processor(recipe: Recipe, tokenizer: Tokenizer) -> Any:
    """Adds the special tokens around a text: [CLS] … [SEP] for BERT, <s> … for Llama, … </s> for T5."""
    from tokenizers import processors

    single, pair, used = {
        "masked": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]")),
        "causal": ("<s> $A", "<s> $A $B", ("<s>",)),
        "spans": ("$A </s>", "$A $B </s>", ("</s>",)),
    }[recipe.objective]
    special = [(token, tokenizer.token_to_id(token)) for token in used]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _train_text(recipe: Recipe, folder: Path, seed: int) -> dict[str, Any]:
    documents = corpus.documents(Path(sysconfig.get_path("stdlib")))
    tokenizer = make_tokenizer(recipe, documents)
    ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in recipe.special.items()}
    if recipe.objective == "spans":
        ids["sentinels"] = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    held = [tokens for index, tokens in enumerate(encoded) if index % _HELD_OUT == 0]
    seen = Text([t for index, t in enumerate(encoded) if index % _HELD_OUT], LENGTH, ids, VOCABULARY)
    unseen = Text(held, LENGTH, ids, VOCABULARY)
    model, objective = build(recipe), OBJECTIVES[recipe.objective]
    _initialize_embeddings(model, [tokens for index, tokens in enumerate(encoded) if index % _HELD_OUT])
    generator = np.random.default_rng(seed)
    _optimize(model, recipe, lambda: objective(model, seen, recipe.batch_size, generator))
    model.eval()
    with torch.no_grad():
        losses = [float(objective(model, unseen, 64, np.random.default_rng(index))) for index in range(8)]
    _save(model.bert if recipe.objective == "masked" else model, folder)
    tokenizer.save_pretrained(folder)
    return {
        "text": f"Python {sys.version.split()[0]} standard library: docstrings, comments, help() topics",
        "text_sha256": corpus.fingerprint(documents),
        "documents": len(documents),
        "characters": sum(map(len, documents)),
        "tokens": seen.tokens,
        "tokens_seen": recipe.steps * recipe.batch_size * LENGTH,
        "held_out_loss": round(sum(losses) / len(losses), 4),
    }


def _initialize_embeddings(model: Any, documents: Sequence[Sequence[int]]) -> None:
    """Set the embeddings' initial values; see ``bench.pretraining.embeddings``."""
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words.copy_(embeddings.from_counts(documents, words.shape[0], words.shape[1], float(words.std())))
        if model.config.model_type == "bert":
            places = model.bert.embeddings.position_embeddings.weight
            places.copy_(embeddings.sinusoids(places.shape[0], places.shape[1], float(words.std())))


def _train_images(recipe: Recipe, folder: Path, seed: int) -> dict[str, Any]:
    from transformers import ViTImageProcessor

    generator = np.random.default_rng(seed)
    images, labels = glyphs.draw(_IMAGES + 2000, generator)
    pixels = torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1) / 8 - 1
    targets = torch.from_numpy(labels)
    model = build(recipe)

    def loss() -> Tensor:
        rows = torch.from_numpy(generator.integers(_IMAGES, size=recipe.batch_size))
        value: Tensor = model(pixel_values=pixels[rows], labels=targets[rows]).loss
        return value

    _optimize(model, recipe, loss)
    model.eval()
    with torch.no_grad():
        right = (model(pixel_values=pixels[_IMAGES:]).logits.argmax(-1) == targets[_IMAGES:]).float().mean()
    _save(model.vit, folder)
    size = {"height": 8, "width": 8}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return {"images": _IMAGES, "classes": len(glyphs.LABELS), "held_out_accuracy": round(float(right), 4)}


def _optimize(model: Any, recipe: Recipe, loss: Callable[[], Tensor]) -> None:
    matrices = [value for value in model.parameters() if value.ndim >= 2]
    others = [value for value in model.parameters() if value.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    rise = max(1, round(_WARM_UP * recipe.steps))

    def rate(step: int) -> float:
        rest = (step - rise) / max(1, recipe.steps - rise)
        return (step + 1) / rise if step < rise else 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * rest))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    begun, total = time.perf_counter(), 0.0
    for step in range(1, recipe.steps + 1):
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        total += float(value.detach())
        if step % 50 == 0 or step == recipe.steps:
            each = (time.perf_counter() - begun) / step
            sys.stderr.write(f"step {step}/{recipe.steps}  loss {total / (step % 50 or 50):.3f}  {each:.3f} s a step\n")
            total = 0.0


def _save(model: Any, folder: Path) -> None:
    """Save in fp16, which halves the package; models are loaded in fp32."""
    usual = type(model.config)()
    for name in _DROPOUT:
        if hasattr(model.config, name):
            setattr(model.config, name, getattr(usual, name))
    model.config.num_labels = 2  # the pretraining objective's labels are not the user's
    model.half().save_pretrained(folder)
