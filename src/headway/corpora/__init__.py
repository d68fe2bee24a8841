"""From files to packed tokens: read text, split it by document, tokenise it, cut windows."""

from headway.corpora.batches import Windows, validation_windows
from headway.corpora.text import read_documents
from headway.corpora.tokenizer import end_of_text, load_tokenizer, train_bpe
from headway.corpora.tokens import TokenCorpus, build_corpus

__all__ = [
    "TokenCorpus",
    "Windows",
    "build_corpus",
    "end_of_text",
    "load_tokenizer",
    "read_documents",
    "train_bpe",
    "validation_windows",
]
