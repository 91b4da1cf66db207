"""Texts and the problem of predicting them: the published file, windows cut by hand, and what happens without it."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from refimpl.arrays import get_backend
from refimpl.problems import datasets
from refimpl.problems.datasets import DatasetUnavailable
from refimpl.problems.sampling import Minibatch
from refimpl.problems.text import markov_text, split_text, tiny_shakespeare, tiny_shakespeare_or_fallback
from refimpl.problems.text_problem import TextProblem
from refimpl.problems.transformer import char_transformer

FOLDER = os.environ.get("REFIMPL_DATA")
with_file = pytest.mark.skipif(
    not FOLDER or not Path(FOLDER, "tinyshakespeare", "input.txt").is_file(), reason="REFIMPL_DATA has no text"
)


@pytest.fixture
def offline(monkeypatch):
    """No folder and no network."""

    def refuse(entry):
        raise ConnectionError("no network")

    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setattr(datasets, "_download", refuse)


@with_file
def test_tiny_shakespeare_is_the_published_text():
    text, note = tiny_shakespeare_or_fallback()
    content = Path(FOLDER, "tinyshakespeare", "input.txt").read_text(encoding="utf-8")
    assert note == ""
    assert (len(text.train), len(text.val)) == (1_003_854, 111_540)
    assert text.decode(text.train) + text.decode(text.val) == content
    assert text.decode(text.train[:14]) == "First Citizen:"
    assert len(text.alphabet) == len(set(content)) == 65
    assert text.alphabet[0] == "\n"


def test_without_the_file_an_invented_language_stands_in_and_says_so(offline):
    with pytest.raises(DatasetUnavailable, match=r"tinyshakespeare/input\.txt"):
        tiny_shakespeare()
    text, note = tiny_shakespeare_or_fallback()
    assert text.name == "markov_text"
    assert "stands in for Tiny Shakespeare" in text.note
    assert "invented language" in note
    assert "differ" in note
    np.testing.assert_array_equal(text.train, markov_text().train)


def test_another_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_text("to be", encoding="utf-8")
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="not the published file"):
        tiny_shakespeare_or_fallback()


def test_the_invented_language_is_of_second_order():
    text = markov_text(200_000, seed=1)
    tokens = np.concatenate([text.train, text.val])
    assert (len(tokens), len(text.alphabet), tokens.max()) == (200_000, 30, 29)
    zero, one, two = (_entropy(tokens, order) for order in (0, 1, 2))
    assert zero > one > two + 0.8
    # Given two characters, one more before them says nothing, up to chance; given one, another before it says a lot.
    ((pair, _),) = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)).most_common(1)
    places = np.flatnonzero((tokens[1:-2] == pair[0]) & (tokens[2:-1] == pair[1]))
    assert _difference(tokens[places], tokens[places + 3]) < 0.5
    places = np.flatnonzero(tokens[1:-1] == pair[1])
    assert _difference(tokens[places], tokens[places + 2]) > 1
    assert not np.array_equal(markov_text(1000, seed=1).train, markov_text(1000, seed=2).train)


def _difference(before, after):
    """Sum of absolute differences of what follows the two most frequent values of ``before``."""
    first, second = (value for value, _ in Counter(before.tolist()).most_common(2))
    shares = [np.bincount(after[before == value], minlength=30) / (before == value).sum() for value in (first, second)]
    return np.abs(shares[0] - shares[1]).sum()


def _entropy(tokens, order):
    """Nats per character given the ``order`` characters before it, from counts."""
    grams = Counter(zip(*(tokens[k : len(tokens) - order + k].tolist() for k in range(order + 1)), strict=True))
    contexts = Counter()
    for gram, count in grams.items():
        contexts[gram[:-1]] += count
    return -sum(count * np.log(count / contexts[gram[:-1]]) for gram, count in grams.items()) / sum(grams.values())


def test_split_and_alphabet():
    text = split_text("t", "abracadabr" * 2, source="s", licence="l")
    assert text.alphabet == "abcdr"
    assert text.decode(text.train) == ("abracadabr" * 2)[:18]
    assert text.decode(text.val) == "br"
    assert text.train.dtype == np.int64


# -- the problem ------------------------------------------------------------------------------------------------------

SMALL = {"width": 8, "layers": 1, "heads": 2, "context": 4}
TEXT = split_text("t", "the quick brown fox jumps over the lazy dog " * 5, source="s", licence="l")


def problem(text=TEXT, **options):
    module = char_transformer(len(text.alphabet), backend=get_backend("torch"), **SMALL)
    return TextProblem(module, text, **{"context": 4, "batch_size": 3, "windows": 6, **options})


def test_a_minibatch_is_the_windows_at_its_starts():
    net = problem()
    assert net.samples == len(TEXT.train) - 4
    x = net.initial(np.random.default_rng(0))
    last = net.samples - 1
    point = net.at(x, Minibatch(np.asarray([0, 7, last])))
    content, places = TEXT.decode(TEXT.train), [0, 7, last]
    inputs = torch.tensor([[TEXT.alphabet.index(c) for c in content[p : p + 4]] for p in places])
    targets = torch.tensor([[TEXT.alphabet.index(c) for c in content[p + 1 : p + 5]] for p in places])
    outputs = torch.func.functional_call(net.module, net.unflatten(x), (inputs,))
    expected = functional.cross_entropy(outputs.reshape(12, -1), targets.reshape(12))
    torch.testing.assert_close(point.loss, expected.detach(), rtol=1e-13, atol=0)
    assert point.outputs.shape == (12 * len(TEXT.alphabet),)


def test_draws_are_of_the_seed_and_reach_both_ends():
    net = problem()
    starts = np.concatenate([net.draw(np.random.default_rng(seed)).indices for seed in range(700)])
    assert (starts.min(), starts.max()) == (0, net.samples - 1)
    np.testing.assert_array_equal(net.draw(np.random.default_rng(5)).indices, starts[15:18])


def test_evaluation_is_on_fixed_windows_of_each_part():
    net = problem()
    x = net.initial(np.random.default_rng(0))
    report = net.evaluate(x)
    for part, prefix in ((TEXT.train, ""), (TEXT.val, "test_")):
        starts = [round(k * (len(part) - 5) / 5 - 0.499999) for k in range(6)]
        windows = torch.from_numpy(np.stack([part[s : s + 5] for s in starts]))
        outputs = torch.func.functional_call(net.module, net.unflatten(x), (windows[:, :-1],))
        expected = functional.cross_entropy(outputs.reshape(24, -1), windows[:, 1:].reshape(24))
        torch.testing.assert_close(report[f"{prefix}loss"], expected.detach(), rtol=1e-13, atol=0)
        share = (outputs.argmax(-1) == windows[:, 1:]).double().mean()
        assert float(report[f"{prefix}accuracy"]) == pytest.approx(float(share))
    torch.testing.assert_close(net.loss(x), report["loss"])


def test_a_few_windows_are_all_there_are():
    assert len(problem(windows=10_000).test[0]) == len(TEXT.val) - 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 40}, "at least 41 characters"),
        ({"windows": 0}, "windows"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 500}, "batch_size must be at most"),
    ],
)
def test_malformed_problems_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        problem(**options)


def test_starts_outside_the_text_are_refused():
    net = problem()
    with pytest.raises(ValueError, match="row number"):
        net.at(net.initial(np.random.default_rng(0)), Minibatch(np.asarray([net.samples])))


def test_tokens_outside_the_model_are_refused():
    with pytest.raises(ValueError, match="tokens up to"):
        problem(replace(TEXT, val=TEXT.val + 20))
