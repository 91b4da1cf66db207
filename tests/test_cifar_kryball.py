"""The CNN of the KryBall thesis and the study of it.

Oracles: the network written once more with ``torch.nn.functional`` and counted by hand; NumPy's means over blocks; the
thesis's table typed once more; the counter of BatchNorm itself; medians by hand; a study that was not interrupted.
"""

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from experiment_cases import Interrupting, stopped_and_continued

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from refimpl.arrays import get_backend  # noqa: E402
from refimpl.experiments import EXPERIMENTS, small_convnets  # noqa: E402
from refimpl.experiments.cifar_kryball import (  # noqa: E402
    CASE,
    MOMENTA,
    PAPER,
    CifarKryBall,
    halved,
    late_phase,
    methods,
)
from refimpl.experiments.records import check_record, provenance  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.experiments.small_convnets import load  # noqa: E402
from refimpl.experiments.training import Tuned, train  # noqa: E402
from refimpl.experiments.watched import curves, table  # noqa: E402
from refimpl.optimizers.kryball import KryBall  # noqa: E402
from refimpl.optimizers.radius import Judged  # noqa: E402
from refimpl.optimizers.stochastic_kryball import StochasticKryBall  # noqa: E402
from refimpl.problems import images  # noqa: E402
from refimpl.problems.datasets import Dataset, DatasetUnavailable, digits  # noqa: E402
from refimpl.problems.models import thesis_cnn  # noqa: E402

PRINTED_TABLE_5_2 = """
adam        0.099  0.782  0.777
heavy-ball  0.111  0.777  0.771
kryball     0.135  0.783  0.762
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


def by_hand(net, x, activation, blocks):
    """The CNN in training mode from the tensors of ``net``."""
    values = list(net.parameters())
    for _ in range(blocks):
        kernel, scale, shift = (values.pop(0) for _ in range(3))
        x = F.conv2d(F.pad(x, (2, 2, 2, 2)), kernel)
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]
        x = activation(x)
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    weight, bias, last, end = values
    return activation(x.reshape(len(x), -1) @ weight.T + bias) @ last.T + end


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 8, 16)])
@pytest.mark.parametrize(
    ("name", "activation"), [("softplus", lambda z: torch.log1p(torch.exp(z))), ("gelu", F.gelu), ("relu", F.relu)]
)
def test_thesis_cnn_is_the_one_of_section_5_2_4(shape, name, activation):
    net = thesis_cnn((3, 4, 5), image_shape=shape, hidden=6, activation=name, seed=3).double()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight)
            torch.nn.init.uniform_(part.bias)
    x = torch.randn(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(net(x).detach(), by_hand(net, x, activation, 3).detach(), rtol=1e-9, atol=1e-11)


def test_thesis_cnn_has_the_parameters_counted_by_hand():
    kernels = sum(25 * a * b for a, b in pairwise((3, 32, 32, 64)))
    normalization = 2 * (32 + 32 + 64)
    linear = 64 * 4 * 4 * 128 + 128 + 128 * 10 + 10
    assert sum(p.numel() for p in thesis_cnn().parameters()) == kernels + normalization + linear


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (10,)}, "at least two layers"),
        ({"channels": (4, 0, 10)}, "every entry of channels"),
        ({"image_shape": (3, 12, 16)}, "multiples of 8"),
        ({"image_shape": (3, 16, 4)}, "multiples of 8"),
        ({"image_shape": (0, 8, 8)}, "every entry of image_shape"),
        ({"hidden": 0}, "hidden"),
        ({"classes": 0}, "classes"),
        ({"activation": "elu"}, "unknown activation 'elu'; choose one of .*gelu"),
        ({"seed": -1}, "seed"),
        ({"backend": get_backend("numpy")}, "torch backend"),
    ],
)
def test_malformed_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        thesis_cnn(**options)


# -- data -------------------------------------------------------------------------------------------------------------


def test_halved_pictures_are_block_means_per_color():
    pixels = np.random.default_rng(0).uniform(size=(7, 3 * 16 * 32)).astype(np.float32)
    parts = (pixels[:4], np.zeros(4, int), pixels[:0], np.zeros(0, int), pixels[4:], np.zeros(3, int))
    found = halved(Dataset("toy", *parts, "here", "none", classes=2, image_shape=(3, 16, 32)))
    assert found.image_shape == (3, 8, 16)
    assert found.train_inputs.dtype == np.float32
    assert found.val_inputs.shape == (0, 3 * 8 * 16)
    wide, small = pixels[4:].reshape(3, 3, 16, 32), found.test_inputs.reshape(3, 3, 8, 16)
    for i, j in ((0, 0), (3, 11), (7, 15)):
        block = wide[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(small[:, :, i, j], block.mean(axis=(2, 3)), rtol=1e-6)


def test_small_pictures_stay_and_others_are_refused():
    data = digits()
    assert halved(data) is data
    with pytest.raises(ValueError, match="plain has no pictures"):
        halved(Dataset("plain", *[np.zeros((0, 4))] * 6, "here", "none"))
    odd = Dataset("odd", *[np.zeros((0, 3 * 15 * 15))] * 6, "here", "none", image_shape=(3, 15, 15))
    with pytest.raises(ValueError, match="even, got 15 x 15"):
        halved(odd)


# -- the study --------------------------------------------------------------------------------------------------------


def test_table_5_2_is_the_printed_one():
    found = {line.split()[0]: tuple(map(float, line.split()[1:])) for line in PRINTED_TABLE_5_2.strip().split("\n")}
    assert found == PAPER


def test_methods_are_the_thesis_s_where_it_says_so():
    found = methods()
    assert found["kryball-published"] == KryBall.published(dimension=5, refresh=3)
    assert found["kryball-refresh-1"] == KryBall.published(dimension=5, refresh=1)
    assert found["kryball"] == KryBall()
    assert found["stochastic-kryball"] == StochasticKryBall()
    assert {found[f"heavy-ball-{mu}"].method.momentum for mu in MOMENTA} == set(MOMENTA)


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_methods_and_seeds(scale):
    study = EXPERIMENTS["cifar-kryball"]
    settings = {"scale": scale, **study.settings(scale, 2)}
    json.dumps(settings)
    jobs = study.jobs(settings)
    wanted = {f"{CASE}/{name}" for name, m in methods().items() if isinstance(m, Tuned)}
    wanted |= {f"{CASE}/{name}/{s}" for name, m in methods().items() if not isinstance(m, Tuned) for s in (0, 1)}
    assert set(jobs) == wanted
    assert len(jobs) == len(wanted)


def test_full_scale_is_the_thesis_s():
    settings = CifarKryBall("c").settings("full", None)
    assert (settings["channels"], settings["batch_size"]) == ([32, 32, 64], 256)
    assert (settings["rows"], settings["halved"], settings["fallback"]) == ([None, None], False, False)
    assert {plan["steps"] for plan in settings["plan"][CASE].values()} == {40 * (50000 // 256)}
    assert settings["looks"] == 41


def test_full_scale_refuses_stand_ins(without_photographs):
    study = CifarKryBall("c")
    with pytest.raises(DatasetUnavailable):
        study.run_job(f"{CASE}/kryball/0", study.settings("full", None), "cpu")


@pytest.mark.parametrize(
    "method",
    [KryBall.published(initial_radius=100.0), KryBall(initial_radius=100.0), StochasticKryBall()],
    ids=["published", "repaired", "stochastic"],
)
def test_trials_and_products_leave_the_statistics_alone(without_photographs, method):
    study = CifarKryBall("c")
    settings = study.settings("smoke", 1)
    problem = study.problem(CASE, settings, "cpu")
    parts = [part for part in problem.module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    run = train(problem, method, study.start(problem, 0), steps=4, seed=0, looks=[2])
    assert run["steps"] == 4
    assert run["status"] == "budget"
    assert [int(part.num_batches_tracked) for part in parts] == [4, 4, 4]


class Refusing(KryBall):
    """No trial is good enough."""

    def judged(self, x, loss, trial, predicted_change, step_norm, radius):
        return Judged(False, radius / 2, -1.0)


def test_a_refused_step_moves_the_statistics_once_and_nothing_else(without_photographs):
    study = CifarKryBall("c")
    problem = study.problem(CASE, study.settings("smoke", 1), "cpu")
    (part,) = [p for p in problem.module.modules() if isinstance(p, torch.nn.BatchNorm2d)][:1]
    x = study.start(problem, 0)
    point = problem.at(x, problem.draw(np.random.default_rng(0)))
    method = Refusing(retries=3)
    found = method.step(point, method.init(x))
    assert found.info.refused == 4
    assert torch.equal(found.x, x)
    assert int(part.num_batches_tracked) == 1
    first = next(iter(problem.unflatten(x).values()))
    maps = F.conv2d(problem.inputs[point.sample.indices], first, padding=2)
    np.testing.assert_allclose(part.running_mean, 0.1 * maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


# -- reading ----------------------------------------------------------------------------------------------------------


def typed(seed, test_errors, status="budget", **columns):
    steps = list(range(0, 10 * len(test_errors), 10))
    curve = {"step": steps, "loss": test_errors, "error": test_errors, "test_error": test_errors, "work": steps,
             "seconds": steps, **columns}  # fmt: skip
    return {"key": f"{CASE}/m/{seed}", "case": CASE, "method": "m", "role": "run", "seed": seed, "status": status,
            "steps": steps[-1], "loss": test_errors[-1], "curve": curve}  # fmt: skip


def record_of(*runs):
    record = {"schema": 1, "experiment": "e", "settings": {}, "runs": list(runs), "provenance": provenance()}
    check_record(record)
    return record


def test_late_phase_is_that_of_the_last_looks_within_a_run():
    runs = [
        typed(0, [0.9, 0.5, 0.2, 0.4], refused=[None, 9.0, 4.0, 2.0], unmoved=[None, 9.0, 1.0, 1.0]),
        typed(1, [0.9, 0.5, 0.3, 0.3], refused=[None, 9.0, 0.0, 0.0], unmoved=[None, 9.0, 0.0, 0.0]),
        typed(2, [0.9, 0.1, 0.6, 0.2], refused=[None, 9.0, 8.0, 4.0], unmoved=[None, 9.0, 4.0, 2.0]),
        typed(3, [0.9, 0.9], status="diverged"),
    ]
    found = late_phase(record_of(*runs), "m", share=0.5)
    assert found == pytest.approx((0.7, 0.1, 0.1, 6 / 20, 2 / 20))
    assert np.isnan(late_phase(record_of(typed(0, [0.9, 0.5, 0.2, 0.4])), "m").refused)
    with pytest.raises(ValueError, match="no run of m came to its end"):
        late_phase(record_of(runs[-1]), "m")
    with pytest.raises(ValueError, match="share"):
        late_phase(record_of(runs[0]), "m", share=1.0)


@dataclass(frozen=True)
class Interrupted(Interrupting, CifarKryBall):
    """The study, which can be stopped."""


def test_smoke_record_and_how_it_is_continued(without_photographs, tmp_path):
    record = stopped_and_continued(Interrupted, "cifar-kryball", f"{CASE}/kryball/0", tmp_path)
    assert all(run["data"].startswith("digits: ") for run in record["runs"])
    assert [row[0] for row in table(record, CASE)] == list(methods())
    starts = {run["curve"]["loss"][0] for run in record["runs"] if run["role"] == "run"}
    assert len(starts) == 1
    np.testing.assert_array_equal(curves(record, CASE, x="epoch")["kryball"].x, [0, 1, 2])
    assert late_phase(record, "kryball").refused >= 0

    again = CifarKryBall("c").run_job(f"{CASE}/kryball-published/0", record["settings"], "cpu")
    kept = next(run for run in record["runs"] if run["key"] == f"{CASE}/kryball-published/0")
    assert float(f"{again[0]['loss']:.7g}") == kept["loss"]
