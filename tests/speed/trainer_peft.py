"""The peer: a plain Hugging Face Trainer + peft LoRA script on SST-2. Prints training samples per second as JSON.

    python tests/speed/trainer_peft.py MODEL_FOLDER SST2_TRAIN.parquet STEPS

The clock runs from step to step, the first five steps left out, as in ``bench run``.
"""

import json
import sys
import time

import datasets
import transformers
from peft import LoraConfig, TaskType, get_peft_model

BATCH, RANK, ALPHA, LENGTH, WARMUP_STEPS = 32, 8, 16, 128, 5


class Clock(transformers.TrainerCallback):
    """Reads the clock after every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.marks.append(time.perf_counter())


def main(folder: str, parquet: str, steps: int) -> None:
    """Train LoRA on query and value for ``steps`` steps of 32."""
    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = datasets.load_dataset("parquet", data_files=parquet, split="train")
    rows = rows.map(lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=LENGTH), batched=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    clock = Clock()
    trainer = transformers.Trainer(
        model=get_peft_model(model, lora),
        args=transformers.TrainingArguments(
            output_dir="trainer-output", max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    seconds = clock.marks[-1] - clock.marks[WARMUP_STEPS - 1]
    rate = BATCH * (len(clock.marks) - WARMUP_STEPS) / seconds
    sys.stdout.write(json.dumps({"train_samples_per_second": rate}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
