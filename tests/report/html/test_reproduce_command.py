"""The command that does a run again: complete, and quoted."""

import shlex

from bench.report.html.reproduce_command import reproduce
from tests import factories


def test_the_command_names_every_option():
    spec = factories.spec("lora", seed=3, rank=4)
    spec["train"] |= {"train_size": 500, "gradient_checkpointing": True}
    words = shlex.split(reproduce(spec))
    assert words[:10] == "bench run --methods lora --task glue/sst2 --model minilm --seeds 3".split()
    pairs = {**dict(zip(words[2::2], words[3::2], strict=True)), "--set": None}
    assert pairs["--steps"] == "400" and pairs["--lr"] == "0.001" and pairs["--train-size"] == "500"
    sets = {value for flag, value in zip(words[2::2], words[3::2], strict=True) if flag == "--set"}
    assert {"lora.rank=4", "lora.alpha=16", "lora.targets=query,value", "train.clip=1"} <= sets
    assert "train.gradient_checkpointing=true" in sets and not any(value.startswith("lora.lr") for value in sets)


def test_several_seeds_and_options_of_the_task():
    spec = factories.spec("lora")
    spec["task"]["options"] = {"form": "words"}
    assert "--seeds 0,1,2 " in reproduce(spec, [0, 1, 2]) and "--set task.form=words" in reproduce(spec)


def test_the_command_gives_epochs_rather_than_the_steps_they_came_to():
    spec = factories.spec()
    spec["train"]["epochs"] = 2.0
    assert "--epochs 2 " in reproduce(spec) and "--steps" not in reproduce(spec)


def test_the_command_quotes_what_a_shell_would_act_on():
    spec = factories.spec(task="a b'; rm -rf $HOME; `x`", rank="4 5")
    words = shlex.split(reproduce(spec))
    assert "a b'; rm -rf $HOME; `x`" in words and "lora.rank=4 5" in words
