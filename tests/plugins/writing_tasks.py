"""Made-up tasks for models that write: ``tiny/last`` asks for a text's last word, ``tiny/talk`` is plain text."""

import random

import datasets

from bench.api import Loaded, ModellingTask, PromptTask, Source, register_task

WORDS = ("good", "fine", "bad", "poor", "film", "book", "day", "road")


class Last(PromptTask):
    """The answer is the last word of the text, twice."""

    def read(self, source, split):
        rng = random.Random(split)
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 5))) for _ in range(96 if split == "train" else 20)]
        answers = [f"{text.split()[-1]} {text.split()[-1]}" for text in texts]
        return Loaded(datasets.Dataset.from_dict({"text": texts, "answer": answers}), "tests", split + "64")


class Talk(ModellingTask):
    """Texts in which words follow each other in the order of WORDS."""

    def read(self, source, split):
        rng = random.Random(split)
        starts = [rng.randrange(len(WORDS)) for _ in range(64 if split == "train" else 16)]
        texts = [" ".join(WORDS[(start + i) % len(WORDS)] for i in range(rng.randint(4, 30))) for start in starts]
        return Loaded(datasets.Dataset.from_dict({"text": texts}), "tests", split + "64")


register_task(
    Last(
        name="tiny/last",
        source=Source("tiny"),
        template="{text} is the",
        metrics=("exact_match", "rougeL"),
        main_score="exact_match",
        max_new_tokens=4,
        help="the last word, twice",
    )
)
register_task(Talk(name="tiny/talk", source=Source("tiny"), help="words in their order"))
