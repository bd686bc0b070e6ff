"""The peer: a plain Hugging Face Trainer + peft script on SST-2. Prints samples per second and accuracy as JSON.

    python tests/speed/trainer_peft.py METHOD MODEL_FOLDER MIRROR/nyu-mll/glue/sst2 STEPS
        [--seed 0] [--lr X] [--bf16] [--score]

METHOD is lora, prefix, ia3 or full. The clock runs from step to step, the first five steps left out, as in
``bench run``; scoring on the validation split comes after.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import peft
import transformers

BATCH, LENGTH, WARMUP_STEPS = 32, 128, 5


class Clock(transformers.TrainerCallback):
    """Reads the clock after every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.marks.append(time.perf_counter())


def wrapped(method: str, model: Any) -> Any:
    """The model as peft tunes it; ranks, lengths and targets are bench's defaults."""
    kind = peft.TaskType.SEQ_CLS
    if method == "lora":
        return peft.get_peft_model(
            model, peft.LoraConfig(task_type=kind, r=8, lora_alpha=16, target_modules=["query", "value"])
        )
    if method == "ia3":
        inner = r".*layer\.\d+\.output\.dense"
        names = r".*\.(key|value)|" + inner
        return peft.get_peft_model(
            model, peft.IA3Config(task_type=kind, target_modules=names, feedforward_modules=inner)
        )
    if method == "prefix":
        return peft.get_peft_model(
            model,
            peft.PrefixTuningConfig(
                task_type=kind, num_virtual_tokens=30, prefix_projection=True, encoder_hidden_size=512
            ),
        )
    if method != "full":
        raise SystemExit(f"no peer for {method}")
    return model


def rows(folder: Path, split: str, tokenizer: Any) -> Any:
    """A split, tokenised."""
    files = [str(path) for path in folder.glob(f"{split}-*.parquet")]
    found = datasets.load_dataset("parquet", data_files=files, split="train")
    return found.map(lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=LENGTH), batched=True)


def main() -> None:
    """Train for the given number of steps of 32, with the recipe that ``bench run`` has by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--score", action="store_true")
    chosen = parser.parse_args()
    transformers.set_seed(chosen.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(chosen.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(chosen.model, num_labels=2)
    clock = Clock()
    trainer = transformers.Trainer(
        model=wrapped(chosen.method, model),
        args=transformers.TrainingArguments(
            output_dir="trainer-output", max_steps=chosen.steps, per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64, learning_rate=chosen.lr, warmup_steps=round(0.1 * chosen.steps),
            weight_decay=0.01, seed=chosen.seed, save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", bf16=chosen.bf16,
        ),
        train_dataset=rows(chosen.data, "train", tokenizer),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    seconds = clock.marks[-1] - clock.marks[WARMUP_STEPS - 1]
    found = {"train_samples_per_second": BATCH * (len(clock.marks) - WARMUP_STEPS) / seconds}
    if chosen.score:
        validation = rows(chosen.data, "validation", tokenizer)
        logits = trainer.predict(validation).predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        found["accuracy"] = float((logits.argmax(-1) == validation["label"]).mean())
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
