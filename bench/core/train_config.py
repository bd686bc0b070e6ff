"""The training options that all methods share."""

from dataclasses import dataclass

from bench.core.options import flag
from bench.core.protocols import option


@dataclass(frozen=True)
class TrainSettings:
    """Training options; ``bench run`` has a flag for the common ones and ``--set train.NAME=`` for all."""

    steps: int | None = flag(None, "optimizer steps (default: as many as --epochs takes)", "N", low=1, high=10**9)
    epochs: float | None = flag(None, "passes over the training rows (default: 3)", "N", low=0.001, high=1e6)
    batch_size: int = flag(32, "batch size per forward/backward pass (micro-batch)", "N", low=1, high=10**6)
    eval_batch_size: int = flag(64, "evaluation batch size", "N", low=1, high=10**6)
    grad_accum: int = flag(1, "gradient accumulation steps", "N", low=1, high=10**6)
    lr: float | None = flag(None, "peak learning rate of all methods (default: each method's own)", "X", low=0.0)
    max_length: int = flag(128, "truncate examples to N tokens", "N", low=4)
    train_size: int | None = flag(None, "training rows to use (default: all)", "N", low=1)
    eval_size: int | None = flag(None, "evaluation rows (default: all)", "N", low=1)
    dev_size: int = option(1000, "rows held out of train to choose a checkpoint, a tenth of train at most", low=0)
    evaluations: int = option(5, "dev evaluations during training, evenly spread", low=1)
    checkpoint: str = flag("best", "checkpoint to score: best (on dev) or last", "C", choices=("best", "last"))
    device: str = flag("auto", "auto, cpu or cuda", "D", choices=("auto", "cpu", "cuda"))
    precision: str = flag(
        "fp32", "fp32; bf16: autocast; fp16: autocast with loss scaling", "P", choices=("fp32", "bf16", "fp16")
    )
    weight_decay: float = option(0.01, "AdamW's decay of matrices (biases and norms are exempt)", low=0.0)
    warmup: float = option(0.1, "share of the steps over which the learning rate rises", low=0.0, high=1.0)
    schedule: str = option("linear", "after warm-up: linear decay to 0, or constant", choices=("linear", "constant"))
    clip: float = option(1.0, "largest gradient norm; 0: no clipping", low=0.0)
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass to save memory")
    cache_trunk: bool = flag(
        False,
        "keep the features of a frozen backbone between epochs, in a file for each example (side networks and head): "
        "its blocks run once for each example and not while training",
    )
    compile: bool = option(
        False,
        "torch.compile the module; the time it takes is in speed.compile_seconds and in no step (memory is then the "
        "allocator's total, on CUDA; none on a CPU)",
    )
    data_seed: int | None = option(
        None,
        "seed of the batch order; none: the run's seed (runs of several seeds can share a frozen backbone with it)",
        low=0,
    )
    forgetting: str | None = flag(
        None,
        "also measure the loss of a language model on a general text, before and after: wikitext (wikitext-2's "
        "validation articles), or stdlib (Python's own language reference, which needs no download)",
        "TEXT",
        choices=("wikitext", "stdlib"),
    )


# Options that are newer than the first records: left out of a specification where they are not used.
LATER = ("cache_trunk", "compile", "data_seed")
