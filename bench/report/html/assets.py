"""The scripts that a page carries, plotly among them, and the policy that lets nothing else run.

plotly.js is embedded compressed (1.9 MB rather than 4.8), once. The page's policy names the SHA-256 of each script,
so that a browser runs these and no other, even if some text of a record should slip through unescaped.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from collections.abc import Iterable
from importlib.resources import files

PARTS = ("theme.js", "unpack.js", "charts.js", "table.js", "fits.js", "commands.js")


@functools.cache
def plotly() -> tuple[str, str, str]:
    """plotly.js as (its licence notice, gzip in base64, the policy's word for it)."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    notice = source[: source.index("*/") + 2]
    packed = base64.b64encode(gzip.compress(source.encode("utf-8"), 9, mtime=0)).decode("ascii")
    return notice, packed, _word(source)


def page_script(live: bool) -> str:
    """The page's own script; a served page (``live``) also looks for new records."""
    return joined(asset(part) for part in (*PARTS, *(["live.js"] if live else []), "start.js"))


def joined(bodies: Iterable[str]) -> str:
    """Parts of a page's script as one; what they name is seen by all of them and by nobody else."""
    return f'"use strict";\n(() => {{\n{"".join(bodies)}}})();\n'


def embedded(script: str) -> str:
    """The elements that end a page: plotly, packed, and the page's script."""
    notice, packed, _ = plotly()
    return f"""<script type="text/plain" id="plotly">{packed}</script>
<!--
{notice}
gzip, base64
-->
<script>{script}</script>"""


def policy(script: str | None, live: bool) -> str:
    """The Content-Security-Policy of a page with this script, or of one in which nothing runs."""
    words = ["default-src 'none'", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    if script is not None:
        words += [f"script-src {_word(script)} {plotly()[2]}", "img-src data: blob:"]
    if live:
        words.append("connect-src 'self'")
    return "; ".join(words)


def asset(name: str) -> str:
    """A file of this package."""
    return files("bench.report.html").joinpath("static", name).read_text(encoding="utf-8")


def _word(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
