"""One run in this process: load, attach, train, predict, score, check; gives its record."""

from __future__ import annotations

import gc
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.core import environment, options, registry, task_options
from bench.core.errors import RequestError
from bench.core.protocols import AlreadyTrained, Batch, CountsParameters, DataInitialized, Mergeable, Method, Task
from bench.core.train_config import TrainSettings
from bench.data.encoding import Rows
from bench.models import compile, saved_adapter
from bench.models import loading as models
from bench.models.backbone import Backbone, count, recompute_activations, trainable
from bench.models.checkpoint import load_state, original_tensors, save_state, saved_state
from bench.models.inference import Engine, padding_of
from bench.store import record
from bench.store.predictions import write_predictions
from bench.store.record import blank
from bench.tasks.formulations import select
from bench.tasks.formulations.base import EvalResult, FormulationContext
from bench.training import checks, flops, run_data
from bench.training.forgetting import Forgetting
from bench.training.job import Job
from bench.training.memory import gpu_is_busy, measure_call, out_of_memory
from bench.training.memory_probe import measure, measure_scoring, rehearse
from bench.training.run_batches import Batches
from bench.training.shared import feature_cache, shared_run
from bench.training.shared.lockstep import Member
from bench.training.storage_tracker import Peak
from bench.training.trainer import Trainer, TrainResult

_CHECK_ROWS = 64
_TOLD_APART = 16  # of them, where all that is asked is whether training changed an answer
_WHOLE_TIMES = ("setup_seconds", "train_seconds", "eval_seconds", "total_seconds")
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}

Emit = Callable[[dict[str, Any]], None]


class Run:
    """The state of one run, filled step by step; ``record`` is whole at any moment.

    Args:
        member: of the runs that are trained together over one frozen trunk; None: it runs alone.
    """

    def __init__(self, job: Job, emit: Emit, member: Member | None = None) -> None:
        registry.load([Path(plugin) for plugin in job.plugins])
        spec = job.spec
        self.job, self.emit, self.member = job, emit, member
        self.trunks: dict[str, str] = {}
        self.record = blank(spec, job.run_id)
        chosen = {name: value for name, value in spec["method"].items() if name != "name"}
        self.method: Method = options.build(
            registry.method_entry(spec["method"]["name"]).value, chosen, spec["method"]["name"]
        )
        self.trains = not isinstance(self.method, AlreadyTrained)
        self.task: Task = task_options.rebuild(spec["task"], run_data.source_of(job))
        self.settings: TrainSettings = options.build(TrainSettings, spec["train"], "train")
        self.seed: int = spec["seed"]
        self.initialization: Peak | None = None
        self.forgetting: Forgetting | None = None
        self.cache: feature_cache.FeatureCache | None = None
        self.step = 0
        self.trial = run_data.is_trial(job)
        mirror = Path(job.mirror) if job.mirror else None
        self.source = models.resolve(spec["model"]["name"], models.Loading.of(spec["model"]), mirror)
        if self.source.fingerprint != spec["model"]["fingerprint"]:
            raise RequestError("The model changed while the run was waiting; start it again.")

    def go(self) -> None:
        """Do the run; fills the record."""
        begun, compiled = time.perf_counter(), compile.seconds()
        self._prepare()
        setup = time.perf_counter()
        self._keep_features()
        kept = time.perf_counter()
        if not self.trial:
            self._count_flops()
        if self.settings.compile:
            self._compile()
        if not self.trial:
            self._measure_memory()
        if self.member is not None:
            self._join(self.member)
        probed = time.perf_counter()
        fit = self._fit() if self.trains else TrainResult()
        trained = time.perf_counter()
        if fit.diverged is None and not self.trial:
            self._score(fit)
        ended = time.perf_counter()
        self.record["speed"] |= {
            "setup_seconds": setup - begun,
            "eval_seconds": fit.dev_seconds + (ended - trained),
            "total_seconds": ended - begun,
        }
        if self.settings.compile:
            self.record["speed"]["compile_seconds"] = compile.seconds() - compiled
        if self.member is not None:  # the others were at work meanwhile
            self.record["speed"] |= dict.fromkeys(_WHOLE_TIMES)
        self.record["status"] = "ok" if fit.diverged is None else "diverged"
        if fit.diverged is not None:
            self.record["error"] = f"the loss was not finite at step {fit.diverged} (learning rate {self.method.lr:g})"
        self.emit({"event": "phase", "name": "done", "probe_seconds": probed - kept})

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
        self.read_data(device)
        if self.settings.forgetting is not None:
            self.forgetting = Forgetting.on(self.settings.forgetting, run_data.source_of(self.job), self.seat)
        self.record["dev_score"] = dict(zip(("name", "higher_is_better"), self.form.dev, strict=True))
        self.record["data"] = {
            f"{name}_{what}": value
            for name, rows in (("train", self.data.train), ("validation", self.data.validation))
            for what, value in (("rows", len(rows)), ("cut", getattr(rows, "cut", 0)))
        } | {"max_length": self.seat.longest}
        self.module, backbone = self._attached(self.seed)
        self.declared = frozenset(trainable(self.module))
        if not self.declared and self.trains:
            raise ValueError(f"method '{self.method.name}' left nothing to train")
        if isinstance(self.method, DataInitialized):
            self.emit({"event": "phase", "name": "initialising"})
            self._initialize(self.method)
        self.before = checks.digests(checks.frozen(self.module))
        if self.member is None:
            self.untrained = self._numbers(self._before)
        self._count()

    def read_data(self, device: torch.device) -> None:
        """Bring the task into its form: ``engine``, ``seat``, ``form`` and the encoded rows; no weights are read."""
        tokenizer = models.tokenizer(self.source) if select.reads_text(self.task) else None
        self.engine = Engine(device, self.settings.precision, padding_of(tokenizer))
        self.seat = FormulationContext(self.engine, self.settings, tokenizer, models.configuration(self.source))
        self.form = select.make(self.job.spec["task"]["form"], self.task, self.source, self.seat)
        load = partial(run_data.load, self.job, self.task, self.form, self.settings)
        self.data = load() if self.member is None else self.member.once("data", load)
        self.batches = Batches(self.engine, self.data.train, self.data.validation, self.settings, self.seed)

    def kept_rows(self) -> list[tuple[Rows, list[int]]]:
        """Rows whose features ``cache_trunk`` keeps, of each split."""
        plan = self.job.spec["task"]["form"]
        return feature_cache.parts(self.data.train, self.data.dev, self.batches.rows(), self.settings, plan)

    def _initialize(self, method: DataInitialized) -> None:
        """Show the method the training rows one by one, once; its memory peak is that of the longest row."""
        lengths = self.data.train.lengths
        taken = []

        def longest() -> Iterator[Batch]:
            taken.append(int(lengths.argmax()))
            yield self.batches.of(taken[-1:])

        peak = measure_call(self.module, "initialization", lambda: method.initialize(self.module, longest()))
        self.initialization = peak if taken else None  # a method may have nothing to look at, with its options
        rows = islice(self.batches.training(batch_size=1), len(lengths))
        method.initialize(self.module, (batch for batch, _ in rows))

    def _attached(self, seed: int) -> tuple[nn.Module, Backbone]:
        """A fresh pretrained model with the method attached, on the device, from a seed."""
        seed_everything(seed)
        head = self.job.spec["task"]["form"]["model_kind"]
        backbone = models.load(self.source, head, self.task.labels)
        if self.engine.padding:
            models.pad_with(backbone.model, self.engine.padding["input_ids"])
        backbone.model.to(self.engine.device)
        if self.forgetting is not None:
            self.forgetting.before(backbone.model)
        self.originals = original_tensors(backbone)
        if self.record["compute"]["base_inference_flops"] is None:
            self.record["compute"]["base_inference_flops"] = flops.of_inference(backbone.model, self.batches.longest())
        shape = backbone
        if self.source.loading.quantize:  # its tensors' shapes are those of the packed values
            shape = models.sketch(self.source, head, self.task.labels)
        self.packed_away = count(list(shape.model.parameters())) - count(list(backbone.model.parameters()))
        self.expected = self.method.trainable_count(shape) if isinstance(self.method, CountsParameters) else None
        module = self.method.attach(backbone).to(self.engine.device)
        if self.settings.gradient_checkpointing:
            recompute_activations(backbone.model)
        return module, backbone

    @property
    def _sample(self) -> Rows:
        return self.data.validation.take(range(min(_CHECK_ROWS, len(self.data.validation))))

    @property
    def _before(self) -> Rows:
        """The rows that are answered before training as well."""
        sample = self._sample
        return sample if self.form.reads_untrained else sample.take(range(min(_TOLD_APART, len(sample))))

    def _count(self) -> None:
        chosen = list(trainable(self.module).values())
        total = count(list(self.module.parameters())) + self.packed_away
        self.record["parameters"] |= {
            "trainable": count(chosen),
            "total": total,
            "trainable_percent": 100 * count(chosen) / total,
            "expected_trainable": self.expected,
        }
        self.record["checks"]["count equals formula"] = checks.count_matches(count(chosen), self.expected)

    def _keep_features(self) -> None:
        """With ``cache_trunk``: fill what is missing of the features that training and its dev scores read."""
        if not self.settings.cache_trunk:
            return

        def tell(text: str, news: bool) -> None:
            self.emit({"event": "phase", "name": text, "news": news})

        tell("looking for kept features", False)
        size = min(self.settings.batch_size, self.settings.eval_batch_size)
        need = feature_cache.Need(self.kept_rows(), self.engine, size, self.job.cache_limit, tell)
        self.cache, self.record["trunk_cache"] = feature_cache.keep(self.module, self.method.name, self.before, need)
        gc.collect()

    # -- in company -----------------------------------------------------------------------------------------

    def _join(self, member: Member) -> None:
        """Time the run's own steps while it is alone, then wait for the others."""
        self.emit({"event": "phase", "name": "measuring speed"})
        probe = shared_run.own_training(self._trainer(), self.data.train, self.batches.rows())
        self.record["speed"] |= shared_run.speeds(probe)
        self.emit({"event": "phase", "name": "waiting for the runs that share its trunk"})
        self.trunks = shared_run.join(member, self.module, self.before, self.engine.device)
        self.record["shared"] = {"runs": member.company.size}
        self.untrained = self._numbers(self._before)

    def _together(self) -> AbstractContextManager[None]:
        """Readings of the trunk come from the runs together, where there are others."""
        return nullcontext() if self.member is None else self.member.feeding(self.module, self.trunks)

    def _numbers(self, rows: Rows) -> np.ndarray[Any, Any]:
        """What the module answers to rows now."""
        with self._together():
            return self.form.outputs(self.module, rows)

    def _inference_rate(self, outcome: EvalResult) -> float:
        """Examples a second, of the validation pass; of one by itself where that pass was shared."""
        if self.member is None:
            return outcome.rows / outcome.seconds
        return shared_run.own_inference(self.form, self.module, self.data.validation, self.settings.eval_batch_size)

    # -- training -------------------------------------------------------------------------------------------

    def _trainer(self) -> Trainer:
        return Trainer(self.module, self.method, self.settings, self.engine)

    def _measure_memory(self) -> None:
        """An optimizer step, not the first, at the run's largest batch, and one evaluation at the largest there."""
        self.emit({"event": "phase", "name": "measuring memory"})
        scored, _ = self.batches.scoring()
        if self.trains:
            trained = self.batches.of(self.batches.extreme())
            fed = feature_cache.fed(self.module, self.cache)
            self.record["memory"] |= measure(self._trainer(), trained, scored, self.initialization, fed)
        else:
            self.record["memory"] |= measure_scoring(self.engine, self.module, scored)
        gc.collect()

    def _compile(self) -> None:
        """Compile for the run's largest and smallest batches, and for the largest and smallest that are scored."""
        self.emit({"event": "phase", "name": "compiling"})
        compile.compile_in_place(self.module)
        trained = [self.batches.of(self.batches.extreme(pick)) for pick in (max, min)] if self.trains else []
        rehearse(self._trainer(), trained, self.batches.scoring())

    def _count_flops(self) -> None:
        """Operations of one example's inference and of an optimizer step at the run's largest batch."""
        compute, lengths = self.record["compute"], self.data.train.lengths
        with self.engine.autocast():
            compute["inference_flops"] = flops.of_inference(self.module, self.batches.longest())
        compute["inference_length"] = int(self.data.validation.lengths.max())
        if self.trains:
            trainer = self._trainer()
            rows = sorted(self.batches.extreme(), key=lambda row: -int(lengths[row]))
            with feature_cache.fed(self.module, self.cache):
                one = flops.of_training(
                    self.module,
                    lambda batch: trainer.backward(trainer.forward(batch)),
                    self.batches.of,
                    rows,
                )
            compute["train_step_flops"] = self.settings.grad_accum * one

    def _fit(self) -> TrainResult:
        evaluate = None
        if self.data.dev is not None:
            evaluate = partial(self.form.dev_score, self.module, self.data.dev)
        seed_everything(self.seed)
        steps, begun = self.settings.steps, time.perf_counter()

        def report(point: dict[str, Any]) -> None:
            self.step = point["step"]
            if "loss" in point:
                self.record["curve"].append(point)  # so that a run that is stopped keeps it
            self.emit({"event": "step", "steps": steps, "seconds": time.perf_counter() - begun, **point})

        with feature_cache.fed(self.module, self.cache), self._together():
            fit = self._trainer().fit(self.batches.training(), evaluate, self.form.dev[1], report)
        self.record["curve"] = fit.curve
        self.record |= {"main_score": self.task.main_score, "higher_is_better": self.task.higher_is_better}
        if self.member is None:
            self.record["speed"] |= {**shared_run.speeds(fit), "train_seconds": fit.train_seconds}
        self.record["checks"]["loss finite"] = record.PASS if fit.diverged is None else f"fail: at step {fit.diverged}"
        return fit

    # -- scoring --------------------------------------------------------------------------------------------

    def _score(self, fit: TrainResult) -> None:
        self.emit({"event": "phase", "name": "scoring"})
        with self._together():
            outcome = self.form.evaluate(self.module, self.data.validation)
            if not outcome.finite:
                fit.diverged = fit.scored_step
                return
            self.record["scores"] = {
                name: value if value is None else float(value) for name, value in outcome.scores.items()
            }
            for name, rows in self.data.others.items():
                more = self.form.evaluate(self.module, rows).scores
                self.record["scores"] |= {f"{score}_{name}": value for score, value in more.items()}
        self.record["main_score"] = self.task.main_score
        self.record["higher_is_better"] = self.task.higher_is_better
        self.record["stderr"] = outcome.stderr
        self.record["speed"] |= {
            "inference_samples_per_second": self._inference_rate(outcome),
            "inference_latency_ms": self.engine.latency_ms(self.module, self.data.validation),
        }
        write_predictions(Path(self.job.predictions), outcome.columns)
        self.record["predictions"] = f"predictions/{self.job.run_id}.parquet"
        if self.forgetting is not None:
            self.record["forgetting"] = self.forgetting.after(self.module)
        self._check(outcome)

    def _check(self, outcome: EvalResult) -> None:
        found: dict[str, str] = self.record["checks"]
        trained = self._numbers(self._sample)
        state = saved_state(self.module, self.originals)
        found["only declared parameters moved"] = checks.frozen_unchanged(self.declared, self.before, self.module)
        if self.trains:
            self.record["parameters"]["trained_sha256"] = checks.digest(trainable(self.module))
            same = trained if self.form.reads_untrained else self._numbers(self._before)  # in batches of the same rows
            found["trained differs from untrained"] = checks.trained_differs(self.untrained, same)
        before = self.untrained if self.trains and self.form.reads_untrained else None
        name, answer = self.form.check_learned(before, trained, outcome)
        found[name] = answer
        tolerance = _TOLERANCE[self.settings.precision]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.job.adapter or folder) / saved_adapter.WEIGHTS
            self.record["parameters"]["checkpoint_bytes"] = save_state(path, state)
            if self.job.adapter:
                self.record["adapter"] = f"adapters/{self.job.run_id}"
                saved_adapter.write(path.parent, self.record)
            del state
            if isinstance(self.method, Mergeable) and self.source.loading.quantize:
                found["merged equals unmerged"] = "skip: the base is quantised, nothing can be folded into it"
            elif isinstance(self.method, Mergeable):
                found["merged equals unmerged"] = self._merge(self.method, trained)
            del self.module
            fresh, _ = self._attached(self.seed + 1)
            load_state(path, fresh)
            again = self.form.outputs(fresh, self._sample)  # all: an int8 base answers by who else is in the batch
        found["save and load reproduces"] = checks.reload_reproduces(trained, again, tolerance)

    def _merge(self, method: Mergeable, trained: np.ndarray[Any, Any]) -> str:
        """Fold the tuned weights into the base ones, measure inference again, and answer the merge check.

        Args:
            trained: the form's numbers of the check's rows before merging.
        """
        try:
            merged_module = method.merge(self.module)
        except ValueError as error:  # some settings cannot be folded in (the method says which)
            return f"skip: {error}"
        except Exception as error:  # of a plugin: the run has its score, and only this check has failed
            return f"fail: merge raised {type(error).__name__}: {error}"
        if not isinstance(merged_module, nn.Module):
            return f"fail: merge returned {type(merged_module).__name__}, not a module"
        self.module = merged_module
        validation = self.data.validation
        merged = self.form.outputs(self.module, self._sample)
        seconds = self.form.time_inference(self.module, validation)
        self.record["speed"] |= {
            "merged_inference_samples_per_second": len(validation) / seconds,
            "merged_inference_latency_ms": self.engine.latency_ms(self.module, validation),
        }
        return checks.merge_equivalent(trained, merged, _TOLERANCE[self.settings.precision])


def execute(job: Job, emit: Emit, member: Member | None = None) -> dict[str, Any]:
    """Do a run and return its record, whatever happens: running out of memory and failures are recorded."""
    run: Run | None = None
    try:
        run = Run(job, emit, member)
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


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
