"""Training a model of characters, and the noise of its curvature estimates.

Oracles: ``minimize`` and a loop of Torch's own for the run; the same estimates made by hand for the noise.
"""

import json

import numpy as np
import pytest
import torch
from text_cases import small_problem
from torch.nn import functional

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments.char_tuning import starting_place
from refimpl.experiments.token_runs import noise_of_estimates, relative, significant, train_tokens
from refimpl.optimizers.adam import AdamW
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.sophia import Sophia
from refimpl.problems.text import markov_text

# -- one run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_that_of_minimize():
    problem, method = small_problem(), Sophia(1e-2, interval=3, seed=4)
    start = starting_place(problem, 2)
    run = train_tokens(problem, method, start, steps=8, seed=2, looks=[3, 5])
    other = minimize(problem, method, start, steps=8, seed=as_generator([2, 1]), gradient_tolerance=None)
    assert run["status"] == "budget"
    assert run["curve"]["step"] == [0, 3, 5, 8]
    end, report = problem.evaluate(start), problem.evaluate(other.x)
    assert run["curve"]["loss"][0] == pytest.approx(float(end["loss"]), abs=1e-6)
    for name, key in (("loss", "loss"), ("val_loss", "test_loss"), ("val_accuracy", "test_accuracy")):
        assert run["curve"][name][-1] == pytest.approx(float(report[key]), abs=1e-6)
    assert run["val_loss"] == pytest.approx(float(report["test_loss"]), abs=1e-12)
    batch = np.asarray(other.trace["loss"])[:8]
    means = [batch[part].mean() for part in (slice(0, 3), slice(3, 5), slice(5, 8))]
    np.testing.assert_allclose(run["curve"]["batch_loss"][1:], means, atol=1e-6)
    assert run["curve"]["work"][-1] == pytest.approx(8 + 3 * 2 / 3, abs=1e-6)  # a gradient per step, a vjp per estimate
    assert "offloaded" not in run
    assert "lipschitz" not in run


def test_a_run_of_adamw_is_that_of_a_torch_loop():
    problem = small_problem()
    start = starting_place(problem, 0)
    run = train_tokens(problem, AdamW(1e-2), start, steps=6, seed=3, looks=[])
    module = problem.module
    with torch.no_grad():
        for parameter, part in zip(module.parameters(), problem.unflatten(start).values(), strict=True):
            parameter.copy_(part)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2, weight_decay=1e-2)
    rng, tokens = np.random.default_rng([3, 1]), torch.from_numpy(markov_text(2000).train)
    for _ in range(6):
        starts = rng.choice(len(tokens) - 6, size=3, replace=False)
        windows = torch.stack([tokens[s : s + 7] for s in starts])
        optimizer.zero_grad()
        functional.cross_entropy(module(windows[:, :-1]).transpose(1, 2), windows[:, 1:]).backward()
        optimizer.step()
    inputs, targets = problem.test
    expected = functional.cross_entropy(module(inputs).transpose(1, 2), targets)
    assert run["val_loss"] == pytest.approx(float(expected.detach()), abs=2e-6)


def test_shares_and_estimates_of_amos_are_kept():
    problem, seen = small_problem(), []
    method = AMOS(1e-2, interval=2, selection="random", fraction=0.4, offload_rate=0.1)
    run = train_tokens(
        problem, method, starting_place(problem, 0), steps=9, seed=0, looks=[4], watch=lambda *both: seen.append(both)
    )
    infos = [info for _, info in seen]
    assert [step for step, _ in seen] == list(range(1, 10))
    shares = [float(info.offloaded) for info in infos]
    assert len(set(shares)) > 2
    assert run["offloaded_mean"] == pytest.approx(np.mean(shares))
    assert run["offloaded_max"] == max(shares)
    np.testing.assert_allclose(run["offloaded"], shares[::2], atol=1e-4)
    np.testing.assert_allclose(run["curve"]["offloaded"][1:], [np.mean(shares[:4]), np.mean(shares[4:])], atol=1e-6)
    assert [row is None for row in run["lipschitz"]] == [True, False, False]
    for row, info in zip(run["lipschitz"][1:], (infos[3], infos[8]), strict=True):
        np.testing.assert_allclose(row, info.group_lipschitz, rtol=6e-3)
    json.dumps(run["lipschitz"])


def test_estimates_of_many_groups_are_left_out():
    problem = small_problem()
    method = AMOS(1e-2, interval=2, threshold=1.0, chunk=4, offload_rate=0.1)
    assert "lipschitz" not in train_tokens(problem, method, starting_place(problem, 0), steps=3, seed=0, looks=[])


def test_a_run_that_diverges_says_so():
    problem = small_problem()
    run = train_tokens(problem, GradientDescent(1e200), starting_place(problem, 0), steps=9, seed=0, looks=[])
    assert run["status"] == "diverged"
    assert run["steps"] < 9
    assert np.isnan(run["val_loss"])
    assert run["curve"]["step"] == [0, run["steps"]]


# -- noise ------------------------------------------------------------------------------------------------------------


def test_noise_is_that_of_estimates_made_by_hand():
    problem, method = small_problem(), Sophia(1e-2, interval=3)
    start = starting_place(problem, 0)
    (first, second) = noise_of_estimates(problem, method, start, steps=9, seed=5, places=[0, 4], apart=2, draws=3)
    assert (first["step"], second["step"]) == (0, 4)
    rng, own, x, state, places = as_generator([5, 1]), as_generator([5, 2]), start, method.init(start), {}
    for taken in range(7):
        places[taken] = x
        step = method.step(problem.at(x, problem.draw(rng)), state)
        x, state = step.x, step.state

    def estimate(x):
        gradient, rows = problem.at(x, problem.draw(own)).sampled_gradient(own)
        assert rows == 18
        return (18 * gradient**2).numpy()

    for found, (here, there) in ((first, (0, 2)), (second, (4, 6))):
        same = np.stack([estimate(places[here]) for _ in range(6)])
        later = np.stack([estimate(places[there]) for _ in range(3)])
        assert found["single_same"] == pytest.approx(np.mean([by_hand(same[k], same[3 + k]) for k in range(3)]))
        assert found["single_apart"] == pytest.approx(np.mean([by_hand(same[k], later[k]) for k in range(3)]))
        assert found["mean_same"] == pytest.approx(by_hand(same[:3].mean(0), same[3:].mean(0)))
        assert found["mean_apart"] == pytest.approx(by_hand(same[:3].mean(0), later.mean(0)))


def by_hand(a, b):
    return np.abs(a - b).sum() / (0.5 * np.abs(a).sum() + 0.5 * np.abs(b).sum())


def test_relative_difference_and_rounding():
    assert relative(np.asarray([1.0, 3.0]), np.asarray([1.0, 3.0])) == 0
    assert relative(np.asarray([2.0, 0.0]), np.asarray([1.0, 1.0])) == 1
    assert significant(torch.tensor([1234.5, -0.00012345])) == [1230.0, -0.000123]
