"""Other people's optimizers, run by the conformance kit: they agree, or the difference is known and pinned here.

Oracle: the libraries themselves, which share nothing with this package; and, for each difference, a closed form of one
step or the trust-region subproblem solved by a root finder. What is not installed is skipped.
"""

import importlib.metadata
import json
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from refimpl.verify import third_party
from refimpl.verify.kit import METHODS, check_method
from refimpl.verify.kit.tasks import TASKS, places
from refimpl.verify.third_party import (
    StepOf,
    TorchOptimizer,
    check_peer,
    in_jax,
    installed,
    peers,
    third_party_table,
)

PEERS = peers()
DIFFERENT = {name for name, peer in PEERS.items() if peer.differs}

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def card(name):
    if not installed(PEERS[name]):
        pytest.skip(f"{PEERS[name].package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check_peer(name)


def failed(name):
    return {row.name for row in card(name).failed}


# -- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PEERS.keys() - DIFFERENT))
def test_library_agrees_with_the_method(name):
    assert card(name).passed, card(name).text()
    assert len(card(name).rows) >= 9


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_library_differs_as_is_known(name):
    assert not card(name).passed, f"{name} agrees now: take its reason away"
    assert card(name).failed != card(name).rows, "something must agree, or the adapter is wrong"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch.optim.RMSprop(centered)", "centered"),
        ("torch.optim.Adam(weight_decay)", "coupled"),
        ("pytorch_optimizer.ADOPT", "counts the first gradient"),
    ],
)
def test_kit_names_the_difference_by_itself(name, words):
    assert words in card(name).cause


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("pytorch_optimizer.Lion", {"NaN loss and gradient"}),
        ("scipy.sparse.linalg.minres", {"singular Hessian"}),
        ("matfree.funm.funm_lanczos_sym", {"minimum", "exact saddle"}),
        ("pytorch_optimizer.ADOPT", {"coupled saddle"}),
    ],
)
def test_only_these_checks_are_missed(name, rows):
    assert failed(name) == rows


@pytest.mark.parametrize("name", ["torchmin newton-exact", "torchmin newton-exact (eig)",
                                  "curvlinops.CGInverseLinearOperator"])  # fmt: skip
def test_difference_shows_at_negative_curvature_only(name):
    assert not any("bowl" in row or "wood" in row for row in failed(name)), failed(name)
    assert any("saddle" in row for row in failed(name))


# -- planted mistakes -------------------------------------------------------------------------------------------------


def _adam(parameters, s, **changed):
    given = {"lr": s["learning_rate"], "betas": (s["beta1"], s["beta2"]), "eps": s["epsilon"], **changed}
    return torch.optim.Adam(parameters, **given)


@pytest.mark.parametrize("changed", [{"betas": (0.95, 0.8)}, {"eps": 1e-8}, {"lr": 0.051}, {"amsgrad": True}])
def test_wrong_setting_of_a_right_library_is_caught(changed):
    wrong = check_method("adam", TorchOptimizer(partial(_adam, **changed)), levels=["one step", "ten steps"])
    assert not wrong.passed


def test_wrong_sign_is_caught_and_named():
    climbing = StepOf(lambda task, x, *, learning_rate: learning_rate * task.gradient(x))
    wrong = check_method("gradient-descent", climbing, levels=["one step"])
    assert not wrong.passed
    assert "sign" in wrong.cause


# -- each difference, by hand -----------------------------------------------------------------------------------------


def first_steps(optimizer, gradients, start=0.0, **settings):
    x = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    walker, found = optimizer([x], **settings), []
    for g in gradients:
        x.grad = torch.tensor([g], dtype=torch.float64)
        walker.step()
        found.append(float(x.detach()))
    return found


def test_dampening_of_torch_leaves_the_first_step_out():
    first, second = first_steps(torch.optim.SGD, [2.0, 3.0], lr=0.1, momentum=0.8, dampening=0.8)
    assert first == pytest.approx(-0.1 * 2.0, rel=1e-15)  # not (1 - 0.8) 2
    assert second - first == pytest.approx(-0.1 * (0.8 * 2.0 + 0.2 * 3.0), rel=1e-14)


def test_momentum_of_nadam_grows_from_half_of_beta():
    # Step 1 with mu_t = b1 (1 - 0.96^(t psi)/2): with psi = 0 the momentum stays b1/2 for ever, it is not b1.
    b1, eps, g = 0.8, 0.01, 3.0
    (found,) = first_steps(torch.optim.NAdam, [g], lr=0.1, betas=(b1, 0.9), eps=eps, momentum_decay=0.0)

    def step(mu):
        return -0.1 * ((1 - mu) * g / (1 - mu) + mu * (1 - b1) * g / (1 - mu * mu)) / (g + eps)

    # Torch keeps the product of the momenta in float32 even where the parameters are float64.
    assert found == pytest.approx(step(b1 / 2), rel=1e-7)
    assert found != pytest.approx(step(b1 / 2), rel=1e-10)
    assert abs(found - step(b1)) > 0.01 * abs(found)


def test_epsilon_of_rmsprop_stands_outside_the_root():
    g, eps = 0.5, 0.01
    (found,) = first_steps(torch.optim.RMSprop, [g], lr=0.1, alpha=0.9, eps=eps)
    assert found == pytest.approx(-0.1 * g / (np.sqrt(0.1) * g + eps), rel=1e-14)
    assert abs(found + 0.1 * g / np.sqrt(0.1 * g * g + eps)) > 0.01 * abs(found)


def test_rate_of_adadelta_multiplies_the_step_but_not_what_is_remembered():
    gradients = [1.0, 2.0, -0.5]
    whole, half = (np.diff(first_steps(torch.optim.Adadelta, gradients, lr=r, eps=0.01), prepend=0) for r in (1, 0.5))
    np.testing.assert_allclose(half, 0.5 * whole, rtol=1e-13)
    assert first_steps(torch.optim.Adadelta, [1.0]) == first_steps(torch.optim.Adadelta, [1.0], lr=1.0)


def test_adam_of_torch_divides_its_decay_by_the_second_moment():
    # Gradient 0: AdamW shrinks x by lr w; the coupled decay is one step of Adam with the gradient w x.
    given = {"start": 2.0, "lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.5}
    assert first_steps(torch.optim.AdamW, [0.0], **given)[0] == pytest.approx(2.0 * (1 - 0.1 * 0.5), rel=1e-15)
    assert first_steps(torch.optim.Adam, [0.0], **given)[0] == pytest.approx(2.0 - 0.1 / (1.0 + 0.01), rel=1e-14)


def test_clip_of_adopt_counts_the_idle_step():
    adopt = pytest.importorskip("pytorch_optimizer").ADOPT
    # A second gradient far beyond the first: only the bound is left, times 1 - beta1.
    first, second = first_steps(adopt, [1e-3, 1e3], lr=0.1, betas=(0.9, 0.99), eps=1e-6)
    assert first == 0.0
    assert second == pytest.approx(-0.1 * 0.1 * 2**0.25, rel=1e-6)  # the paper's bound is 1 here


def test_lion_of_pytorch_optimizer_reads_nan_as_zero():
    lion = pytest.importorskip("pytorch_optimizer").Lion
    assert first_steps(lion, [np.nan], lr=0.1) == [0.0]
    assert first_steps(lion, [np.inf], lr=0.1) == [pytest.approx(-0.1)]


def test_minres_calls_a_place_far_away_a_success():
    from scipy.sparse.linalg import minres

    h, right = np.diag([2.0, 0.0, 1.0]), np.array([1.0, 0.25, -1.0])
    found, status = minres(h, right, rtol=1e-10)
    assert status == 0
    assert np.linalg.norm(found) > 1e10


# -- trust-exact ------------------------------------------------------------------------------------------------------


def exact_step(h, g, radius):
    """The subproblem by a root finder; not for the hard case."""
    values, vectors = np.linalg.eigh(h)
    c = vectors.T @ g
    if values[0] > 0 and np.linalg.norm(c / values) <= radius:
        return -vectors @ (c / values)
    low = max(0.0, -values[0]) + 1e-13
    shift = brentq(
        lambda s: np.linalg.norm(c / (values + s)) - radius, low, low + 1 + np.linalg.norm(g) / radius, xtol=1e-15
    )
    return -vectors @ (c / (values + shift))


@pytest.mark.parametrize("name", ["scipy.optimize trust-exact", "torchmin trust-exact"])
def test_trust_exact_stops_a_tenth_from_the_radius(name):
    if not installed(PEERS[name]):
        pytest.skip(f"{PEERS[name].package} is not installed")
    adapter, settings, lengths = PEERS[name].make(), METHODS["trust-region"].settings, []
    for task in (TASKS[name].from_place(place) for name in ("wood", "saddle", "rosenbrock") for place in
                 places(TASKS[name])):  # fmt: skip
        x = task.place
        h, g = task.hessian(x), task.gradient(x)
        best, found = exact_step(h, g, 1.0), adapter.step(task, adapter.init(task, **settings)).x - x
        if np.linalg.norm(found) == 0:
            continue  # refused
        model = [g @ p + p @ h @ p / 2 for p in (found, best)]
        assert 0.6 <= model[0] / model[1] <= 1.1
        if np.linalg.norm(best) > 0.999:
            lengths.append(np.linalg.norm(found))
    assert len(lengths) >= 5
    assert max(abs(length - 1) for length in lengths) <= 0.1 + 1e-9
    assert max(abs(length - 1) for length in lengths) > 1e-3


def test_trust_exact_of_scipy_goes_wrong_with_tight_tolerances():
    # SciPy's issue 20244: a factorization that succeeded is thrown away and the one before it used again. Where this
    # test fails, that has been mended.
    solver = pytest.importorskip("scipy.optimize._trustregion_exact").IterativeSubproblem
    rng, wrong = np.random.default_rng(0), []
    for k in range(120):
        n = 2 + k % 3
        a = 3 * rng.standard_normal((n, n))
        h = (a + a.T) / 2 if k % 2 else np.diag(rng.uniform(1, 20, n))
        g = rng.standard_normal(n) * 10 ** rng.uniform(-1, 2)
        given = (lambda x: 0.0, lambda x, g=g: g, lambda x, h=h: h)
        found, _ = solver(np.zeros(n), *given, k_easy=1e-8, k_hard=1e-10).solve(1.0)
        best = exact_step(h, g, 1.0)
        wrong.append(np.linalg.norm(found - best) / np.linalg.norm(best) > 1e-3)
    assert 0 < sum(wrong) < 40


# -- the table --------------------------------------------------------------------------------------------------------


def test_table_says_who_agrees_and_why_not():
    names = ["torch.optim.Adam", "torch.optim.RMSprop(centered)"]
    rows = third_party_table(names)
    assert [(row.optimizer, row.method, row.verdict) for row in rows] == [
        ("torch.optim.Adam", "adam", "agrees"), ("torch.optim.RMSprop(centered)", "rmsprop", "differs")]  # fmt: skip
    assert [row.library for row in rows] == ["torch", "torch"]
    assert torch.__version__.startswith(rows[0].version.split("+")[0])
    assert rows[0].reason == ""
    assert rows[1].reason == PEERS[names[1]].differs
    assert rows[0].checks == "{0} of {0}".format(len(card(names[0]).rows))
    assert json.loads(json.dumps([row._asdict() for row in rows]))[0]["verdict"] == "agrees"


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(third_party, "installed", lambda peer: peer.package != "scipy")
    (row,) = third_party_table(["scipy.linalg.polar"])
    assert (row.verdict, row.version, row.checks) == ("not installed", "", "")
    with pytest.raises(ValueError, match="needs scipy"):
        check_peer("scipy.linalg.polar")


def test_unknown_optimizer_is_refused():
    for ask in (check_peer, lambda name: third_party_table([name])):
        with pytest.raises(ValueError, match="choose one of"):
            ask("torch.optim.Adm")


def test_every_entry_is_whole():
    assert len(PEERS) == len({peer.name for peer in PEERS.values()}) >= 30
    assert {peer.package for peer in PEERS.values()} == {
        "torch", "pytorch_optimizer", "scipy", "pytorch-minimize", "curvlinops-for-pytorch", "matfree",
        "optimistix"}  # fmt: skip
    for peer in PEERS.values():
        assert peer.method in METHODS
        assert set(peer.settings) <= set(METHODS[peer.method].settings)


def test_jax_computes_in_float64_and_is_left_as_it_was():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    found = in_jax(lambda a: a / 3, np.array([1.0]))
    assert found.dtype == np.float64
    assert found[0] == 1 / 3
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.ones(1).dtype == ("float64" if before else "float32")


def test_the_record_that_the_book_shows_is_of_these_versions_and_verdicts():
    path = Path(third_party.__file__).parents[2] / "data" / "third-party.json"
    rows = {row["optimizer"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    assert rows.keys() == PEERS.keys()
    for name, row in rows.items():
        assert row["verdict"] == ("differs" if name in DIFFERENT else "agrees")
        assert row["reason"] == PEERS[name].differs
        if installed(PEERS[name]):
            here = importlib.metadata.version(PEERS[name].package)
            assert row["version"].partition("+")[0] == here.partition("+")[0]
