"""A quantised base: which methods it goes with, what is refused, and (where a library is installed) that it trains."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core import options, registry
from bench.core.errors import RequestError
from bench.models import quantization
from bench.sweep import expand
from bench.sweep.request import RunRequest
from tests import tiny, zoo

FITS = [("lora", {}), ("vera", {}), ("ia3", {}), ("houlsby", {}), ("prefix", {}), ("lst", {"init": "random"})]
TRAINS = [("full", {}), ("last-k", {}), ("lora", {"dora": "true"}), ("lora", {"pissa": "true"})]


def attached(name: str, chosen: dict[str, str], scheme: str = "int8") -> None:
    registry.load()
    backbone = zoo.backbone("bert", "classification")
    backbone.model.to("meta")
    method = options.build(registry.method_entry(name).value, chosen, name)
    quantization.check(backbone, lambda: expand._begin(method, backbone), scheme)


@pytest.mark.parametrize(("name", "chosen"), FITS)
def test_methods_that_leave_the_weights_alone(name: str, chosen: dict[str, str]) -> None:
    attached(name, chosen)


@pytest.mark.parametrize(("name", "chosen"), [*TRAINS, ("lst", {"init": "fisher"})])
def test_methods_that_read_or_train_them_are_refused(name: str, chosen: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="weight, which --quantize int8 stores quantised"):
        attached(name, chosen)


def test_only_the_maps_of_the_blocks_are_packed() -> None:
    packed = quantization.packed(zoo.backbone("bert", "classification"))
    assert len(packed) == 2 * 6 and all(".encoder.layer." in name for name in packed)


def test_unknown_schemes_and_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="Unknown scheme 'int9'. Did you mean 'int8'"):
        quantization.require("int9")
    monkeypatch.setattr("bench.models.quantization.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="--quantize nf4 needs bitsandbytes and accelerate: pip install"):
        quantization.require("nf4")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_a_run_on_a_quantised_base(tmp_path: Path, scheme: str) -> None:
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        pytest.skip("bitsandbytes is not installed")
    with tiny.place(tmp_path) as place:
        wide = tiny.model_folder(tmp_path / "wide", hidden_size=64, intermediate_size=128)
        plain, packed = (_run(place, wide, scheme=given) for given in (None, scheme))
    assert packed["status"] == "ok", packed["traceback"]
    assert packed["spec"]["model"]["quantize"] == scheme and packed["run_id"] != plain["run_id"]
    assert packed["parameters"]["total"] == plain["parameters"]["total"]
    assert packed["parameters"]["checkpoint_bytes"] == plain["parameters"]["checkpoint_bytes"]
    assert packed["memory"]["train_peak"]["weights"] < plain["memory"]["train_peak"]["weights"]
    failed = {name: text for name, text in packed["checks"].items() if text.startswith("fail")}
    assert set(failed) <= {"beats majority"}
    assert packed["checks"]["merged equals unmerged"].startswith("skip: the base is quantised")


def _run(place: tiny.Place, model: Path | str, scheme: str | None) -> dict[str, Any]:
    from bench.training.job import Job
    from bench.training.run import execute

    request = RunRequest(
        methods=("lora",), task=("tiny/mood",), model=(str(model),), set=("train.dev_size=0",), plugin=(tiny.TASK,),
        train={"steps": "6", "batch_size": "8", "device": "cpu"}, quantize=scheme,
    )  # fmt: skip
    (spec,) = expand.expand(request)
    expand.check_methods([spec])
    torch.manual_seed(0)
    job = Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, str(place.folder / "predictions.parquet"), None)
    return execute(job, lambda _: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_an_encoder_decoder_on_a_quantised_base(tmp_path: Path, scheme: str) -> None:
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        pytest.skip("bitsandbytes is not installed")
    with tiny.place(tmp_path) as place:
        packed = _run(place, "tiny-t5", scheme=scheme)
    assert packed["status"] == "ok", packed["traceback"]
    assert packed["spec"]["task"]["form"]["name"] == "text" and packed["spec"]["model"]["quantize"] == scheme
    failed = {name: text for name, text in packed["checks"].items() if text.startswith("fail")}
    assert set(failed) <= {"beats majority"}
