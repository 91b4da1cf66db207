"""Pictures of bytes as a problem.

Oracles: each picture padded, cut and mirrored by plain NumPy slicing and scaled with NumPy's mean and deviation, given
to :class:`TorchProblem` as numbers; central differences.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refimpl import get_backend, minimize  # noqa: E402
from refimpl.experiments.training import train  # noqa: E402
from refimpl.optimizers.curveball import CurveBall  # noqa: E402
from refimpl.optimizers.gradient_descent import GradientDescent  # noqa: E402
from refimpl.problems import image_problem  # noqa: E402
from refimpl.problems.image_problem import Crops, ImageProblem, color_scaling  # noqa: E402
from refimpl.problems.losses import SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.models import resnet18, small_convnet  # noqa: E402
from refimpl.problems.sampling import Minibatch  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402

DOUBLE = get_backend("torch")
SHAPE = (3, 6, 8)
RNG = np.random.default_rng(0)
PIXELS, LABELS = RNG.integers(0, 256, (20, *SHAPE), dtype=np.uint8), RNG.integers(0, 4, 20)
PIXELS[:, 1] //= 3  # colors with scales of their own
TEST = RNG.integers(0, 256, (7, *SHAPE), dtype=np.uint8), RNG.integers(0, 4, 7)
ROUTES = ["kept-graph", "forward-over-reverse"]


def module(batch_norm=False, backend=DOUBLE):
    return small_convnet(
        image_shape=SHAPE, channels=(3, 4), classes=4, activation="softplus", batch_norm=batch_norm, backend=backend
    )


def problem(**options):
    options = {"batch_size": 5, "test": TEST, "augment": "crop-flip", "padding": 2, **options}
    return ImageProblem(options.pop("module", None) or module(), SoftmaxCrossEntropy(), PIXELS, LABELS, **options)


def scaled(pixels):
    axes = (0, 2, 3)
    mean, deviation = PIXELS.astype(float).mean(axes), PIXELS.astype(float).std(axes)
    return (pixels - mean[:, None, None]) / deviation[:, None, None]


def changed(sample, padding=2):
    """Pictures of a sample by slicing, one after the other."""
    found = []
    for row, top, left, flip in zip(*sample, strict=True):
        padded = np.pad(PIXELS[row], ((0, 0), (padding, padding), (padding, padding)))
        window = padded[:, top : top + SHAPE[1], left : left + SHAPE[2]]
        found.append(window[:, :, ::-1] if flip else window)
    return np.stack(found)


def reference(pixels, labels, **options):
    return TorchProblem(module(**options), SoftmaxCrossEntropy(), scaled(pixels), labels)


def assert_close(found, expected, rtol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-12)


# -- what the module sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["crop-flip", "crop"])
def test_pictures_are_cut_and_mirrored_as_by_slicing(augment):
    net = problem(augment=augment)
    rng = np.random.default_rng(1)
    seen = []
    for _ in range(12):
        sample = net.draw(rng)
        assert isinstance(sample, Crops)
        inputs, labels = net._rows(sample)
        np.testing.assert_allclose(inputs, scaled(changed(sample)), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(labels, LABELS[sample.indices])
        seen.append(sample)
    tops, lefts, flips = (np.concatenate([getattr(s, name) for s in seen]) for name in ("tops", "lefts", "flips"))
    assert set(tops) == set(lefts) == set(range(5))
    assert set(flips) == ({0, 1} if augment == "crop-flip" else {0})


def test_the_middle_window_is_the_picture_itself():
    rows = np.asarray([3, 1, 7])
    middle = np.full(3, 2)
    still = Crops(rows, middle, middle, np.zeros(3, int))
    mirrored = still._replace(flips=np.ones(3, int))
    net = problem()
    plain, _ = net._rows(Minibatch(rows))
    np.testing.assert_allclose(plain, scaled(PIXELS[rows]), rtol=1e-12, atol=1e-12)
    assert torch.equal(net._rows(still)[0], plain)
    assert torch.equal(net._rows(mirrored)[0], plain.flip(3))


def test_outside_of_a_picture_it_is_black():
    sample = Crops(np.asarray([0]), np.asarray([0]), np.asarray([4]), np.asarray([0]))
    inputs, _ = problem()._rows(sample)
    black = torch.from_numpy(scaled(np.zeros((1, *SHAPE))))
    assert_close(inputs[:, :, :2], black[:, :, :2])
    assert_close(inputs[..., -2:], black[..., -2:])
    np.testing.assert_allclose(inputs[0, :, 2:, :-2], scaled(PIXELS[:1])[0, :, :4, 2:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_the_oracle_is_that_of_the_changed_pictures(route, batch_norm):
    net = problem(module=module(batch_norm), route=route)
    rng = np.random.default_rng(2)
    x, sample = net.initial(rng), net.draw(rng)
    point = net.at(x, sample)
    other = reference(changed(sample), LABELS[sample.indices], batch_norm=batch_norm).at(x)
    v = torch.from_numpy(rng.standard_normal(net.n))
    for ask in (
        lambda p: p.loss,
        lambda p: p.gradient,
        lambda p: p.outputs,
        lambda p: p.hvp(v),
        lambda p: p.ggnvp(v),
        lambda p: p.loss_at(x + 0.1 * v),
        lambda p: p.beside(x + 0.1 * v).gradient,
    ):
        assert_close(ask(point), ask(other))


@pytest.mark.parametrize("route", ROUTES)
def test_everything_at_a_point_sees_the_same_pictures(route):
    net = problem(route=route)
    rng = np.random.default_rng(3)
    x, sample = net.initial(rng), net.draw(rng)
    point = net.at(x, sample)
    assert torch.equal(point.loss_at(x), point.loss)
    v, w = (torch.from_numpy(rng.standard_normal(net.n)) for _ in range(2))
    assert float(w @ point.hvp(v)) == pytest.approx(float(v @ point.hvp(w)), rel=1e-10)
    h = 1e-5
    differences = (point.beside(x + h * v).gradient - point.beside(x - h * v).gradient) / (2 * h)
    assert float((point.hvp(v) - differences).norm() / differences.norm()) < 1e-6


def test_without_a_sample_every_picture_counts_as_it_is():
    net, other = problem(), reference(PIXELS, LABELS)
    x = net.initial(np.random.default_rng(4))
    assert_close(net.loss(x), other.loss(x))
    assert_close(net.at(x).gradient, other.at(x).gradient)


def test_evaluate_sees_whole_sets_as_they_are(monkeypatch):
    net = problem(module=module(True))
    other = TorchProblem(module(True), SoftmaxCrossEntropy(), scaled(PIXELS), LABELS, test=(scaled(TEST[0]), TEST[1]))
    x = net.initial(np.random.default_rng(5))
    expected = other.evaluate(x)
    assert set(expected) == {"loss", "accuracy", "test_loss", "test_accuracy"}
    for numbers in (2**25, 3 * int(np.prod(SHAPE)), 1):  # in one piece, three pictures at a time, one at a time
        monkeypatch.setattr(image_problem, "_LARGEST_PIECE", numbers)
        for name, value in net.evaluate(x).items():
            assert_close(value, expected[name])


# -- samples ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_sample_and_rows_as_without_augmentation():
    draws = [problem(augment=augment).draw(np.random.default_rng(6)) for augment in ("crop-flip", "crop-flip", None)]
    for one, other in zip(draws[0], draws[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert type(draws[2]) is Minibatch
    np.testing.assert_array_equal(draws[0].indices, draws[2].indices)


def test_a_full_batch_can_be_augmented():
    net = problem(batch_size=None)
    sample = net.draw(np.random.default_rng(7))
    np.testing.assert_array_equal(sample.indices, np.arange(20))
    assert len(set(sample.tops)) > 1
    assert problem(batch_size=None, augment=None).draw(np.random.default_rng(7)) is None


def test_windows_and_mirrors_are_equally_likely():
    net = problem(batch_size=20)
    rng = np.random.default_rng(8)
    samples = [net.draw(rng) for _ in range(100)]
    for name, kinds in (("tops", 5), ("lefts", 5), ("flips", 2)):
        counts = np.bincount(np.concatenate([getattr(s, name) for s in samples]), minlength=kinds)
        expected = 2000 / kinds
        assert ((counts - expected) ** 2 / expected).sum() < 25  # chi-square with at most 4 degrees of freedom


# -- storage and scaling ----------------------------------------------------------------------------------------------


def test_the_stored_set_takes_one_byte_per_pixel_and_is_its_own():
    pixels = torch.from_numpy(PIXELS.copy())
    net = ImageProblem(module(), SoftmaxCrossEntropy(), pixels, LABELS)
    assert net.inputs.untyped_storage().nbytes() == PIXELS.size
    pixels.zero_()
    np.testing.assert_array_equal(net.inputs, PIXELS)
    host = PIXELS.copy()
    net = ImageProblem(module(), SoftmaxCrossEntropy(), host, LABELS)
    host[:] = 0
    np.testing.assert_array_equal(net.inputs, PIXELS)


@pytest.mark.parametrize("piece", [1, 10**9])
def test_scaling_is_numpy_s_mean_and_deviation(piece, monkeypatch):
    monkeypatch.setattr(image_problem, "_LARGEST_PIECE", piece)
    means, deviations = color_scaling(torch.from_numpy(PIXELS))
    np.testing.assert_allclose(means, PIXELS.astype(float).mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(deviations, PIXELS.astype(float).std((0, 2, 3)), rtol=1e-12)


def test_a_color_that_never_changes_has_deviation_one():
    pixels = PIXELS.copy()
    pixels[:, 2] = 9
    net = ImageProblem(module(), SoftmaxCrossEntropy(), pixels, LABELS)
    assert (float(net.means[2]), float(net.deviations[2])) == (9.0, 1.0)
    assert not net._rows(None)[0][:, 2].any()


def test_scaling_can_be_given():
    given = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    inputs, _ = problem(scaling=given)._rows(None)
    mean, deviation = (np.asarray(part)[:, None, None] for part in given)
    np.testing.assert_allclose(inputs, (PIXELS - mean) / deviation, rtol=1e-12)


@pytest.mark.parametrize("augment", ["crop-flip", None])
def test_channels_last_gives_the_same_numbers(augment):
    plain, last = (problem(channels_last=wanted, augment=augment) for wanted in (False, True))
    rng = np.random.default_rng(9)
    x, sample = plain.initial(rng), plain.draw(rng)
    one, other = (net._rows(sample)[0] for net in (plain, last))
    assert torch.equal(one, other)
    assert one.is_contiguous()
    assert other.is_contiguous(memory_format=torch.channels_last)
    v = torch.from_numpy(rng.standard_normal(plain.n))
    for ask in (lambda p: p.loss, lambda p: p.gradient, lambda p: p.hvp(v), lambda p: p.ggnvp(v)):
        assert_close(ask(plain.at(x, sample)), ask(last.at(x, sample)))


def test_float32_on_a_cpu_keeps_the_usual_layout():
    backend = get_backend("torch", "float32", "cpu")
    net = resnet18(width=4, image_shape=SHAPE, classes=4, backend=backend)
    one = ImageProblem(net, SoftmaxCrossEntropy(), PIXELS, LABELS, batch_size=5, channels_last=True)
    rng = np.random.default_rng(10)
    point = one.at(one.initial(rng), one.draw(rng))
    assert one._rows(None)[0].is_contiguous()
    assert torch.isfinite(point.hvp(torch.ones(one.n))).all()


# -- runs -------------------------------------------------------------------------------------------------------------


def test_methods_train_on_it_and_a_run_repeats_itself():
    for method in (CurveBall(), GradientDescent(0.05)):
        first, again = (minimize(problem(), method, steps=4, seed=3) for _ in range(2))
        assert torch.equal(first.x, again.x)
    net = problem()
    run = train(net, CurveBall(), net.initial(np.random.default_rng(0)), steps=25, seed=0, looks=[])
    assert run["curve"]["loss"][-1] < run["curve"]["loss"][0]
    assert 0 <= run["curve"]["batch_error"][-1] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "mirror"}, "unknown augment 'mirror'"),
        ({"padding": 0}, "padding"),
        ({"pixels": PIXELS / 255}, r"bytes .*got torch.float64 \(20, 3, 6, 8\)"),
        ({"pixels": PIXELS[:, 0]}, "bytes"),
        ({"pixels": PIXELS[:0], "labels": LABELS[:0]}, "at least one row"),
        ({"labels": LABELS[:4]}, "20"),
        ({"labels": LABELS + 5}, "label"),
        ({"test": (TEST[0][:, :, :4], TEST[1])}, r"test pictures must be \(3, 6, 8\)"),
        ({"test": TEST[0]}, "pair"),
        ({"batch_size": 21}, "batch_size"),
        ({"scaling": ([0.0], [1.0])}, "scaling needs 3 means"),
        ({"scaling": ([0.0] * 3, [1.0, 0.0, 1.0])}, "positive deviations"),
    ],
)
def test_malformed_input_is_refused(options, message):
    pixels, labels = options.pop("pixels", PIXELS), options.pop("labels", LABELS)
    with pytest.raises(ValueError, match=message):
        ImageProblem(module(), SoftmaxCrossEntropy(), pixels, labels, **options)


@pytest.mark.parametrize(
    "sample",
    [
        "rows",
        Minibatch(np.asarray([20])),
        Crops(np.asarray([-1]), *np.zeros((3, 1), int)),
        Crops(np.asarray([1]), np.asarray([5]), *np.zeros((2, 1), int)),
        Crops(np.asarray([1, 2]), *np.zeros((3, 1), int)),
    ],
)
def test_malformed_samples_are_refused(sample):
    net = problem()
    with pytest.raises(ValueError, match=r"sample|minibatch|windows"):
        net.at(net.initial(np.random.default_rng(0)), sample)


# -- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_point_never_waits_for_the_device_and_agrees_with_the_cpu(channels_last):
    backend = get_backend("torch", "float64", "cuda")
    here, there = problem(), problem(module=module(backend=backend), channels_last=channels_last)
    rng = np.random.default_rng(11)
    x, sample = here.initial(rng), here.draw(rng)
    on_device, v = x.to("cuda"), torch.ones(here.n, dtype=torch.float64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        point = there.at(on_device, sample)
        found = point.loss, point.gradient, point.hvp(v)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = here.at(x, sample)
    for one, other in zip(found, (expected.loss, expected.gradient, expected.hvp(v.cpu())), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-11)
