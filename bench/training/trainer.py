"""The trainer of all methods: the same optimizer, schedule, batches and clock; no method has code of its own here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.protocols import Batch, FollowsSteps, GroupsParameters, Method
from bench.core.train_config import TrainSettings
from bench.models import compile
from bench.models.backbone import trainable
from bench.models.inference import Engine
from bench.training.reference_workload import Reference

_CURVE_POINTS = 200
_IGNORED = -100  # the label that transformers' losses leave out


@dataclass
class TrainResult:
    """The result of training.

    Attributes:
        curve: points of step, mean loss since the last point, learning rate, dev score or None.
        step_seconds: seconds of each optimizer step, evaluation excluded.
        reference_seconds: seconds of the reference workload, timed between steps (``reference_workload``).
        samples, tokens: rows and real (unpadded) tokens of each step.
        without_gradient: trainable tensors whose gradient was zero or missing in every step, by name.
        diverged: step of the first non-finite loss, or None.
        scored_step: the step whose weights the module holds now.
        train_seconds: the steps' sum.
        dev_seconds: time spent in dev evaluations.
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    reference_seconds: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    diverged: int | None = None
    scored_step: int = 0
    train_seconds: float = 0.0
    dev_seconds: float = 0.0

    @property
    def warmup_steps(self) -> int:
        """Steps left out of the throughput: the first five, or fewer in a run of under 15."""
        return min(5, len(self.step_seconds) // 3)

    def per_second(self, amounts: list[int]) -> float | None:
        """Amount per second over the steps after warm-up; None when there are none."""
        seconds = sum(self.step_seconds[self.warmup_steps :])
        return sum(amounts[self.warmup_steps :]) / seconds if seconds > 0 else None


class Trainer:
    """Optimizes a module's trainable parameters.

    Args:
        module: its output has ``.loss``; parameters with ``requires_grad`` are trained.
        method: for its learning rate and optional protocols.
        settings: shared training options, ``steps`` resolved.
        engine: device and precision.
    """

    def __init__(self, module: nn.Module, method: Method, settings: TrainSettings, engine: Engine) -> None:
        self.module, self.method, self.settings, self.engine = module, method, settings, engine
        self.steps = settings.steps or 1
        self.parameters = list(trainable(module).values())
        self.optimizer = self._optimizer()
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.scaler = torch.amp.GradScaler(engine.device.type, enabled=settings.precision == "fp16")

    def _optimizer(self) -> torch.optim.Optimizer:
        rate = self.method.lr
        if isinstance(self.method, GroupsParameters):
            groups = self.method.parameter_groups(self.module)
            grouped = {id(parameter) for group in groups for parameter in group["params"]}
            left = [name for name, value in trainable(self.module).items() if id(value) not in grouped]
            if left:
                more = f" and {len(left) - 1} more" if len(left) > 1 else ""
                raise ValueError(
                    f"{self.method.name}: parameter_groups leaves out {left[0]}{more}, which would never be trained: "
                    "put every parameter with requires_grad into a group, or freeze it in attach"
                )
        else:
            groups = [{"params": self.parameters}]
        split = []
        for group in groups:
            parameters = group["params"]
            rest = {name: value for name, value in group.items() if name not in ("params", "lr_scale")}
            rest["lr"] = rate * group.get("lr_scale", 1.0)
            matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
            others = [parameter for parameter in parameters if parameter.ndim < 2]
            if matrices:
                split.append({"weight_decay": self.settings.weight_decay, **rest, "params": matrices})
            if others:
                split.append({**rest, "params": others, "weight_decay": 0.0})
        return torch.optim.AdamW(split, lr=rate, fused=True)

    def _rate(self, done: int) -> float:
        """Factor of the learning rate after ``done`` steps: linear warm-up, then linear decay or constant."""
        warmup = math.ceil(self.settings.warmup * self.steps)
        if done < warmup:
            return (done + 1) / (warmup + 1)
        if self.settings.schedule == "constant":
            return 1.0
        return max(0.0, (self.steps - done) / max(1, self.steps - warmup))

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar."""
        with self.engine.autocast():
            loss: Tensor = self.module(**batch).loss
        return loss

    def backward(self, loss: Tensor, share: float | Tensor | None = None) -> None:
        """Add the gradient of one of ``grad_accum`` passes.

        Args:
            share: weight of the pass in the step; None: equal weights.
        """
        part = loss / self.settings.grad_accum if share is None else loss * share
        self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]

    def step(self, number: int = 1) -> None:
        """Clip, update, call the method's ``after_step``, and clear the gradients."""
        if self.settings.clip > 0:
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if isinstance(self.method, FollowsSteps):
            self.method.after_step(self.module, number, self.steps)
        self.optimizer.zero_grad(set_to_none=True)

    def _clip(self) -> None:
        """Clip the gradient's norm to ``clip``, as ``torch.nn.utils.clip_grad_norm_`` does; the scaling is left to the
        optimizer's fused kernel, which reads the gradients anyway."""
        fused = all(group.get("fused") for group in self.optimizer.param_groups)  # a plan may use other kernels
        if self.scaler.is_enabled() or not fused:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
            return
        norm = nn.utils.get_total_norm([value.grad for value in self.parameters if value.grad is not None])
        # The divisor that torch's fused optimizers apply to gradients; meant for GradScaler.
        self.optimizer.grad_scale = ((norm + 1e-6) / self.settings.clip).clamp_min(1.0)  # type: ignore[attr-defined]

    def fit(
        self,
        batches: Iterator[tuple[Batch, int]],
        evaluate: Callable[[], float] | None,
        higher_is_better: bool,
        report: Callable[[dict[str, Any]], None],
    ) -> TrainResult:
        """Do all steps; afterwards the module has the weights to score.

        Args:
            batches: pairs of a batch on the device and its number of unpadded tokens; ``grad_accum`` per step.
            evaluate: computes the dev score of the module; None without a dev split.
            report: called with each point of the curve, and with the step in between.
        """
        fit, keeper = TrainResult(), _Keeper(self.module, higher_is_better)
        interval = max(1, self.steps // _CURVE_POINTS)
        dev_steps = {round(self.steps * (i + 1) / self.settings.evaluations) for i in range(self.settings.evaluations)}
        clock, losses = _Clock(self.engine.device), []
        reference = Reference(self.engine.device, _Clock(self.engine.device), self.steps)
        self.module.train()
        for number in range(1, self.steps + 1):
            reference.at(number)
            rate = self.scheduler.get_last_lr()[0]
            losses.append(self._one(number, batches, fit, clock))
            at_dev = evaluate is not None and number in dev_steps
            if not (at_dev or number % interval == 0 or number == self.steps):
                report({"step": number})
                continue
            loss = float(torch.stack(losses).mean())
            losses.clear()
            fit.curve.append({"step": number, "loss": loss, "lr": rate, "dev_score": None})
            if not math.isfinite(loss):
                fit.diverged = number
                fit.curve[-1]["loss"] = None
                break
            if at_dev and evaluate is not None:
                start = time.perf_counter()
                fit.curve[-1]["dev_score"] = keeper.offer(number, float(evaluate()), self.settings.checkpoint == "best")
                fit.dev_seconds += time.perf_counter() - start
            report(fit.curve[-1])
        fit.step_seconds, fit.reference_seconds = clock.seconds(), reference.clock.seconds()
        fit.train_seconds = sum(fit.step_seconds)
        fit.without_gradient = [name for name, value in trainable(self.module).items() if not self._had_gradient(value)]
        fit.scored_step = keeper.restore(len(fit.step_seconds))
        return fit

    def _had_gradient(self, parameter: Tensor) -> bool:
        """Whether the gradient was ever other than zero: AdamW's moments are zero exactly when it was not."""
        state = self.optimizer.state.get(parameter, {})
        return any(bool(state[moment].any()) for moment in ("exp_avg", "exp_avg_sq") if moment in state)

    def _one(self, number: int, batches: Iterator[tuple[Batch, int]], fit: TrainResult, clock: _Clock) -> Tensor:
        """One timed optimizer step; returns its mean loss, on the device."""
        clock.start()
        losses, samples, tokens = [], 0, 0
        passes = [next(batches) for _ in range(self.settings.grad_accum)]
        for (batch, real), share in zip(passes, shares([batch for batch, _ in passes]), strict=True):
            loss = self.forward(batch)
            self.backward(loss, share)
            losses.append(loss.detach() * share)
            samples += len(batch["labels"])
            tokens += real
        self.step(number)
        self.scheduler.step()
        clock.stop()
        fit.samples.append(samples)
        fit.tokens.append(tokens)
        return torch.stack(losses).sum().float()


def shares(batches: Sequence[Batch]) -> list[float | Tensor]:
    """The weight of each batch's mean loss in the mean loss over all of them.

    A class or number counts once per row, a text once per token with a loss: a decoder's labels are shifted by one, so
    the first token of a row has none.
    """
    labels = [batch["labels"] for batch in batches]
    if len(batches) == 1:
        return [1.0]
    if labels[0].ndim == 1:
        rows = sum(map(len, labels))
        return [len(one) / rows for one in labels]
    later = 0 if "decoder_input_ids" in batches[0] else 1
    counts = [(one[:, later:] != _IGNORED).sum() for one in labels]
    whole = torch.stack(counts).sum().clamp_min(1)
    return [count / whole for count in counts]


class _Keeper:
    """Keeps a copy of the trainable weights with the best dev score, on the CPU."""

    def __init__(self, module: nn.Module, higher_is_better: bool) -> None:
        self.module, self.sign = module, 1 if higher_is_better else -1
        self.best: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, score: float, keep: bool) -> float | None:
        """Copy the weights when this score is the best so far (the later of equals); returns the score if finite."""
        if not math.isfinite(score):
            return None
        if keep and (self.best is None or self.sign * score >= self.sign * self.best):
            self.best, self.step = score, step
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in trainable(self.module).items()}
        return score

    def restore(self, last: int) -> int:
        """Restore the copied weights unless they are the last step's; returns the step they are from."""
        if not self.weights or self.step == last:
            return last
        with torch.no_grad():
            for name, value in trainable(self.module).items():
                value.copy_(self.weights[name])
        return self.step


class _Clock:
    """Times steps; on CUDA with events that are read at the end, so that no step waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[Any, Any, float]] = []
        self.begun: Any = None
        self.compiled = 0.0

    def start(self) -> None:
        self.compiled, self.begun = compile.seconds(), self._now()

    def stop(self) -> None:
        self.marks.append((self.begun, self._now(), compile.seconds() - self.compiled))

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self) -> list[float]:
        """Seconds of each step, without compilation."""
        if not self.cuda:
            return [end - begin - compiled for begin, end, compiled in self.marks]
        torch.cuda.synchronize()
        # The device may still be busy while the compiler runs: then the events are closer than the compilation took.
        return [max(begin.elapsed_time(end) / 1000 - compiled, 0.0) for begin, end, compiled in self.marks]
