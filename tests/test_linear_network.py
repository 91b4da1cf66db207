"""The Rahimi–Recht network.

Oracles: the mean over samples written out, Torch's automatic differentiation of it, the known global minimizer and its
symmetry, and the published numbers about the generator.
"""

import numpy as np
import pytest

from refimpl.problems import RahimiRecht

SMALL = {"widths": (3, 4, 2), "samples": 15, "seed": 3}


def written_out(problem, x, matmul=np.matmul):
    """meanᵢ |W₂ W₁ xᵢ − A xᵢ|², with the samples that an uncompressed problem keeps as columns of its factor."""
    inputs, hidden, outputs = problem.widths
    w1, w2 = x[: hidden * inputs].reshape(hidden, inputs), x[hidden * inputs :].reshape(outputs, hidden)
    samples = problem.factor.shape[1]
    total = 0.0
    for i in range(samples):
        data = problem.factor[:, i] * np.sqrt(samples)
        total = total + ((matmul(w2, matmul(w1, data)) - problem.target @ data) ** 2).sum()
    return total / samples


@pytest.mark.parametrize("options", [{}, {"kind": "svd", "condition": 10.0}])
def test_loss_against_the_mean_over_samples(options):
    raw = RahimiRecht(**SMALL, **options, compress=False)
    small = RahimiRecht(**SMALL, **options)
    for seed in range(3):
        x = raw.initial(np.random.default_rng(seed))
        expected = written_out(raw, x)
        assert raw.loss(x) == pytest.approx(expected, rel=1e-12)
        assert small.loss(x) == pytest.approx(expected, rel=1e-12)


def test_derivatives_against_torch_autograd_of_the_mean():
    torch = pytest.importorskip("torch")
    raw, small = RahimiRecht(**SMALL, compress=False), RahimiRecht(**SMALL)
    torch_problem = RahimiRecht(**SMALL, compress=False)
    torch_problem.factor, torch_problem.target = torch.tensor(raw.factor), torch.tensor(raw.target)
    x = raw.initial(np.random.default_rng(4))
    leaf = torch.tensor(x, requires_grad=True)

    def loss(place):
        return written_out(torch_problem, place, torch.matmul)

    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    hessian = torch.autograd.functional.hessian(loss, leaf.detach())
    for problem in (raw, small):
        np.testing.assert_allclose(problem.at(x).gradient, gradient.numpy(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(problem.at(x).hessian(), hessian.numpy(), rtol=1e-11, atol=1e-12)


def test_compression_changes_the_residuals_and_nothing_else():
    raw, small = RahimiRecht(seed=5, compress=False), RahimiRecht(seed=5)
    x, v = np.random.default_rng(6).standard_normal((2, 96))
    full, compressed = raw.at(x), small.at(x)
    assert full.outputs.shape == (10_000,)
    assert compressed.outputs.shape == (60,)
    for question in ("loss", "gradient"):
        ours, theirs = getattr(compressed, question), getattr(full, question)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())
    for question in ("hvp", "ggnvp"):
        ours, theirs = getattr(compressed, question)(v), getattr(full, question)(v)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.parametrize("options", [{}, {"kind": "svd"}, {"widths": (3, 5, 4), "samples": 30}])
def test_the_balanced_factorization_is_a_global_minimizer(options):
    problem = RahimiRecht(**options, seed=1)
    (place,) = problem.minimizers
    x = np.asarray(place)
    w1, w2 = problem.layers(x)
    np.testing.assert_allclose(w2 @ w1, problem.target, atol=1e-14)
    np.testing.assert_allclose(w1 @ w1.T, w2.T @ w2, atol=1e-13)
    point = problem.at(x)
    assert point.loss < 1e-28
    assert np.abs(point.gradient).max() < 1e-13
    values = np.linalg.eigvalsh(point.hessian())
    assert values.min() > -1e-13


def test_the_minimum_is_flat_along_the_gauge_directions():
    # (G W1, W2 G^-1) is the same map for every regular G: 36 flat directions for hidden width 6, and no others.
    problem = RahimiRecht(seed=2)
    x = np.asarray(problem.minimizers[0])
    values = np.linalg.eigvalsh(problem.at(x).hessian())
    assert (np.abs(values) < 1e-12).sum() == 36
    w1, w2 = problem.layers(problem.initial(np.random.default_rng(3)))
    gauge = np.random.default_rng(4).standard_normal((6, 6))
    there = np.concatenate([(gauge @ w1).ravel(), (w2 @ np.linalg.inv(gauge)).ravel()])
    here = np.concatenate([w1.ravel(), w2.ravel()])
    assert problem.loss(there) == pytest.approx(problem.loss(here), rel=1e-9)


def test_the_origin_is_a_strict_saddle():
    problem = RahimiRecht(seed=6)
    point = problem.at(np.asarray(problem.saddles[0]))
    assert not point.gradient.any()
    values = np.linalg.eigvalsh(point.hessian())
    assert values[0] < -1.0
    np.testing.assert_allclose(values, -values[::-1], atol=1e-12)


def test_the_published_generator_is_not_ill_conditioned():
    # The rows of A are scaled, not its singular values: near 22 instead of 1e5.
    conditions = [RahimiRecht(seed=seed, samples=6).condition_number for seed in range(100)]
    assert np.median(conditions) == pytest.approx(22, rel=0.25)
    assert 5 < min(conditions) < max(conditions) < 200
    target = RahimiRecht(seed=0).target
    sizes = np.linalg.norm(target, axis=1)
    assert sizes[-1] < 1e-4 * sizes[:-1].min()


def test_the_loss_of_the_published_start_is_a_few_hundred():
    losses = []
    for seed in range(40):
        problem = RahimiRecht(seed=seed)
        losses.append(problem.loss(problem.initial(np.random.default_rng(1000 + seed))))
    assert np.median(losses) == pytest.approx(340, rel=0.3)


def test_the_svd_kind_has_the_spectrum_it_was_given():
    problem = RahimiRecht("svd", 1e5, seed=7)
    values = np.linalg.svd(problem.target, compute_uv=False)
    np.testing.assert_allclose(values, np.linspace(1, 1e-5, 6), rtol=1e-10)
    assert problem.condition_number == pytest.approx(1e5, rel=1e-9)
    given = [10.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    problem = RahimiRecht("svd", singular_values=given, seed=7)
    np.testing.assert_allclose(np.linalg.svd(problem.target, compute_uv=False), given, rtol=1e-13)
    assert problem.condition_number == pytest.approx(10.0)
    assert RahimiRecht("svd", singular_values=[1.0] * 5 + [0.0]).condition_number > 1e14


def test_wrong_input_is_refused():
    wrong = [
        ({"kind": "columns"}, "unknown kind"),
        ({"condition": 0.5}, "condition must be at least 1"),
        ({"condition": np.nan}, "condition must be finite"),
        ({"widths": (6, 5, 10)}, "hidden width must be at least 6"),
        ({"widths": (6, 0, 10)}, "each width must be"),
        ({"samples": 5}, "samples must be"),
        ({"singular_values": [1.0] * 6}, "kind='svd'"),
        ({"kind": "svd", "singular_values": [1.0]}, "singular_values must be 6"),
        ({"kind": "svd", "singular_values": [-1.0] * 6}, "singular_values must be 6"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            RahimiRecht(**options)
