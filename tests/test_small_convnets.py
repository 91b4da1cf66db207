"""The basic CNN and the study of it.

Oracles: the network written once more with ``torch.nn.functional`` and counted by hand; means and deviations by NumPy;
the paper's table typed once more from the print; a study that was not interrupted for one that was.
"""

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from experiment_cases import Interrupting

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from refimpl.arrays import as_generator, get_backend  # noqa: E402
from refimpl.experiments import small_convnets  # noqa: E402
from refimpl.experiments.records import provenance_line, read_record  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.experiments.small_convnets import (  # noqa: E402
    CASES,
    PAPER_TABLE_2,
    SmallConvnets,
    load,
    methods,
    picture_problem,
    standardized,
)
from refimpl.experiments.training import Tuned, one_thread, table, train  # noqa: E402
from refimpl.optimizers.curveball import CurveBall  # noqa: E402
from refimpl.optimizers.gradient_descent import HeavyBall  # noqa: E402
from refimpl.problems import images  # noqa: E402
from refimpl.problems.datasets import DatasetUnavailable, digits, mnist1d  # noqa: E402
from refimpl.problems.models import basic_cnn  # noqa: E402

PRINTED_TABLE_2 = """
curveball        14.1/19.9  7.6/16.3
curveball-fixed  15.3/19.3  9.4/15.8
heavy-ball       18.9/21.1  10.0/16.1
adam             15.7/19.7  9.6/16.1
"""


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


# -- the network ------------------------------------------------------------------------------------------------------


def by_hand(net, x, batch_norm):
    """The basic CNN in evaluation mode from the tensors of ``net``."""
    parts = net.state_dict()
    weights = [value for name, value in parts.items() if value.ndim == 4]
    names = [name.split(".")[0] for name, value in parts.items() if value.ndim == 4]
    for index, (weight, name) in enumerate(zip(weights, names, strict=True)):
        x = F.conv2d(x, weight, parts.get(f"{name}.bias"), padding=2)
        if index == len(weights) - 1:
            return x.mean(dim=(2, 3))
        if batch_norm:
            n = str(int(name) + 1)
            kind = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(parts[f"{n}.{k}"] for k in kind), training=False)
        x = torch.clamp(x, min=0)
        if index < 3:
            x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-1.0), 3, stride=2)  # ReLU's outputs are above -1
    return None


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 5, 7)])
def test_basic_cnn_is_the_one_of_footnote_5(batch_norm, shape):
    net = basic_cnn((4, 5, 6, 7, 10), image_shape=shape, batch_norm=batch_norm, seed=3).double()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(part.weight)
            torch.nn.init.uniform_(part.bias)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net.eval()
    np.testing.assert_allclose(net(x).detach(), by_hand(net, x, batch_norm), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_basic_cnn_has_the_parameters_counted_by_hand(batch_norm):
    widths = (3, 32, 32, 64, 64, 10)
    weights = sum(25 * a * b for a, b in pairwise(widths))
    rest = 10 + (2 if batch_norm else 1) * sum(widths[1:-1])
    assert sum(p.numel() for p in basic_cnn(batch_norm=batch_norm).parameters()) == weights + rest


def test_pictures_shrink_to_the_sizes_of_three_poolings():
    x, sizes = torch.zeros(1, 3, 32, 32), []
    for layer in basic_cnn():
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            sizes.append(tuple(x.shape[2:]))
    assert sizes == [(16, 16), (8, 8), (4, 4)]
    assert tuple(x.shape) == (1, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (10,)}, "at least two layers"),
        ({"channels": "12"}, "at least two layers"),
        ({"channels": (4, 0, 10)}, "every entry of channels"),
        ({"image_shape": (0, 8, 8)}, "channels of the picture"),
        ({"seed": -1}, "seed"),
        ({"backend": get_backend("numpy")}, "torch backend"),
    ],
)
def test_malformed_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        basic_cnn(**options)


# -- data and problem -------------------------------------------------------------------------------------------------


def test_pixels_are_standardized_by_the_training_pictures():
    data = digits()
    train_pictures, test_pictures = standardized(data)
    assert train_pictures.shape == (1197, 1, 8, 8)
    assert train_pictures.dtype == test_pictures.dtype == np.float32
    assert abs(train_pictures.mean(dtype=float)) < 1e-5
    assert train_pictures.std(dtype=float) == pytest.approx(1, rel=1e-5)
    expected = (data.test_inputs - data.train_inputs.mean()) / data.train_inputs.std()
    np.testing.assert_allclose(test_pictures.reshape(300, -1), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="mnist1d has no pictures"):
        standardized(mnist1d())


def test_each_color_has_its_own_scale():
    rng = np.random.default_rng(0)
    size, shift = (np.array(values)[:, None, None] for values in ((1, 2, 3), (5, 0, 1)))
    pictures = rng.standard_normal((50, 3, 4, 4)) * size + shift
    flat = pictures.reshape(50, -1)
    fake = type("Data", (), {"image_shape": (3, 4, 4), "train_inputs": flat, "test_inputs": flat})
    found, _ = standardized(fake)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), 1, rtol=1e-5)


def small_problem(batch_norm):
    backend = get_backend("torch", "float64")
    net = basic_cnn((3, 3, 3, 3, 10), image_shape=(1, 8, 8), batch_norm=batch_norm, backend=backend)
    return picture_problem(net, digits(), 32, backend)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_curveball_on_the_cnn_costs_what_it_should(batch_norm):
    problem = small_problem(batch_norm)
    run = train(problem, CurveBall(), problem.initial(as_generator(0)), steps=6, seed=0, looks=[3])
    assert run["status"] == "budget"
    np.testing.assert_allclose(run["curve"]["work"][-1], 6 * 7 / 3 - 2 / 3 + 2 / 3, rtol=1e-12)
    assert run["curve"]["batch_loss"][-1] < run["curve"]["loss"][0]


def test_statistics_advance_once_per_step_and_belong_to_one_run(without_photographs):
    problem = small_problem(True)
    (part,) = [m for m in problem.module.modules() if isinstance(m, torch.nn.BatchNorm2d)][:1]
    assert int(part.num_batches_tracked) == 0
    train(problem, CurveBall(), problem.initial(as_generator(0)), steps=6, seed=0, looks=[3])
    assert int(part.num_batches_tracked) == 6
    study = SmallConvnets("s")
    twice = [study.problem("basic-batch-norm", study.settings("smoke", 1), "cpu") for _ in range(2)]
    assert twice[0].module is not twice[1].module


def test_start_does_not_depend_on_the_method_nor_on_torch_s_seed():
    torch.manual_seed(1)
    first = small_problem(True).initial(as_generator([4, 0]))
    torch.manual_seed(2)
    assert torch.equal(first, small_problem(True).initial(as_generator([4, 0])))
    assert not torch.equal(first, small_problem(True).initial(as_generator([5, 0])))


def test_one_thread_is_put_back():
    before = torch.get_num_threads()
    with one_thread("cpu"):
        assert torch.get_num_threads() == 1
    with one_thread("cuda"):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


# -- the study --------------------------------------------------------------------------------------------------------


def test_table_2_is_the_printed_one():
    found = {}
    for line in PRINTED_TABLE_2.split("\n"):
        if line:
            name, *pairs = line.split()
            for case, pair in zip(CASES, pairs, strict=True):
                found[case, name] = tuple(float(v) for v in pair.split("/"))
    assert found == PAPER_TABLE_2
    assert {name for _, name in found} == set(methods("basic"))


def test_dampings_are_the_paper_s():
    for case, damping in zip(CASES, (10.0, 1.0), strict=True):
        found = methods(case)
        assert found["curveball"] == CurveBall(initial_damping=damping)
        assert found["curveball-fixed"] == CurveBall(initial_damping=damping, adapt_every=0)
        assert found["heavy-ball"].method.momentum == 0.9
        for name in ("heavy-ball", "adam"):
            assert all(np.log10(rate) == round(np.log10(rate)) for rate in found[name].rates)
    with pytest.raises(ValueError, match="unknown case 'resnet'"):
        methods("resnet")


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_cases_methods_and_seeds(scale):
    study = SmallConvnets("s")
    settings = {"scale": scale, **study.settings(scale, 2)}
    json.dumps(settings)
    wanted = set()
    for case in CASES:
        wanted |= {f"{case}/{name}" for name, m in methods(case).items() if isinstance(m, Tuned)}
        wanted |= {f"{case}/{n}/{s}" for n, m in methods(case).items() if not isinstance(m, Tuned) for s in (0, 1)}
    jobs = study.jobs(settings)
    assert set(jobs) == wanted
    assert len(jobs) == len(wanted)
    one = study.job_settings("basic/adam", settings)
    assert one["plan"] == settings["plan"]["basic"]["adam"]


def test_full_scale_is_the_paper_s():
    settings = SmallConvnets("s").settings("full", None)
    assert settings["channels"] == [32, 32, 64, 64, 10]
    assert (settings["batch_size"], settings["rows"], settings["fallback"]) == (128, [None, None], False)
    steps = {plan["steps"] for plans in settings["plan"].values() for plan in plans.values()}
    assert steps == {20 * round(50000 / 128)} == {7820}


def test_full_scale_refuses_stand_ins(without_photographs):
    study = SmallConvnets("s")
    with pytest.raises(DatasetUnavailable):
        study.run_job("basic/curveball/0", study.settings("full", None), "cpu")


@dataclass(frozen=True)
class Interrupted(Interrupting, SmallConvnets):
    """The study, which can be stopped."""


def test_smoke_record_and_how_it_is_continued(without_photographs, tmp_path, capsys):
    first = Interrupted("small-convnets", stop="basic-batch-norm/curveball/0")
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(tmp_path, scale="smoke")
    assert "CIFAR-10 is not available here" in capsys.readouterr().out
    second = Interrupted("small-convnets")
    second.record(tmp_path, scale="smoke")
    jobs = second.jobs(second.settings("smoke", None))
    assert len(first.ran) == 4
    assert second.ran == jobs[4:]
    record = read_record("small-convnets", tmp_path)
    assert "Recorded " in provenance_line(record)
    for run in record["runs"]:
        assert run["status"] in ("budget", "diverged")
        assert run["data"].startswith("digits: ")
        assert "stands in for CIFAR-10" in run["data"]
    for case in CASES:
        starts = {run["seed"]: set() for run in record["runs"]}
        for run in record["runs"]:
            if run["case"] == case:
                starts[run["seed"]].add(run["curve"]["loss"][0])
        assert all(len(losses) == 1 for losses in starts.values())
    rows = table(record)
    assert [tuple(row[:2]) for row in rows] == [(case, name) for case in CASES for name in methods(case)]
    fixed = [run for run in record["runs"] if run["method"] == "curveball-fixed"]
    assert {run["curve"]["damping"][-1] for run in fixed} == {1.0, 10.0}

    again = SmallConvnets("small-convnets").run_job(jobs[0], record["settings"], "cpu")
    kept = next(run for run in record["runs"] if run["key"] == jobs[0])
    assert float(f"{again[0]['loss']:.7g}") == kept["loss"]  # the interrupted record holds what a fresh run gives


def test_learning_rates_replace_the_one_of_the_method():
    tuned = methods("basic")["heavy-ball"]
    assert tuned.at(0.25) == HeavyBall(learning_rate=0.25, momentum=0.9)
