"""Random CNNs and the study of fifty of them.

Oracles: the rule of the paper's appendix counted over many draws; the network written once more with
``torch.nn.functional``; NumPy's quantiles on a record typed here; a study that was not interrupted for one that was.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from experiment_cases import Interrupting
from scipy import stats

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from refimpl.arrays import as_generator, get_backend  # noqa: E402
from refimpl.experiments import random_architectures as study  # noqa: E402
from refimpl.experiments.random_architectures import (  # noqa: E402
    TABLE_HEADER,
    RandomArchitectures,
    methods,
    quartiles,
    table,
)
from refimpl.experiments.records import provenance_line, read_record  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.problems.models import Architecture, draw_architecture, random_cnn  # noqa: E402

# -- architectures ----------------------------------------------------------------------------------------------------


def test_draws_follow_the_rule_of_the_paper():
    rng = np.random.default_rng(0)
    drawn = [draw_architecture(rng) for _ in range(2000)]
    depths = np.array([len(a.channels) + 1 for a in drawn])
    assert set(depths) == set(range(3, 11))
    assert stats.chisquare(np.bincount(depths)[3:]).pvalue > 1e-3
    channels = np.concatenate([a.channels for a in drawn])
    assert set(channels) == {32, 64, 128, 256}
    assert stats.chisquare(np.unique(channels, return_counts=True)[1]).pvalue > 1e-3
    pooled = np.concatenate([a.pooled for a in drawn])
    assert stats.binomtest(int(pooled.sum()), len(pooled), 0.5).pvalue > 1e-3
    assert all(len(a.channels) == len(a.pooled) for a in drawn)


def test_a_seed_is_an_architecture():
    assert draw_architecture(7) == draw_architecture(np.random.default_rng(7))
    assert len({draw_architecture(seed) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rng": -1}, "seed"),
        ({"layers": (1, 3)}, "layers"),
        ({"layers": (5, 3)}, "ascending order"),
        ({"channels": (64, 32)}, "ascending order"),
        ({"channels": (3, 32)}, "powers of two"),
        ({"channels": (4, 24)}, "powers of two"),
        ({"channels": (0, 4)}, "channels"),
    ],
)
def test_malformed_rules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        draw_architecture(**{"rng": 0, **options})


@pytest.mark.parametrize("seed", range(4))
def test_random_cnn_is_its_architecture(seed):
    drawn = draw_architecture(seed, channels=(2, 8))
    net = random_cnn(drawn, image_shape=(3, 9, 12), classes=5, seed=seed).double()
    x = torch.randn(6, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts, layer, expected = dict(net.named_parameters()), 0, x
    for channels, pooled in zip(drawn.channels, drawn.pooled, strict=True):
        expected = F.conv2d(expected, parts[f"{layer}.weight"], parts[f"{layer}.bias"], padding=1)
        assert expected.shape[1] == channels
        expected = torch.clamp(expected, min=0)
        mean = expected.mean(dim=(0, 2, 3), keepdim=True)
        variance = expected.var(dim=(0, 2, 3), keepdim=True, correction=0)
        expected = (expected - mean) / torch.sqrt(variance + 1e-5)  # scale 1, shift 0 at the start
        layer += 3
        if pooled:
            padded = F.pad(expected, (1, 1, 1, 1), value=-torch.inf)
            expected = F.max_pool2d(padded, 3, stride=2)
            layer += 1
    expected = F.conv2d(expected, parts[f"{layer}.weight"], parts[f"{layer}.bias"], padding=1).mean(dim=(2, 3))
    assert len(parts) == 4 * len(drawn.channels) + 2
    np.testing.assert_allclose(net(x).detach(), expected.detach(), rtol=1e-8, atol=1e-10)


def test_random_cnn_draws_for_itself():
    first, second = (random_cnn(how, image_shape=(1, 8, 8)) for how in (3, draw_architecture(3)))
    assert str(first) == str(second)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (Architecture((4, 4), (True,)), {}, "as many poolings"),
        (Architecture((4,), (True,)), {"classes": 0}, "classes"),
        (Architecture((4,), (True,)), {"backend": get_backend("numpy")}, "torch backend"),
    ],
)
def test_malformed_networks_are_refused(architecture, options, message):
    with pytest.raises(ValueError, match=message):
        random_cnn(architecture, **options)


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted(Interrupting, RandomArchitectures):
    """The study, which can be stopped."""


@pytest.mark.parametrize("scale", SCALES)
def test_one_job_per_architecture(scale):
    study = RandomArchitectures("r")
    settings = {"scale": scale, **study.settings(scale, None)}
    json.dumps(settings)
    assert study.jobs(settings) == [str(k) for k in range(3 if scale == "smoke" else 50)]
    fewer = {"scale": scale, **study.settings(scale, 2)}
    assert study.jobs(fewer) == ["0", "1"]
    assert study.job_settings("1", fewer) == study.job_settings("1", settings)


def test_full_scale_is_the_paper_s():
    settings = RandomArchitectures("r").settings("full", None)
    assert (settings["architectures"], settings["data"], settings["batch_size"]) == (50, "cifar10", 256)
    assert (settings["layers"], settings["channels"]) == ([3, 10], [32, 256])


def test_record_and_how_it_is_continued(tmp_path):
    first = Interrupted("random-architectures", stop="1")
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(tmp_path, scale="smoke")
    second = Interrupted("random-architectures")
    second.record(tmp_path, scale="smoke")
    assert (first.ran, second.ran) == (["0"], ["1", "2"])
    record = read_record("random-architectures", tmp_path)
    assert "Recorded " in provenance_line(record)
    assert [run["key"] for run in record["runs"]] == [f"{k}/{name}" for k in range(3) for name in methods()]
    for run in record["runs"]:
        drawn = draw_architecture(int(run["case"]), channels=(4, 8))
        assert run["architecture"] == {"channels": list(drawn.channels), "pooled": list(drawn.pooled)}
        assert (run["status"], run["steps"]) == ("budget", 4)
        assert run["data"].startswith("digits: ")
        assert run["curve"]["step"] == [0, 2, 4]
        net = random_cnn(drawn, image_shape=(1, 8, 8))
        assert run["parameters"] == sum(p.numel() for p in net.parameters())
    work = {run["method"]: run["curve"]["work"][-1] for run in record["runs"]}
    assert work["adam@0.01"] == work["heavy-ball@0.1"] == 4
    assert work["curveball"] == pytest.approx(4 * 7 / 3 - 2 / 3 + 1 / 3, rel=1e-6)
    # Steps of 0.0001 and 0.001 of Adam begin at the same place on the same minibatch.
    alike = [run["curve"] for run in record["runs"] if run["method"] in ("adam@0.001", "adam@0.0001")]
    assert abs(alike[0]["batch_loss"][1] - alike[1]["batch_loss"][1]) < 0.05
    assert len(table(record)) == len(methods())
    again = RandomArchitectures("random-architectures").run_job("1", record["settings"], "cpu")
    kept = [run["loss"] for run in record["runs"] if run["case"] == "1"]
    assert [float(f"{run['loss']:.7g}") for run in again] == kept


def test_every_method_starts_where_the_seed_of_the_architecture_says(monkeypatch):
    seen = []

    def watch(problem, method, x, **options):
        seen.append(options["seed"])
        assert torch.equal(x, problem.initial(as_generator([1, 0])))
        curve = {key: [] for key in study._KEPT}
        return {"status": "failed", "message": "", "steps": 0, "loss": np.nan, "curve": curve}

    monkeypatch.setattr(study, "train", watch)
    settings = RandomArchitectures("r").settings("smoke", None)
    runs = RandomArchitectures("r").run_job("1", settings, "cpu")
    assert seen == [1] * len(methods())
    assert {run["error"] for run in runs} == {None}


@pytest.mark.parametrize("options", [{"scale": "paper"}, {"seeds": 0}])
def test_malformed_requests_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=next(iter(options))):
        RandomArchitectures("r").record(tmp_path, **{"scale": "smoke", **options})


# -- reading a record -------------------------------------------------------------------------------------------------


def typed(method, errors, case=0, status="budget"):
    steps = [0, 5, 10][: len(errors)]
    curve = {"step": steps, "batch_error": errors, "batch_loss": errors, "work": [2 * k for k in steps],
             "seconds": [3 * k + case for k in steps]}  # fmt: skip
    return {"key": f"{case}/{method}", "case": str(case), "method": method, "status": status, "curve": curve}


RECORD = {
    "runs": [
        *(typed("a", [None, 0.9 - 0.1 * k, 0.5 - 0.1 * k], k) for k in range(5)),
        *(typed("b", [None, 0.8, 0.3], k) for k in range(4)),
        typed("b", [None, 0.8], 4, "diverged"),
    ]
}


def test_quartiles_over_architectures():
    found = quartiles(RECORD, "a", x="seconds")
    np.testing.assert_array_equal(found.x, [17, 32])
    np.testing.assert_allclose([found.low, found.middle, found.high], [[0.6, 0.2], [0.7, 0.3], [0.8, 0.4]])
    found = quartiles(RECORD, "b")
    np.testing.assert_array_equal(found.x, [5, 10])
    assert found.middle.tolist() == [0.8, 0.3]
    with pytest.raises(ValueError, match=r"no method 'c'; it has \['a', 'b'\]"):
        quartiles(RECORD, "c")


def test_table_counts_who_is_first_and_who_failed():
    a, b = table(RECORD)
    assert len(a) == len(TABLE_HEADER)
    np.testing.assert_allclose(a[1:4], [30, 20, 40])
    np.testing.assert_allclose(b[1:4], [30, 30, 30])
    assert (a[4], b[4]) == (3, 3)  # a: 0.3 (shared), 0.2, 0.1; b: 0.3 three times, once shared
    assert (a[5], a[6]) == (20, 32)
    assert (a[-1], b[-1]) == ("0 of 5", "1 of 5")
