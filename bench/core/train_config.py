"""How a run is trained: the options every method shares, each documented, none hidden."""

from dataclasses import dataclass

from bench.core.protocols import option


@dataclass(frozen=True)
class TrainSettings:
    """Training options; the command line has a flag for the common ones and ``--set train.NAME=`` for all."""

    steps: int | None = option(None, "optimizer steps; none: as many as epochs takes", low=1)
    epochs: float | None = option(None, "passes over the training rows; none and no steps: 3", low=0.001)
    batch_size: int = option(32, "rows in one forward and backward pass", low=1)
    eval_batch_size: int = option(64, "rows in one evaluation pass", low=1)
    grad_accum: int = option(1, "passes per optimizer step", low=1)
    lr: float | None = option(None, "peak learning rate of every method; none: each method's own default", low=0.0)
    max_length: int = option(128, "truncate examples to this many tokens", low=4)
    train_size: int | None = option(None, "training rows to use; none: all", low=1)
    eval_size: int | None = option(None, "evaluation rows; none: all", low=1)
    dev_size: int = option(1000, "rows held out of train to choose a checkpoint, a tenth of train at most", low=0)
    evaluations: int = option(5, "dev evaluations during training, evenly spread", low=1)
    checkpoint: str = option("best", "weights that are scored: best on dev, or last", choices=("best", "last"))
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "fp32", "fp32; bf16: autocast; fp16: autocast with loss scaling", choices=("fp32", "bf16", "fp16")
    )
    weight_decay: float = option(0.01, "AdamW's decay of matrices (biases and norms are exempt)", low=0.0)
    warmup: float = option(0.1, "share of the steps over which the learning rate rises", low=0.0, high=1.0)
    schedule: str = option("linear", "after warm-up: linear decay to 0, or constant", choices=("linear", "constant"))
    clip: float = option(1.0, "largest gradient norm; 0: no clipping", low=0.0)
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    cache_trunk: bool = option(
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
        None, "seed of the batch order; none: the run's seed (runs of several seeds can share a trunk with it)", low=0
    )
    forgetting: str | None = option(
        None,
        "also measure the loss of a language model on a general text, before and after: wikitext (wikitext-2's "
        "validation articles), or stdlib (Python's own language reference, which needs no download)",
        choices=("wikitext", "stdlib"),
    )


# Options that came after records were kept: where they are not used a specification is what it was without them.
LATER = ("cache_trunk", "compile", "data_seed")
