"""Charts as files: drawn where kaleido and a browser are, and a clear word where they are not."""

import shutil
import sys

import pytest

from bench.core.errors import RequestError
from bench.report import image_export
from bench.report.html.assets import asset
from bench.report.html.chart_list import charts
from tests import factories
from tests.report.pages import scene


def test_colours_come_from_the_style_sheet():
    light = image_export.colours()
    assert light["paper"] == "#fdfcfa" and set(light) >= {"ink", "muted", "rule", "wash", "heat", "weights", "m0", "m7"}
    assert f"--m3: {light['m3']}" in asset("report.css")


def test_every_trace_gets_a_colour_and_loses_what_only_the_page_reads(four):
    for chart in charts(scene(four)):
        for trace in chart.traces:
            made = image_export.painted(trace, image_export.colours())
            assert made["marker"]["color"].startswith("#") and "meta" not in made


def test_file_names_are_plain_and_differ(four):
    for record in four:
        record["spec"]["task"]["name"] = "../../Etc/päss wd"
    names = list(image_export._named([*four, *([record | {} for record in four])], None))
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert "etc-p-ss-wd-minilm-pareto" in names and len(set(names)) == len(names)


def test_without_kaleido_it_says_how_to_get_it(four, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(RequestError, match=r"pip install 'tunebench\[images\]'"):
        image_export.write(four, tmp_path / "images", "png")
    assert not (tmp_path / "images").exists()


@pytest.mark.skipif(
    not shutil.which("chromium") and not shutil.which("google-chrome"), reason="no Chromium: make browsers"
)
@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_a_chart_is_drawn(tmp_path, kind, start):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    record = factories.record("lora")
    record["curve"], record["memory"]["phases"] = [], {}
    record["memory"]["train_peak"] = dict.fromkeys(record["memory"]["train_peak"])
    (path,) = image_export.write([record], tmp_path / "new", kind)
    assert path.name == f"glue-sst2-minilm-capacity.{kind}" and path.read_bytes().startswith(start)
