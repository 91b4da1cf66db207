"""What AMOS decides at a Hessian time, its Torch form, and what it refuses. Oracle: numbers that follow by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from amos_cases import amos, scripted_run, stream
from network_cases import LOSSES, network

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.groups import Groups

# -- decisions ------------------------------------------------------------------------------------------------------


def test_the_threshold_itself_is_not_above_the_threshold():
    # Two slopes of exactly 2 in the mean over two coordinates.
    places, estimates = [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 3.0]]
    for threshold, away in ((2.0, False), (np.nextafter(2.0, 0.0), True), (np.nextafter(2.0, 3.0), False)):
        seen = scripted_run(amos(alpha=0.0, epsilon2=0.0, threshold=threshold), places, estimates, ((2,),))
        assert seen[1][1].offloaded.tolist() == [away]


def test_mean_and_largest_of_a_group():
    places, estimates = [[0.0] * 3, [1.0, 0.0, 0.0]], [[0.0] * 3, [1.0, 3.0, 7.0]]
    for knobs, expected in (({}, [2.0, 7.0]), ({"aggregation": "max"}, [3.0, 7.0]), ({"chunk": 1}, [1.0, 3.0, 7.0])):
        seen = scripted_run(amos(alpha=0.0, epsilon2=0.0, **knobs), places, estimates, ((2,), (1,)))
        np.testing.assert_allclose(seen[1][2].group_lipschitz, expected)


def test_chunks_are_tensors_where_the_sizes_agree():
    rng = np.random.default_rng(2)
    places, estimates = rng.standard_normal((5, 8)), rng.standard_normal((5, 8)) ** 2
    gradients = rng.standard_normal((5, 8))
    run = [
        scripted_run(amos(threshold=0.3, **knobs), places, estimates, shapes, gradients=gradients)
        for knobs, shapes in (({"chunk": 3}, ((8,),)), ({}, ((3,), (3, 1), (2,))), ({"chunk": 3}, ((4,), (4,))))
    ]
    for (x, state, info), (y, other, same), (z, _, _) in zip(*run, strict=True):
        np.testing.assert_allclose(info.group_lipschitz, same.group_lipschitz, rtol=1e-13)
        np.testing.assert_array_equal(state.offloaded, other.offloaded)
        assert info.offloaded == same.offloaded
        np.testing.assert_allclose(z, x, rtol=1e-13)
        # The matrix (3, 1) is decayed where it is known to be one.
        decayed = np.repeat([False, True, False], [3, 3, 2]) & ~np.repeat(state.offloaded, [3, 3, 2])
        np.testing.assert_array_equal(x != y, decayed)
    assert 0 < np.mean([info.offloaded for _, _, info in run[0]]) < 1


def test_groups_add_up(backend):
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(2, 11))
    there = backend.asarray(values)
    for groups, ends in (
        (Groups.of(((2, 3), (), (4,))), [0, 6, 7, 11]),
        (Groups.of(((11,),), 4), [0, 4, 8, 11]),
        (Groups.of(((11,),), 99), [0, 11]),
        (Groups.of(((11,),), 11), [0, 11]),
    ):
        pieces = [values[:, a:b] for a, b in itertools.pairwise(ends)]
        assert len(groups) == len(pieces)
        for name in ("sum", "mean", "max"):
            expected = np.stack([getattr(piece, name)(axis=1) for piece in pieces], axis=1)
            np.testing.assert_allclose(to_numpy(getattr(groups, name)(there)), expected, rtol=1e-6)
            spread = np.repeat(expected, [piece.shape[1] for piece in pieces], axis=1)
            np.testing.assert_allclose(to_numpy(groups.spread(backend.asarray(expected))), spread, rtol=1e-6)


def test_newton_is_equation_eight():
    # Groups of one coordinate: the full step is harmful exactly where L > 3 h^2 / |g|.
    rng = np.random.default_rng(1)
    places, estimates, gradients = [[0.0] * 40, rng.uniform(0.5, 1, 40)], rng.uniform(0, 1, (2, 40)), None
    gradients = [np.zeros(40), 10 ** rng.uniform(-2, 2, 40) * rng.choice([-1, 1], 40)]
    method = amos(threshold="newton", chunk=1, alpha=0.5, beta2=0.5)
    _, state, info = scripted_run(method, places, estimates, ((40,),), gradients=gradients)[1]
    expected = info.group_lipschitz > 3 * state.curvature**2 / np.abs(gradients[1])
    np.testing.assert_array_equal(state.offloaded, expected)
    assert 5 < expected.sum() < 35


def test_newton_leaves_out_coordinates_without_curvature():
    places, estimates = [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, -1.0]]
    method = amos(threshold="newton", chunk=1, beta2=0.0)
    _, state, _ = scripted_run(method, places, estimates, ((2,),), gradients=[[1.0, 1.0]] * 2)[1]
    assert state.lipschitz[1] > 0
    assert state.offloaded.tolist() == [False, False]


def test_certificate_is_the_bound_of_sophias_own_step():
    # A step of -0.1 with slope 1 and h = 0: -0.1 + L/6000 > 0 exactly where L > 600.
    for L, away in ((599.0, False), (601.0, True)):
        method = amos(learning_rate=0.1, beta1=0.0, beta2=0.999999999, rho=1e-12, threshold="certificate",
                      alpha=0.0, epsilon2=0.0, weight_decay=0.0)  # fmt: skip
        seen = scripted_run(method, [[0.0], [1.0]], [[0.0], [L]], ((1,),), gradients=[[1.0], [1.0]])
        assert seen[1][1].offloaded.tolist() == [away]
        assert seen[1][0][0] == pytest.approx(0.5 if away else 0.9)


def test_random_sets():
    shapes = ((1,),) * 400
    method = amos(selection="random", fraction=0.3, interval=2, seed=5)
    runs = [
        scripted_run(m, [np.zeros(400)] * 40, [np.zeros(400)] * 40, shapes)
        for m in (method, method, dataclasses.replace(method, seed=6))
    ]
    sets = [[to_numpy(state.offloaded) for _, state, _ in run] for run in runs]
    np.testing.assert_array_equal(sets[0], sets[1])
    assert (np.array(sets[0]) != np.array(sets[2])).any()
    for step in range(0, 40, 2):
        np.testing.assert_array_equal(sets[0][step], sets[0][step + 1])  # until the next Hessian time
    fresh = np.array(sets[0][::2])
    assert (fresh[1:] != fresh[:-1]).any(axis=1).all()
    # 8000 draws: four standard deviations
    assert abs(fresh.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / fresh.size)
    # The labels of the estimates do not depend on which sets are drawn.
    problem = network("tanh", LOSSES[1])(get_backend())
    x = problem.initial(np.random.default_rng(0))
    one, two = (amos(**k).step(problem.at(x), amos(**k).init(x)).state.last_estimate
                for k in ({"selection": "random", "fraction": 0.5}, {"threshold": 1.0}))  # fmt: skip
    np.testing.assert_array_equal(one, two)


def test_published_settings():
    found = AMOS.published()
    assert (found.learning_rate, found.beta1, found.beta2, found.rho, found.weight_decay) == (
        6e-4,
        0.9,
        0.95,
        0.01,
        0.1,
    )
    assert (found.offload_rate, found.alpha, found.threshold, found.epsilon2) == (1.25e-5, 0.99, 2e-10, 1e-12)
    assert not found.bias_correction
    assert (found.aggregation, found.distance, found.chunk, found.draws) == ("mean", "global", None, 1)
    assert AMOS.published(threshold="newton", alpha=0.7).alpha == 0.7
    # Raw and started from zero: (1 - alpha) times the first slope.
    seen = scripted_run(dataclasses.replace(found, interval=1), *stream([3.0]), ((1,),))
    assert float(seen[1][2].lipschitz_mean) == pytest.approx(0.03, rel=1e-10)


# -- Torch ----------------------------------------------------------------------------------------------------------


def test_torch_optimizer_saves_and_loads_its_decisions():
    torch = pytest.importorskip("torch")
    from torch_optim_cases import Training

    from refimpl import torch_optim

    knobs = {"learning_rate": 0.03, "interval": 3, "likelihood": "categorical", "offload_rate": 0.2, "threshold": 0.03}
    whole, first, second = Training("ce"), Training("ce"), Training("ce")
    expected = whole.run(torch_optim.AMOS(whole.model.parameters(), **knobs), range(8))
    optimizer = torch_optim.AMOS(first.model.parameters(), **knobs)
    np.testing.assert_array_equal(first.run(optimizer, range(4)), expected[:4])
    assert optimizer.vectors["offloaded"].dtype == torch.bool
    assert 0 < float(optimizer.last_info.offloaded) < 1
    assert optimizer.last_info.group_lipschitz.shape == (4,)
    other = torch_optim.AMOS(second.model.parameters(), **knobs)
    second.model.load_state_dict(first.model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(second.run(other, range(4, 8)), expected[4:])


def test_schedulers_reach_sophias_rate_alone():
    torch = pytest.importorskip("torch")
    from torch_optim_cases import Training

    from refimpl import torch_optim

    training = Training("ce")
    optimizer = torch_optim.AMOS(
        training.model.parameters(), learning_rate=0.04, offload_rate=0.2, estimator="hutchinson", threshold=1.0
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    training.run(optimizer, [0])
    scheduler.step()
    optimizer.param_groups[0]["offload_rate"] *= 0.1
    training.run(optimizer, [1])
    assert optimizer.method.learning_rate == 0.02
    assert optimizer.method.offload_rate == pytest.approx(0.02)


# -- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"threshold": None}, "selection='lipschitz' needs a threshold"),
        ({"threshold": "equation-8"}, "unknown threshold 'equation-8'; choose a number, 'newton' or 'certificate'"),
        ({"threshold": -1.0}, "threshold must be finite and at least zero"),
        ({"threshold": float("nan")}, "threshold"),
        ({"offload_rate": None}, "offload='sgd' needs an offload_rate"),
        ({"offload_rate": 0.0}, "offload_rate must be finite and positive"),
        ({"alpha": 1.0}, r"alpha must lie in \[0.0, 1.0\)"),
        ({"epsilon2": -1e-12}, "epsilon2"),
        ({"aggregation": "median"}, "unknown aggregation 'median'; choose one of.*'max'"),
        ({"distance": "local"}, "unknown distance 'local'"),
        ({"selection": "best"}, "unknown selection 'best'"),
        ({"offload": "adam"}, "unknown offload 'adam'"),
        ({"bias_correction": 1}, "bias_correction must be True or False"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"draws": 0}, "draws must be a whole number of at least 1"),
        ({"fraction": 0.1}, "fraction=0.1 with selection='lipschitz'"),
        ({"selection": "random"}, "fraction=None with selection='random'"),
        ({"selection": "random", "fraction": 1.1}, "fraction must lie in"),
        ({"static": (0,)}, "static=.* with selection='lipschitz'"),
        ({"selection": "static"}, "static=None with selection='static'"),
        ({"selection": "static", "static": ()}, "at least one"),
        ({"selection": "static", "static": 3}, "must list the numbers of groups"),
        ({"selection": "static", "static": (0, -1)}, "a number in static"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        amos(**knobs)


def test_a_group_that_is_not_there_is_refused_in_the_step():
    problem = network("tanh", LOSSES[1])(get_backend())
    with pytest.raises(ValueError, match="static names group 6, but there are 6"):
        minimize(problem, amos(selection="static", static=(1, 6)), steps=1)
