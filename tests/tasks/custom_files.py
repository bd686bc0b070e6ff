"""The tiny files that docs/your-own-data.md uses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.conftest import sentences


def write_all(folder: Path) -> None:
    """Write them into a folder: 40 rows each."""
    texts, labels = sentences(40, 1)
    moods = ["up" if label else "down" for label in labels]
    write_csv(folder / "reviews.csv", ["review", "stars"], zip(texts, moods, strict=True))
    scores = [label * 2 + number / 40 for number, label in enumerate(labels)]
    lines = ["text\tscore", *(f'{text}"\t{score}' for text, score in zip(texts, scores, strict=True))]
    (folder / "ratings.tsv").write_text("\n".join(lines) + "\n")
    pairs = [
        {"premise": text, "hypothesis": texts[-number], "label": mood}
        for number, (text, mood) in enumerate(zip(texts, moods, strict=True))
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    tickets = [{"title": text, "body": text, "queue": label} for text, label in zip(texts, labels, strict=True)]
    (folder / "tickets.json").write_text(json.dumps(tickets))
    splits = ["train"] * 30 + ["validation"] * 5 + ["test"] * 5
    pq.write_table(pa.table({"text": texts, "label": labels, "split": splits}), folder / "rows.parquet")
    for name, rows in (("sst-train.csv", slice(0, 30)), ("sst-dev.csv", slice(30, 40))):
        write_csv(folder / name, ["text", "label"], zip(texts[rows], moods[rows], strict=True))
    authors = [f"author {number // 4}" for number in range(40)]
    write_csv(folder / "authors.csv", ["text", "label", "author"], zip(["", *texts[1:]], moods, authors, strict=True))
    asked = [{"question": text, "answer": f"it is a {mood} story"} for text, mood in zip(texts, moods, strict=True)]
    (folder / "qa.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for name, value in (("dark", 30), ("light", 220)):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (value + number,) * 3).save(folder / "pictures" / name / f"{number}.png")


def write_csv(path: Path, head: list[str], rows: object) -> Path:
    """Write a csv file as the csv module quotes it."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])  # type: ignore[misc]
    return path
