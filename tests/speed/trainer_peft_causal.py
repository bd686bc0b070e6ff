"""The peer on gsm8k: a plain Hugging Face Trainer + peft LoRA script for a causal language model, the loss on the
answers alone. Prints samples and tokens per second as JSON.

    python tests/speed/trainer_peft_causal.py MODEL_FOLDER GSM8K_TRAIN.parquet TEMPLATE [--steps 20] …

TEMPLATE is the prompt with {question} in it. The clock runs from step to step, the first steps left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import datasets
import peft
import transformers

WARMUP_STEPS = 5


class Clock(transformers.TrainerCallback):
    """Reads the clock after every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.marks.append(time.perf_counter())


def main() -> None:
    """Train LoRA (r 8, alpha 16, query and value)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("parquet")
    parser.add_argument("template")
    for name, value in (("--steps", 20), ("--batch-size", 8), ("--max-length", 256)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    chosen = parser.parse_args()
    length = chosen.max_length
    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(chosen.folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        prompt = tokenizer(chosen.template.format(question=row["question"]))["input_ids"]
        answer = tokenizer(" " + row["answer"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        ids = (prompt + answer)[:length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * len(prompt) + answer)[:length]}

    rows = datasets.load_dataset("parquet", data_files=chosen.parquet, split="train")
    rows = rows.map(encode, remove_columns=rows.column_names)
    model = transformers.AutoModelForCausalLM.from_pretrained(chosen.folder, dtype="float32")
    lora = peft.LoraConfig(task_type=peft.TaskType.CAUSAL_LM, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    clock = Clock()
    trainer = transformers.Trainer(
        model=peft.get_peft_model(model, lora),
        args=transformers.TrainingArguments(
            output_dir="trainer-output", max_steps=chosen.steps, learning_rate=chosen.lr, weight_decay=0.01,
            per_device_train_batch_size=chosen.batch_size, warmup_steps=round(0.1 * chosen.steps),
            save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=rows,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    seconds = clock.marks[-1] - clock.marks[WARMUP_STEPS - 1]
    rate = chosen.batch_size * (len(clock.marks) - WARMUP_STEPS) / seconds
    sys.stdout.write("\n" + json.dumps({"train_samples_per_second": rate}) + "\n")


if __name__ == "__main__":
    main()
