#!/bin/sh
# Makes docs/images/report.png, the picture in the README: runs the example sweep (what is already in results/example is
# not repeated) and takes a screenshot of its report with headless Chromium. Run it from the repository root, and change
# no tracked file meanwhile: the report warns of runs from different code.
set -eu

export OMP_NUM_THREADS=1
bench run --methods full,lora,lst,ia3,head --task demo/docstrings --model tiny-bert \
    --epochs 6 --seeds 0,1,2 --out results/example --quiet > /dev/null
bench report results/example
"${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars \
    --window-size=1200,1735 --virtual-time-budget=8000 --screenshot=docs/images/report.png \
    "file://$PWD/results/example/report.html"
