"""A check's findings as JUnit XML, which CI systems show as a list of tests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import groupby

from bench.analysis.regression_check import NEW, SKIPPED, Result

# What XML 1.0 (section 2.2) has no way to write, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(result: Result) -> bytes:
    """One test case for each finding, one suite for each task and model; new runs are cases that were skipped."""
    root = ET.Element("testsuites", name="bench check")
    ordered = sorted(result.findings, key=lambda finding: finding.where)
    for where, members in groupby(ordered, key=lambda finding: finding.where):
        suite = ET.SubElement(root, "testsuite", name=_text(where))
        for finding in members:
            case = ET.SubElement(
                suite, "testcase", classname=_text(f"{where}.{finding.label}"), name=_text(finding.measure)
            )
            if finding.failed:
                failure = ET.SubElement(case, "failure", type=finding.verdict, message=_text(finding.said))
                failure.text = _text(f"{finding.label} ({where}), {finding.measure}: {finding.said}")
            elif finding.verdict in (SKIPPED, NEW):
                ET.SubElement(case, "skipped", message=_text(finding.said))
            else:
                ET.SubElement(case, "system-out").text = _text(f"{finding.verdict}: {finding.said}")
        _count(suite)
    _count(root)
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _count(element: ET.Element) -> None:
    for name, inner in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
        element.set(name, str(sum(1 for _ in element.iter(inner))))


def _text(value: str) -> str:
    return _NOT_XML.sub("�", value)
