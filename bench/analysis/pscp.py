"""PSCP, a score with soft penalties for what it costs (PEFT-Bench, Belanec et al., arXiv 2511.21285).

    PSCP = P · (1 + Mp/Cp)^-βp · (1 + Mf/Cf)^-βf · (1 + Mm/Cm)^-βm

Mp is the number of trained parameters, Mf the inference FLOPs over the base model's in TFLOPs, Mm the training peak in
GB. Cp = 5e8, Cf = 10 TFLOPs and Cm = 94 GB (an H100 NVL) are the paper's, for models of 8 B parameters: a small model's
penalties are nearly nothing, and PSCP then ranks as the score does. βp = βf = βm = 1 as in the authors' code
(kinit-sk/PEFT-Factory), which also shows 0.5 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """PSCP's constants."""

    beta: float = 1.0
    parameters: float = 5e8
    teraflops: float = 10.0
    gigabytes: float = 94.0


def pscp(
    score: float, parameters: float, extra_flops: float, peak_bytes: float, weights: Weights | None = None
) -> float:
    """The score with its penalties, in the score's own unit.

    Args:
        score: P; higher is better and not negative (a negative score would be raised by a penalty).
        parameters: trained parameters.
        extra_flops: floating-point operations of one inference over the base model's (may be negative).
        peak_bytes: training peak.

    Raises:
        ValueError: for a negative score, or a model that costs 10 TFLOPs less than its base.
    """
    by = weights or Weights()
    if score < 0:
        raise ValueError(f"PSCP is not defined for a negative score ({score:g})")
    flops = 1 + extra_flops / 1e12 / by.teraflops
    if flops <= 0:
        raise ValueError("PSCP is not defined for so much less than the base model's cost")
    cost = (1 + parameters / by.parameters) * flops * (1 + peak_bytes / 1e9 / by.gigabytes)
    return float(score * cost**-by.beta)
