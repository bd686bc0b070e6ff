"""The storage tracker and the memory probe, on cases counted by hand, to the byte (float32: 4 bytes)."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

from bench.training import memory
from bench.training.memory import Loop, MemoryReport, gpu_is_busy, measure_call, measure_inference, measure_training
from bench.training.storage_tracker import CATEGORIES, Peak, StorageTracker

torch.set_num_threads(1)


def split(**given: int) -> dict[str, int]:
    return dict.fromkeys(CATEGORIES, 0) | given


def summed(module: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda batch: module(batch["x"]).sum()


def loop(module: nn.Module, optimizer: torch.optim.Optimizer) -> Loop:
    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return Loop(summed(module), lambda loss: loss.backward(), step)


def probe(module: nn.Module, *batches: Tensor) -> MemoryReport:
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], foreach=False)
    return measure_training(module, optimizer, [{"x": x} for x in batches], loop(module, optimizer))


# Linear(3, 5) on 4 rows: weight 5*3*4 = 60, bias 5*4 = 20: 80 of weights and as much of gradients;
# x 4*3*4 = 48; output 4*5*4 = 80; the summed loss 4.
# Adam: exp_avg 80, exp_avg_sq 80, and a `step` of 4 for each of two tensors: 168.


def test_linear_with_adam_in_every_phase() -> None:
    phases = probe(nn.Linear(3, 5), torch.randn(4, 3)).phases

    assert list(phases) == ["loaded", "forward", "backward", "step"]
    assert phases["loaded"] == Peak(80, split(weights=80), "loaded")
    # The output and the loss; the optimizer's state is from the first step.
    forward = split(weights=80, optimizer=168, activations=80 + 4, other=48)
    assert phases["forward"] == Peak(380, forward, "forward")
    # The output is not needed any more; the loss and its gradient are 4 each.
    backward = split(weights=80, gradients=80, optimizer=168, activations=4 + 4, other=48)
    assert phases["backward"] == Peak(384, backward, "backward")
    # For the weight: exp_avg_sq.sqrt() and that divided by the bias correction, 60 each. The batch is gone.
    step = split(weights=80, gradients=80, optimizer=168, other=60 + 60)
    assert phases["step"] == Peak(448, step, "step")


def test_the_first_step_takes_two_rows_of_one_pass() -> None:
    module, seen = nn.Linear(3, 5), []
    optimizer = torch.optim.Adam(module.parameters(), foreach=False)

    def forward(batch: dict[str, Tensor]) -> Tensor:
        seen.append((len(batch["x"]), float(batch["scale"])))
        return (module(batch["x"]) * batch["scale"]).sum()

    batches = [{"x": torch.randn(rows, 3), "scale": torch.tensor(2.0)} for rows in (4, 3)]
    plain = loop(module, optimizer)
    measure_training(module, optimizer, batches, Loop(forward, plain.backward, plain.step))
    assert seen == [(2, 2.0), (4, 2.0), (3, 2.0)]


def test_the_report_names_the_phase_of_the_peak_and_its_source() -> None:
    report = probe(nn.Linear(3, 5), torch.randn(4, 3))
    assert (report.source, report.reserved_peak_bytes) == ("tracker", None)
    assert report.train_peak == report.phases["step"]
    # A wide batch: x 1000*3*4, output 1000*5*4, loss 4, weights 80, optimizer 168.
    report = probe(nn.Linear(3, 5), torch.randn(1000, 3))
    assert (report.train_peak.phase, report.train_peak.total_bytes) == ("forward", 12_000 + 20_000 + 4 + 248)


def test_gradient_accumulation_holds_a_second_gradient_for_a_moment() -> None:
    x = torch.randn(4, 3)
    backward = probe(nn.Linear(3, 5), x, x.clone()).phases["backward"]
    # As above, and the second micro-batch's gradients (80) before they are added to the first's, in place.
    assert backward.split == split(weights=80, gradients=80, optimizer=168, activations=8 + 80, other=48)


def test_a_frozen_weight_saves_no_input_and_gets_no_gradient() -> None:
    held = {}
    for frozen in (False, True):
        linear = nn.Linear(3, 5)
        linear.weight.requires_grad_(not frozen)
        x = torch.randn(4, 3)
        with StorageTracker() as tracker:
            tracker.tag(linear.parameters(), "weights")
            tracker.tag([x], "other")
            tracker.mark("forward")
            loss = linear(x * 2).sum()
            held[frozen] = tracker.held_bytes
            loss.backward()
        assert (linear.weight.grad is None) == frozen
    # weights 80, x 48, loss 4; x * 2 (48) is kept for the gradient of the weight alone.
    assert held == {False: 80 + 48 + 4 + 48, True: 80 + 48 + 4}

    linear = nn.Linear(3, 5)
    linear.weight.requires_grad_(False)
    step = probe(linear, torch.randn(4, 3)).phases["step"]
    # The bias alone: gradient 20, Adam 20 + 20 + 4, temporaries 20 + 20.
    assert step.split == split(weights=80, gradients=20, optimizer=44, other=40)


def test_in_place_operations_and_views_take_nothing() -> None:
    with StorageTracker() as tracker:
        tracker.mark("forward")
        a = torch.ones(10)
        a.mul_(2).relu_()
        torch.add(a, 1, out=a)
        view, part = a.view(2, 5), a[2:4]
        assert tracker.held_bytes == 40
        del a, view
        assert tracker.held_bytes == 40  # two of its numbers still hold all ten
        del part
        assert tracker.held_bytes == 0
    assert tracker.peak() == Peak(40, split(activations=40), "forward")


def test_a_tensor_freed_midway_leaves_the_later_peak() -> None:
    with StorageTracker() as tracker:
        tracker.mark("forward")
        a = torch.empty(100)  # 400
        b = torch.empty(50)  # 600
        del a  # 200
        c = torch.empty(25)  # 300
        assert tracker.held_bytes == 300
        tracker.mark("backward")
        del b, c
        tracker.mark("step")
    peaks = {phase: peak.total_bytes for phase, peak in tracker.peaks().items()}
    assert peaks == {"forward": 600, "backward": 300, "step": 0}


def test_a_role_known_late_counts_from_the_allocation() -> None:
    with StorageTracker() as tracker:
        tracker.mark("backward")
        gradient = torch.empty(10)
        temporary = torch.empty(20)
        del temporary
        tracker.tag([gradient], "gradients")
        tracker.tag([gradient], "optimizer")  # a momentum that keeps the gradient itself: the first tag stays
    assert tracker.peak().split == split(gradients=40, activations=80)
    with pytest.raises(ValueError, match="Unknown category 'grads'"):
        tracker.tag([gradient], "grads")


def test_resizing_is_followed() -> None:
    original = torch.UntypedStorage.resize_
    with StorageTracker() as tracker:
        a = torch.empty(10)
        a.resize_(30)
        assert tracker.held_bytes == 120
        a.untyped_storage().resize_(8)  # no dispatch mode sees this one
        assert tracker.held_bytes == 8
        del a
        assert tracker.held_bytes == 0
    assert tracker.peak().total_bytes == 120
    assert torch.UntypedStorage.resize_ is original


def test_checkpointed_blocks_keep_only_what_goes_between_them() -> None:
    def block(x: Tensor) -> Tensor:
        return x.tanh().tanh().tanh()

    def run(through: Callable[[Tensor], Tensor]) -> tuple[int, int]:
        weight = nn.Parameter(torch.randn(25))
        with StorageTracker() as tracker:
            tracker.tag([weight], "weights")
            tracker.mark("forward")
            y = through(through(through(through(weight))))
            held = tracker.held_bytes
            tracker.mark("backward")
            y.sum().backward()
        return held, tracker.peak().total_bytes

    plain, plain_peak = run(block)
    checked, checked_peak = run(
        lambda x: checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    )
    # The weight is 100; tanh keeps its result: 4 blocks of 3 results, or the 4 blocks' outputs.
    assert (plain, checked) == (100 + 1200, 100 + 400)
    # Backward of the last block computes its 3 results again.
    assert plain_peak > checked_peak > 100 + 400 + 300


def test_tied_weights_count_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    assert probe(module, torch.randn(2, 4)).phases["loaded"].split == split(weights=64)


def test_autograd_adds_in_place_though_a_mode_makes_it_copy() -> None:
    weight = nn.Parameter(torch.randn(25))
    with StorageTracker() as tracker:
        tracker.tag([weight], "weights")
        tracker.mark("forward")
        y = weight * 2
        loss = (y * 3 + y * 5).sum()
        del y
        tracker.mark("backward")
        loss.backward()
    # The weight 100, loss and its gradient 4 + 4, and never more than two gradients of 100: of y * 3 and y * 5,
    # which are added in place, then of y and of the weight. A third one would be the copy.
    assert tracker.peaks()["backward"].total_bytes == 100 + 8 + 200


class Residual(nn.Module):
    """Branches, attention and indexing: what makes autograd add up gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + nn.functional.scaled_dot_product_attention(h, h, h)
        h = h + torch.tanh(self.last(h))
        return h[:, 0] * h[:, 1] + h[:, torch.tensor([2, 0])].sum(1)


def test_the_peak_is_what_the_profiler_sees_without_a_tracker() -> None:
    module, x = Residual(), torch.randn(16, 6, 8)
    optimizer = torch.optim.Adam(module.parameters(), foreach=False)
    two_steps = loop(module, optimizer)
    report = measure_training(module, optimizer, [{"x": x}], two_steps)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            loss = two_steps.forward({"x": x})
            two_steps.backward(loss)
            del loss
            two_steps.step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = sum(p.nbytes for p in module.parameters()) + x.nbytes
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert report.train_peak.total_bytes == peak


def test_inference_mode_hides_nothing() -> None:
    linear, x = nn.Linear(4, 4, bias=False), torch.randn(8, 4)
    with StorageTracker() as tracker, torch.inference_mode():
        tracker.tag([linear.weight], "weights")
        tracker.tag([x], "other")
        tracker.mark("evaluation")
        nn.functional.cosine_similarity(torch.nn.functional.linear(x, linear.weight), x)
        inside = tracker.held_bytes
    assert inside == 64 + 128
    # linear gives 8*4*4 = 128; cosine_similarity's own insides come on top of its result of 32.
    assert tracker.peak().split["activations"] > 128 + 32


def test_a_wrapper_subclass_counts_as_its_parts() -> None:
    pair = TwoTensor(torch.randn(4, 4), torch.randn(4, 4))  # 64 + 64
    with StorageTracker() as tracker:
        tracker.tag([pair], "weights")
        tracker.mark("forward")
        doubled = pair * 2
        view = doubled.t()
        del doubled, view
    assert tracker.held_bytes == 128
    assert tracker.peak().split == split(weights=128, activations=128)


def test_a_sparse_gradient_counts_its_indices_and_values() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 3), (4, 3), check_invariants=False)
    with StorageTracker() as tracker:
        tracker.tag([sparse], "gradients")
    assert tracker.held_bytes == 2 * 8 + 2 * 3 * 4


def test_other_devices_count_nothing() -> None:
    with StorageTracker(torch.device("cpu")) as on_cpu:
        kept = [torch.ones(5, device="meta"), torch.ones(3)]
    with StorageTracker(torch.device("meta")) as on_meta:
        kept += [torch.ones(5, device="meta") * torch.tensor(2.0), torch.ones(3)]
    assert on_cpu.held_bytes == 12
    assert on_meta.held_bytes == 20 + 20 - 20  # the product; the ones are gone


def test_rounding_to_blocks() -> None:
    module, batch = nn.Linear(3, 5), {"x": torch.randn(4, 3)}
    # weight and bias: a block of 512 each; x, and the output: one each; an empty tensor takes none.
    peak = measure_inference(module, batch, lambda b: (module(b["x"]), torch.empty(0)), rounding=512)
    assert peak == Peak(2048, split(weights=1024, activations=512, other=512), "evaluation")
    with pytest.raises(ValueError, match="at least 1 byte"):
        StorageTracker(rounding=0)


def test_an_exception_inside_leaves_nothing_behind() -> None:
    original = torch.UntypedStorage.resize_
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), StorageTracker() as tracker:
        kept = torch.ones(4)
        nn.Linear(3, 5)(torch.ones(4, 4))
    before = (tracker.peaks(), tracker.held_bytes)
    assert tracker.held_bytes >= 16
    torch.ones(1000)
    del kept
    assert (tracker.peaks(), tracker.held_bytes) == before
    assert _get_current_dispatch_mode_stack() == []
    assert torch.UntypedStorage.resize_ is original


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 2)
    )


def test_a_fake_run_gives_the_same_numbers() -> None:
    real = probe(small(), torch.randn(32, 6), torch.randn(32, 6))
    with FakeTensorMode():
        fake = probe(small(), torch.randn(32, 6), torch.randn(32, 6))
        inference = measure_inference(module := small(), {"x": torch.randn(32, 6)}, summed(module))
    assert fake == real
    module = small()
    assert inference == measure_inference(module, {"x": torch.randn(32, 6)}, summed(module))


def test_a_constant_made_on_the_way_is_one_activation() -> None:
    def constant() -> Peak:
        with StorageTracker() as tracker:
            tracker.mark("forward")
            made = torch.tensor([1.0, 2.0])
            del made
        return tracker.peak()

    expected = Peak(8, split(activations=8), "forward")
    assert constant() == expected
    with FakeTensorMode():
        assert constant() == expected


def test_a_tensor_from_outside_counts_once_it_is_used() -> None:
    outside = torch.ones(10)
    with StorageTracker() as tracker:
        tracker.mark("forward")
        view = outside[:5]
        assert tracker.held_bytes == 40
        kept = view * 2
    assert tracker.peak() == Peak(60, split(activations=20, other=40), "forward")
    assert kept.shape == (5,)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(module: nn.Module, saved: dict[str, Tensor]) -> None:
    now = module.state_dict()
    assert list(now) == list(saved)
    assert all(torch.equal(now[name], saved[name]) for name in saved)


def test_the_probe_leaves_everything_as_it_was() -> None:
    module, x = small(), torch.randn(32, 6)
    module[2].eval()  # a mixed state, such as a frozen trunk has
    flags = [m.training for m in module.modules()]
    saved, rng, python_rng = snapshot(module), torch.get_rng_state(), random.getstate()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    moved: list[bool] = []

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] *= 0.5
        random.random()
        moved.append(not torch.equal(module[0].weight, saved["0.weight"]))

    report = measure_training(module, optimizer, [{"x": x}], Loop(summed(module), lambda loss: loss.backward(), step))
    measure_inference(module, {"x": x}, summed(module))
    assert moved == [True, True]
    assert report.phases["loaded"].split == split(weights=sum(t.nbytes for t in saved.values()))
    assert_equal(module, saved)
    assert torch.equal(torch.get_rng_state(), rng) and random.getstate() == python_rng
    assert [m.training for m in module.modules()] == flags
    assert all(p.grad is None for p in module.parameters())
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.1


def test_a_probe_between_two_steps_does_not_change_the_training() -> None:
    results = []
    for probed in (False, True):
        torch.manual_seed(0)
        module, x = small(), torch.randn(32, 6)
        optimizer = torch.optim.AdamW(module.parameters())
        steps = loop(module, optimizer)
        for _ in range(2):
            steps.backward(steps.forward({"x": x}))
            steps.step()
            if probed:
                measure_training(module, optimizer, [{"x": x}], steps)
        results.append(snapshot(module))
    assert_equal(module, results[0])


def test_a_gradient_from_before_is_set_aside() -> None:
    module, x = nn.Linear(3, 5), torch.randn(4, 3)
    gradient = module.weight.grad = torch.ones(5, 3)
    report = probe(module, x)
    assert report.phases["loaded"].split == split(weights=80)
    assert module.weight.grad is gradient and torch.equal(gradient, torch.ones(5, 3))


class Growing(nn.Module):
    """Replaces one buffer and adds another, as a cache of positions does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        self.register_buffer("late", torch.ones(2))
        return self.linear(x)  # type: ignore[no-any-return]


def test_replaced_and_added_buffers_are_put_back() -> None:
    module = Growing()
    saved = snapshot(module)
    probe(module, torch.randn(4, 3))
    assert_equal(module, saved)


def test_inference_is_in_eval_mode_without_gradients() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Tanh(), nn.Tanh())
    peak = measure_inference(module, {"x": torch.randn(4, 3)}, lambda batch: module(batch["x"]))
    # Nothing is kept: one layer's input and output at a time, and dropout is not there at all.
    assert peak == Peak(80 + 48 + 160, split(weights=80, activations=80 + 80, other=48), "evaluation")
    assert module.training


def test_a_failing_step_puts_the_module_back() -> None:
    module, x = small(), torch.randn(32, 6)
    saved = snapshot(module)

    def fail() -> None:
        with torch.no_grad():
            module[0].weight.zero_()
        raise RuntimeError("no memory left")

    optimizer = torch.optim.Adam(module.parameters())
    failing = Loop(summed(module), lambda loss: loss.backward(), fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        measure_training(module, optimizer, [{"x": x}], failing)
    assert_equal(module, saved)
    assert all(p.grad is None for p in module.parameters())
    assert _get_current_dispatch_mode_stack() == []


def test_a_request_that_cannot_be_measured() -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters())
    with pytest.raises(ValueError, match="at least one batch"):
        measure_training(module, optimizer, [], loop(module, optimizer))
    with pytest.raises(ValueError, match="Tanh has no parameters"):
        measure_inference(nn.Tanh(), {"x": torch.ones(2)}, lambda batch: batch["x"])


def test_a_call_is_its_own_phase_and_is_undone() -> None:
    module, x = nn.Linear(3, 5), torch.randn(4, 3)
    saved = snapshot(module)

    def initialize() -> None:
        module(x).sum().backward()
        with torch.no_grad():
            module.weight.copy_(module.weight.grad)  # type: ignore[arg-type]

    peak = measure_call(module, "initialize", initialize)
    # As the backward above, without an optimizer.
    assert peak == Peak(216, split(weights=80, gradients=80, activations=8, other=48), "initialize")
    assert_equal(module, saved)


class Lora(nn.Module):
    """x W' + x A' B' with W (8, 8) frozen, and A (2, 8) frozen too for LoRA-FA."""

    def __init__(self, train_a: bool) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8, bias=False).requires_grad_(False)
        self.a = nn.Linear(8, 2, bias=False).requires_grad_(train_a)
        self.b = nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))  # type: ignore[no-any-return]


def test_lora_fa_keeps_no_inputs() -> None:
    def held(train_a: bool) -> int:
        module, x = Lora(train_a), torch.randn(16, 8)
        with StorageTracker() as tracker:
            tracker.tag(module.parameters(), "weights")
            tracker.tag([x], "other")
            tracker.mark("forward")
            before = tracker.held_bytes
            loss = module(x * 2).sum()
            kept = tracker.held_bytes - before
        assert loss.requires_grad
        return kept

    # Kept: the loss 4, x A' 16*2*4 = 128, and for the gradient of A the input x * 2, 16*8*4 = 512.
    assert (held(train_a=True), held(train_a=False)) == (4 + 128 + 512, 4 + 128)

    def activations(train_a: bool) -> int:
        # GELU keeps its input, so its result is kept for the next A alone (ReLU's would be kept anyway).
        blocks = [layer for _ in range(3) for layer in (Lora(train_a), nn.GELU())]
        return probe(nn.Sequential(*blocks), torch.randn(64, 8)).train_peak.split["activations"]

    # One tensor of 64 rows by 8 is 2048, by 2 is 512. The peak is at the sum in the third block: two blocks kept
    # x A' and GELU's input; here are x A', the input, and the sum with its two terms.
    without_inputs = 2 * (512 + 2048) + 512 + 2048 + 3 * 2048
    assert activations(train_a=False) == without_inputs
    # LoRA also kept the second block's input (the first's is the batch; the third's is here in either case).
    assert activations(train_a=True) == without_inputs + 2048


def test_on_cuda_the_allocator_gives_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    # No GPU here: the allocator's answers are given, the rest of the path is real.
    monkeypatch.setattr(memory, "_on_real_gpu", lambda module: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4096)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    report = probe(nn.Linear(3, 5), torch.randn(4, 3))
    assert (report.source, report.reserved_peak_bytes) == ("cuda", 4096)
    # The tracker's 384, of which 48 are the batch: what it does not see is "other" too.
    backward = split(weights=80, gradients=80, optimizer=168, activations=8, other=48 + 1000 - 384)
    assert report.phases["backward"] == Peak(1000, backward, "backward")


def test_where_only_the_tracker_runs_out_of_memory_the_totals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    test_on_cuda_the_allocator_gives_the_total(monkeypatch)  # the allocator's answers
    module = nn.Linear(3, 5)
    optimizer = torch.optim.Adam(module.parameters(), foreach=False)
    steps = loop(module, optimizer)

    def backward(loss: Tensor) -> None:
        if _get_current_dispatch_mode_stack():
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss.backward()

    saved = snapshot(module)
    report = measure_training(module, optimizer, [{"x": torch.randn(4, 3)}], Loop(steps.forward, backward, steps.step))
    assert (report.source, report.train_peak.total_bytes, report.reserved_peak_bytes) == ("cuda", 1000, 4096)
    assert [peak.split for peak in report.phases.values()] == [{}] * 4
    assert_equal(module, saved)

    def always(loss: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        measure_training(module, optimizer, [{"x": torch.randn(4, 3)}], Loop(steps.forward, always, steps.step))


def test_a_total_below_the_split_is_taken_from_other_and_activations() -> None:
    peak = Peak(100, split(weights=60, activations=30, other=10), "forward")
    assert memory._reconciled(peak, 85) == Peak(85, split(weights=60, activations=25), "forward")


def test_a_busy_gpu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    gib = 2**30
    processes = "GPU:0\nprocess       4711 uses      300.000 MB GPU memory"
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (75 * gib + gib // 2, 80 * gib))
    monkeypatch.setattr(torch.cuda, "list_gpu_processes", lambda device: processes)
    assert gpu_is_busy(torch.device("cpu")) is None
    assert gpu_is_busy(device) is None  # 4 GiB reserved by us, half a GiB of context
    monkeypatch.setattr(torch.cuda, "list_gpu_processes", lambda device: processes + "\n" + processes)
    assert gpu_is_busy(device) == "1 other process(es) use cuda:0"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * gib, 80 * gib))
    assert gpu_is_busy(device) == "other processes hold 6.0 GiB of the memory of cuda:0"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_totals_and_split_agree_and_nothing_is_left() -> None:
    module = small().cuda()
    saved, rng = snapshot(module), torch.cuda.get_rng_state()
    report = probe(module, torch.randn(4096, 6))
    assert report.source == "cuda"
    assert report.reserved_peak_bytes is not None
    assert report.reserved_peak_bytes >= report.train_peak.total_bytes
    for peak in report.phases.values():
        assert sum(peak.split.values()) == peak.total_bytes
        assert min(peak.split.values()) >= 0
    assert_equal(module, saved)
    assert torch.equal(torch.cuda.get_rng_state(), rng)


def test_garbage_is_not_collected_while_tracking() -> None:
    collected = []
    gc.callbacks.append(watch := lambda phase, _: collected.append(phase))
    try:
        with StorageTracker(), StorageTracker():
            made = [[index] for index in range(5_000)]
            assert not gc.isenabled() and collected == []
        assert gc.isenabled() and len(made) == 5_000
    finally:
        gc.callbacks.remove(watch)
