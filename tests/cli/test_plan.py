"""``bench plan`` as a person meets it: rows, budgets that hold, pages, plugins and wrong requests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import bench as package
from bench import RequestError
from bench.planner import cuda_rules
from tests import tiny, zoo
from tests.conftest import Bench

BERT = zoo.FAMILIES["bert"] | {"model_type": "bert", "vocab_size": 96}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT))
    return folder


def planned(model: Path, methods: str = "lora", **flags: Any) -> list[dict[str, Any]]:
    return package.plan(methods, str(model), **flags)


def test_json_has_what_scripts_read(bench_here: Bench, model: Path) -> None:
    done = bench_here("plan", "--methods", "full,lora", "--model", model / "config.json", "--batch-size", 4, "--json")
    assert done.returncode == 0, done.stderr
    full, lora = json.loads(done.stdout)
    assert (full["method"], lora["method"]) == ("full", "lora")
    assert full["trainable"] == full["total"] > lora["trainable"]
    for row in (full, lora):
        assert sum(row["peak"].values()) == row["peak_bytes"] <= row["reserved_bytes"]
        assert row["phases"][row["phase"]]["peak_bytes"] == row["peak_bytes"]
        assert (row["fits"], row["max_batch_size"], row["max_length"]) == (None, None, None)
        assert row["setting"]["batch_size"] == 4
    assert list(lora["phases"]) == ["loaded", "forward", "backward", "step", "evaluation"]


def test_the_table_says_what_was_assumed_and_what_would_fit(bench_here: Bench, model: Path) -> None:
    done = bench_here("plan", "--methods", "full,head", "--model", model, "--budget", "1.2GB", "--batch-size", 4096,
                      "--gpu", "other")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "4096 rows of 128 tokens, classification, fp32, adamw, cuda rules (non-Hopper), budget 1.2 GB" in said
    assert re.search(r"full on \S+ needs [\d.]+ GB of 1.2 GB. It fits with --batch-size \d+ \([\d.]+ [MG]B\)", said)


@pytest.mark.parametrize("flags", [
    {"methods": "lora", "budget": "700MB"},
    {"methods": "full", "budget": "20MB", "device": "cpu", "batch_size": 4},
])  # fmt: skip
def test_the_largest_batch_and_length_fit_and_one_more_does_not(model: Path, flags: dict[str, Any]) -> None:
    (row,) = planned(model, **flags)
    rest = {"batch_size": 32, **flags}
    most = row["max_batch_size"]
    assert most >= 1
    for size, fits in ((most, True), (most + 1, False)):
        assert planned(model, **{**rest, "batch_size": size})[0]["fits"] is fits
    longest = row["max_length"]
    assert longest >= 1
    assert planned(model, **rest, max_length=longest)[0]["fits"]
    if longest < 490:
        assert not planned(model, **rest, max_length=longest + 1)[0]["fits"]


def test_virtual_tokens_take_positions_from_the_longest_text(model: Path) -> None:
    (row,) = planned(model, "prompt", budget="80GB", batch_size=2)
    assert row["max_length"] == 512 - 20


def test_the_longest_text_is_found_where_growth_is_not_known(tmp_path: Path) -> None:
    """A GPT-2 at batch 1 computes otherwise than at batch 2: every length is traced, and the longest is refused."""
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 128, "vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (row,) = planned(tmp_path, "prompt", budget="80GB", batch_size=1, max_length=32)
    assert row["max_length"] == 128 - 20


def test_maps_end_where_virtual_tokens_leave_no_room(bench_here: Bench, model: Path, tmp_path: Path) -> None:
    flags = ("--model", model, "--max-length", 128, "--batch-size", 2, "--html", tmp_path / "p.html", "--json")
    (prompt, head) = json.loads(bench_here("plan", "--methods", "prompt,head", *flags).stdout)
    assert head["grid"]["lengths"][-1] == 512 and prompt["grid"]["lengths"][-1] == 256


def test_what_cannot_be_planned_is_said(bench_here: Bench, model: Path, tmp_path: Path) -> None:
    written = json.loads((model / "config.json").read_text())
    (tmp_path / "q").mkdir()
    (tmp_path / "q/config.json").write_text(json.dumps(written | {"quantization_config": {"quant_method": "gptq"}}))
    refused = bench_here("plan", "--methods", "lora", "--model", tmp_path / "q")
    assert refused.returncode == 2 and "weights are quantised" in refused.stderr
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with tiny.registry_restored():
        refused = bench_here("plan", "--methods", "adapter", "--set", f"adapter.path={tmp_path}", "--model", model)
    assert refused.returncode == 2 and "trains nothing" in refused.stderr
    bart = {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99,
            "max_position_embeddings": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(bart))
    flags = ("--model", tmp_path, "--max-length", 32, "--target-length", 65)
    refused = bench_here("plan", "--methods", "lora", *flags)
    assert refused.returncode == 2 and "--target-length 65" in refused.stderr and "64 positions" in refused.stderr


def test_a_budget_below_the_weights_ends_at_once(model: Path) -> None:
    (row,) = planned(model, budget="10kB")
    assert (row["fits"], row["max_batch_size"], row["max_length"], row["weights_alone"]) == (False, 0, 0, True)
    assert row["advice"] == []


def test_advice_was_planned(model: Path) -> None:
    (row,) = planned(model, "full", budget="700MB", batch_size=256)
    entry = next(entry for entry in row["advice"] if entry["fits"])
    assert entry["change"] == f"--batch-size {row['max_batch_size']}"
    (again,) = planned(model, "full", budget="700MB", batch_size=row["max_batch_size"])
    assert again["needed_bytes"] == entry["needed_bytes"] <= 700_000_000


def test_precision_decides_the_weights(model: Path) -> None:
    weights = {
        precision: planned(model, precision=precision)[0]["peak"]["weights"]
        for precision in ("fp32", "bf16", "bf16-autocast")
    }
    assert weights["fp32"] == weights["bf16-autocast"]
    assert weights["bf16"] < 0.7 * weights["fp32"]


def test_hopper_has_larger_workspaces(bench_here: Bench, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (other,), (hopper,) = planned(model, gpu="other"), planned(model, gpu="hopper")
    assert hopper["peak_bytes"] - other["peak_bytes"] == 2 * (32 * 1024 - 8320) * 1024
    assert hopper["peak"]["other"] - other["peak"]["other"] == hopper["peak_bytes"] - other["peak_bytes"]
    for said, found in (("9.0", "hopper"), ("8.6", "other"), ("12.0", "other"), (None, "other")):
        monkeypatch.setattr(cuda_rules, "nvidia", {"compute_cap": said}.get)
        assert planned(model)[0]["setting"]["gpu"] == found
    done = bench_here("plan", "--methods", "lora", "--model", model, "--gpu", "hopper")
    assert "cuda rules (Hopper)" in done.stdout
    done = bench_here("plan", "--methods", "lora", "--model", model, "--gpu", "hopper", "--device", "cpu")
    assert done.returncode == 2 and "--gpu hopper is for --device cuda" in done.stderr
    done = bench_here("plan", "--methods", "lora", "--model", model, "--gpu", "hoper")
    assert done.returncode == 2 and "did you mean 'hopper'" in done.stderr.lower()


def test_checkpointing_and_fused_attention_save(model: Path) -> None:
    def peak(**flags: Any) -> int:
        found: int = planned(model, "full", max_length=256, batch_size=16, **flags)[0]["peak"]["activations"]
        return found

    assert peak(gradient_checkpointing=True) < peak() < peak(attention="eager")
    assert peak(dropout=0) < peak(dropout=0.1)


def test_the_page_is_whole_and_escapes(bench_here: Bench, model: Path, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>"
    evil.mkdir()
    (evil / "config.json").write_text((model / "config.json").read_text())
    page = tmp_path / "plan.html"
    request = ("plan", "--methods", "lora", "--model", evil, "--budget", "0.6GB")
    done = bench_here(*request, "--html", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    charts = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    bars, heat = charts
    assert [trace["name"] for trace in bars["data"]] == [
        "weights", "gradients", "optimizer", "activations", "other", "beyond the peak"
    ]  # fmt: skip
    ends = sum(trace["x"][0] for trace in bars["data"])
    assert ends == pytest.approx(json.loads(bench_here(*request, "--json").stdout)[0]["needed_bytes"] / 1e9, rel=1e-4)
    (cells,) = heat["data"]
    assert len(cells["z"]) == len(cells["y"]) and len(cells["z"][0]) == len(cells["x"])
    assert all(line == sorted(line) for line in cells["z"])
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", text)


def test_the_head_is_the_one_that_a_run_would_have(bench_here: Bench, tmp_path: Path) -> None:
    """Of one's own data it is found out first; a task that asks for text is put as text."""
    rows = "".join(f"a text of number {n},{'abc'[n % 3]}\n" for n in range(60))
    (tmp_path / "own.csv").write_text("text,label\n" + rows)

    def trainable(model: str, *flags: str) -> int:
        done = bench_here("plan", "--methods", "head", "--model", model, *flags, "--json")
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        return int(row["trainable"])

    two, three = trainable("tiny-bert", "--kind", "classification"), trainable("tiny-bert", "--task", "own.csv")
    assert three * 2 == two * 3, "a class more"
    lora = bench_here("plan", "--methods", "lora", "--model", "tiny-llama,tiny-t5", "--task", "gsm8k", "--json")
    kinds = bench_here("plan", "--methods", "lora", "--model", "tiny-llama,tiny-t5", "--json")
    assert [row["peak_bytes"] for row in json.loads(lora.stdout)] == [
        row["peak_bytes"] for row in json.loads(kinds.stdout)
    ], "causal-lm and seq2seq, as without a task"


def test_a_plugin_needs_nothing_more(bench_here: Bench, model: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nimport bench\n\n"
        "@bench.register_method\n@dataclass(frozen=True)\nclass Biases:\n"
        "    name: ClassVar[str] = 'my-biases'\n    swept: ClassVar[str | None] = None\n"
        "    lr: float = bench.option(1e-3, 'rate')\n"
        "    def attach(self, backbone):\n        backbone.freeze()\n"
        "        for name, value in backbone.model.named_parameters():\n"
        "            value.requires_grad_(name.endswith('bias') or value.requires_grad)\n"
        "        return backbone.model\n"
    )
    with tiny.registry_restored():
        done = bench_here("plan", "--methods", "my-biases,bitfit", "--model", model, "--plugin", plugin, "--json")
        mine, bitfit = json.loads(done.stdout)
    assert mine["trainable"] == bitfit["trainable"]
    assert abs(mine["peak_bytes"] - bitfit["peak_bytes"]) < 0.02 * bitfit["peak_bytes"]


@pytest.mark.parametrize("arguments, messages", [
    ((), ("Say which methods to plan: --methods lora", "Say which model to plan: --model")),
    (("--methods", "loar,lora", "--model", "MODEL", "--batch-size", 0, "--budget", "24XB", "--precision", "bf17",
      "--set", "lora.rnk=4", "--max-length", "x", "--kind", "causal"),
     ("Unknown method 'loar'. Did you mean 'lora'?", "--batch-size: is 0, but must be at least 1",
      "--budget: '24XB' is not a size.", "Unknown value 'bf17'. Did you mean 'bf16'?",
      "Unknown option of lora 'rnk'. Did you mean 'rank'?", "--max-length: 'x' is not a whole number",
      "--kind: Unknown kind 'causal'. Did you mean 'causal-lm'?")),
    (("--methods", "lora", "--model", "MODEL", "--max-length", 513), ("has 512 positions; use at most 512",)),
    (("--methods", "lora", "--model", "MODEL", "--kind", "seq2seq"), ("a bert has no head of kind 'seq2seq', but",)),
    (("--methods", "lora", "--model", "MODEL", "--target-length", 7), ("--target-length is for encoder-decoders",)),
    (("--methods", "lora", "--model", "MODEL", "--task", "gsm8k"), ("needs a model that writes text",)),
    (("--methods", "lora", "--model", "tiny-vit", "--max-length", 64), ("--max-length is for models that read text",)),
    (("--methods", "lora", "--model", "./nowhere"), ("./nowhere: there is no such file or folder",)),
    (("--methods", "lora", "--model", "MODEL", "--budget", "0GB"), ("--budget: '0GB' is not a size.",)),
    (("--methods", "lora", "--model", "MODEL", "--set", "train.clip=0"), ("training options are flags here",)),
    (("--methods", "lora", "--model", "MODEL", "--html", "no/where.html"), ("its folder does not exist",)),
])  # fmt: skip
def test_wrong_requests(bench_here: Bench, model: Path, arguments: tuple[Any, ...], messages: tuple[str, ...]) -> None:
    done = bench_here("plan", *(model if word == "MODEL" else word for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    for message in messages:
        assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("config", "message"), [
    ({"model_type": "bloom"}, "Unknown architecture 'bloom'"),
    ({"hidden_size": 3}, "Should have a `model_type` key"),
    ({"model_type": "t5", "d_ff": "x"}, "its config.json cannot be used"),
    (None, "not a valid JSON file"),
])  # fmt: skip
def test_a_configuration_that_is_none(bench_here: Bench, tmp_path: Path, config: Any, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_text("{" if config is None else json.dumps(config))
    done = bench_here("plan", "--methods", "lora", "--model", file)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_method_that_does_not_apply_says_why(bench_here: Bench, tmp_path: Path) -> None:
    zoo.backbone("t5", "seq2seq").config.save_pretrained(tmp_path / "t5")
    done = bench_here("plan", "--methods", "bitfit,head", "--model", tmp_path / "t5", "--max-length", 8)
    assert done.returncode == 2
    assert "bitfit: t5 has no biases; use --set bitfit.add=true" in done.stderr
    assert "head: a language model's head is pretrained" in done.stderr
    with pytest.raises(RequestError, match="Unknown argument of bench.plan 'bugdet'. Did you mean 'budget'"):
        package.plan("lora", str(tmp_path / "t5"), bugdet="8GB")


def test_seventy_billion_parameters_in_a_minute_and_little_memory() -> None:
    config = Path(__file__).parents[1] / "data" / "configs" / "llama-3.1-70b.json"
    code = (
        "import resource, sys, bench\n"
        "(row,) = bench.plan('lora', sys.argv[1], precision='bf16', batch_size=1, max_length=512, budget='80GB')\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(row['weights_alone'], row['total'], used.ru_utime, used.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    alone, total, seconds, kilobytes = done.stdout.split()
    assert (alone, int(total)) == ("True", 70_553_706_496 + 16_384_000)
    assert float(seconds) < 60
    assert int(kilobytes) < 3e6
