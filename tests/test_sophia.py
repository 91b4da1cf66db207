"""Sophia against golden vectors (60-digit arithmetic), a plain NumPy transcription over whole runs, and closed forms.

The transcription draws its own labels from the documented generators and takes its gradients from dense Jacobians.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from golden_vectors import golden
from network_cases import LOSSES, network

from refimpl import Counts, get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.sophia import Sophia, SophiaState
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.sampling import Minibatch
from refimpl.problems.toy import DoubleWell

GOLDEN = golden("sophia_amos")["sophia"]


def scripted(x, gradient, estimate=None, rows=1, shapes=None):
    """A point that answers with the given numbers."""
    x, gradient = np.asarray(x, dtype=float), np.asarray(gradient, dtype=float)
    ghat = np.zeros_like(x) if estimate is None else np.asarray(estimate, dtype=float)
    problem = SimpleNamespace(tensor_shapes=shapes or ((x.shape[-1],),))
    return SimpleNamespace(
        x=x, gradient=gradient, problem=problem, sampled_gradient=lambda rng, likelihood: (ghat, rows)
    )


def labels_of(outputs, uniform):
    """Labels (rows,) by inverting the distribution function of each row."""
    p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    cumulative = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
    return np.array([np.searchsorted(c, u, side="right") for c, u in zip(cumulative, uniform, strict=True)])


def jacobian_of(point, rows):
    columns = [point.jvp(unit) for unit in np.eye(point.problem.n)]
    return np.stack(columns, axis=1).reshape(rows, -1, point.problem.n)


# -- golden ---------------------------------------------------------------------------------------------------------


def test_two_golden_steps(backend):
    tolerance = 1e-6 if backend.dtype_name == "float32" else 1e-13
    g = GOLDEN
    method = Sophia(
        g["lr"], g["beta1"], g["beta2"], g["rho"], g["weight_decay"], decay="all", interval=1, epsilon=g["eps"]
    )
    x, state = backend.asarray(g["param0"]), method.init(backend.asarray(g["param0"]))
    # No curvature is known in the first step: its estimate is zero.
    for row, ghat in zip(g["trace"], (np.zeros(4), g["gnb_grad"]), strict=True):
        point = scripted(g["param0"], row["grad"])
        point.x, point.gradient, given = x, backend.asarray(row["grad"]), backend.asarray(ghat)
        point.sampled_gradient = lambda rng, likelihood, given=given: (given, g["n_tokens"])
        x, state, info = method.step(point, state)
        np.testing.assert_allclose(to_numpy(state.mean), row["m"], rtol=tolerance)
        np.testing.assert_allclose(to_numpy(state.curvature), row["h"], rtol=tolerance)
        np.testing.assert_allclose(to_numpy(x), row["param"], rtol=tolerance)
        assert float(info.clipped) == pytest.approx(sum(ratio == 1.0 for ratio in row["clip_ratio"]) / 4)
        assert info.estimated is True


# -- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES[:2], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_thirty_steps_against_a_transcription(loss, decay):
    problem = network("tanh", loss, samples=20)(get_backend("numpy"), batch_size=6)
    method = Sophia(0.03, 0.9, 0.8, 1.0, 0.3, decay=decay, interval=4, seed=7)
    rng = np.random.default_rng(0)
    start, samples = problem.initial(rng), [problem.draw(rng) for _ in range(30)]

    x, state, path = start, method.init(start), []
    for sample in samples:
        x, state, _ = method.step(problem.at(x, sample), state)
        path.append(x)

    # Weight matrices stand before their biases: (4, 3), (4,), (5, 4), (5,), (2, 5), (2,).
    shrinks = np.concatenate([np.full(size, 1.0 if matrix or decay == "all" else 0.0)
                              for size, matrix in ((12, 1), (4, 0), (20, 1), (5, 0), (10, 1), (2, 0))])  # fmt: skip
    x, m, h, clipped = start.copy(), np.zeros(problem.n), np.zeros(problem.n), []
    for step, sample in enumerate(samples):
        point = problem.at(x, sample)
        m = 0.9 * m + 0.1 * point.gradient
        if step % 4 == 0:
            draws, outputs, j = np.random.default_rng([7, step]), point.outputs.reshape(6, 2), jacobian_of(point, 6)
            if loss is LOSSES[0]:
                slope = -draws.standard_normal((6, 2))
            else:
                p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
                slope = p - np.eye(2)[labels_of(outputs, draws.uniform(0, 1, 6))]
            ghat = np.einsum("rkn,rk->n", j, slope) / 6
            h = 0.8 * h + 0.2 * 6 * ghat**2
        quotient = np.abs(m) / (1.0 * h + 1e-15)
        clipped.append(np.mean(quotient > 1))
        x = x - 0.03 * 0.3 * shrinks * x - 0.03 * np.sign(m) * np.minimum(quotient, 1)
        np.testing.assert_allclose(path[step], x, rtol=1e-9, atol=1e-12)
    assert min(clipped) < 0.7  # not only signs
    assert np.abs(x - start).max() > 0.1


def test_hutchinson_run_against_a_transcription():
    problem = DoubleWell(n=4)
    method = Sophia(0.05, 0.5, 0.5, 0.3, 0.0, interval=3, estimator="hutchinson", seed=2)
    start = np.array([0.2, 1.0, -0.5, 0.1])
    result = minimize(problem, method, start, steps=12)
    x, m, h = start.copy(), np.zeros(4), np.zeros(4)
    for step in range(12):
        point = problem.at(x)
        m = 0.5 * m + 0.5 * point.gradient
        if step % 3 == 0:
            u = np.where(np.random.default_rng([2, step]).integers(0, 2, 4) == 1, 1.0, -1.0)
            h = 0.5 * h + 0.5 * u * (point.hessian() @ u)
        x = x - 0.05 * np.sign(m) * np.minimum(np.abs(m) / (0.3 * np.maximum(h, 0) + 1e-15), 1)
    np.testing.assert_allclose(result.x, x, rtol=1e-11)
    assert result.counts == Counts(gradient=13, hvp=4)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.likelihood)
def test_same_run_on_every_backend(loss, backend):
    method = Sophia(0.02, interval=3, weight_decay=0.1)
    result = minimize(network("tanh", loss)(backend, batch_size=5), method, steps=10, seed=1)
    reference = minimize(network("tanh", loss)(get_backend(), batch_size=5), method, steps=10, seed=1)
    tolerance = 2e-4 if backend.dtype_name == "float32" else 1e-9
    np.testing.assert_allclose(to_numpy(result.x), reference.x, rtol=tolerance, atol=tolerance)
    assert result.counts == reference.counts == Counts(gradient=11, vjp=4)


def test_runs_of_a_batch_are_those_one_after_the_other():
    problem = network("tanh", LOSSES[1])(get_backend())
    starts = np.random.default_rng(3).standard_normal((2, 2, problem.n))
    method = Sophia(0.05, interval=2)
    together = minimize(problem, method, starts, steps=7)
    for index in np.ndindex(2, 2):
        alone = minimize(problem, method, starts[index], steps=7)
        np.testing.assert_allclose(together.x[index], alone.x, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(together.trace["clipped"][(slice(None), *index)], alone.trace["clipped"])


def test_a_run_can_be_continued():
    problem = network("tanh", LOSSES[1])(get_backend())
    x = problem.initial(np.random.default_rng(1))
    method, state = Sophia(0.05, rho=5.0, interval=3), None
    whole, halves = x, x
    states = [method.init(x), method.init(x)]
    for _ in range(8):
        whole, states[0], _ = method.step(problem.at(whole), states[0])
    for _ in range(2):
        state = SophiaState(*(part if isinstance(part, int) else part.copy() for part in states[1]))
        for _ in range(4):
            halves, state, _ = method.step(problem.at(halves), state)
        states[1] = state
    np.testing.assert_array_equal(whole, halves)
    other = minimize(problem, Sophia(0.05, rho=5.0, interval=3, seed=1), x, steps=8)
    assert np.abs(other.x - whole).max() > 1e-3  # another seed draws other labels


# -- the rule -------------------------------------------------------------------------------------------------------


def test_without_curvature_it_is_sign_descent():
    method = Sophia(0.1, beta1=0.0, weight_decay=0.0)
    gradient = [3.0, -1e-3, 0.0, 1e-12, -0.0]
    found = method.step(scripted(np.ones(5), gradient), method.init(np.ones(5)))
    np.testing.assert_array_equal(found.x, 1 - 0.1 * np.array([1, -1, 0, 1, 0]))
    assert found.info.clipped == pytest.approx(3 / 5)


def test_clipped_and_unclipped_coordinates():
    # N = 2, ghat^2 = (8, 2, .5), b2 = 0: h = (16, 4, 1); |m| = 1 against rho h = (1.6, .4, .1).
    method = Sophia(0.1, beta1=0.0, beta2=0.0, rho=0.1, weight_decay=0.0)
    point = scripted(np.zeros(3), [1.0, -1.0, 0.05], np.sqrt([8.0, 2.0, 0.5]), rows=2)
    found = method.step(point, method.init(np.zeros(3)))
    np.testing.assert_allclose(found.state.curvature, [16.0, 4.0, 1.0], rtol=1e-15)
    np.testing.assert_allclose(found.x, [-0.1 / 1.6, 0.1, -0.05], rtol=1e-13)
    assert found.info.clipped == pytest.approx(1 / 3)


def test_negative_curvature_counts_as_zero():
    method = Sophia(0.1, beta1=0.0, beta2=0.0, rho=0.5, weight_decay=0.0, estimator="hutchinson")
    found = minimize(Quadratic(np.diag([2.0, -2.0])), method, [0.25, 0.25], steps=1)
    # gradients (.5, -.5); h = (2, -2): quotient .5/(.5·2) = .5, and a full step along negative curvature
    np.testing.assert_allclose(found.x, [0.25 - 0.05, 0.25 + 0.1], rtol=1e-13)
    assert found.state.curvature[1] == -2.0


def test_hutchinson_has_the_diagonal_as_its_mean():
    # All 2^4 sign vectors, each with the same probability.
    matrix = np.random.default_rng(0).standard_normal((4, 4))
    matrix = matrix + matrix.T
    point = Quadratic(matrix).at(np.ones(4))

    class Signs:
        def __init__(self, bits):
            self.bits = np.array(bits)

        def integers(self, low, high, size):
            assert (low, high, size) == (0, 2, 4)
            return self.bits

    method = Sophia(estimator="hutchinson")
    found = [method._one_estimate(point, Signs(bits)) for bits in itertools.product([0, 1], repeat=4)]
    np.testing.assert_allclose(np.mean(found, axis=0), np.diag(matrix), rtol=1e-13)
    assert np.std(found, axis=0).min() > 0.1


@pytest.mark.parametrize("interval", [1, 3, 10, 100])
def test_estimates_are_made_every_interval_steps_from_the_first(interval):
    problem = network("tanh", LOSSES[0])(get_backend())
    result = minimize(problem, Sophia(interval=interval), steps=11)
    # The last row is a look without a step.
    assert result.trace["estimated"][:11].tolist() == [float(step % interval == 0) for step in range(11)]
    assert result.counts.vjp == len(range(0, 11, interval))


def test_decay_reaches_matrices_alone():
    method = Sophia(0.1, weight_decay=0.5)
    shapes = ((2, 2), (3,), (1, 1, 2), ())
    point = scripted(np.ones(10), np.zeros(10), shapes=shapes)
    found = method.step(point, method.init(np.ones(10))).x
    np.testing.assert_allclose(found, [0.95] * 4 + [1.0] * 3 + [0.95] * 2 + [1.0], rtol=1e-15)
    everything = Sophia(0.1, weight_decay=0.5, decay="all").step(point, method.init(np.ones(10))).x
    np.testing.assert_allclose(everything, np.full(10, 0.95), rtol=1e-15)


def test_decay_comes_before_the_step_and_not_after():
    method = Sophia(0.1, beta1=0.0, weight_decay=0.5, decay="all")
    found = method.step(scripted([2.0], [1.0]), method.init(np.ones(1))).x
    assert found[0] == pytest.approx(2.0 * 0.95 - 0.1, rel=1e-15)


def test_the_estimate_is_of_the_place_and_sample_of_the_step():
    problem = network("tanh", LOSSES[1], samples=20)(get_backend(), batch_size=6)
    x, sample = problem.initial(np.random.default_rng(0)), Minibatch(np.array([0, 3, 5]))
    method = Sophia(beta2=0.0, seed=5)
    found = method.step(problem.at(x, sample), method.init(x)).state.curvature
    ghat, rows = problem.at(x, sample).sampled_gradient(np.random.default_rng([5, 0]))
    assert rows == 3
    np.testing.assert_allclose(found, 3 * ghat**2, rtol=1e-13)


# -- Torch ----------------------------------------------------------------------------------------------------------


def test_torch_optimizer_with_drawn_labels():
    pytest.importorskip("torch")
    from torch_optim_cases import STEPS, WIDTHS, Training

    from refimpl import torch_optim
    from refimpl.problems.mlp import MLP

    training = Training("ce")
    knobs = {"learning_rate": 0.03, "interval": 3, "weight_decay": 0.2, "seed": 4}
    problem = MLP(WIDTHS, training.inputs, training.targets, activation="tanh", loss=LOSSES[1])
    method, x = Sophia(**knobs), training.x
    state, path = method.init(x), []
    for rows in training.batches:
        x, state, _ = method.step(problem.at(x, Minibatch(rows)), state)
        path.append(x)
    optimizer = torch_optim.Sophia(training.model.parameters(), likelihood="categorical", **knobs)
    np.testing.assert_allclose(training.run(optimizer), path, rtol=1e-9, atol=1e-12)
    assert optimizer.counts == Counts(gradient=STEPS, vjp=STEPS // 3)
    assert optimizer.param_groups[0]["lr"] == 0.03


def test_torch_optimizer_wants_the_likelihood_and_the_outputs():
    pytest.importorskip("torch")
    from torch_optim_cases import Training

    from refimpl import torch_optim

    training = Training("ce")
    before = training.x
    with pytest.raises(ValueError, match=r"name one of.*'categorical'"):
        training.run(torch_optim.Sophia(training.model.parameters()), [0])
    optimizer = torch_optim.Sophia(training.model.parameters(), likelihood="categorical")
    with pytest.raises(ValueError, match="no outputs"):
        training.run(optimizer, [0], outputs=False)
    np.testing.assert_array_equal(training.x, before)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"rho": 0.0}, "rho must be finite and positive"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"decay": "biases"}, "unknown decay 'biases'; choose one of.*'matrices'"),
        ({"interval": 0}, "interval must be a whole number of at least 1"),
        ({"estimator": "exact"}, "unknown estimator 'exact'; choose one of.*'gnb'"),
        ({"estimator": ["gnb"]}, "unknown estimator"),
        ({"likelihood": 1}, "likelihood must be the name"),
        ({"seed": -1}, "seed"),
        ({"epsilon": -1e-15}, "epsilon"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        Sophia(**knobs)


def test_a_problem_without_likelihood_is_refused_in_the_step():
    with pytest.raises(ValueError, match="estimator='hutchinson'"):
        minimize(DoubleWell(), Sophia(), steps=1)
