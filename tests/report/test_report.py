"""The HTML report: whole, self-contained, and safe with any text in the records."""

import html.parser
import json
import re
import shlex
import time

import pytest

from bench.record import labels, ranked
from bench.report import build
from bench.report.charts import charts, slots, thinned
from bench.report.command import reproduce
from bench.report.words import answer, rests_on, warnings
from bench.statistics.analysis import analyse
from tests import factories

# Elements that HTML closes by itself.
_VOID = {"meta", "link", "br", "hr", "img", "input"}
_OPEN_ENDED = {"dt", "dd", "li", "p"}


class Page(html.parser.HTMLParser):
    """Collects what the tests ask about, and checks that elements nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.scripts, self._stack = [], [], [], []
        self.feed(text)
        self.close()
        assert self._stack == [], f"left open: {self._stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in _VOID | _OPEN_ENDED:
            self._stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in _OPEN_ENDED:
            assert self._stack.pop() == tag

    def handle_data(self, data):
        inside = self._stack[-1] if self._stack else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.text.append(data)

    @property
    def said(self):
        return " ".join("".join(self.text).split())

    @property
    def charts(self):
        return json.loads(self.scripts[0])


def report(records, tmp_path, title=None):
    text = build(records, tmp_path / "report.html", title).read_text(encoding="utf-8")
    return text, Page(text)


def said_of(records):
    (group,) = analyse(records, None).groups
    return answer(group, 0.05)


def own(text):
    """The page without plotly, whose source holds addresses and tags of its own."""
    return re.sub(r"<script>/\*\*\n\* plotly\.js.*?</script>", "", text, flags=re.S)


@pytest.fixture
def four():
    return [factories.record(method) for method in ("full", "lora", "lst", "head")]


def test_everything_is_in_one_file_and_nothing_is_fetched(four, tmp_path):
    text, page = report(four, tmp_path)
    assert text.count("* plotly.js v") == 1
    assert "plotly" not in own(text)[:20_000].lower()
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|eval\(", own(text))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_table_can_be_sorted_and_read_aloud(four, tmp_path):
    _, page = report(four, tmp_path)
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    columns = [attributes for attributes in heads if "aria-sort" in attributes]
    assert len(columns) == 14 and sum(attributes["scope"] == "row" for attributes in heads) == 2 * 4
    assert [attributes["aria-sort"] for attributes in columns].count("descending") == 1
    assert sum(tag == "button" and "data-first" in attributes for tag, attributes in page.tags) == 14
    assert all("aria-label" in attributes for _, attributes in page.tags if "data-chart" in attributes)
    assert ("html", {"lang": "en"}) in page.tags


def test_every_row_has_the_command_that_does_it_again(four, tmp_path):
    _, page = report(four, tmp_path)
    for record in four:
        assert reproduce(record["spec"]) in page.said
        assert any(attributes.get("id") == f"c-{record['run_id']}" for _, attributes in page.tags)


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


def test_the_command_gives_epochs_rather_than_the_steps_they_came_to():
    spec = factories.spec()
    spec["train"]["epochs"] = 2.0
    assert "--epochs 2 " in reproduce(spec) and "--steps" not in reproduce(spec)


def test_the_command_quotes_what_a_shell_would_act_on():
    spec = factories.spec(task="a b'; rm -rf $HOME; `x`", rank="4 5")
    words = shlex.split(reproduce(spec))
    assert "a b'; rm -rf $HOME; `x`" in words and "lora.rank=4 5" in words


def test_charts_show_every_method_in_one_colour(four, tmp_path):
    _, page = report(four, tmp_path)
    assert len(page.charts) == 6
    memory, parameters, split, phases, loss, dev = page.charts
    inks = {trace["name"]: trace["meta"]["ink"] for trace in memory["data"]}
    assert len(set(inks.values())) == 4
    for chart in (parameters, phases, loss, dev):
        assert {trace["name"]: trace["meta"]["ink"] for trace in chart["data"]} == inks
    assert parameters["layout"]["xaxis"]["type"] == "log"
    assert [trace["name"] for trace in split["data"]] == ["weights", "gradients", "optimizer", "activations", "other"]
    full = next(record for record in four if record["spec"]["method"]["name"] == "full")
    row = [label for label in split["layout"]["yaxis"]["ticktext"]].index("full")
    bars = sum(trace["x"][row] for trace in split["data"])
    assert bars == pytest.approx(full["memory"]["train_peak_bytes"] / 1e6, rel=1e-3)


def test_the_peak_of_every_phase_is_drawn(four, tmp_path):
    four[1]["memory"]["phases"]["initialization"] = {"peak_bytes": 7_000_000, "split": {}}
    _, page = report(four, tmp_path)
    phases = next(chart for chart in page.charts if chart["layout"]["xaxis"].get("type") == "category")
    assert phases["layout"]["xaxis"]["categoryarray"] == [
        "loaded", "forward", "backward", "step", "evaluation", "initialization",
    ]  # fmt: skip
    lora = next(trace for trace in phases["data"] if trace["name"] == "lora")
    measured = four[1]["memory"]["phases"]
    assert lora["x"][-1] == "initialization" and lora["y"][-1] == 7
    assert lora["y"][2] == pytest.approx(measured["backward"]["peak_bytes"] / 1e6, rel=1e-3)
    assert len(next(trace for trace in phases["data"] if trace["name"] == "lst")["x"]) == 5


def test_charts_without_measurements_are_left_out():
    made = [factories.failed("oom")]
    assert charts(made, labels(made), slots(made)) == []


def test_many_configurations_leave_bars_for_every_method():
    made = ranked(factories.sweep(200))
    split = next(chart for chart in charts(made, labels(made), slots(made)) if "consists of" in chart.title)
    shown = [label.split()[0] for label in split.layout["yaxis"]["ticktext"]]
    assert {name: shown.count(name) for name in shown} == {"full": 10, "lora": 10, "lst": 10, "head": 10}
    assert "The best 10 of each method" in split.note


def test_thinning_keeps_even_distances_and_the_last_point():
    assert thinned(range(1, 11), 5) == [2, 4, 6, 8, 10]
    assert thinned(range(1, 12), 4)[-1] == 11 and len(thinned(range(1, 12), 4)) <= 4
    assert thinned([1, 2], 5) == [1, 2]


def test_the_answer_says_who_is_best_and_what_the_leaner_give_up(four):
    for record, score in zip(four, (0.90, 0.89, 0.80, 0.70), strict=True):
        record["scores"]["accuracy"], record["stderr"] = score, 0.01
    said = re.sub("<[^>]+>", "", said_of(four)).replace("\u00a0", " ")
    assert said == (
        "full scores best: accuracy 90.0 ± 2.0 %. The scored examples cannot tell lora from it. "
        "full peaks at 515 MB in training; lora gives up 1.0 points for 42 % of that, "
        "lst 10.0 points for 25 % and head 20.0 points for 18 %."
    )


def test_the_answer_follows_the_scores_direction(four):
    for record, score in zip(four, (3.0, 2.0, 1.0, 4.0), strict=True):
        record |= {"scores": {"mse": score}, "main_score": "mse", "higher_is_better": False, "stderr": None}
    assert said_of(four).startswith("<b>lst</b> scores best: mse 1.000.")


def test_a_best_score_with_a_failed_check_is_called_doubtful(four, tmp_path):
    four[0]["checks"]["merged equals unmerged"] = "fail: it differs by 0.3"
    _, page = report(four, tmp_path)
    assert "That score is in doubt: a check failed." in page.said
    assert "Checks failed for full (merged equals unmerged)" in page.said
    assert "doubtful: merged equals unmerged" in page.said
    assert "failed: merged equals unmerged (it differs by 0.3)" in page.said


def test_what_it_rests_on(four):
    said = rests_on(four, labels(four))
    assert said[0].startswith("One seed (0)")
    assert said[1].startswith("No tuning: each method at its default learning rate")
    assert said[2] == "400 steps of 32 examples each, 128 tokens at most, fp32, cpu."
    assert said[3] == "All 24 checks passed (4 did not apply)."
    for record in four:
        record["spec"]["train"]["lr"] = 1e-3
    assert "same learning rate 0.001, which favours some" in rests_on(four, labels(four))[1]


def test_seeds_are_averaged(four):
    made = [factories.record("lora", seed=seed) for seed in range(3)]
    for record, score in zip(made, (0.7, 0.8, 0.9), strict=True):
        record["scores"]["accuracy"] = score
    assert "80.0" in said_of(made) and "mean of 3 seeds" in said_of(made)
    assert rests_on(made, labels(made))[0] == "3 seeds (0, 1, 2); the scores above are means over them."


def test_rows_that_may_not_compare_are_named(four):
    assert warnings(four) == []
    four[0]["environment"]["torch"] = "2.6.0"
    four[0]["environment"]["device"] = "cuda"
    four[1]["spec"]["task"]["fingerprint"] = "other"
    four[1]["spec"]["model"]["fingerprint"] = "another"
    four[2]["spec"]["train"]["batch_size"] = 16
    four[3]["memory"]["source"] = "cuda"
    four[3]["spec"]["code"]["bench"] = "0.2.0"
    said = " ".join(warnings(four))
    for part in ("torch: 2.6.0 and 2.7.1", "device: cpu and cuda", "versions of the data", "versions of the model"):
        assert part in said
    for part in ("batch size: 16 and 32", "measured in different ways", "versions of the harness: 0.1.0 and 0.2.0"):
        assert part in said


def test_lost_runs_stand_in_the_table_with_their_reason(four, tmp_path):
    four += [factories.failed("oom", "lora", rank=512), factories.failed("failed", "full", seed=1)]
    _, page = report(four, tmp_path)
    assert "oom CUDA out of memory. Tried to allocate 512.00 MiB." in page.said
    assert "2 of 6 runs have no score : full (failed) and lora rank=512 (oom)" in page.said.replace("score:", "score :")
    assert "Traceback (most recent call last)" in page.said


@pytest.mark.parametrize("records", [[], [factories.failed("oom")], [factories.record()]])
def test_few_or_no_runs_make_a_page_too(records, tmp_path):
    _, page = report(records, tmp_path)
    assert ("no runs in this folder yet" in page.said) == (not records)


def test_one_section_for_each_task_and_model(tmp_path):
    made = [factories.record(method, task=task) for method in ("lora", "lst") for task in ("glue/rte", "glue/sst2")]
    _, page = report(made, tmp_path, "My own title")
    sections = [attributes for tag, attributes in page.tags if tag == "section" and "id" in attributes]
    assert len(sections) == 2 and "My own title" in page.said


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)",
    "<a href='javascript:alert(1)'>x</a>",
    '<a href="https://example.org">x</a>',
    "<b>bold</b><!-- comment",
    "-->]]><svg/onload=alert(1)>",
    "\u2028alert(1)\u2029",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "%{x}${alert(1)}{{alert(1)}}",
    "line\nbreak\x00\x1b[31m\u202egnp.exe",
    "\ud800 lone surrogate",
    "$(touch /tmp/x); `id` #",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_never_interpreted(text, tmp_path):
    good = factories.record(text, task=text, tag=text)
    good["checks"] = {text: f"fail: {text}"}
    good["environment"][text] = text
    good["main_score"], good["scores"] = text, {text: 0.5}
    good["spec"]["model"]["name"] = text
    bad = factories.failed("failed", text, task=text, tag=1)
    bad["spec"]["model"]["name"], bad["error"], bad["traceback"] = text, text, text
    page_text, page = report([good, bad], tmp_path, text)
    plain, harmless = report([factories.record("lora", tag="x"), factories.failed("failed", "lora", tag=1)], tmp_path)
    allowed = {tag for tag, _ in harmless.tags} | {"strong", "h3"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    data = own(page_text).split('id="charts">')[1].split("</script>")[0]
    assert not re.search("[<>&\u2028\u2029]", data)
    for value in _strings(page.charts):
        # plotly itself reads <br> and <extra> of our own templates, and must find no other tag or entity left.
        assert "<" not in value.replace("<br>", "").replace("<extra></extra>", "")
    assert not re.search("[\x00\x1b\u202e]", page_text)


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _strings(member)


def test_500_runs_stay_small_and_quick(tmp_path):
    made = factories.sweep(500)
    started = time.perf_counter()
    path = build(made, tmp_path / "report.html")
    assert time.perf_counter() - started < 10
    assert path.stat().st_size < 6_000_000
    assert path.read_text().count("<tr") >= 500
