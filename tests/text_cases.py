"""A problem of predicting characters that is small enough for every test."""

from refimpl.arrays import get_backend
from refimpl.problems.text import markov_text
from refimpl.problems.text_problem import TextProblem
from refimpl.problems.transformer import char_transformer


def small_problem(dtype="float64"):
    backend, text = get_backend("torch", dtype), markov_text(2000)
    module = char_transformer(30, width=8, layers=1, heads=2, context=6, backend=backend)
    return TextProblem(module, text, context=6, batch_size=3, windows=5, backend=backend)
