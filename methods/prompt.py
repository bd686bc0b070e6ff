"""Learned input embeddings: prompt tuning (Lester et al., arXiv 2104.08691), P-tuning (Liu et al., 2103.10385)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from bench.core.protocols import option
from bench.core.registry import register_method
from bench.models.backbone import Backbone
from bench.models.forward_args import by_name, check_length, positions, seen, stack

PLACES = ("auto", "start", "after-first")
_PLACE_HELP = (
    "where the virtual tokens go: start (before the input, as in the paper), after-first (after the token that an "
    "encoder's head reads), auto: after-first on encoders, start elsewhere"
)


class Table(nn.Module):
    """P free embeddings: () → (P, d)."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows)

    def forward(self) -> Tensor:
        return self.weight


class Encoded(nn.Module):
    """P-tuning's prompt encoder: () → (P, d), from P embeddings through an MLP or a bidirectional LSTM and an MLP.

    mlp: Linear(d, h) → ReLU → Linear(h, h) → ReLU → Linear(h, d), as in NeMo and peft; lstm: two bidirectional
    layers of width h, then Linear(2h, 2h) → ReLU → Linear(2h, d), the paper's section 3.2 (its code: h = d / 2).
    """

    def __init__(self, length: int, width: int, hidden: int, lstm: bool, device: torch.device) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.embedding = nn.Parameter(torch.randn(length, width, **like))
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, **like) if lstm else None
        if lstm:
            layers = [nn.Linear(2 * hidden, 2 * hidden, **like), nn.ReLU(), nn.Linear(2 * hidden, width, **like)]
        else:
            middle = [nn.Linear(hidden, hidden, **like), nn.ReLU()]
            layers = [nn.Linear(width, hidden, **like), nn.ReLU(), *middle, nn.Linear(hidden, width, **like)]
        self.mlp = nn.Sequential(*layers)

    def forward(self) -> Tensor:
        rows = self.embedding if self.lstm is None else self.lstm(self.embedding)[0]
        return cast(Tensor, self.mlp(rows))


class VirtualTokens(nn.Module):
    """P virtual tokens of a stack, and the hooks that insert them into its input and remove them from its output.

    Args:
        source: computes the embeddings, () → (P, d).
        length: P.
        first: number of the input's own tokens before the virtual ones (0 or 1).
        limit: the model's number of positions, or None.
        drop: remove the virtual tokens' states from the output (decoders: logits and labels must align).
    """

    def __init__(self, source: nn.Module, length: int, first: int, limit: int | None, drop: bool) -> None:
        super().__init__()
        self.source = source
        self.length, self.first, self.limit, self.drop = length, first, limit, drop
        self.entered = False

    def insert(self, rows: Tensor, new: Tensor) -> Tensor:
        """Put ``new`` (batch, P, …) among ``rows`` (batch, seq, …)."""
        return torch.cat((rows[:, : self.first], new, rows[:, self.first :]), dim=1)

    def embed(self, rows: Tensor) -> Tensor:
        """Put the virtual tokens among embedded tokens: (batch, seq, d) → (batch, seq + P, d)."""
        virtual: Tensor = self.source().to(rows.dtype)
        return self.insert(rows, virtual.expand(len(rows), -1, -1))

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        """Forward pre-hook of the stack: embeds ids, inserts the virtual tokens, widens masks and positions.

        A filled cache (a later step of generation) already holds the virtual tokens.

        Raises:
            ValueError: when the text and the virtual tokens are longer than the model's positions.
        """
        call = dict(by_name(module, args, kwargs))
        past = seen(call)
        self.entered = past == 0
        call.pop("cache_position", None)  # before transformers 5.4: its count lacks these tokens
        for name in ("attention_mask", "position_ids"):
            if call.get(name) is not None:
                call[name] = getattr(self, f"_widen_{name}")(call[name])
        if not self.entered:
            return (), call
        rows = call.get("inputs_embeds")
        if rows is None:
            rows = module.get_input_embeddings()(call.pop("input_ids"))
        if self.limit is not None and rows.shape[1] + self.length > self.limit:
            raise ValueError(
                f"{rows.shape[1]} tokens and {self.length} virtual tokens are more than the model's {self.limit} "
                f"positions: use --max-length {self.limit - self.length} or a smaller length"
            )
        if call.get("token_type_ids") is not None:
            types = call["token_type_ids"]
            call["token_type_ids"] = self.insert(types, types.new_zeros(len(types), self.length))
        call["inputs_embeds"] = self.embed(rows)
        return (), call

    def _widen_attention_mask(self, mask: Tensor) -> Tensor:
        if mask.ndim != 2:
            raise ValueError("virtual tokens need a padding mask of shape (batch, seq), not one over pairs of tokens")
        return self.insert(mask, mask.new_ones(len(mask), self.length))

    def _widen_position_ids(self, ids: Tensor) -> Tensor:
        if not self.entered:
            return ids + self.length
        own = torch.arange(self.first, self.first + self.length, device=ids.device).expand(len(ids), -1)
        return torch.cat((ids[:, : self.first], own, ids[:, self.first :] + self.length), dim=1)

    def leave(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        """Forward hook of the stack: drops the virtual tokens' states."""
        if not self.entered:
            return out
        if isinstance(out, tuple):
            return (out[0][:, self.length :], *out[1:])
        out.last_hidden_state = out.last_hidden_state[:, self.length :]
        return out

    def pixels(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """Forward hook of an image model's embeddings: (batch, 1 + patches, d) → (batch, 1 + P + patches, d)."""
        return self.embed(out)

    def cross(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """Forward pre-hook of the decoder that attends to this stack: its mask covers the virtual tokens too."""
        call = dict(by_name(module, args, kwargs))
        mask, states = call.get("encoder_attention_mask"), call.get("encoder_hidden_states")
        if mask is not None and states is not None and mask.shape[1] + self.length == states.shape[1]:
            call["encoder_attention_mask"] = self.insert(mask, mask.new_ones(len(mask), self.length))
        return (), call


def sees_images(backbone: Backbone) -> bool:
    """Whether the model reads pixels rather than tokens."""
    return bool(backbone.model.main_input_name == "pixel_values")


def embedding_weight(backbone: Backbone) -> Tensor:
    """The weight that has the embeddings' width: the vocabulary (rows, d), or patches (d, channels, size, size)."""
    if sees_images(backbone):
        return cast(Tensor, cast(Any, backbone.base).embeddings.patch_embeddings.projection.weight)
    return cast(Tensor, backbone.model.get_input_embeddings().weight)


def embedding_width(backbone: Backbone) -> int:
    """Width of the input embeddings; ELECTRA's and some OPT's are narrower than the model."""
    return int(embedding_weight(backbone).shape[0 if sees_images(backbone) else 1])


def place_tokens(backbone: Backbone, name: str, source: nn.Module, length: int, place: str) -> None:
    """Hook virtual tokens into the first stack of a frozen model.

    In an encoder-decoder they go before the encoder's input (arXiv 2104.08691, section 2).

    Raises:
        ValueError: when they do not fit the model's positions or the place does not exist in this model.
    """
    towers = backbone.towers()
    single_decoder = towers[0].name == "decoder"
    encoder_only = len(towers) == 1 and not single_decoder
    if place == "after-first" and not encoder_only:
        raise ValueError(f"{name}: place=after-first is for encoders, whose head reads the first token; use start")
    limit = None if sees_images(backbone) else positions(backbone)
    check_length(name, length, limit)
    first = 1 if encoder_only and place != "start" else 0
    tokens = VirtualTokens(source, length, first, limit, drop=single_decoder)
    reader = stack(backbone, towers[0])
    reader.add_module("virtual_tokens", tokens)
    if sees_images(backbone):
        cast(Any, reader).embeddings.register_forward_hook(tokens.pixels)
        return
    reader.register_forward_pre_hook(tokens.enter, with_kwargs=True)
    if tokens.drop:
        reader.register_forward_hook(tokens.leave)
    for tower in towers[1:]:
        stack(backbone, tower).register_forward_pre_hook(tokens.cross, with_kwargs=True)


def initial_rows(backbone: Backbone, length: int, init: str) -> Tensor:
    """Start of P free embeddings, (P, d) in fp32 on the embedding's device; draws from torch's generator.

    vocabulary: the model's embeddings of P token ids drawn uniformly (arXiv 2104.08691, section 3.2: sampled
    vocabulary), with the model's own scale also where it multiplies its embeddings.
    random: normal with the vocabulary's standard deviation; the paper's U(−0.5, 0.5) suits T5's large embeddings.
    Image models have no vocabulary: Xavier-uniform in the patch size, as VPT's code (arXiv 2203.12119).
    """
    weight = embedding_weight(backbone).detach()
    if sees_images(backbone):
        bound = (6 / (weight[0].numel() + weight.shape[0])) ** 0.5
        return torch.empty(length, weight.shape[0], device=weight.device).uniform_(-bound, bound)
    embed = backbone.model.get_input_embeddings()
    with torch.no_grad():
        rows = embed(torch.randint(weight.shape[0], (length,)).to(weight.device)).float()
        return rows.clone() if init == "vocabulary" else torch.randn_like(rows) * weight.float().std()


@register_method
@dataclass(frozen=True)
class PromptTuning:
    """Prompt tuning: P learned embeddings before the input, everything else frozen.

    Formula: the model reads [p₁ … p_P; x₁ … x_S]; only p is trained (and a fresh head).
    Source: arXiv 2104.08691, section 2; initialised from the vocabulary, its section 3.2. On image models this is
    VPT-shallow (arXiv 2203.12119, section 3.1). The paper's rate of 0.3 is Adafactor's on T5-XXL; AdamW moves each
    number by about the rate per step, and encoders' embeddings are near 0.05, hence the smaller default.
    """

    name: ClassVar[str] = "prompt"
    swept: ClassVar[str | None] = "length"

    length: int = option(20, "number of virtual tokens P (the paper: 1 to 150)", low=1)
    init: str = option("vocabulary", "start from drawn vocabulary rows, or random", choices=("vocabulary", "random"))
    place: str = option("auto", _PLACE_HELP, choices=PLACES)
    lr: float = option(3e-2, "peak learning rate", low=0.0)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        source = Table(initial_rows(backbone, self.length, self.init))
        place_tokens(backbone, self.name, source, self.length, self.place)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        return backbone.head_count + self.length * embedding_width(backbone)

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.virtual_tokens(module, self.name)


@register_method
@dataclass(frozen=True)
class PTuning:
    """P-tuning: virtual embeddings before the input that an MLP, or an LSTM and an MLP, make from P embeddings.

    Formula: the model reads [h₁ … h_P; x], h = MLP(E) or MLP(LSTM(E)); E and the network are trained and folded
    into P plain embeddings afterwards.
    Source: arXiv 2103.10385, section 3.2 (LSTM and MLP); the MLP form is NVIDIA NeMo's, also peft's default.
    """

    name: ClassVar[str] = "p-tuning"
    swept: ClassVar[str | None] = "length"

    length: int = option(20, "number of virtual tokens P", low=1)
    encoder: str = option("mlp", "what makes the embeddings: mlp, or lstm (the paper's)", choices=("mlp", "lstm"))
    hidden: int = option(
        0, "width of the encoder; 0: the embedding's width (lstm: half of it, as two ways join)", low=0
    )
    place: str = option("auto", _PLACE_HELP, choices=PLACES)
    lr: float = option(5e-3, "peak learning rate", low=0.0)

    def _hidden(self, width: int) -> int:
        return self.hidden or (max(1, width // 2) if self.encoder == "lstm" else width)

    def attach(self, backbone: Backbone) -> nn.Module:
        backbone.freeze()
        width = embedding_width(backbone)
        device = embedding_weight(backbone).device
        source = Encoded(self.length, width, self._hidden(width), self.encoder == "lstm", device)
        place_tokens(backbone, self.name, source, self.length, self.place)
        return backbone.model  # type: ignore[no-any-return]

    def trainable_count(self, backbone: Backbone) -> int:
        d = embedding_width(backbone)
        h = self._hidden(d)
        network = (d * h + h) + (h * h + h) + (h * d + d)
        if self.encoder == "lstm":
            # Two directions of four gates with an input, a recurrent and two bias parts, in each of two layers.
            network = 8 * h * ((d + h + 2) + (2 * h + h + 2)) + (4 * h * h + 2 * h) + (2 * h * d + d)
        return backbone.head_count + self.length * d + network

    def merge(self, module: nn.Module) -> nn.Module:
        for child in module.modules():
            if isinstance(child, VirtualTokens) and isinstance(child.source, Encoded):
                with torch.no_grad():
                    child.source = Table(child.source())
        return module

    def to_peft(self, module: nn.Module, original: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from bench.methods import peft_export

        return peft_export.virtual_tokens(module, self.name)
