"""Synthetic tasks of learning in context: seeded generators with their scorers."""

from headway.tasks.associative_recall import AssociativeRecall
from headway.tasks.base import IGNORED, Sample, Task, accuracy, answers, exact_match, loss
from headway.tasks.classification import Classification
from headway.tasks.denoise import Denoise, squared_error
from headway.tasks.graph import Graph
from headway.tasks.hops import Hops
from headway.tasks.induction import Induction
from headway.tasks.ioi import IndirectObject, NamesSample, name_scores
from headway.tasks.ngram import NGram
from headway.tasks.passkey import Passkey
from headway.tasks.words import Encode, Words

__all__ = [
    "IGNORED",
    "AssociativeRecall",
    "Classification",
    "Denoise",
    "Encode",
    "Graph",
    "Hops",
    "IndirectObject",
    "Induction",
    "NGram",
    "NamesSample",
    "Passkey",
    "Sample",
    "Task",
    "Words",
    "accuracy",
    "answers",
    "exact_match",
    "loss",
    "name_scores",
    "squared_error",
]
