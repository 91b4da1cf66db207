"""A small decoder-only transformer over characters. This file needs Torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refimpl.arrays import Backend, check_count, check_positive


class Block(nn.Module):
    """Attention to earlier places, then two dense layers with a GELU between them, each on normalized inputs and added.

    Parameters in order: ``first_norm`` (width,), ``queries_keys_values`` (3 width, width), ``attention_out``
    (width, width), ``second_norm`` (width,), ``up`` (4 width, width), ``down`` (width, 4 width). No biases.
    """

    def __init__(self, width: int, heads: int, layers: int, deviation: float) -> None:
        super().__init__()
        self._heads, self._layers, self._deviation = heads, layers, deviation
        self.first_norm = nn.Parameter(torch.empty(width))
        self.queries_keys_values = nn.Parameter(torch.empty(3 * width, width))
        self.attention_out = nn.Parameter(torch.empty(width, width))
        self.second_norm = nn.Parameter(torch.empty(width))
        self.up = nn.Parameter(torch.empty(4 * width, width))
        self.down = nn.Parameter(torch.empty(width, 4 * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Norms 1; weights normal, and smaller where a layer adds to the residual stream, by sqrt(2 layers)."""
        for norm in (self.first_norm, self.second_norm):
            nn.init.ones_(norm)
        for weight in (self.queries_keys_values, self.up):
            nn.init.normal_(weight, std=self._deviation)
        for weight in (self.attention_out, self.down):
            nn.init.normal_(weight, std=self._deviation / (2 * self._layers) ** 0.5)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        """(samples, places, width) -> the same; ``later`` (places, places) is true where the key comes later."""
        x = x + self._attention(_normalized(x, self.first_norm), later)
        inner = functional.gelu(functional.linear(_normalized(x, self.second_norm), self.up))
        return x + functional.linear(inner, self.down)

    def _attention(self, x: Tensor, later: Tensor) -> Tensor:
        # Written out: Torch's fused attention cannot be differentiated twice.
        samples, places, width = x.shape
        parts = functional.linear(x, self.queries_keys_values)
        parts = parts.view(samples, places, 3, self._heads, width // self._heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = queries @ keys.transpose(-1, -2) * (width // self._heads) ** -0.5
        weights = functional.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
        mixed = (weights @ values).transpose(1, 2).reshape(samples, places, width)
        return functional.linear(mixed, self.attention_out)


class CharTransformer(nn.Module):
    """Tokens (samples, places) of an integer dtype -> logits of the next token (samples, places, vocabulary).

    ``tokens`` (vocabulary, width) embeds the inputs and, transposed, reads the logits off: one tensor, once among the
    parameters. Parameters in order: ``tokens``, ``positions`` (context, width), ``last_norm`` (width,), the blocks.
    """

    later: Tensor

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, context: int, deviation: float) -> None:
        super().__init__()
        self._deviation = deviation
        self.tokens = nn.Parameter(torch.empty(vocabulary, width))
        self.positions = nn.Parameter(torch.empty(context, width))
        self.last_norm = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList(Block(width, heads, layers, deviation) for _ in range(layers))
        mask = torch.ones(context, context, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("later", mask, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings normal; the blocks reset themselves."""
        for table in (self.tokens, self.positions):
            nn.init.normal_(table, std=self._deviation)
        nn.init.ones_(self.last_norm)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (samples, places, vocabulary); a ValueError for more places than ``context``."""
        places = tokens.shape[-1]
        if tokens.ndim != 2 or places > len(self.positions):
            raise ValueError(
                f"tokens must have shape (samples, places) with at most {len(self.positions)} places, "
                f"got {tuple(tokens.shape)}"
            )
        x = functional.embedding(tokens, self.tokens) + self.positions[:places]
        for block in self.blocks:
            x = block(x, self.later[:places, :places])
        return functional.linear(_normalized(x, self.last_norm), self.tokens)


def char_transformer(
    vocabulary: int,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    context: int = 64,
    deviation: float | None = None,
    seed: int = 0,
    backend: Backend | None = None,
) -> CharTransformer:
    """A decoder-only transformer: tokens (samples, places) -> logits of the next token (samples, places, vocabulary).

    Layer norm before attention and before the two dense layers, learned positions, no biases, no dropout, the token
    embedding tied to the output layer. Attention is written with plain products, so that everything can be
    differentiated twice.

    Weights start normal with standard deviation ``deviation``, by default 0.02 sqrt(768 / width): 0.02 at the width it
    is usual for, and otherwise activations of the same size. With 0.02 at width 64, training lingers for hundreds of
    steps where only pairs of characters are known.

    Raises
    ------
    ValueError
        Sizes or a deviation that are not positive, or heads that do not divide the width.

    Source: Vaswani et al. (2017), with the normalization first; the model of the ELMO paper's section 4 is larger
    (12 layers, 12 heads).

    >>> sum(p.numel() for p in char_transformer(65).parameters())
    106880
    """
    sizes = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads, "context": context}
    for name, size in sizes.items():
        check_count(name, size)
    if width % heads:
        raise ValueError(f"heads must divide the width, got {heads} heads for a width of {width}")
    deviation = 0.02 * (768 / width) ** 0.5 if deviation is None else check_positive("deviation", deviation)
    if backend is not None and backend.name != "torch":
        raise ValueError(f"a torch module needs a torch backend, got {backend.name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_count("seed", seed, minimum=0))
        module = CharTransformer(vocabulary, width, layers, heads, context, deviation)
    return module if backend is None else module.to(device=backend.device, dtype=backend.dtype)


def _normalized(x: Tensor, weight: Tensor) -> Tensor:
    return functional.layer_norm(x, tuple(weight.shape), weight)
