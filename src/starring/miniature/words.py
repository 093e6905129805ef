"""The miniature's tokenizer: a real CLIP byte-pair tokenizer whose merges make every word of the world one token."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from starring.miniature.captions import corpus

CONTEXT = 32
"""Tokens of a prompt, with the two at its ends."""
START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


@cache
def tokenizer() -> CLIPTokenizer:
    """Build the tokenizer; the same vocabulary each time.

    Any text can be encoded: words outside the world fall apart into letters.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = merges([[*word[:-1], f"{word[-1]}</w>"] for word in corpus()])
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in pairs), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=CONTEXT)  # pyright: ignore[reportArgumentType]


def merges(words: list[list[str]]) -> list[Pair]:
    """Byte-pair merges that make each word one token: always the most frequent pair, of equals the first by alphabet.

    The trainer of ``tokenizers`` breaks ties in an order that changes from process to process, and with it the numbers
    of all words.
    """
    words = [list(word) for word in words]
    found: list[Pair] = []
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        found.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return found


def encode(texts: list[str]) -> list[list[int]]:
    """Token ids of captions, each cut or padded to :data:`CONTEXT`."""
    encoded = tokenizer()(texts, padding="max_length", truncation=True, max_length=CONTEXT)
    return encoded["input_ids"]
