"""Texts as sequences of characters: :func:`tiny_shakespeare`, and a language made up from a seed.

Where files come from is told in :mod:`refimpl.problems.datasets`.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, replace

import numpy as np

from refimpl.arrays import as_generator, check_count
from refimpl.problems.datasets import DatasetUnavailable, fetch, registry

_LETTERS = "abcdefghijklmnopqrstuvwxyz ,.\n"


@dataclass(frozen=True)
class Text:
    """A text as whole numbers: position of each character in ``alphabet``. The last tenth is for validation.

    ``train`` and ``val`` are int64, (characters,). ``note`` says what a reader of a result must know.
    """

    name: str
    alphabet: str
    train: np.ndarray
    val: np.ndarray
    source: str
    licence: str
    note: str = ""

    def decode(self, tokens: np.ndarray) -> str:
        """The characters of ``tokens`` (characters,)."""
        return "".join(self.alphabet[token] for token in tokens)


def tiny_shakespeare() -> Text:
    """Tiny Shakespeare: 1,115,394 characters of plays, 65 different ones; the first 90 % to train, in order.

    Raises
    ------
    DatasetUnavailable
        The file is not in ``REFIMPL_DATA`` and cannot be downloaded.
    ValueError
        The file found is not the published one.

    Source: Karpathy (2015), char-rnn.
    """
    entry = registry()["tiny_shakespeare"]
    content = fetch(entry["files"][0]).read_text(encoding="utf-8")
    about = {"source": entry["source"], "licence": entry["licence"], "note": entry["note"]}
    return split_text("tiny_shakespeare", content, **about)


def tiny_shakespeare_or_fallback() -> tuple[Text, str]:
    """Tiny Shakespeare or, where it cannot be had, :func:`markov_text`; and a sentence saying so, else empty."""
    try:
        return tiny_shakespeare(), ""
    except DatasetUnavailable as error:
        text = markov_text()
        stated = replace(text, note=f"{text.note}; stands in for Tiny Shakespeare")
        sentence = "Tiny Shakespeare is not available here, so this is an invented language of 30 characters (a Markov"
        return stated, f"{sentence} chain): numbers differ from those of the book. Reason: {error}"


def markov_text(characters: int = 300_000, seed: int = 0) -> Text:
    """An invented language: each of 30 characters is drawn given the two before it, with odds drawn from ``seed``.

    For each pair the probabilities are one draw from a Dirichlet distribution with parameter 0.1, so about three
    characters may follow. A model that sees only the character before it cannot reach the entropy of the chain.

    >>> markov_text(500).decode(markov_text(500).train[:4]) == markov_text(500).decode(markov_text(500).train[:4])
    True
    """
    check_count("characters", characters, minimum=20)
    rng, letters = as_generator(seed), len(_LETTERS)
    following = np.cumsum(rng.dirichlet(np.full(letters, 0.1), size=(letters, letters)), axis=-1).tolist()
    before, last, found = 0, 0, []
    for draw in rng.random(characters).tolist():
        # Rounding may leave the last sum just below the draw.
        before, last = last, min(bisect(following[before][last], draw), letters - 1)
        found.append(last)
    content = "".join(_LETTERS[token] for token in found)
    return split_text(
        "markov_text", content, alphabet=_LETTERS, source=f"a Markov chain of second order drawn from seed {seed}",
        licence="none needed", note="an invented language, not Shakespeare",
    )  # fmt: skip


def split_text(name: str, content: str, *, alphabet: str | None = None, **about: str) -> Text:
    """``content`` as tokens, the first 90 % to train; ``alphabet`` is what occurs, sorted, unless it is given."""
    alphabet = "".join(sorted(set(content))) if alphabet is None else alphabet
    places = {character: place for place, character in enumerate(alphabet)}
    tokens = np.asarray([places[character] for character in content], dtype=np.int64)
    train = len(tokens) * 9 // 10
    return Text(name, alphabet, tokens[:train], tokens[train:], **about)
