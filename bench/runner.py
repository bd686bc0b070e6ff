"""One run in this process: load, attach, train, predict, score, check; gives its record."""

from __future__ import annotations

import dataclasses
import gc
import random
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import card, checks, environment, metrics, models, options, registry
from bench.api import AlreadyTrained, Batch, CountsParameters, DataInitialized, DataSource, Mergeable, Method, Task
from bench.backbone import Backbone, count, trainable
from bench.data import (
    Encoded,
    encode,
    evaluation_batches,
    hold_out,
    subsample,
    training_batches,
)
from bench.engine import Engine
from bench.errors import RequestError
from bench.job import Job
from bench.memory import gpu_is_busy, measure_call
from bench.probe import measure, measure_scoring
from bench.record import blank
from bench.settings import TrainSettings
from bench.tracker import Peak
from bench.trainer import Fit, Trainer
from bench.weights import load_state, original_tensors, save_state, saved_state

_CHECK_ROWS = 64
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}

Emit = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class _Data:
    train: Encoded
    dev: Encoded | None
    validation: Encoded


class Run:
    """The state of one run, filled step by step; ``record`` is whole at any moment."""

    def __init__(self, job: Job, emit: Emit) -> None:
        registry.load([Path(plugin) for plugin in job.plugins])
        spec = job.spec
        self.job, self.emit = job, emit
        self.record = blank(spec, job.run_id)
        chosen = {name: value for name, value in spec["method"].items() if name != "name"}
        self.method: Method = options.build(
            registry.method_entry(spec["method"]["name"]).value, chosen, spec["method"]["name"]
        )
        self.trains = not isinstance(self.method, AlreadyTrained)
        self.task: Task = registry.task_entry(spec["task"]["name"]).value
        self.settings: TrainSettings = options.build(TrainSettings, spec["train"], "train")
        self.seed: int = spec["seed"]
        self.initialization: Peak | None = None
        self.step = 0
        self.trial = (spec.get("tuning") or {}).get("trial") is not None  # tuned on dev; validation stays unseen
        self.source = models.resolve(spec["model"]["name"])
        if self.source.fingerprint != spec["model"]["fingerprint"]:
            raise RequestError("The model changed while the run was waiting; start it again.")

    def go(self) -> None:
        """Do the run; fills the record."""
        begun = time.perf_counter()
        self._prepare()
        setup = time.perf_counter()
        if not self.trial:
            self._measure_memory()
        probed = time.perf_counter()
        fit = self._fit() if self.trains else Fit()
        trained = time.perf_counter()
        if fit.diverged is None and not self.trial:
            self._score(fit)
        ended = time.perf_counter()
        self.record["speed"] |= {
            "setup_seconds": setup - begun,
            "eval_seconds": fit.dev_seconds + (ended - trained),
            "total_seconds": ended - begun,
        }
        self.record["status"] = "ok" if fit.diverged is None else "diverged"
        if fit.diverged is not None:
            self.record["error"] = f"the loss was not finite at step {fit.diverged} (learning rate {self.method.lr:g})"
        self.emit({"event": "phase", "name": "done", "probe_seconds": probed - setup})

    # -- set-up ---------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        device = torch.device(self.settings.device)
        self.record["environment"] = {
            **environment.describe(self.settings.device),
            "workers": self.job.workers,
            "gpu_shared": gpu_is_busy(device),
        }
        self.emit({"event": "phase", "name": "loading"})
        tokenizer = models.tokenizer(self.source)
        self.engine = Engine(device, self.settings.precision, padding_of(tokenizer))
        self.data = self._load_data(tokenizer)
        self.module, backbone = self._attached(self.seed)
        self.declared = frozenset(trainable(self.module))
        if not self.declared and self.trains:
            raise ValueError(f"method '{self.method.name}' left nothing to train")
        if isinstance(self.method, DataInitialized):
            self.emit({"event": "phase", "name": "initialising"})
            self._initialize(self.method)
        self.before = checks.digests(checks.frozen(self.module))
        self.untrained = self.engine.predict(self.module, self._sample, self.settings.eval_batch_size)[0]
        self._count()

    def _initialize(self, method: DataInitialized) -> None:
        """Show the method the training rows one by one, once; its memory peak is that of the longest row."""
        lengths = self.data.train.lengths
        taken = []

        def longest() -> Iterator[Batch]:
            taken.append(int(lengths.argmax()))
            yield self.engine.batch(self.data.train, taken[-1:])

        peak = measure_call(self.module, "initialization", lambda: method.initialize(self.module, longest()))
        self.initialization = peak if taken else None  # a method may have nothing to look at, with its options
        rows = islice(self._batches(batch_size=1), len(lengths))
        method.initialize(self.module, (batch for batch, _ in rows))

    def _attached(self, seed: int) -> tuple[nn.Module, Backbone]:
        """A fresh pretrained model with the method attached, on the device, from a seed."""
        seed_everything(seed)
        backbone = models.load(self.source, self.task.kind, self.task.labels)
        backbone.model.to(self.engine.device)
        self.originals = original_tensors(backbone)
        self.expected = self.method.trainable_count(backbone) if isinstance(self.method, CountsParameters) else None
        module = self.method.attach(backbone).to(self.engine.device)
        if self.settings.gradient_checkpointing:
            recompute_activations(backbone.model)
        return module, backbone

    def _load_data(self, tokenizer: Any) -> _Data:
        mirror = Path(self.job.mirror) if self.job.mirror else None
        splits = self.task.load(DataSource(mirror))
        if splits.fingerprint != self.job.spec["task"]["fingerprint"]:
            raise RequestError("The data changed while the run was waiting; start it again.")
        train_rows, dev_rows = hold_out(len(splits.train), self.settings.dev_size)
        train_rows = subsample(train_rows, self.settings.train_size)
        rows = subsample(range(len(splits.validation)), self.settings.eval_size)
        key = f"{splits.fingerprint}|{self.source.fingerprint}|{self.job.spec['code']['task']}|{self.task.name}"

        def encoded(dataset: Any, rows: Sequence[int], name: str) -> Encoded:
            chosen = dataset.select(rows)
            return encode(chosen, self.task, tokenizer, self.settings.max_length, f"{key}|{name}|{len(dataset)}")

        dev = encoded(splits.train, dev_rows, "dev") if dev_rows else None
        return _Data(
            encoded(splits.train, train_rows, f"train{self.settings.dev_size}"),
            dev,
            dev if dev is not None and self.trial else encoded(splits.validation, rows, "validation"),
        )

    @property
    def _sample(self) -> Encoded:
        return self.data.validation.take(range(min(_CHECK_ROWS, len(self.data.validation))))

    def _count(self) -> None:
        chosen = list(trainable(self.module).values())
        total = count(list(self.module.parameters()))
        self.record["parameters"] |= {
            "trainable": count(chosen),
            "total": total,
            "trainable_percent": 100 * count(chosen) / total,
            "expected_trainable": self.expected,
        }
        self.record["checks"]["count equals formula"] = checks.count_matches(count(chosen), self.expected)

    # -- training -------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[list[int]]:
        return training_batches(self.data.train.lengths, self.settings.batch_size, self.seed)

    def _batches(self, batch_size: int | None = None) -> Iterator[tuple[Batch, int]]:
        lengths = self.data.train.lengths
        for rows in training_batches(lengths, batch_size or self.settings.batch_size, self.seed):
            yield self.engine.batch(self.data.train, rows), int(lengths[rows].sum())

    def _trainer(self) -> Trainer:
        return Trainer(self.module, self.method, self.settings, self.engine)

    def _measure_memory(self) -> None:
        """Two optimizer steps at the largest batch of the run, and one evaluation at the largest there."""
        self.emit({"event": "phase", "name": "measuring memory"})
        lengths = self.data.train.lengths
        planned = islice(self._rows(), (self.settings.steps or 1) * self.settings.grad_accum)
        largest = max(planned, key=lambda rows: len(rows) * int(lengths[rows].max()))
        evaluated = evaluation_batches(self.data.validation.lengths, self.settings.eval_batch_size)[0]
        scored = self.engine.batch(self.data.validation, evaluated)
        if self.trains:
            trained = self.engine.batch(self.data.train, largest)
            self.record["memory"] |= measure(self._trainer(), trained, scored, self.initialization)
        else:
            self.record["memory"] |= measure_scoring(self.engine, self.module, scored)
        gc.collect()

    def _fit(self) -> Fit:
        evaluate = None
        if self.data.dev is not None:
            dev = self.data.dev

            def evaluate() -> float:
                predictions = self._answers(self.engine.predict(self.module, dev, self.settings.eval_batch_size)[0])
                return self.task.score(predictions, dev.labels.tolist())[self.task.main_score]

        seed_everything(self.seed)
        steps, begun = self.settings.steps, time.perf_counter()

        def report(point: dict[str, Any]) -> None:
            self.step = point["step"]
            if "loss" in point:
                self.record["curve"].append(point)  # so that a run that is stopped keeps it
            self.emit({"event": "step", "steps": steps, "seconds": time.perf_counter() - begun, **point})

        fit = self._trainer().fit(self._batches(), evaluate, self.task.higher_is_better, report)
        self.record["curve"] = fit.curve
        self.record |= {"main_score": self.task.main_score, "higher_is_better": self.task.higher_is_better}
        self.record["speed"] |= {
            "train_samples_per_second": fit.per_second(fit.samples),
            "train_tokens_per_second": fit.per_second(fit.tokens),
            "step_seconds": fit.step_seconds,
            "warmup_steps": fit.warmup_steps,
            "train_seconds": fit.train_seconds,
        }
        self.record["checks"]["loss finite"] = checks.PASS if fit.diverged is None else f"fail: at step {fit.diverged}"
        return fit

    # -- scoring --------------------------------------------------------------------------------------------

    def _answers(self, logits: np.ndarray[Any, Any]) -> list[Any]:
        """Class indices, or numbers for regression."""
        if self.task.kind == "regression":
            return [float(value) for value in logits.reshape(-1)]
        return [int(value) for value in logits.argmax(axis=-1)]

    def _score(self, fit: Fit) -> None:
        self.emit({"event": "phase", "name": "scoring"})
        validation = self.data.validation
        logits, seconds = self.engine.predict(self.module, validation, self.settings.eval_batch_size)
        if not np.isfinite(logits).all():
            fit.diverged = fit.scored_step
            return
        predictions, references = self._answers(logits), validation.labels.tolist()
        self.record["scores"] = self.task.score(predictions, references)
        self.record["main_score"] = self.task.main_score
        self.record["higher_is_better"] = self.task.higher_is_better
        if self.task.main_score in metrics.METRICS:  # a task may bring a score of its own
            self.record["stderr"] = metrics.standard_error(self.task.main_score, predictions, references)
        self.record["speed"] |= {
            "inference_samples_per_second": len(validation) / seconds,
            "inference_latency_ms": self.engine.latency_ms(self.module, validation),
        }
        write_predictions(Path(self.job.predictions), logits, predictions, references)
        self.record["predictions"] = f"predictions/{self.job.run_id}.parquet"
        self._check(predictions, references)

    def _check(self, predictions: list[Any], references: list[Any]) -> None:
        found: dict[str, str] = self.record["checks"]
        trained = self.engine.predict(self.module, self._sample, self.settings.eval_batch_size)[0]
        state = saved_state(self.module, self.originals)
        found["only declared parameters moved"] = checks.frozen_unchanged(self.declared, self.before, self.module)
        if self.trains:
            self.record["parameters"]["trained_sha256"] = checks.digest(trainable(self.module))
            found["trained differs from untrained"] = checks.trained_differs(self.untrained, trained)
        found["beats majority"] = checks.beats_majority(predictions, references, self.task.kind)
        tolerance = _TOLERANCE[self.settings.precision]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.job.adapter or folder) / card.WEIGHTS
            self.record["parameters"]["checkpoint_bytes"] = save_state(path, state)
            if self.job.adapter:
                self.record["adapter"] = f"adapters/{self.job.run_id}"
                card.write(path.parent, self.record)
            del state
            if isinstance(self.method, Mergeable):
                found["merged equals unmerged"] = self._merge(self.method, trained)
            del self.module
            fresh, _ = self._attached(self.seed + 1)
            load_state(path, fresh)
            again = self.engine.predict(fresh, self._sample, self.settings.eval_batch_size)[0]
        found["save and load reproduces"] = checks.reload_reproduces(trained, again, tolerance)

    def _merge(self, method: Mergeable, trained: np.ndarray[Any, Any]) -> str:
        """Fold the tuned weights into the base ones, measure inference again, and answer the merge check.

        Args:
            trained: logits of the check's rows before merging.
        """
        try:
            self.module = method.merge(self.module)
        except ValueError as error:  # some settings cannot be folded in (the method says which)
            return f"skip: {error}"
        validation = self.data.validation
        merged = self.engine.predict(self.module, self._sample, self.settings.eval_batch_size)[0]
        _, seconds = self.engine.predict(self.module, validation, self.settings.eval_batch_size)
        self.record["speed"] |= {
            "merged_inference_samples_per_second": len(validation) / seconds,
            "merged_inference_latency_ms": self.engine.latency_ms(self.module, validation),
        }
        return checks.merge_equivalent(trained, merged, _TOLERANCE[self.settings.precision])


def execute(job: Job, emit: Emit) -> dict[str, Any]:
    """Do a run and return its record, whatever happens: running out of memory and failures are recorded."""
    run: Run | None = None
    try:
        run = Run(job, emit)
        run.go()
        return run.record
    except KeyboardInterrupt:  # told to stop, between two steps
        record = run.record if run is not None else blank(job.spec, job.run_id)
        at = f" after step {run.step}" if run is not None and run.step else ""
        return record | {"status": "interrupted", "error": f"stopped by the user{at}; the same command starts it again"}
    except Exception as error:  # the sweep goes on: the record carries what went wrong
        record = run.record if run is not None else blank(job.spec, job.run_id)
        record["status"] = "oom" if out_of_memory(error) else "failed"
        first = str(error).strip().splitlines()
        record["error"] = f"{type(error).__name__}: {first[0] if first else ''}"
        record["traceback"] = traceback.format_exc()
        return record


def recompute_activations(model: Any, **options: Any) -> None:
    """Switch gradient checkpointing on; transformers 5.23 gave the call another name.

    ``options`` are further ones of torch.utils.checkpoint.checkpoint.
    """
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False, **options})


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def padding_of(tokenizer: Any) -> dict[str, int]:
    """The value that pads each input column."""
    return {
        "input_ids": tokenizer.pad_token_id or 0,
        "attention_mask": 0,
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }


def write_predictions(
    path: Path, logits: np.ndarray[Any, Any], predictions: Sequence[Any], references: Sequence[Any]
) -> None:
    """One row per validation example, in its order: prediction, reference and logits; written atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "row": pa.array(range(len(predictions)), pa.int32()),
            "prediction": pa.array(predictions),
            "reference": pa.array(references),
            "logits": pa.array(list(logits.astype(np.float32))),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # two processes may do the same run
    try:
        pq.write_table(table, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
