"""More text classification: questions, film reviews, news, bank customers' requests, emotions.

Where a data set has no validation split its test split, whose labels are public, gives the final score.
"""

from __future__ import annotations

from bench.core.registry import register_task
from bench.tasks.custom import CustomTask
from bench.tasks.text_classification import TextTask

TASKS = (
    TextTask(
        name="trec",
        dataset="CogComp/trec",
        label="coarse_label",
        labels=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
        validation_split="test",
        help="what kind of thing does a question ask for? (6 classes; Li and Roth 2002)",
        text=("text",),
        metrics=("accuracy", "f1_macro"),
        main_score="accuracy",
    ),
    TextTask(
        name="rotten_tomatoes",
        dataset="cornell-movie-review-data/rotten_tomatoes",
        labels=("neg", "pos"),
        help="is a film critic's sentence positive? (Pang and Lee 2005, arXiv cs/0506075)",
        text=("text",),
        metrics=("accuracy", "f1_macro"),
        main_score="accuracy",
    ),
    TextTask(
        name="ag_news",
        dataset="fancyzhx/ag_news",
        labels=("World", "Sports", "Business", "Sci/Tech"),
        validation_split="test",
        help="which section is a news item from? (4 classes; Zhang et al. 2015, arXiv 1509.01626)",
        text=("text",),
        metrics=("accuracy", "f1_macro"),
        main_score="accuracy",
    ),
    TextTask(
        name="imdb",
        dataset="stanfordnlp/imdb",
        config="plain_text",
        labels=("neg", "pos"),
        validation_split="test",
        help="is a whole film review positive? (long texts: raise --max-length; Maas et al. 2011)",
        text=("text",),
        metrics=("accuracy", "f1_macro"),
        main_score="accuracy",
    ),
    TextTask(
        name="emotion",
        dataset="dair-ai/emotion",
        config="split",
        labels=("sadness", "joy", "love", "anger", "fear", "surprise"),
        help="which feeling does a tweet show? (6 classes; Saravia et al. 2018)",
        text=("text",),
        metrics=("accuracy", "f1_macro"),
        main_score="accuracy",
    ),
    # its 77 class names are read from the data
    CustomTask(
        name="banking77",
        dataset="hub:mteb/banking77",
        kind="classification",
        text=("text",),
        label="label_text",
        scored="test",
        help="what does a bank's customer want? (77 classes; Casanueva et al. 2020, arXiv 2003.04807)",
    ),
)
for _task in TASKS:
    register_task(_task)
