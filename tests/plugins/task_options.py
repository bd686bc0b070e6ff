"""A task with options: ``tiny/cut`` keeps only so many words of each sentence, of one end or the other."""

import dataclasses

import datasets

from bench import option
from bench.api import Loaded, TextTask, register_task


@dataclasses.dataclass(frozen=True)
class Cut(TextTask):
    """The moods of sentences that are cut."""

    keep: int = option(5, "words that are kept", low=1)
    end: str = option("left", "where they are kept", choices=("left", "right"))
    skip: tuple[str, ...] = option((), "words that are left out")

    def read(self, source, split):
        texts = [f"the film {number} was {('good', 'bad')[number % 2]}" for number in range(40)]
        data = datasets.Dataset.from_dict({"sentence": texts, "label": [number % 2 for number in range(40)]})
        return Loaded(data, "tests", split + "64")

    def encode(self, rows, tokenizer, max_length):
        def cut(text):
            words = [word for word in text.split() if word not in self.skip]
            return " ".join(words[: self.keep] if self.end == "left" else words[-self.keep :])

        shortened = {**rows, "sentence": [cut(text) for text in rows["sentence"]]}
        return super().encode(shortened, tokenizer, max_length)


register_task(
    Cut(
        name="tiny/cut",
        dataset="tiny",
        text=("sentence",),
        labels=("up", "down"),
        metrics=("accuracy",),
        main_score="accuracy",
        help="moods of made-up sentences, cut",
        keep=4,
    )
)
