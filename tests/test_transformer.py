"""The character transformer: its derivatives against finite differences, what it may see, and its parameters.

Oracles: differences of the gradient and of the outputs; a second transformer made of ``torch.nn`` parts with the same
weights; the sizes counted by hand.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from refimpl.arrays import get_backend
from refimpl.problems import models
from refimpl.problems.losses import TokenCrossEntropy
from refimpl.problems.models import flat_parameters
from refimpl.problems.torch_net import TorchProblem
from refimpl.problems.transformer import char_transformer

DOUBLE = get_backend("torch")
SIZES = {"width": 8, "layers": 2, "heads": 2, "context": 5}


def problem(route="kept-graph", **options):
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 7, (2, 3, 5))
    module = char_transformer(7, backend=DOUBLE, **SIZES)
    return TorchProblem(
        module,
        TokenCrossEntropy(),
        inputs,
        targets,
        route=route,
        integer_inputs=True,
        initialization="reset",
        **options,
    )


def place(net, scale=2.0):
    """Larger than a start, where attention is all but uniform and the curvature all but constant."""
    return scale * net.initial(np.random.default_rng(1))


@pytest.mark.parametrize("route", ["kept-graph", "forward-over-reverse"])
def test_gradient_and_products_against_differences(route):
    net = problem(route)
    x = place(net)
    point = net.at(x)
    for v in torch.from_numpy(np.random.default_rng(2).standard_normal((3, net.n))):
        v, h = v / v.norm(), 1e-5
        slope = (net.loss(x + h * v) - net.loss(x - h * v)) / (2 * h)
        torch.testing.assert_close(point.gradient @ v, slope, rtol=1e-7, atol=1e-9)
        expected = (net.at(x + h * v).gradient - net.at(x - h * v).gradient) / (2 * h)
        assert (point.hvp(v) - expected).norm() < 1e-7 * expected.norm()


def test_gauss_newton_product_against_differences_of_the_outputs():
    net = problem()
    x = place(net)
    point = net.at(x)
    jacobian = torch.autograd.functional.jacobian(lambda x: net.call(x, net.inputs, advance=False).reshape(-1), x)
    probability = functional.softmax(point.outputs.view(15, 7), dim=-1)
    blocks = (torch.diag_embed(probability) - probability[:, :, None] * probability[:, None, :]) / 15
    matrix = jacobian.T @ torch.block_diag(*blocks) @ jacobian
    v, h = torch.from_numpy(np.random.default_rng(3).standard_normal(net.n)), 1e-5
    v = v / v.norm()
    assert (point.ggnvp(v) - matrix @ v).norm() < 1e-12 * (matrix @ v).norm()
    forward, back = (net.call(x + s * h * v, net.inputs, advance=False).detach().reshape(-1) for s in (1, -1))
    assert (jacobian @ v - (forward - back) / (2 * h)).norm() < 1e-7 * (jacobian @ v).norm()


def test_a_character_sees_only_those_before_it():
    module = char_transformer(7, backend=DOUBLE, **SIZES)
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(5)
        before = module(tokens)
        for changed in range(5):
            other = tokens.clone()
            other[0, changed] = 0
            moved = (module(other) - before).abs().amax(dim=-1)[0]
            assert (moved[:changed] == 0).all()
            assert (moved[changed:] > 1e-6).all()
        torch.testing.assert_close(module(tokens[:, :3]), before[:, :3])


class FromParts(nn.Module):
    """The same model from torch.nn's own layers, with its own attention."""

    def __init__(self, module, heads):
        super().__init__()
        self.module, self.heads = module, heads

    def forward(self, tokens, written=None):
        width = self.module.tokens.shape[1]
        x = self.module.tokens[tokens] + self.module.positions[: tokens.shape[1]]
        for block in self.module.blocks:
            attention = nn.MultiheadAttention(width, self.heads, bias=False, batch_first=True, dtype=x.dtype)
            first, second = (nn.LayerNorm(width, bias=False, dtype=x.dtype) for _ in range(2))
            with torch.no_grad():
                attention.in_proj_weight.copy_(block.queries_keys_values)
                attention.out_proj.weight.copy_(block.attention_out)
                first.weight.copy_(block.first_norm)
                second.weight.copy_(block.second_norm)
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
            inner = first(x)
            x = x + attention(inner, inner, inner, attn_mask=mask, is_causal=True)[0]
            x = x + nn.GELU()(second(x) @ block.up.T) @ block.down.T
        last = nn.LayerNorm(width, bias=False, dtype=x.dtype)
        with torch.no_grad():
            last.weight.copy_(self.module.last_norm)
        return last(x) @ (self.module.tokens if written is None else written).T


def test_outputs_against_torch_s_own_layers():
    module, rng = char_transformer(7, backend=DOUBLE, **SIZES), np.random.default_rng(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.from_numpy(rng.standard_normal(parameter.shape)))
        tokens = torch.from_numpy(np.random.default_rng(5).integers(0, 7, (4, 5)))
        torch.testing.assert_close(module(tokens), FromParts(module, 2)(tokens), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("width", "layers", "heads"), [(64, 2, 4), (32, 1, 4)])
def test_parameters_are_counted_once(width, layers, heads):
    module = char_transformer(65, width=width, layers=layers, heads=heads)
    block = 2 * width + 4 * width**2 + 8 * width**2
    expected = 65 * width + 64 * width + width + layers * block
    assert sum(p.numel() for p in module.parameters()) == len(flat_parameters(module)) == expected
    assert expected == {64: 106_880, 32: 16_512}[width]
    assert [name for name, _ in module.named_parameters()][:3] == ["tokens", "positions", "last_norm"]


def test_the_tied_embedding_gets_the_slopes_of_both_its_uses():
    net = problem()
    x = place(net)
    with torch.no_grad():
        for parameter, part in zip(net.module.parameters(), net.unflatten(x).values(), strict=True):
            parameter.copy_(part)
    written = net.module.tokens.detach().clone().requires_grad_(True)
    outputs = FromParts(net.module, 2)(net.inputs, written)
    loss = functional.cross_entropy(outputs.transpose(1, 2), net.targets)
    read, logits = torch.autograd.grad(loss, (net.module.tokens, written))
    found = net.unflatten(net.at(x).gradient)["tokens"]
    torch.testing.assert_close(found, read + logits, rtol=1e-11, atol=1e-13)
    assert min(read.norm(), logits.norm()) > 1e-3 * found.norm()


def test_start_is_that_of_the_seed():
    module = char_transformer(65, seed=3)
    again, other = char_transformer(65, seed=3), char_transformer(65, seed=4)
    assert torch.equal(flat_parameters(module), flat_parameters(again))
    assert not torch.equal(flat_parameters(module), flat_parameters(other))
    assert float(module.tokens.detach().std()) == pytest.approx(0.02 * 12**0.5, rel=0.05)
    assert float(char_transformer(65, width=768).tokens.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(char_transformer(65, deviation=0.5).tokens.detach().std()) == pytest.approx(0.5, rel=0.05)
    assert float(module.blocks[0].down.detach().std()) == pytest.approx(0.02 * 12**0.5 / 2, rel=0.05)
    before = torch.random.get_rng_state()
    char_transformer(65)
    assert torch.equal(before, torch.random.get_rng_state())
    net = problem()
    first, second = (net.initial(np.random.default_rng(seed)) for seed in (0, 1))
    assert torch.equal(first, net.initial(np.random.default_rng(0)))
    moved = [name for name, part in net.unflatten(first - second).items() if part.abs().max() > 0]
    assert moved == [name for name in net.unflatten(first) if "norm" not in name]


def test_models_offer_it_too():
    assert models.char_transformer is char_transformer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "heads": 4}, "heads must divide"),
        ({"layers": 0}, "layers"),
        ({"context": -1}, "context"),
        ({"backend": get_backend("numpy")}, "needs a torch backend"),
        ({"seed": -1}, "seed"),
        ({"deviation": 0.0}, "deviation"),
    ],
)
def test_malformed_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        char_transformer(7, **options)


def test_malformed_tokens_are_refused():
    module = char_transformer(7, **SIZES)
    with pytest.raises(ValueError, match="at most 5 places"):
        module(torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(samples, places\)"):
        module(torch.zeros(6, dtype=torch.int64))
