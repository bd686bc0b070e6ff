"""Perplexity: exp of the mean negative log-likelihood of a token (Jelinek et al. 1977)."""

import math

import datasets
import evaluate


class Perplexity(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """exp(Σ nll / Σ tokens), from 1; every token counts alike, whichever example it is in."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="exp of the mean negative log-likelihood of a token.",
            citation="",
            inputs_description="predictions: each example's negative log-likelihood, summed over its tokens (nats); "
            "references: its number of predicted tokens.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        mean = sum(predictions) / sum(references) if sum(references) else math.nan
        return {"perplexity": math.inf if mean > 700 else math.exp(mean)}
