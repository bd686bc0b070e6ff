"""Methods as the registry explains them, in the report that the command writes."""

import re

from bench.cli.describe import about
from tests import factories
from tests.report.pages import stored


def test_docstrings_are_taken_apart_and_unknown_methods_left_out():
    found = about(["lora", "lst", "nobody-knows"])
    assert set(found) == {"lora", "lst"}
    first, formula, source = found["lora"].paragraphs[:3]
    assert (
        first.startswith("LoRA") and formula.startswith("Formula: h = W x") and source.startswith("Source: arXiv 2106")
    )
    rank = next(option for option in found["lora"].options if option.name == "rank")
    assert rank.default == "8" and rank.kind == "int" and rank.help
    assert "--ranks sets lora.rank." in found["lora"].facts


def test_the_command_explains_methods_also_of_plugins(bench, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nimport bench\n\n@bench.register_method\n@dataclass(frozen=True)\n"
        'class Mine:\n    """Mine in short.\n\n    Formula: <b>h</b> = 2 x\n    """\n\n    name = "mine-for-reports"\n'
        '    swept = None\n    knob: float = bench.option(1.5, "what it turns")\n'
        '    lr: float = bench.option(0.1, "rate")\n\n'
        "    def attach(self, backbone):\n        return backbone.model\n"
    )
    made = [factories.record("lora"), factories.record("mine-for-reports", knob=2.5)]
    stored(tmp_path / "store", made, lambda record: 0.8)
    done = bench("report", tmp_path / "store", "--plugin", "mine.py", "--title", "All of <it>")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "store" / "report.html").read_text()
    assert "<h1>All of &lt;it&gt;</h1>" in text and "Formula: &lt;b&gt;h&lt;/b&gt; = 2 x" in text
    assert re.search(r"knob <small>float</small></th><td><b>2\.5</b></td><td>1\.5</td><td>what it turns", text)
    assert "Formula: h = W x" in text
