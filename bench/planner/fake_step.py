"""One method on one model as fake tensors: traced at any batch size and length without using memory."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from bench.core.errors import RequestError
from bench.core.protocols import AlreadyTrained, Batch, DataInitialized, Method
from bench.core.train_config import TrainSettings
from bench.models.backbone import Backbone, count, recompute_activations, trainable
from bench.models.inference import Engine
from bench.planner import cuda_rules, meta_model
from bench.planner.allocation_trace import Trace
from bench.planner.meta_model import Shape
from bench.planner.optimizers import OPTIMIZERS
from bench.planner.plan_config import Setting
from bench.training.memory import CUDA_BLOCK_BYTES, Loop, measure_call, measure_inference, trace_step
from bench.training.storage_tracker import Peak, StorageTracker
from bench.training.trainer import Trainer

_AUTOCAST = {"fp32": "fp32", "bf16": "bf16", "bf16-autocast": "bf16", "bf16-plain": "fp32"}


@contextlib.contextmanager
def _converted_in_place() -> Iterator[None]:
    """Let ``module.to`` set the data of fake parameters, as it does with real ones; torch would swap the objects,
    which fails where something else (a tie, a model's own registry) also holds them."""
    original = nn.Module._apply

    def apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for child in self.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]  # torch has no types here
        for parameter in self._parameters.values():
            if parameter is not None:
                with torch.no_grad():
                    converted = fn(parameter)
                if converted is not parameter:
                    parameter.data = converted
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


class _Drawn:
    """A random number without a value, which is below no threshold."""

    def __init__(self, held: Tensor) -> None:
        self.held = held  # keeps the storage as long as the model keeps the number

    def __lt__(self, _: float) -> bool:
        return False


class _NoLayerDropped(TorchFunctionMode):
    """LayerDrop (OPT, BART) draws a number to decide whether to skip a block; the peak occurs when none is skipped."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        return _Drawn(out) if func is torch.rand and args == ([],) else out


class FakeStep:
    """A method attached to a model without weights.

    Args:
        model: the model's shape.
        method: the method.
        setting: the assumptions; batch size and length are arguments of each call.

    Raises:
        RequestError: when the method does not apply to the model, or cannot run without real values.
    """

    def __init__(self, model: Shape, method: Method, setting: Setting) -> None:
        self.shape, self.method, self.setting = model, method, setting
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._on_cuda = setting.device == "cuda"
        self.block = CUDA_BLOCK_BYTES if self._on_cuda else 1
        self.extra = cuda_rules.workspace_bytes(setting.gpu) if self._on_cuda else 0
        with self._rules():
            backbone = meta_model.build(model, setting)
            meta_model.check_length(model, backbone, setting)
            self.longest = meta_model.longest(model, backbone)
            self.module = self._attach(backbone)
        self.trainable = count(list(trainable(self.module).values()))
        self.total = count(list(self.module.parameters()))
        self.trains = not isinstance(method, AlreadyTrained)
        if self.trains and not self.trainable:
            raise RequestError(f"{method.name}: it left nothing to train on {model.source.name}.", code="unsupported")
        self.engine = Engine(torch.device("cpu"), _AUTOCAST[setting.precision], {})

    def _attach(self, backbone: Backbone) -> nn.Module:
        try:
            module = self.method.attach(backbone)
        except ValueError as error:
            prefix = f"{self.method.name}: "
            raise RequestError(prefix + str(error).removeprefix(prefix), code="unsupported") from error
        if self.setting.gradient_checkpointing:
            # Function modes are off inside the backward pass, where the blocks are recomputed.
            modes = {"context_fn": lambda: (contextlib.nullcontext(), cuda_rules.CudaRules())} if self._on_cuda else {}
            recompute_activations(backbone.model, **modes)
        return module

    @contextlib.contextmanager
    def _rules(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # models warn about a batch of zeros
            stack.enter_context(self._fake)
            stack.enter_context(_converted_in_place())
            stack.enter_context(_NoLayerDropped())
            if self._on_cuda:
                stack.enter_context(cuda_rules.CudaRules())
            yield

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Name the method in the error when a step cannot be done without real values, or at all."""
        try:
            yield
        except RequestError:
            raise
        except Exception as error:  # a model or a plugin may raise anything
            why = " ".join(str(error).split())[:300]
            raise RequestError(
                f"{self.method.name}: its training step on {self.shape.source.name} cannot be planned "
                f"with --precision {self.setting.precision}: {type(error).__name__}: {why}",
                code="unsupported",
            ) from error

    def _batch(self, batch_size: int, length: int) -> Batch:
        return meta_model.batch(self.shape, dataclasses.replace(self.setting, batch_size=batch_size, max_length=length))

    def trace(self, batch_size: int, length: int) -> Trace:
        """The events of one training step."""
        accum = min(self.setting.grad_accum, 2)  # passes after the second repeat it
        settings = TrainSettings(steps=1000, grad_accum=accum, clip=self.setting.clip)
        tracker = StorageTracker(torch.device("cpu"), scratch=cuda_rules.scratch if self._on_cuda else None)
        with self._rules(), self._explained():
            trainer = Trainer(self.module, self.method, settings, self.engine)
            trainer.optimizer = OPTIMIZERS[self.setting.optimizer](trainer.optimizer.param_groups)
            batch = self._batch(batch_size, length)
            forward = self._holding() if self.setting.keep_outputs else trainer.forward
            loop = Loop(forward, trainer.backward, trainer.step)
            trace_step(self.module, trainer.optimizer, [batch] * accum, loop, tracker)
        return Trace.of(tracker)

    def _holding(self) -> Callable[[Batch], Tensor]:
        """A forward that keeps the last output alive."""
        held: list[Any] = []

        def forward(batch: Batch) -> Tensor:
            with self.engine.autocast():
                out = self.module(**batch)
            held[:] = [out.logits.detach()]
            loss: Tensor = out.loss
            return loss

        return forward

    def evaluation(self, batch_size: int, length: int) -> Peak:
        """The peak of one evaluation pass over as many rows."""

        def forward(batch: Batch) -> Any:
            if self.shape.kind == "seq2seq":
                batch = {**batch, "decoder_input_ids": batch["labels"]}
            return self.engine.logits(self.module, batch)

        with self._rules(), self._explained():
            peak = measure_inference(self.module, self._batch(batch_size, length), forward, rounding=self.block)
        return _with_other(peak, self.extra)

    def initialization(self, length: int) -> Peak | None:
        """The peak of a data-dependent initialisation, which reads rows one by one; None where there is none."""
        method, taken = self.method, []
        if not isinstance(method, DataInitialized):
            return None

        def rows() -> Iterator[Batch]:
            taken.append(1)
            yield one

        with self._rules(), self._explained():
            one = self._batch(1, length)
            peak = measure_call(
                self.module, "initialization", lambda: method.initialize(self.module, rows()), rounding=self.block
            )
        return _with_other(peak, self.extra) if taken else None

    def step(self, trace: Trace) -> tuple[dict[str, Peak], int | None]:
        """The peaks of a trace's phases under the device's rules, and the bytes that the CUDA allocator reserves.

        By which its blocks exceed their tensors counts as "other" from the first pass on. Reserved bytes are None under
        the CPU's rules.
        """
        peaks = trace.peaks(self.block, self.extra)
        if not self._on_cuda:
            return peaks, None
        replay = trace.replayed((self.extra // 2, self.extra // 2))
        whole = {name: _with_other(peak, max(0, replay.peaks[name] - peak.total_bytes)) for name, peak in peaks.items()}
        return whole, replay.reserved_bytes


def _with_other(peak: Peak, nbytes: int) -> Peak:
    return Peak(peak.total_bytes + nbytes, {**peak.split, "other": peak.split["other"] + nbytes}, peak.phase)
