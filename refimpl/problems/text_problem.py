"""Predicting the next character: minibatches are windows at random places of a text. This file needs Torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refimpl.arrays import Backend, check_count
from refimpl.problems.losses import TokenCrossEntropy
from refimpl.problems.sampling import Minibatch, check_batch_size, check_sample, integers
from refimpl.problems.text import Text
from refimpl.problems.torch_net import Initialization, Route, TorchProblem


class TextProblem(TorchProblem):
    """The mean cross-entropy of the next character, for a module that maps tokens (B, T) to logits (B, T, V).

    A sample is a :class:`Minibatch` of *starts*: window b reads ``train[start : start + context]`` and is to predict
    the same one character later. Windows overlap and are cut out when they are asked for, so a text costs its length
    and not ``context`` times that.

    Parameters
    ----------
    module : see :func:`refimpl.problems.transformer.char_transformer`.
    text : where windows come from.
    context : T, characters of a window.
    batch_size : B, windows of a minibatch.
    windows : how many evenly spaced windows of the training and of the validation part :meth:`evaluate` looks at (at
        most as many as there are starts).
    backend, route, initialization : as for :class:`TorchProblem`. The default route makes a plain gradient.

    Without a sample the loss is the mean over the fixed training windows, since all windows would be a million.

    Raises
    ------
    ValueError
        A text shorter than one window and its targets; a module with fewer logits than the text has characters; or what
        :class:`TorchProblem` refuses.
    """

    name = "text"

    def __init__(
        self,
        module: nn.Module,
        text: Text,
        *,
        context: int = 64,
        batch_size: int = 16,
        windows: int = 256,
        backend: Backend | None = None,
        route: Route = "forward-over-reverse",
        initialization: Initialization = "reset",
    ) -> None:
        check_count("context", context)
        shortest = min(len(text.train), len(text.val))
        if shortest < context + 1:
            raise ValueError(f"both parts of the text need at least {context + 1} characters, got {shortest}")
        _check_vocabulary(module, text)
        train, val = (_fixed_windows(part, context, check_count("windows", windows)) for part in (text.train, text.val))
        super().__init__(
            module, TokenCrossEntropy(), *train, test=val, backend=backend, route=route, initialization=initialization,
            integer_inputs=True,
        )  # fmt: skip
        self.context = context
        self.samples = len(text.train) - context
        self.batch_size = check_batch_size(batch_size, self.samples)
        self._tokens = integers(self.backend, text.train)
        self._offsets = torch.arange(context + 1, device=self.backend.device)

    def _rows(self, sample: Any) -> tuple[Tensor, Tensor]:
        chosen: Minibatch | None = check_sample(sample, self.samples)
        if chosen is None:
            return self.inputs, self.targets
        starts = integers(self.backend, chosen.indices)
        found = self._tokens[starts[:, None] + self._offsets]
        return found[:, :-1], found[:, 1:]


def _check_vocabulary(module: nn.Module, text: Text) -> None:
    device = next((part.device for part in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        logits = module(torch.zeros(1, 1, dtype=torch.int64, device=device)).shape[-1]
    largest = max(int(part.max()) for part in (text.train, text.val))
    if logits <= largest:
        raise ValueError(f"the text has tokens up to {largest}, the module only {logits} logits; make it larger")


def _fixed_windows(tokens: np.ndarray, context: int, windows: int) -> tuple[np.ndarray, np.ndarray]:
    last = len(tokens) - context - 1
    starts = np.unique(np.linspace(0, last, min(windows, last + 1)).astype(np.int64))
    found = tokens[starts[:, None] + np.arange(context + 1)]
    return found[:, :-1], found[:, 1:]
