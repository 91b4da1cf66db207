"""The race on ResNet-18 and its K-FAC.

Oracles: curvlinops' Kronecker factors; the dense matrices of the definition; the papers' tables typed once more; a
study that was not interrupted.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from refimpl.experiments import EXPERIMENTS, small_convnets  # noqa: E402
from refimpl.experiments.kfac_conv import ConvKFAC, damped_inverses, estimated_factors, kronecker_layers  # noqa: E402
from refimpl.experiments.records import check_record  # noqa: E402
from refimpl.experiments.resnet18 import PAPER_CURVEBALL, PAPER_KRYBALL, PAPER_SERIES, ResNet18, contestants  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.experiments.small_convnets import load  # noqa: E402
from refimpl.experiments.training import Tuned  # noqa: E402
from refimpl.problems import images  # noqa: E402
from refimpl.problems.datasets import DatasetUnavailable  # noqa: E402
from refimpl.problems.losses import SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402


@pytest.fixture
def without_photographs(monkeypatch):
    """CIFAR-10 is not here: the small scales take digits."""

    def missing(*_):
        raise DatasetUnavailable("no such file")

    monkeypatch.setattr(images, "cifar10", missing)
    monkeypatch.setattr(small_convnets, "cifar10", missing)
    load.cache_clear()
    yield
    load.cache_clear()


# -- K-FAC ------------------------------------------------------------------------------------------------------------


def convnet(normalized=False):
    torch.manual_seed(4)
    layers = [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2, bias=False)]
    layers += [nn.BatchNorm2d(4)] if normalized else []
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()


def problem_of(module, rows=7):
    rng = np.random.default_rng(2)
    return TorchProblem(module, SoftmaxCrossEntropy(), rng.standard_normal((rows, 2, 5, 5)), rng.integers(0, 3, rows))


def test_factors_are_those_of_curvlinops():
    curvlinops = pytest.importorskip("curvlinops")
    module, problem = convnet(), problem_of(convnet())
    point = problem.at(problem.initial(np.random.default_rng(0)))
    factors = estimated_factors(point, "given", None)
    theirs = curvlinops.KFACLinearOperator(
        module, nn.CrossEntropyLoss(), list(module.parameters()), [(problem.inputs, problem.targets)],
        fisher_type="empirical", kfac_approx="expand", check_deterministic=False, separate_weight_and_bias=False,
    )  # fmt: skip
    dense = (theirs @ torch.eye(problem.n, dtype=torch.float64)).numpy()
    ours, start = np.zeros((problem.n, problem.n)), 0
    for (below, above), layer in zip(factors, kronecker_layers(module).values(), strict=True):
        block = np.kron(above.numpy(), below.numpy())
        outs, ins = above.shape[0], below.shape[0]
        places = np.arange(outs * ins).reshape(outs, ins)
        # x has the weight before the bias; the block has the bias as the last column of the weight.
        order = np.concatenate([places[:, : ins - (layer.bias is not None)].ravel(),
                                places[:, -1] if layer.bias is not None else np.array([], int)])  # fmt: skip
        ours[start : start + len(order), start : start + len(order)] = block[np.ix_(order, order)]
        start += len(order)
    np.testing.assert_allclose(ours, dense, rtol=1e-9, atol=1e-12)


def test_step_by_hand():
    problem = problem_of(convnet(normalized=True))
    x, method = problem.initial(np.random.default_rng(0)), ConvKFAC(0.1, damping=0.3, largest=np.inf, targets="given")
    point = problem.at(x)
    after, _, _ = method.step(point, method.init(x))
    fresh = problem.at(x)
    factors = estimated_factors(fresh, "given", None)
    parts = {name: part.numpy() for name, part in problem.unflatten(point.gradient).items()}
    expected = dict(parts)
    for (below, above), name in zip(factors, kronecker_layers(problem.module), strict=True):
        inverse_in, inverse_out = (m.numpy() for m in damped_inverses(below, above, 0.3))
        weight = parts[f"{name}weight"]
        matrix = weight.reshape(len(weight), -1)
        biased = f"{name}bias" in parts
        matrix = np.column_stack([matrix, parts[f"{name}bias"]]) if biased else matrix
        found = inverse_out @ matrix @ inverse_in
        expected[f"{name}weight"] = (found[:, :-1] if biased else found).reshape(weight.shape)
        if biased:
            expected[f"{name}bias"] = found[:, -1]
    assert "3.weight" in expected  # BatchNorm's, with the gradient itself
    wanted = x.numpy() - 0.1 * np.concatenate([part.ravel() for part in expected.values()])
    np.testing.assert_allclose(after.numpy(), wanted, rtol=0, atol=1e-12)


def test_damped_inverses_by_eigenvalues():
    rng = np.random.default_rng(0)
    below, above = (m @ m.T for m in (rng.standard_normal((4, 6)), rng.standard_normal((3, 5))))
    pi = np.sqrt(np.trace(below) / 4 / (np.trace(above) / 3))
    found = damped_inverses(torch.from_numpy(below), torch.from_numpy(above), 0.04)
    np.testing.assert_allclose(found[0].numpy(), np.linalg.inv(below + pi * 0.2 * np.eye(4)), rtol=1e-10)
    np.testing.assert_allclose(found[1].numpy(), np.linalg.inv(above + 0.2 / pi * np.eye(3)), rtol=1e-10)


def test_factors_from_sampled_targets_have_the_exact_ones_as_their_mean():
    module = nn.Sequential(nn.Linear(3, 3)).double()
    rng = np.random.default_rng(1)
    problem = TorchProblem(module, SoftmaxCrossEntropy(), rng.standard_normal((6, 3)), rng.integers(0, 3, 6))
    x = problem.initial(rng)
    mean = sum(estimated_factors(problem.at(x), "sampled", rng)[0][1] for _ in range(800)) / 800
    exact = problem.at(x).kronecker_factors()[0]
    np.testing.assert_allclose(mean.numpy(), exact.outputs.numpy(), atol=0.03)
    np.testing.assert_allclose(
        estimated_factors(problem.at(x), "sampled", rng)[0][0].numpy(), exact.inputs.numpy(), rtol=1e-12
    )


def test_factors_are_renewed_and_averaged_and_charged():
    problem = problem_of(convnet())
    x, method = problem.initial(np.random.default_rng(0)), ConvKFAC(0.1, interval=2, ema=0.5)
    states, costs = [method.init(x)], []
    for _ in range(3):
        point = problem.at(x)
        x, state, _ = method.step(point, states[-1])
        states.append(state)
        costs.append(point.counts)
    assert states[2].factors is states[1].factors
    assert not torch.equal(states[3].factors[1][0], states[1].factors[1][0])
    # 9 places of the first layer, 4 of the second, 1 of the third, for each of 7 rows
    forward = 7 * (9 * 19 * 3 + 4 * 12 * 4 + 17 * 3)
    factors = 7 * (9 * (19**2 + 3**2) + 4 * (12**2 + 4**2) + 17**2 + 3**2)
    assert costs[0].loss == int(np.ceil(factors / forward))
    assert (costs[0].gradient, costs[0].vjp) == (1, 1)
    assert costs[1].work == 1.0


def test_refusals_of_kfac():
    with pytest.raises(ValueError, match="damping"):
        ConvKFAC(0.1, damping=0.0)
    with pytest.raises(ValueError, match="targets"):
        ConvKFAC(0.1, targets="exact")
    with pytest.raises(ValueError, match="one group"):
        kronecker_layers(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="dense layers or convolutions"):
        kronecker_layers(nn.BatchNorm2d(3))
    problem = problem_of(convnet())
    point = problem.at(problem.initial(np.random.default_rng(0)))
    _ = point.gradient
    with pytest.raises(ValueError, match="fresh"):
        estimated_factors(point, "given", None)


# -- the study --------------------------------------------------------------------------------------------------------


def test_smoke_record(tmp_path, without_photographs):
    study = ResNet18("resnet18-cifar10")
    path = study.record(tmp_path, scale="smoke", optimizers=["kfac", "curveball"])
    record = json.loads(path.read_text())
    check_record(record)
    assert {run["method"] for run in record["runs"]} == {"kfac", "curveball"}
    assert all("digits" in run["data"] for run in record["runs"])
    assert {run["status"] for run in record["runs"]} == {"budget"}


@pytest.mark.parametrize("scale", SCALES)
def test_settings_are_plain_and_name_every_method(scale):
    settings = EXPERIMENTS["resnet18-cifar10"].settings(scale, None)
    json.dumps(settings)
    for case, plans in settings["plan"].items():
        assert set(plans) == set(settings["methods"][case]) == set(contestants(case, None))
    assert settings["fallback"] == (scale != "full")


def test_schedules_are_as_long_as_the_budget():
    study = ResNet18("resnet18-cifar10")
    settings = study.settings("ci", None)
    for case, plans in settings["plan"].items():
        method = study.race_methods(case, settings)["heavy-ball"]
        assert method.steps == plans["heavy-ball"]["budget"]["work"]


def test_what_is_tuned_and_what_is_not():
    tuned = {name for name, method in contestants("relu", 100).items() if isinstance(method, Tuned)}
    assert tuned == {
        "heavy-ball",
        "adamw",
        "muon",
        "soap",
        "shampoo",
        "kfac",
        "series-2",
        "series-5",
        "lanczos-5-tuned",
    }
    published = contestants("relu", 100)["series-2-published"]
    assert (published.terms, published.order, published.learning_rate) == (2, 0, 0.562)
    assert (published.momentum, published.damping, published.scale, published.guard) == (0.115, 0.00244, 100.0, False)
    with pytest.raises(ValueError, match="unknown case"):
        contestants("tanh", None)


def test_without_photographs_the_full_scale_refuses(without_photographs):
    study = ResNet18("resnet18-cifar10")
    with pytest.raises(DatasetUnavailable):
        study.problem("cifar-stem", study.settings("full", None), "cpu")


def test_papers_numbers():
    assert PAPER_SERIES["adam"] == (0.01125, 3.803, 3.761)
    assert PAPER_SERIES["series-2-published"] == (1.275, 1.497, 1.504)
    assert PAPER_CURVEBALL["curveball"] == (0.7, 15.3)
    assert PAPER_KRYBALL["kryball"] == (0.002, 0.832, 0.822)
