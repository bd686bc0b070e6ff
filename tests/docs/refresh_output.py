"""Runs the commands in the ``console`` blocks of the documentation and puts their real output below them.

    python -m tests.docs.refresh_output [PAGE …]

A block's first line is ``$ bench …``; what follows is replaced by what the command prints to stdout. What a command has
already in ``results/`` it does not train again. Run it from the repository root when printed texts change.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?<=```console\n)\$ (bench .*\n)(?:.*\n)*?(?=```\n)")
COLUMNS = "100"


def output(command: str) -> str:
    """What a command prints, without colours."""
    environment = {**os.environ, "COLUMNS": COLUMNS, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        f"{sys.executable} -m {command}", shell=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"$ {command}{done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())


def main(pages: list[Path]) -> None:
    """Refresh the pages."""
    for page in pages:
        before = page.read_text()
        after = BLOCK.sub(lambda found: f"$ {found[1]}{output(found[1])}", before)
        page.write_text(after)
        sys.stdout.write(f"{page}: {'changed' if after != before else 'as it was'}\n")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
