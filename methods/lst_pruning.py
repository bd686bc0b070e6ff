"""Side blocks from pruned backbone weights: structural pruning by Fisher information (arXiv 2206.06522, section 3.3).

The Fisher information of a weight is its squared gradient of the label loss, summed over samples one by one. A row
(an output) of a linear map scores the L1 norm of its Fisher information. Layers are processed in order: each map
keeps its best 1/r of the rows, and its inputs are the rows that the map before it kept; query, key and value share one
set. The first inputs are the best columns of the first layer's query, key and value.

Rows of heads: with as many heads as the backbone and no rotary positions, the best rows of any head, as in the
authors' code. Otherwise the best heads are kept (groups of heads where queries share keys), and in each the same best
positions, in pairs where rotary embeddings rotate two of them together.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.core.protocols import Batch
from bench.methods.lst_module import Ladder
from bench.methods.lst_side_network import Heads, Widths, final_norm, heads_of
from bench.models.architectures import ARCHITECTURES, Stack
from bench.models.backbone import Backbone

_ATTENTION = ("query", "key", "value")


def check(backbone: Backbone) -> None:
    """Raise ValueError for a family whose weights cannot be pruned layer by layer."""
    if any("rel_embeddings" in name for name, _ in backbone.base.named_parameters()):
        raise ValueError(
            "lst: init=fisher prunes the inputs of each layer to another set, but this family's relative position "
            "embeddings enter every layer with one set; use init=random"
        )


@dataclass
class _Scores:
    """L1 norms of Fisher information: of each row of each map, and of the columns of the first layer's maps."""

    rows: dict[nn.Module, Tensor] = field(default_factory=dict)
    columns: dict[nn.Module, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stage:
    """A ladder of the module, with what is known about its family."""

    path: str
    ladder: Ladder
    stack: Stack
    full: Heads
    narrow: Heads

    @property
    def frozen_blocks(self) -> list[nn.Module]:
        """The backbone's kept blocks."""
        return [self.ladder.layers[index] for index in self.ladder.side.kept]


def initialize(module: nn.Module, batches: Iterable[Batch], samples: int) -> None:
    """Fill the side blocks, their norms and T5's relative bias from the pruned backbone; Down and Up do not change.

    Meanwhile the backbone runs with its own head and with gradients. Beside the weights, one gradient at a time and
    one number per row are held, so the peak is that of one sample's activations.

    Args:
        batches: one sample each, on the module's device, with labels.
        samples: the largest number of samples to use.

    Raises:
        ValueError: when there is no batch, or a head cannot be pruned to the side's size.
    """
    ladders = _ladders(module)
    scores, order = _information(module, ladders, itertools.islice(batches, samples))
    encoder = None
    with torch.no_grad():
        for stage in ladders:
            encoder = _Walk(stage, scores, order, encoder).fill()


def _ladders(module: nn.Module) -> list[_Stage]:
    config: Any = module.config
    stages = []
    for path, ladder in module.named_modules():
        if isinstance(ladder, Ladder):
            architecture = ARCHITECTURES[config.model_type].fitting(ladder.backbone)
            stack = next(stack for stack in architecture.stacks if stack.name == ladder.place.stack)
            widths = Widths.of(architecture, stack.name)
            stages.append(_Stage(path, ladder, stack, heads_of(config, widths), heads_of(ladder.side.config, widths)))
    return stages


@contextlib.contextmanager
def _without_ladders(module: nn.Module, ladders: list[_Stage]) -> Iterator[None]:
    """Within the context the model is as before ``attach``, in eval mode, and no parameter requires a gradient."""
    parameters = list(module.parameters())
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    modes = [(child, child.training) for child in module.modules()]
    for stage in ladders:
        module.set_submodule(stage.path, stage.ladder.backbone)
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        module.eval()
        yield
    finally:
        for stage in ladders:
            module.set_submodule(stage.path, stage.ladder)
        for parameter, flag, grad in flags:
            parameter.requires_grad_(flag)
            parameter.grad = grad
        for child, mode in modes:
            child.training = mode


def _information(module: nn.Module, ladders: list[_Stage], batches: Iterable[Batch]) -> tuple[_Scores, list[nn.Module]]:
    """Fisher information of the kept blocks' maps, and the order in which a sample passes their parts."""
    scores, order = _Scores(), dict[nn.Module, None]()
    handles: list[Any] = []
    seen = 0
    with _without_ladders(module, ladders), torch.enable_grad():
        for stage in ladders:
            for position, block in enumerate(stage.frozen_blocks):
                for part in block.modules():
                    if getattr(part, "weight", None) is None:
                        continue
                    handles.append(part.register_forward_hook(lambda part, *_: order.setdefault(part)))
                    if isinstance(part, nn.Linear | Conv1D):
                        part.weight.requires_grad_(True)
                        handles.append(_watch(part, scores, columns=position == 0))
        try:
            for batch in batches:
                module(**batch).loss.backward()
                seen += 1
        finally:
            for handle in handles:
                handle.remove()
    if not seen:
        raise ValueError("lst: init=fisher needs training samples, and there is none; use init=random")
    return scores, list(order)


def _watch(part: nn.Linear | Conv1D, scores: _Scores, columns: bool) -> Any:
    """Add up a map's squared gradient as soon as it is computed, and free it."""
    across = 0 if isinstance(part, Conv1D) else 1

    def add(weight: Tensor) -> None:
        squared = cast(Tensor, weight.grad).square()
        weight.grad = None
        scores.rows[part] = scores.rows.get(part, 0) + squared.sum(dim=across)
        if columns:
            scores.columns[part] = scores.columns.get(part, 0) + squared.sum(dim=1 - across)

    return part.weight.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]  # torch has no types


class _Walk:
    """One tower's blocks in order, from a set of residual dimensions to the next.

    Args:
        encoder: the set that the encoder's last layer kept, for attention across.
    """

    def __init__(self, stage: _Stage, scores: _Scores, order: list[nn.Module], encoder: Tensor | None) -> None:
        self.stage, self.scores, self.order, self.encoder = stage, scores, order, encoder
        self.width = stage.ladder.side.narrow

    def fill(self) -> Tensor:
        """Fill every block and the final norm; returns the residual dimensions that the last block outputs."""
        first = self.stage.frozen_blocks[0]
        roles = ("qkv",) if self.stage.stack.fused else _ATTENTION
        maps = [first.get_submodule(self.stage.stack.roles[role][0]) for role in roles]
        kept = _best(torch.stack([self.scores.columns[part] for part in maps]).sum(0), self.width)
        side = self.stage.ladder.side
        for frozen, block in zip(self.stage.frozen_blocks, side.blocks, strict=True):
            kept = self._fill_block(frozen, block, kept)
        norm = final_norm(self.stage.ladder.holder, self.stage.ladder.backbone)
        if norm is not None and side.norm is not None:
            _copy_vectors(side.norm, norm, kept)
        return kept

    def _fill_block(self, frozen: nn.Module, block: nn.Module, kept: Tensor) -> Tensor:
        sets: dict[nn.Module, Tensor] = {}  # the rows each map keeps, for the norms that read it
        heads: Tensor | None = None
        positions: Tensor | None = None
        start = kept
        for turn in range(len(self.stage.stack.roles["output"])):
            source = kept if turn == 0 else cast(Tensor, self.encoder)
            chosen, inner = self._attend(frozen, block, turn, (kept, source))
            if turn == 0:
                heads, positions = chosen
            kept = self._map(frozen, block, self.stage.stack.roles["output"][turn], inner, self.width)
            sets[frozen.get_submodule(self.stage.stack.roles["output"][turn])] = kept
        kept = self._feed(frozen, block, kept)
        sets[frozen.get_submodule(self._paths(frozen, "down")[0])] = kept
        self._norms(frozen, block, (start, positions), sets)
        self._table(block, heads)
        return kept

    def _paths(self, frozen: nn.Module, role: str) -> list[str]:
        names = {name for name, _ in frozen.named_modules()}
        return [path for path in self.stage.stack.roles.get(role, ()) if path in names]

    def _attend(
        self, frozen: nn.Module, block: nn.Module, turn: int, inputs: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        """Fill one attention's query, key and value; returns (heads, positions in a head) and the query's rows."""
        full, narrow = self.stage.full, self.stage.narrow
        old, new = (self._layout(part, turn, heads) for part, heads in ((frozen, full), (block, narrow)))
        scores = {role: self.scores.rows[part][rows.to(self._device)] for role, (part, rows) in old.items()}
        chosen = _choose(scores, full, narrow)
        for role in _ATTENTION:
            rows = chosen.queries if role == "query" else chosen.keys
            columns = inputs[0] if role == "query" else inputs[1]
            _copy_map((new[role][0], new[role][1]), (old[role][0], old[role][1].to(rows.device)[rows]), columns)
        return (chosen.heads, chosen.positions), chosen.queries

    @property
    def _device(self) -> torch.device:
        return next(iter(self.scores.rows.values())).device

    def _layout(self, block: nn.Module, turn: int, heads: Heads) -> dict[str, tuple[nn.Module, Tensor]]:
        """For query, key and value: its linear map and its rows there, head by head."""
        if not self.stage.stack.fused:
            parts = {role: block.get_submodule(self.stage.stack.roles[role][turn]) for role in _ATTENTION}
            sizes = {"query": heads.count * heads.size}
            return {
                role: (part, torch.arange(sizes.get(role, heads.keys * heads.size))) for role, part in parts.items()
            }
        part = block.get_submodule(self.stage.stack.roles["qkv"][turn])
        rows = torch.arange(3 * heads.count * heads.size)
        if self.stage.stack.fused == "heads":
            split = rows.view(heads.count, 3, heads.size).transpose(0, 1).reshape(3, -1)
        else:
            split = rows.view(3, -1)
        return {role: (part, split[index]) for index, role in enumerate(_ATTENTION)}

    def _map(self, frozen: nn.Module, block: nn.Module, path: str, columns: Tensor, size: int) -> Tensor:
        """Fill one map with its best rows; returns them."""
        old = frozen.get_submodule(path)
        rows = _best(self.scores.rows[old], size)
        _copy_map((block.get_submodule(path), torch.arange(size)), (old, rows), columns)
        return rows

    def _feed(self, frozen: nn.Module, block: nn.Module, kept: Tensor) -> Tensor:
        """Fill the feed-forward; a gate and what it gates are multiplied, so they share one set."""
        paths = self._paths(frozen, "gate") + self._paths(frozen, "up")
        score = torch.stack([self.scores.rows[frozen.get_submodule(path)] for path in paths]).sum(0)
        (down,) = self._paths(frozen, "down")
        size = _rows_columns(block.get_submodule(down))[1]
        inner = _best(score, size)
        for path in paths:
            new, old = block.get_submodule(path), frozen.get_submodule(path)
            _copy_map((new, torch.arange(size)), (old, inner), kept)
        return self._map(frozen, block, down, inner, self.width)

    def _norms(
        self,
        frozen: nn.Module,
        block: nn.Module,
        given: tuple[Tensor, Tensor | None],
        sets: dict[nn.Module, Tensor],
    ) -> None:
        """A norm takes the set of the map before it (the block's input before any), one over a head its positions."""
        current, positions = given
        names = {part: name for name, part in frozen.named_modules()}
        for part in self.order:
            current = sets.get(part, current)
            if part not in names or isinstance(part, nn.Linear | Conv1D | nn.Embedding):
                continue
            new = block.get_submodule(names[part])
            size = cast(Tensor, part.weight).shape[0]
            over_head = positions is not None and size == self.stage.full.size != self.stage.ladder.side.width
            _copy_vectors(new, part, cast(Tensor, positions) if over_head else current)

    def _table(self, block: nn.Module, heads: Tensor | None) -> None:
        """Copy the chosen heads' columns of T5's relative bias, (buckets, heads), which the first layer holds."""
        old = self.stage.ladder.layers[0]
        tables = [[part for part in side.modules() if isinstance(part, nn.Embedding)] for side in (block, old)]
        for new, wide in zip(*tables, strict=False):
            new.weight.copy_(wide.weight[:, heads])


@dataclass(frozen=True)
class _Chosen:
    """Rows of the query, rows of key and value, the heads they are from, and the positions within a head."""

    queries: Tensor
    keys: Tensor
    heads: Tensor
    positions: Tensor | None


def _choose(scores: dict[str, Tensor], full: Heads, narrow: Heads) -> _Chosen:
    """The rows of query, key and value to keep (see the module's docstring)."""
    group = full.count // full.keys
    by_group = scores["query"].view(full.keys, group, full.size).sum(1)
    by_group = by_group + (scores["key"] + scores["value"]).view(full.keys, full.size)
    heads = _best(by_group.sum(1), narrow.keys)
    plain = group == 1 and full.rotary == 0
    if plain and (narrow.count == full.count or narrow.size > full.size):
        rows = _best(by_group.reshape(-1), narrow.keys * narrow.size)
        return _Chosen(rows, rows, heads, None)
    if narrow.size > full.size:
        raise ValueError(
            f"lst: init=fisher cannot prune heads of {full.size} to the side's heads of {narrow.size}; "
            "use init=random or another reduction"
        )
    positions = _positions(by_group[heads].sum(0), full, narrow)
    keys = (heads[:, None] * full.size + positions).reshape(-1)
    members = heads[:, None] * group + torch.arange(group, device=heads.device)
    queries = (members.reshape(-1)[:, None] * full.size + positions).reshape(-1)
    return _Chosen(queries, keys, heads, positions)


def _positions(score: Tensor, full: Heads, narrow: Heads) -> Tensor:
    """The best positions within a head: pairs (i, i + rotary/2) of the rotary ones, then the best of the rest."""
    half = full.rotary // 2
    pairs = _best(score[:half] + score[half : full.rotary], narrow.rotary // 2)
    rest = full.rotary + _best(score[full.rotary :], narrow.size - narrow.rotary)
    return torch.cat([pairs, pairs + half, rest])


def _best(score: Tensor, count: int) -> Tensor:
    """Indices of the highest scores, ascending; the earlier of equals."""
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def _rows_columns(part: nn.Module) -> tuple[int, int]:
    shape = cast(Tensor, part.weight).shape
    return (shape[1], shape[0]) if isinstance(part, Conv1D) else (shape[0], shape[1])


def _copy_map(new: tuple[nn.Module, Tensor], old: tuple[nn.Module, Tensor], columns: Tensor) -> None:
    """Rows of one map into rows of another, at the given columns; biases with their rows."""
    weights = [cast(Tensor, part.weight) for part, _ in (new, old)]
    if isinstance(new[0], Conv1D):
        weights = [weight.t() for weight in weights]
    rows = new[1].to(weights[0].device)
    weights[0][rows] = weights[1][old[1]][:, columns].to(weights[0].dtype)
    if getattr(new[0], "bias", None) is not None:
        cast(Tensor, new[0].bias)[rows] = cast(Tensor, old[0].bias)[old[1]]


def _copy_vectors(new: nn.Module, old: nn.Module, kept: Tensor) -> None:
    """A norm's weight and bias at the kept dimensions."""
    for name, parameter in new.named_parameters(recurse=False):
        parameter.copy_(cast(Tensor, getattr(old, name))[kept])
