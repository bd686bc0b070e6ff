"""A tiny made-up classification task, ``tiny/mood``, that a tiny model learns in a dozen steps."""

import random

import datasets

from bench.api import Loaded, TextTask, register_task

WORDS = ("good", "fine", "bad", "poor", "film", "book", "day", "road", "the", "a", "was", "is", "very")


class Tiny(TextTask):
    """Which of two moods a sentence's words have."""

    def read(self, source, split):
        rng = random.Random(split)
        labels = [index % 2 for index in range(64 if split == "train" else 24)]
        texts = [
            " ".join([*rng.choices(WORDS[2 * mood : 2 * mood + 2], k=4), rng.choice(WORDS[4:])]) for mood in labels
        ]
        data = datasets.Dataset.from_dict({"sentence": texts, "label": labels})
        return Loaded(data, "tests", split + "64")


register_task(
    Tiny(
        name="tiny/mood",
        dataset="tiny",
        text=("sentence",),
        labels=("up", "down"),
        metrics=("accuracy",),
        main_score="accuracy",
        help="moods of made-up sentences",
    )
)
