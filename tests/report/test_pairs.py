"""The report's paired comparisons: the answer in words, the matrix, and what would settle a tie."""

import re

import numpy as np

from bench.report import build
from bench.report.pairs import section, sentence
from bench.report.words import answer
from bench.statistics.analysis import analyse
from tests import factories, predicted

SHARES = {"full": 0.80, "lora": 0.79, "lst": 0.60}


def group_of(records, folder):
    (group,) = analyse(records, folder).groups
    return group


def plain(html):
    return " ".join(re.sub("<[^>]+>", " ", html).replace("\u00a0", " ").split())


def test_the_answer_names_ties_and_gives_differences_an_interval(tmp_path):
    said = plain(answer(group_of(predicted.sweep(tmp_path, SHARES), tmp_path), 0.05))
    assert re.match(
        r"full scores best: accuracy \d\d\.\d ± \d\.\d % \(mean of 3 seeds\)\. lora is tied with it\.", said
    )
    assert re.search(r"lst \d\d\.\d ± \d\.\d points for 25 %\.$", said), said


def test_the_matrix_holds_every_pair_in_both_directions(tmp_path):
    html = section(group_of(predicted.sweep(tmp_path, SHARES), tmp_path), 0.05)
    matrix = html.split("Row minus column")[-1]
    assert matrix.count("<span title=") == 6 and matrix.count("<b>") == 4
    ahead, behind = (re.search(rf"<b>\{sign}(\d+\.\d)</b>", matrix).group(1) for sign in "+-")
    assert ahead == behind
    assert "three" not in html and "full and lora differ by" in plain(html)
    assert "cannot be told apart" in html and "covers other seeds and other examples" in html


def test_one_seed_says_so(tmp_path):
    html = section(group_of(predicted.sweep(tmp_path, SHARES, seeds=1), tmp_path), 0.05)
    assert "how much seeds vary is not in it" in html and "exact McNemar" in html


def test_what_would_settle_a_tie_in_words(tmp_path):
    group = group_of(predicted.sweep(tmp_path, SHARES, seeds=1), tmp_path)
    said = sentence(group.pair("full", "lora"), group)
    assert re.match(
        r"full and lora differ by \d\.\d points; this comparison finds \d\.\d points four times in five", said
    )
    assert re.search(r"takes [\d,]+ examples in all\.$", said)
    same = predicted.answered(tmp_path, factories.record("head"), np.arange(10) < 5)
    twin = predicted.answered(tmp_path, factories.record("lst"), np.arange(10) < 5)
    group = group_of([same, twin], tmp_path)
    assert sentence(group.pair("head", "lst"), group).endswith("they never disagreed.")


def test_names_in_pairs_are_shown_and_never_interpreted(tmp_path):
    hostile = ["<script>alert(1)</script>", '" onmouseover="alert(1)', "<img src=x onerror=alert(1)>"]
    made = []
    for name in hostile:
        made += predicted.sweep(tmp_path, {name: 0.7}, seeds=2, n=60)
    text = build(made, tmp_path / "report.html", folder=tmp_path).read_text(encoding="utf-8")
    part = text.split('<div class="pairs">')[1].split("<figure")[0]
    assert "alert(1)" in part
    assert not re.search(r"<script|<img|\son\w+=\"", part)


def test_fewer_than_two_scores_need_no_section(tmp_path):
    assert section(group_of([factories.record()], None), 0.05) == ""
