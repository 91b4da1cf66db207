"""Wrong inputs over the whole public interface: each a ValueError that says what was wrong and what would be right.

One row per mistake: a name, the call, a fragment of the message about what came in, and one about what is wanted.
"""

from dataclasses import dataclass

import array_api_strict as strict
import numpy as np
import pytest

from refimpl import get_backend, minimize
from refimpl.arrays import as_generator, backend_of, check_count, namespace
from refimpl.curvature.acceleration import accelerate, accelerator
from refimpl.curvature.inverse_abs import chebyshev_coefficients, inverse_abs_apply, inverse_root_quadrature
from refimpl.curvature.krylov import arnoldi, lanczos
from refimpl.curvature.linear_systems import conjugate_gradients, minres, multi_shift_cg
from refimpl.curvature.projected import projected_step, reconstruction
from refimpl.curvature.scale import frobenius_scale, lanczos_scale, power_scale, rayleigh_quotients, trace_scale
from refimpl.curvature.series import coefficients, sum_series
from refimpl.curvature.spectrum import absolute, apply_inverse_abs
from refimpl.curvature.stability import is_stable, optimal_parameters, spectral_radius, transition_matrix
from refimpl.curvature.subspace import Subspace, orthonormalize
from refimpl.curvature.truncated_cg import truncated_cg
from refimpl.curvature.trust_region import dogleg_step, trust_region_step
from refimpl.experiments.records import check_record, read_record
from refimpl.experiments.runner import Experiment
from refimpl.experiments.statistics import bootstrap_median
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.elmo import ELMO
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.krylov_descent import KrylovSubspaceDescent
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.lipschitz_oracles import Secant, SelfConsistent, Uniform
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.quasi_newton import BFGS, LBFGS
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.optimizers.schedule import Scheduled, warmup_cosine
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.optimizers.sophia import Sophia
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.datasets import diabetes, mnist1d
from refimpl.problems.landscape import random_direction, slice_along
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP, initial_parameters
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic, gaussian_symmetric
from refimpl.problems.sampling import Minibatch
from refimpl.problems.spectra import gaussian, logarithmic, spiked
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock, Wood
from refimpl.trace import Trace
from refimpl.verify import check_implementation, check_kryball, check_oracle, check_oracle_functions
from refimpl.verify.claims import Claims
from refimpl.verify.golden import cases

F64 = get_backend()
INPUTS, TARGETS = np.ones((4, 2)), np.zeros(4)
NAN, INF = float("nan"), float("inf")


def mlp(inputs=INPUTS, targets=TARGETS, widths=(2, 3, 1), **options):
    return MLP(widths, inputs, targets, **options)


def classifier(labels, **options):
    return mlp(targets=labels, widths=(2, 3), loss=SoftmaxCrossEntropy(), **options)


def at(problem, x, **options):
    return problem.at(np.asarray(x), **options)


def torch_problem(**options):
    torch = pytest.importorskip("torch")
    from refimpl.problems.torch_net import TorchProblem

    given = {"module": torch.nn.Linear(2, 1, dtype=torch.float64), "loss": BinaryCrossEntropy()} | options
    return TorchProblem(given.pop("module"), given.pop("loss"), INPUTS, TARGETS, **given)


def torch_module(kind, *arguments, **options):
    return getattr(pytest.importorskip("torch").nn, kind)(*arguments, **options)


def with_dropout():
    linear = torch_module("Linear", 2, 1, dtype=F64.dtype and pytest.importorskip("torch").float64)
    return torch_problem(module=torch_module("Sequential", torch_module("Dropout", 0.5), linear))


def convnet(**options):
    pytest.importorskip("torch")
    from refimpl.problems.models import small_convnet

    return small_convnet(**options)


@dataclass(frozen=True)
class Empty(Experiment):
    """An experiment with nothing to do."""

    summary = ""

    def settings(self, scale, seeds):
        return {}

    def jobs(self, settings):
        return []

    def run_job(self, job, settings, device):
        return []


PAIR = np.ones(2)


def double(v):
    """A product with H = 2 I."""
    return 2.0 * v


def series(**options):
    return sum_series(double, options.pop("gradient", PAIR), **{"terms": 5, "scale": 8.0} | options)


def inverse(**options):
    return inverse_abs_apply(double, options.pop("gradient", PAIR), **options)


def plot():
    return pytest.importorskip("refimpl.plot")


def claims_twice():
    claims = Claims("1")
    claims.holds("same", "true", True)
    claims.holds("same", "true", True)


ONE = {"schema": 1, "experiment": "e", "settings": {}, "runs": [], "provenance": {}}

MISTAKES = [
    # the array gate
    ("backend unknown", lambda: get_backend("jax"), "unknown backend 'jax'", "'numpy'"),
    ("dtype unknown", lambda: get_backend("numpy", "float16"), "unknown dtype 'float16'", "'float64'"),
    ("device unknown", lambda: get_backend("numpy", device="cuda"), "device 'cuda'", "'cpu'"),
    (
        "dtype the device lacks",
        lambda: get_backend("array-api-strict", "float64", "no_float64"),
        "float64",
        "no_float64",
    ),
    ("list for an array", lambda: namespace([1.0]), "list", "arrays of one library"),
    ("two libraries", lambda: namespace(np.ones(1), strict.ones(1)), "ndarray", "arrays of one library"),
    ("array of no library", lambda: backend_of([1.0]), "list", "arrays of one library"),
    ("seed negative", lambda: as_generator(-1), "-1", "non-negative integer"),
    ("seed a float", lambda: as_generator(0.5), "0.5", "non-negative integer"),
    ("bool for a count", lambda: check_count("steps", True), "True", "whole number"),
    ("backend a string", lambda: HorseSaddle(backend="torch"), "'torch'", "write get_backend(name, dtype)"),
    ("backend a list", lambda: get_backend(["numpy"]), "['numpy']", "'torch'"),
    ("network backend a string", lambda: mlp(backend="torch"), "'torch'", "write get_backend(name, dtype)"),
    # places and vectors
    ("place too short", lambda: at(HorseSaddle(), [1.0]), "(1,)", "(2,)"),
    ("place a list", lambda: HorseSaddle().at([1.0, 2.0]), "list", "numpy array of shape (2,)"),
    ("place of float32", lambda: at(HorseSaddle(), np.ones(2, np.float32)), "float32", "must have dtype float64"),
    ("place of integers", lambda: at(HorseSaddle(), [1, 2]), "int64", "must have dtype float64"),
    ("place of another library", lambda: HorseSaddle().at(strict.ones(2)), "array_api_strict", "must be a numpy array"),
    ("place with runs", lambda: torch_problem().at(torch_problem().backend.zeros((5, 3))), "(5, 3)", "(3,)"),
    ("hvp with wrong length", lambda: at(HorseSaddle(), [1.0, 2.0]).hvp(np.ones(3)), "(3,)", "(2,)"),
    ("hvp with wrong runs", lambda: at(HorseSaddle(), np.ones((5, 2))).hvp(np.ones(2)), "(2,)", "(5, 2)"),
    (
        "trial too long",
        lambda: at(HorseSaddle(), [1.0, 2.0]).loss_at(np.ones(3)),
        "(3,)",
        "x_trial must have shape (2,)",
    ),
    ("jvp without outputs", lambda: at(HorseSaddle(), [1.0, 2.0]).jvp(np.ones(2)), "no outputs", "use hvp"),
    ("outputs without outputs", lambda: at(HorseSaddle(), [1.0, 2.0]).outputs, "no outputs", "use hvp"),
    ("vjp with wrong length", lambda: at(DoubleWell(), [1.0, 2.0]).vjp(np.ones(5)), "(5,)", "(2,)"),
    ("problem without parameters", lambda: Quadratic(np.zeros((0, 0))), "(0, 0)", "square matrix (n, n) with n >= 1"),
    # minimize
    ("x0 too long", lambda: minimize(HorseSaddle(), Newton(), [1.0, 2.0, 3.0]), "(3,)", "x0 must have shape (2,)"),
    ("x0 not numbers", lambda: minimize(HorseSaddle(), Newton(), ["a", "b"]), "['a', 'b']", "numbers of shape (2,)"),
    ("x0 ragged", lambda: minimize(HorseSaddle(), Newton(), [[1.0], [1.0, 2.0]]), "[[1.0]", "numbers of shape (2,)"),
    ("x0 NaN", lambda: minimize(HorseSaddle(), Newton(), [NAN, 1.0]), "NaN", "x0 must be finite"),
    ("x0 infinite", lambda: minimize(HorseSaddle(), Newton(), [INF, 1.0]), "infinity", "x0 must be finite"),
    ("x0 complex", lambda: minimize(HorseSaddle(), Newton(), np.array([1j, 2.0])), "1.j", "numbers of shape (2,)"),
    ("x0 a number", lambda: minimize(HorseSaddle(), Newton(), 1.0), "()", "x0 must have shape (2,)"),
    ("problem a class", lambda: minimize(HorseSaddle, Newton(), [1.0, 2.0]), "class", "an instance of a Problem"),
    (
        "problem a function",
        lambda: minimize(sum, Newton(), [1.0, 2.0]),
        "built-in function sum",
        "an instance of a Problem",
    ),
    ("callback a number", lambda: minimize(HorseSaddle(), Newton(), callback=3), "3", "a function of the step"),
    ("steps negative", lambda: minimize(HorseSaddle(), Newton(), steps=-1), "-1", "at least 0"),
    ("steps a float", lambda: minimize(HorseSaddle(), Newton(), steps=10.0), "10.0", "whole number"),
    ("seed text", lambda: minimize(HorseSaddle(), Newton(), seed="7"), "'7'", "non-negative integer"),
    ("tolerance negative", lambda: minimize(HorseSaddle(), Newton(), gradient_tolerance=-1.0), "-1.0", "at least zero"),
    ("target NaN", lambda: minimize(HorseSaddle(), Newton(), loss_target=NAN), "nan", "a number or None"),
    ("optimizer a class", lambda: minimize(HorseSaddle(), Newton), "the class Newton", "write Newton(...)"),
    ("optimizer a string", lambda: minimize(HorseSaddle(), "adam"), "'adam'", "name, init and step"),
    ("runs for one at a time", lambda: minimize(DoubleWell(), LevenbergMarquardt(), np.ones((3, 2))), "(3, 2)", "(n,)"),
    ("runs for SciPy", lambda: minimize(DoubleWell(), BFGS(), np.ones((3, 2))), "(3, 2)", "(n,)"),
    (
        "Gauss-Newton without outputs",
        lambda: minimize(HorseSaddle(), LevenbergMarquardt()),
        "HorseSaddle",
        "DampedNewton",
    ),
    ("column unknown", lambda: minimize(HorseSaddle(), Newton(), steps=1).trace["los"], "'los'", "'loss'"),
    ("column of no trace", lambda: Trace()["loss"], "no column 'loss'", "it has []"),
    # knobs of methods
    ("learning rate NaN", lambda: GradientDescent(NAN), "nan", "learning_rate must be finite and positive"),
    ("learning rate zero", lambda: Newton(0.0), "0.0", "learning_rate must be finite and positive"),
    ("learning rate negative", lambda: SaddleFreeNewton(-1.0), "-1.0", "learning_rate must be finite and positive"),
    ("learning rate text", lambda: Adam("0.1"), "'0.1'", "learning_rate must be a real number"),
    ("bool for a rate", lambda: GradientDescent(True), "True", "learning_rate must be a real number"),
    ("momentum one", lambda: HeavyBall(0.1, 1.0), "1.0", "[0.0, 1.0)"),
    ("momentum NaN", lambda: Nesterov(0.1, NAN), "nan", "[0.0, 1.0)"),
    ("beta above one", lambda: Adam(beta2=1.5), "1.5", "beta2 must lie in [0.0, 1.0)"),
    ("epsilon negative", lambda: Adam(epsilon=-1e-8), "-1e-08", "at least zero"),
    ("weight decay infinite", lambda: AdamW(weight_decay=INF), "inf", "weight_decay must be finite"),
    ("damping negative", lambda: DampedNewton(-0.1), "-0.1", "damping must be finite and at least zero"),
    ("mode unknown", lambda: DampedNewton(0.1, mode="relative"), "'relative'", "'shift', 'abs', 'square'"),
    ("mode shift", lambda: SaddleFreeNewton(mode="shift"), "'shift'", "'abs', 'square'"),
    ("damping without a mode", lambda: SaddleFreeNewton(damping=0.1), "damping=0.1", "mode 'abs' or 'square'"),
    (
        "threshold and damping",
        lambda: SaddleFreeNewton(threshold=0.1, mode="abs"),
        "threshold",
        "belong to mode 'none'",
    ),
    ("replacement zero", lambda: SaddleFreeNewton(replacement=0.0), "0.0", "replacement must be finite and positive"),
    ("increase below one", lambda: LevenbergMarquardt(increase=0.5), "0.5", "increase must be at least 1"),
    ("scaling unknown", lambda: LevenbergMarquardt(scaling="trace"), "'trace'", "'diagonal'"),
    ("damping out of bounds", lambda: AdaptiveSaddleFreeNewton(1e9), "1000000000.0", "initial_damping must lie in"),
    (
        "bounds reversed",
        lambda: AdaptiveSaddleFreeNewton(1.0, minimum_damping=10.0, maximum_damping=1.0),
        "10.0",
        "at most",
    ),
    ("curvature never renewed", lambda: AdaptiveSaddleFreeNewton(1.0, ema=1.0), "1.0", "[0.0, 1.0)"),
    ("omega one", lambda: AdaptiveSaddleFreeNewton(1.0, omega=1.0), "1.0", "omega must lie in"),
    ("solve unknown", lambda: AdaptiveSaddleFreeNewton(1.0, solve="best"), "'best'", "'released'"),
    ("history zero", lambda: LBFGS(history=0), "0", "history must be a whole number of at least 1"),
    ("optimizer without terms", lambda: SeriesSaddleFreeNewton(0), "0", "terms must be a whole number of at least 1"),
    ("order too high for K", lambda: SeriesSaddleFreeNewton(16, 8), "got 16", "at least 17 partial sums"),
    ("optimizer without accelerator", lambda: SeriesSaddleFreeNewton(5, 2, accelerate=None), "order=2", "'shanks'"),
    ("series momentum", lambda: SeriesSaddleFreeNewton(5, momentum=1.0), "1.0", "momentum must lie in [0.0, 1.0)"),
    ("unused damping of a method", lambda: SeriesSaddleFreeNewton(5, damping=0.1), "0.1", "choose mode 'abs'"),
    ("mode shift of the series", lambda: SeriesSaddleFreeNewton(5, mode="shift"), "'shift'", "'abs', 'square'"),
    ("V of a method zero", lambda: SeriesSaddleFreeNewton(5, scale=0.0), "0.0", "scale must be finite and positive"),
    ("V of a method text", lambda: SeriesSaddleFreeNewton(5, scale="100"), "'100'", "scale must be a real number"),
    ("rule for V unknown", lambda: SeriesSaddleFreeNewton(5, scale_rule="trace"), "'trace'", "'ratio', 'lanczos'"),
    ("V that grows by itself", lambda: SeriesSaddleFreeNewton(5, scale_decay=1.1), "1.1", "scale_decay must lie in"),
    ("guard a number", lambda: SeriesSaddleFreeNewton(5, guard=1), "1", "guard must be True or False"),
    ("first term unknown", lambda: SeriesSaddleFreeNewton(5, first_term="half"), "'half'", "'damped', 'undamped'"),
    ("adaptive series undamped", lambda: AdaptiveSeriesSaddleFreeNewton(5, 0.0), "0.0", "initial_damping must lie in"),
    ("adaptive series mode", lambda: AdaptiveSeriesSaddleFreeNewton(5, 1.0, mode="none"), "'none'", "'abs', 'square'"),
    ("adaptive series order", lambda: AdaptiveSeriesSaddleFreeNewton(4, 1.0, 2), "got 4", "at least 5 partial sums"),
    ("adaptive series omega", lambda: AdaptiveSeriesSaddleFreeNewton(5, 1.0, omega=0.0), "0.0", "omega must be finite"),
    (
        "solve of the series unknown",
        lambda: AdaptiveSeriesSaddleFreeNewton(5, 1.0, solve="hessian"),
        "'hessian'",
        "'gauss-newton', 'released'",
    ),
    (
        "series for a loss without outputs",
        lambda: minimize(HorseSaddle(), AdaptiveSeriesSaddleFreeNewton(5, 1.0)),
        "HorseSaddle",
        "least-squares or network problem",
    ),
    (
        "Lanczos of no products",
        lambda: LanczosSaddleFreeNewton(0),
        "0",
        "products must be a whole number of at least 1",
    ),
    ("Lanczos undamped", lambda: LanczosSaddleFreeNewton(8, 0.0), "0.0", "initial_damping must lie in"),
    ("Lanczos mode", lambda: LanczosSaddleFreeNewton(8, mode="none"), "'none'", "'square', 'abs'"),
    ("Lanczos overshooting", lambda: LanczosSaddleFreeNewton(8, learning_rate=1.5), "1.5", "learning_rate must lie in"),
    ("Lanczos accepting", lambda: LanczosSaddleFreeNewton(8, accept="never"), "'never'", "'bounded', 'decrease'"),
    ("CurveBall rate zero", lambda: CurveBall(0.0), "0.0", "learning_rate must be finite and positive"),
    ("CurveBall rate text", lambda: CurveBall("auto"), "'auto'", "learning_rate must be a real number"),
    ("CurveBall momentum negative", lambda: CurveBall(momentum=-0.1), "-0.1", "momentum must be finite and at least"),
    ("CurveBall momentum NaN", lambda: CurveBall(momentum=NAN), "nan", "momentum must be finite and at least zero"),
    ("CurveBall curvature", lambda: CurveBall(curvature="fisher"), "'fisher'", "'gauss-newton', 'hessian'"),
    ("CurveBall system", lambda: CurveBall(system="undamped"), "'undamped'", "'damped', 'printed'"),
    ("CurveBall undamped", lambda: CurveBall(initial_damping=0.0), "0.0", "initial_damping must lie in"),
    (
        "CurveBall damping negative",
        lambda: CurveBall(initial_damping=-1.0, adapt_every=0),
        "-1.0",
        "initial_damping must be finite and at least zero",
    ),
    ("CurveBall adapts at -1", lambda: CurveBall(adapt_every=-1), "-1", "adapt_every must be a whole number"),
    ("CurveBall adapts at 2.5", lambda: CurveBall(adapt_every=2.5), "2.5", "adapt_every must be a whole number"),
    ("CurveBall omega above one", lambda: CurveBall(omega=1.5), "1.5", "omega must lie in [0.0, 1.0]"),
    ("CurveBall omega zero", lambda: CurveBall(omega=0.0), "0.0", "omega must be finite and positive"),
    ("CurveBall bounds", lambda: CurveBall(minimum_damping=2.0, maximum_damping=1.0), "2.0 and 1.0", "at most"),
    (
        "CurveBall for a loss without outputs",
        lambda: minimize(HorseSaddle(), CurveBall()),
        "HorseSaddle",
        "least-squares or network problem",
    ),
    ("Hessian-free without products", lambda: HessianFree(0), "0", "products must be a whole number of at least 1"),
    ("Hessian-free curvature", lambda: HessianFree(curvature="fisher"), "'fisher'", "'gauss-newton', 'hessian'"),
    ("Hessian-free stopping", lambda: HessianFree(stopping="early"), "'early'", "'residual', 'progress', 'never'"),
    ("Hessian-free warm start", lambda: HessianFree(warm_start=1.5), "1.5", "warm_start must lie in [0.0, 1.0]"),
    ("Hessian-free undamped", lambda: HessianFree(initial_damping=0.0), "0.0", "initial_damping must lie in"),
    ("Hessian-free backtracks", lambda: HessianFree(backtracks=-1), "-1", "backtracks must be a whole number"),
    (
        "Hessian-free for a loss without outputs",
        lambda: minimize(HorseSaddle(), HessianFree()),
        "HorseSaddle",
        "least-squares or network problem",
    ),
    ("radius zero", lambda: KryBall(initial_radius=0.0), "0.0", "initial_radius must be finite and positive"),
    ("radius infinite", lambda: TrustRegion(maximum_radius=INF), "inf", "maximum_radius must be finite and positive"),
    (
        "radius above its bound",
        lambda: KryBall(initial_radius=2.0, maximum_radius=1.0),
        "2.0 and 1.0",
        "initial_radius must be at most maximum_radius",
    ),
    (
        "radius below its floor",
        lambda: TrustRegion(minimum_radius=2.0),
        "2.0 and 1.0",
        "minimum_radius must be at most initial_radius",
    ),
    ("radius floor negative", lambda: KryBall(minimum_radius=-1.0), "-1.0", "minimum_radius must be finite"),
    ("ratio accepted above one", lambda: KryBall(accept_above=1.0), "1.0", "accept_above must lie in [0.0, 1.0)"),
    (
        "ratios out of order",
        lambda: KryBall(accept_above=0.3),
        "0.25",
        "shrink_below must lie in [0.3, 1.0)",
    ),
    ("expand below shrink", lambda: TrustRegion(expand_above=0.1), "0.1", "expand_above must lie in [0.25, 1.0)"),
    (
        "region that grows by shrinking",
        lambda: TrustRegion(shrink=1.5),
        "1.5",
        "shrink must be below 1 and expand above",
    ),
    ("region that never grows", lambda: KryBall(expand=1.0), "1.0", "shrink must be below 1 and expand above"),
    ("noise negative of a region", lambda: KryBall(noise=-1.0), "-1.0", "noise must be finite and at least zero"),
    (
        "subproblem unknown",
        lambda: TrustRegion(subproblem="cauchy"),
        "'cauchy'",
        "'exact', 'two-dimensional', 'dogleg'",
    ),
    (
        "trust region of runs",
        lambda: minimize(HorseSaddle(), TrustRegion(), np.ones((3, 2))),
        "(3, 2)",
        "TrustRegion runs one problem at a time",
    ),
    ("KryBall of no products", lambda: KryBall(dimension=0), "0", "dimension must be a whole number of at least 1"),
    ("KryBall dimension a float", lambda: KryBall(dimension=5.0), "5.0", "dimension must be a whole number"),
    ("KryBall gain one", lambda: KryBall(gain=1.0), "1.0", "gain must lie in [0.0, 1.0)"),
    ("KryBall directions", lambda: KryBall(directions="all"), "'all'", "'space', 'three'"),
    ("KryBall momentum", lambda: KryBall(momentum=0.9), "0.9", "'step', 'gradient', 'none'"),
    ("KryBall momentum factor", lambda: KryBall(momentum_factor=1.0), "1.0", "momentum_factor must lie in [0.0, 1.0)"),
    ("KryBall never refreshed", lambda: KryBall(refresh=0), "0", "refresh must be a whole number of at least 1"),
    ("KryBall stale", lambda: KryBall(stale="old"), "'old'", "'reuse', 'exact', 'drop'"),
    ("KryBall products", lambda: KryBall(reuse_products=1), "1", "reuse_products must be True or False"),
    ("KryBall retries", lambda: KryBall(retries=-1), "-1", "retries must be a whole number of at least 0"),
    ("KryBall escape", lambda: KryBall(escape_below=NAN), "nan", "escape_below must be finite and at least zero"),
    ("KryBall seed", lambda: KryBall(seed=-1), "-1", "seed must be a whole number of at least 0"),
    ("KryBall clip", lambda: KryBall(clip_relative=-1e-6), "-1e-06", "clip_relative must be finite and at least zero"),
    ("KryBall published knob", lambda: KryBall.published(stale="old"), "'old'", "'reuse', 'exact', 'drop'"),
    (
        "KryBall of runs",
        lambda: minimize(HorseSaddle(), KryBall(), np.ones((3, 2))),
        "(3, 2)",
        "KryBall runs one problem at a time",
    ),
    (
        "stochastic KryBall of no products",
        lambda: StochasticKryBall(dimension=0),
        "0",
        "dimension must be a whole number of at least 1",
    ),
    ("stochastic KryBall momentum", lambda: StochasticKryBall(momentum=1.0), "1.0", "momentum must lie in [0.0, 1.0)"),
    ("stochastic KryBall retries", lambda: StochasticKryBall(retries=0.5), "0.5", "retries must be a whole number"),
    ("ELMO constant negative", lambda: ELMO(-1.0), "-1.0", "lipschitz must be finite and at least zero"),
    ("ELMO constant a string", lambda: ELMO("row sum"), "'row sum'", "lipschitz must be a real number"),
    ("ELMO constants as a list", lambda: ELMO([1.0, 2.0]), "[1.0, 2.0]", "lipschitz must be a real number"),
    ("ELMO tie zero", lambda: ELMO(1.0, tie=0), "0", "tie must be 1 or -1"),
    ("ELMO tie true", lambda: ELMO(1.0, tie=True), "True", "tie must be 1 or -1"),
    ("ELMO cluster one", lambda: ELMO(1.0, cluster=1.0), "1.0", "cluster must lie in [0.0, 1.0)"),
    ("ELMO step zero", lambda: ELMO(1.0, maximum_step=0.0), "0.0", "maximum_step must be finite and positive"),
    ("ELMO step not a number", lambda: ELMO(1.0, maximum_step=NAN), "nan", "maximum_step must be finite and positive"),
    ("ELMO safeguard", lambda: ELMO(1.0, safeguard=1), "1", "safeguard must be True or False"),
    (
        "ELMO of runs",
        lambda: minimize(HorseSaddle(), ELMO(1.0), np.ones((3, 2))),
        "(3, 2)",
        "ELMO runs one problem at a time",
    ),
    ("uniform constant", lambda: Uniform(-1.0), "-1.0", "constant must be finite and at least zero"),
    ("secant radius", lambda: Secant(0.0), "0.0", "radius must be finite and positive"),
    ("self-consistent start", lambda: SelfConsistent(max, start=0.0), "0.0", "start must be finite and positive"),
    ("self-consistent tolerance", lambda: SelfConsistent(max, tolerance=-1.0), "-1.0", "tolerance must be finite"),
    ("weight factor", lambda: ARC(factor=1.0), "1.0", "factor must be above 1"),
    ("weight ratios out of order", lambda: ARC(accept_above=0.95), "0.9", "relax_above must lie in [0.95, 2.0)"),
    ("weight floor", lambda: ELMO(1.0, minimum_weight=0.0), "0.0", "minimum_weight must be finite and positive"),
    ("weight noise", lambda: ARC(noise=-1.0), "-1.0", "noise must be finite and at least zero"),
    ("ARC sigma", lambda: ARC(initial_sigma=0.0), "0.0", "initial_sigma must be finite and positive"),
    ("ARC dimension", lambda: ARC(dimension=0), "0", "dimension must be a whole number of at least 1"),
    ("ARC search", lambda: ARC(dimension=2, search=-1), "-1", "search must be a whole number of at least 0"),
    ("ARC search of a dense Hessian", lambda: ARC(search=2), "dimension=None", "the subproblem is exact"),
    ("ARC seed", lambda: ARC(seed=-1), "-1", "seed must be a whole number of at least 0"),
    (
        "ARC of runs",
        lambda: minimize(HorseSaddle(), ARC(), np.ones((3, 2))),
        "(3, 2)",
        "ARC runs one problem at a time",
    ),
    ("Sophia rho", lambda: Sophia(rho=0.0), "0.0", "rho must be finite and positive"),
    ("Sophia decay", lambda: Sophia(decay="biases"), "'biases'", "'matrices', 'all'"),
    ("Sophia estimator", lambda: Sophia(estimator="exact"), "'exact'", "'gnb', 'hutchinson'"),
    ("Sophia interval", lambda: Sophia(interval=0.5), "0.5", "interval must be a whole number of at least 1"),
    ("Sophia likelihood", lambda: Sophia(likelihood=3), "3", "the name of a distribution"),
    ("Sophia without outputs", lambda: minimize(HorseSaddle(), Sophia(), steps=1), "no outputs", "use hvp"),
    ("Sophia without likelihood", lambda: minimize(DoubleWell(), Sophia(), steps=1), "no likelihood", "use a network"),
    (
        "Sophia of another likelihood",
        lambda: minimize(mlp(), Sophia(likelihood="categorical"), steps=1),
        "'categorical'",
        "has the likelihood 'gaussian'",
    ),
    ("AMOS without a rate", lambda: AMOS(threshold=1.0), "None", "needs an offload_rate"),
    ("AMOS without a threshold", lambda: AMOS(offload_rate=1.0), "None", "a number, 'newton' or 'certificate'"),
    ("AMOS threshold", lambda: AMOS(offload_rate=1.0, threshold="eq8"), "'eq8'", "'newton' or 'certificate'"),
    ("AMOS alpha", lambda: AMOS(offload_rate=1.0, threshold=1.0, alpha=1.0), "1.0", "alpha must lie in [0.0, 1.0)"),
    ("AMOS chunk", lambda: AMOS(offload_rate=1.0, threshold=1.0, chunk=0), "0", "chunk must be a whole number"),
    ("AMOS fraction", lambda: AMOS(offload_rate=1.0, threshold=1.0, fraction=0.1), "0.1", "selection='random'"),
    (
        "AMOS group",
        lambda: minimize(mlp(), AMOS(offload_rate=1.0, selection="static", static=(4,)), steps=1),
        "group 4",
        "there are 4",
    ),
    ("schedule of a class", lambda: Scheduled(Adam, float), "class", "an instance of a method"),
    ("schedule of no knob", lambda: Scheduled(Adam(), float, ("lr",)), "'lr'", "'learning_rate'"),
    ("schedule to zero", lambda: Scheduled(Adam(), float).at(0), "0.0", "the factor of step 0 must be finite and pos"),
    ("warmup too long", lambda: warmup_cosine(5, warmup=6), "6", "at most steps = 5"),
    ("FOSI of a class", lambda: FOSI(Adam), "class", "base must be an instance of a first-order method"),
    ("FOSI of a string", lambda: FOSI("adam"), "'adam'", "base must be an instance of a first-order method"),
    ("FOSI of FOSI", lambda: FOSI(FOSI(Adam())), "FOSI(", "base must be an instance of a first-order method"),
    ("FOSI of SciPy's method", lambda: FOSI(BFGS()), "BFGS", "base must be an instance of a first-order method"),
    ("FOSI of a second-order method", lambda: minimize(HorseSaddle(), FOSI(Newton())), "'hessian'", "take Adam"),
    ("FOSI largest", lambda: FOSI(Adam(), -1), "-1", "largest must be a whole number of at least 0"),
    ("FOSI smallest", lambda: FOSI(Adam(), 1, 0.5), "0.5", "smallest must be a whole number of at least 0"),
    ("FOSI interval", lambda: FOSI(Adam(), interval=0), "0", "interval must be a whole number of at least 1"),
    ("FOSI warmup", lambda: FOSI(Adam(), warmup=-1), "-1", "warmup must be a whole number of at least 0"),
    ("FOSI alpha", lambda: FOSI(Adam(), alpha=0.0), "0.0", "alpha must be finite and positive"),
    ("FOSI momentum", lambda: FOSI(Adam(), momentum=1.0), "1.0", "momentum must lie in [0.0, 1.0)"),
    ("FOSI average", lambda: FOSI(Adam(), average="ema"), "'ema'", "'sum', 'mean'"),
    ("FOSI scaling", lambda: FOSI(Adam(), scaling=0.5), "0.5", "scaling must lie in [1.0, inf)"),
    ("FOSI damping", lambda: FOSI(Adam(), damping=NAN), "nan", "damping must be finite and at least zero"),
    ("FOSI seed", lambda: FOSI(Adam(), seed=-1), "-1", "seed must be a whole number of at least 0"),
    (
        "FOSI of runs",
        lambda: minimize(HorseSaddle(), FOSI(Adam()), np.ones((3, 2))),
        "(3, 2)",
        "FOSI runs one problem at a time",
    ),
    (
        "Krylov descent of no products",
        lambda: KrylovSubspaceDescent(0),
        "0",
        "products must be a whole number of at least 1",
    ),
    (
        "Krylov descent curvature",
        lambda: KrylovSubspaceDescent(curvature="fisher"),
        "'fisher'",
        "'hessian', 'gauss-newton'",
    ),
    (
        "Krylov descent without search",
        lambda: KrylovSubspaceDescent(inner_steps=0),
        "0",
        "inner_steps must be a whole number",
    ),
    (
        "Krylov descent clip",
        lambda: KrylovSubspaceDescent(clip_relative=0.0),
        "0.0",
        "clip_relative must be finite and",
    ),
    ("K-FAC undamped", lambda: KFAC(0.1, 0.0), "0.0", "damping must be finite and positive"),
    ("K-FAC without renewal", lambda: AdaptiveKFAC(0.1, ema=1.0), "1.0", "ema must lie in [0.0, 1.0)"),
    ("K-FAC without layers", lambda: minimize(HorseSaddle(), KFAC(0.1, 0.1)), "HorseSaddle", "use MLP or a module"),
    # matrices
    ("matrix a list", lambda: apply_inverse_abs([[1.0]], np.ones(1)), "list", "matrix must be an array"),
    ("matrix of integers", lambda: absolute(np.eye(2, dtype=int)), "int64", "float32 or float64"),
    ("matrix not square", lambda: absolute(np.ones((2, 3))), "(2, 3)", "square matrix"),
    ("matrix asymmetric", lambda: absolute(np.array([[1.0, 2.0], [0.0, 1.0]])), "reaches 2", "use (A + A^T)/2"),
    ("matrix with NaN", lambda: absolute(np.full((2, 2), NAN)), "NaN", "matrix must be finite"),
    ("gradient too long", lambda: apply_inverse_abs(np.eye(2), np.ones(3)), "(3,)", "gradient must have shape (2,)"),
    ("gradient infinite", lambda: apply_inverse_abs(np.eye(2), np.array([INF, 1.0])), "infinity", "must be finite"),
    ("rule unknown", lambda: apply_inverse_abs(np.eye(2), np.ones(2), mode="clip"), "'clip'", "'square'"),
    # the series
    ("no coefficients", lambda: coefficients(0), "0", "terms must be a whole number of at least 1"),
    ("coefficients of a negative damping", lambda: coefficients(3, -0.1), "-0.1", "finite and at least zero"),
    ("coefficients of NaN", lambda: coefficients(3, np.array([0.1, NAN])), "nan", "finite and at least zero"),
    ("coefficients of text", lambda: coefficients(3, "0.1"), "str", "arrays of one library"),
    ("series of a list", lambda: series(gradient=[1.0, 2.0]), "list", "gradient must be an array of float32"),
    ("series of integers", lambda: series(gradient=np.ones(2, int)), "int64", "float32 or float64"),
    ("series of a number", lambda: series(gradient=np.asarray(1.0)), "()", "shape (..., n) with n >= 1"),
    ("series of nothing", lambda: series(gradient=np.ones((3, 0))), "(3, 0)", "n >= 1"),
    ("series of NaN", lambda: series(gradient=np.array([NAN, 1.0])), "NaN", "gradient must be finite"),
    ("series without terms", lambda: series(terms=0), "0", "terms must be a whole number of at least 1"),
    ("terms a float", lambda: series(terms=9.0), "9.0", "whole number"),
    ("series damping negative", lambda: series(damping=-1.0, mode="abs"), "-1.0", "at least zero"),
    ("series damping array negative", lambda: series(damping=np.asarray(-1.0), mode="abs"), "-1.", "at least zero"),
    ("series damping unused", lambda: series(damping=0.5), "0.5", "choose mode 'abs' or 'square'"),
    ("series damping array unused", lambda: series(damping=PAIR), "no effect", "choose mode 'abs' or 'square'"),
    ("series mode unknown", lambda: series(mode="cube"), "'cube'", "'shift'"),
    ("V zero", lambda: series(scale=0.0), "0.0", "scale must be finite and positive"),
    ("V negative", lambda: series(scale=-1.0), "-1.0", "scale must be finite and positive"),
    ("V infinite", lambda: series(scale=INF), "inf", "scale must be finite and positive"),
    ("V missing", lambda: series(scale=None), "None", "scale must be a real number"),
    ("V text", lambda: series(scale="8"), "'8'", "scale must be a real number"),
    ("V a list", lambda: series(scale=[8.0]), "[8.0]", "scale must be a real number"),
    ("V for other runs", lambda: series(scale=np.ones(3), gradient=np.ones((2, 2))), "(3,)", "shape (2,)"),
    (
        "V with a NaN",
        lambda: series(scale=np.array([8.0, NAN]), gradient=np.ones((2, 2))),
        "nan",
        "finite and positive",
    ),
    # accelerators
    ("accelerator unknown", lambda: series(accelerate="aitken", order=1), "'aitken'", "'shanks'"),
    ("accelerator a list", lambda: accelerate(INPUTS, ["shanks"], 1), "['shanks']", "'shanks', 'sablonniere'"),
    ("order without accelerator", lambda: series(order=2), "order=2", "needs an accelerator"),
    ("order negative", lambda: accelerate(INPUTS, "shanks", -1), "-1", "order must be a whole number of at least 0"),
    ("order a float", lambda: accelerate(INPUTS, "shanks", 1.0), "1.0", "whole number"),
    ("order that K = 2N cannot carry", lambda: series(terms=8, accelerate="shanks", order=4), "got 8", "at least 9"),
    ("table too short", lambda: accelerator("sablonniere", 2, 4), "got 4", "at least 5 partial sums"),
    ("no sums", lambda: accelerate([], "shanks", 0), "got 0", "at least 1 partial sums"),
    ("sums of lists", lambda: accelerate([[1.0], [2.0], [3.0]], "shanks"), "list", "arrays of one library"),
    # rules for V
    ("trace of a list", lambda: trace_scale(double, [1.0]), "list", "like must be an array of float32"),
    (
        "no probes",
        lambda: frobenius_scale(double, PAIR, samples=0),
        "0",
        "samples must be a whole number of at least 1",
    ),
    ("probes by a float", lambda: frobenius_scale(double, PAIR, samples=2, rng=0.5), "0.5", "non-negative integer"),
    ("no power iterations", lambda: rayleigh_quotients(double, PAIR, 0), "0", "iterations must be a whole number"),
    ("power safety zero", lambda: power_scale(double, PAIR, safety=0.0), "0.0", "safety must be finite and positive"),
    ("power from NaN", lambda: power_scale(double, PAIR * NAN), "NaN", "start must be finite"),
    ("Lanczos safety negative", lambda: lanczos_scale(double, PAIR, safety=-1.0), "-1.0", "safety must be finite"),
    # Krylov methods
    (
        "Lanczos from integers",
        lambda: lanczos(double, np.ones(2, int), 2),
        "int64",
        "start must be an array of float32",
    ),
    ("Lanczos without steps", lambda: lanczos(double, PAIR, 0), "0", "steps must be a whole number of at least 1"),
    ("Arnoldi from NaN", lambda: arnoldi(double, NAN * PAIR, 2), "NaN", "start must be finite"),
    ("Arnoldi without steps", lambda: arnoldi(double, PAIR, 0), "0", "steps must be a whole number of at least 1"),
    (
        "Arnoldi orthogonalized once",
        lambda: arnoldi(double, PAIR, 2, orthogonalization="once"),
        "'once'",
        "'twice', 'classical', 'modified'",
    ),
    ("directions none", lambda: orthonormalize([]), "at least one", "vector"),
    ("directions of two lengths", lambda: orthonormalize([PAIR, np.ones(3)]), "(3,)", "must all have shape (n,)"),
    (
        "projection on nothing",
        lambda: projected_step(Subspace(np.zeros((0, 2)), np.zeros((0, 0))), 0.0),
        "no rows",
        "gradient is zero or not finite",
    ),
    (
        "projection clip",
        lambda: projected_step(Subspace(np.eye(2), np.eye(2)), 1.0, clip_absolute=NAN),
        "nan",
        "finite",
    ),
    ("reconstruction of nothing", lambda: reconstruction(double, 0 * PAIR, 2), "0.", "must be (n,) and not zero"),
    ("reconstruction of runs", lambda: reconstruction(double, INPUTS, 2), "1.", "must be (n,) and not zero"),
    ("region asymmetric", lambda: trust_region_step(np.tri(2), PAIR, 1.0), "reaches 1", "use (B + B^T)/2"),
    ("region of radius -1", lambda: trust_region_step(np.eye(2), PAIR, -1.0), "-1.0", "radius must be finite and"),
    ("region of two shapes", lambda: trust_region_step(np.eye(3), PAIR, 1.0), "(3, 3) and (2,)", "(k, k) and (k,)"),
    ("dogleg on a saddle", lambda: dogleg_step(np.diag([1.0, -1.0]), PAIR, 1.0), "eigenvalue -1", "trust_region_step"),
    ("CG without steps", lambda: conjugate_gradients(double, PAIR, steps=0), "0", "steps must be a whole number"),
    ("CG for infinity", lambda: conjugate_gradients(double, PAIR * INF, steps=2), "infinity", "right must be finite"),
    ("CG tolerance", lambda: conjugate_gradients(double, PAIR, steps=2, tolerance=-1.0), "-1.0", "at least zero"),
    ("shift negative", lambda: multi_shift_cg(double, PAIR, -PAIR, steps=2), "[-1., -1.]", "(J,) and at least zero"),
    ("shifts a table", lambda: multi_shift_cg(double, PAIR, INPUTS, steps=2), "[[1., 1.]", "shifts must be (J,)"),
    ("shifts a list", lambda: multi_shift_cg(double, PAIR, [1.0], steps=2), "list", "shifts must be an array"),
    ("MINRES for a list", lambda: minres(double, [1.0, 2.0], steps=2), "list", "right must be an array"),
    ("MINRES without steps", lambda: minres(double, PAIR, steps=0), "0", "steps must be a whole number"),
    ("MINRES tolerance", lambda: minres(double, PAIR, steps=2, tolerance=NAN), "nan", "finite and at least zero"),
    # one function for all of them
    ("inverse of a list", lambda: inverse(gradient=[1.0]), "list", "gradient must be an array of float32"),
    ("no products", lambda: inverse(products=0), "0", "products must be a whole number of at least 1"),
    ("route unknown by name", lambda: inverse(method="cg"), "'cg'", "'lanczos_sv'"),
    ("inverse by shift", lambda: inverse(mode="shift", damping=0.1), "'shift'", "'abs', 'square'"),
    ("inverse with damping and no mode", lambda: inverse(mode="none", damping=0.1), "damping=0.1", "'abs' or 'square'"),
    ("inverse damping text", lambda: inverse(damping="0.1"), "'0.1'", "damping must be a real number"),
    ("inverse damping infinite", lambda: inverse(damping=INF), "inf", "damping must be finite"),
    ("quadrature of |H| + d", lambda: inverse(method="quadrature", mode="abs", damping=1.0), "quadrature", "'square'"),
    ("quadrature of one product", lambda: inverse(method="quadrature", damping=1.0, products=1), "1", "at least 2"),
    ("no poles", lambda: inverse(method="quadrature", damping=1.0, poles=0), "0", "poles must be a whole number"),
    ("interval missing", lambda: inverse(method="chebyshev"), "without damping", "give interval=(low, high)"),
    (
        "interval reversed",
        lambda: inverse(method="chebyshev", interval=(3.0, 1.0)),
        "(3.0, 1.0)",
        "(low, high) with low < high",
    ),
    ("interval from zero", lambda: inverse(method="chebyshev", interval=(0.0, 3.0)), "interval", "away from zero"),
    ("interval negative", lambda: inverse(method="chebyshev", interval=(-1.0, 3.0)), "-1.0", "at least zero"),
    (
        "interval for many dampings",
        lambda: inverse(method="chebyshev", damping=PAIR, gradient=np.ones((2, 2))),
        "an array",
        "one number for the damping",
    ),
    (
        "poles on a reversed interval",
        lambda: inverse_root_quadrature(2.0, 1.0, 4),
        "2.0 and 1.0",
        "low must be at most",
    ),
    ("poles from zero", lambda: inverse_root_quadrature(0.0, 1.0, 4), "0.0", "low must be finite and positive"),
    ("expansion on a point", lambda: chebyshev_coefficients(1.0, 1.0, 4), "1.0 and 1.0", "low must be below high"),
    ("expansion up to infinity", lambda: chebyshev_coefficients(1.0, INF, 4), "inf", "high must be finite"),
    ("expansion from below zero", lambda: chebyshev_coefficients(-1.0, 1.0, 4), "-1.0", "at least zero"),
    ("expansion from zero", lambda: chebyshev_coefficients(0.0, 1.0, 4), "0.0", "keep away from zero"),
    ("expansion of degree -1", lambda: chebyshev_coefficients(1.0, 2.0, -1), "-1", "degree must be a whole number"),
    ("expansion in a mode", lambda: chebyshev_coefficients(1.0, 2.0, 4, mode="shift"), "'shift'", "'abs', 'square'"),
    (
        "expansion of a negative damping",
        lambda: chebyshev_coefficients(1.0, 2.0, 4, mode="abs", damping=-0.1),
        "-0.1",
        "damping must be finite and at least zero",
    ),
    (
        "expansion with damping and no mode",
        lambda: chebyshev_coefficients(1.0, 2.0, 4, damping=0.1),
        "damping=0.1",
        "'abs' or 'square'",
    ),
    ("V of a route", lambda: inverse(method="series", scale=-1.0), "-1.0", "scale must be finite and positive"),
    ("order of a route", lambda: inverse(method="series", scale=8.0, order=9), "got 9", "at least 19"),
    # CurveBall's parts
    ("stability of a rule", lambda: is_stable(PAIR, PAIR, "nesterov"), "'nesterov'", "'curveball', 'heavy-ball'"),
    ("radius of a rule", lambda: spectral_radius(PAIR, PAIR, "adam"), "'adam'", "'curveball', 'heavy-ball'"),
    ("matrix of a rule", lambda: transition_matrix(PAIR, PAIR, "adam"), "'adam'", "'curveball', 'heavy-ball'"),
    ("parameters of a rule", lambda: optimal_parameters(9.0, "adam"), "'adam'", "'curveball', 'heavy-ball'"),
    ("condition number below one", lambda: optimal_parameters(0.5), "0.5", "condition_number must be at least 1"),
    ("condition number infinite", lambda: optimal_parameters(INF), "inf", "condition_number must be finite"),
    ("CG of no steps", lambda: truncated_cg(double, PAIR, steps=0), "0", "steps must be a whole number"),
    (
        "CG stopping late",
        lambda: truncated_cg(double, PAIR, steps=1, stopping="late"),
        "'late'",
        "'residual', 'progress'",
    ),
    ("CG for a list", lambda: truncated_cg(double, [1.0], steps=1), "list", "gradient must be an array of float32"),
    ("CG for NaN", lambda: truncated_cg(double, NAN * PAIR, steps=1), "NaN", "gradient must be finite"),
    (
        "CG from elsewhere",
        lambda: truncated_cg(double, PAIR, steps=1, start=np.ones(3)),
        "(3,)",
        "start must have the shape (2,)",
    ),
    ("CG from infinity", lambda: truncated_cg(double, PAIR, steps=1, start=INF * PAIR), "infinity", "start must be"),
    # spectra
    ("spectrum of no size", lambda: gaussian(n=0), "0", "n must be a whole number of at least 1"),
    ("spectrum seed", lambda: gaussian(-1), "-1", "non-negative integer"),
    ("logarithmic of one", lambda: logarithmic(n=1), "1", "at least 2"),
    ("spiked too small", lambda: spiked(n=15), "15", "at least 16"),
    # problems
    ("Hessian asymmetric", lambda: Quadratic([[1.0, 2.0], [0.0, 1.0]]), "reaches 2", "use (A + A^T)/2"),
    ("center too long", lambda: Quadratic(np.eye(2), center=[1.0]), "(1,)", "center must be 2 finite numbers"),
    ("spectrum empty", lambda: Quadratic.from_spectrum([]), "[]", "non-empty list of finite numbers"),
    ("spectrum of text", lambda: Quadratic.from_spectrum(["a"]), "'a'", "eigenvalues must be real numbers"),
    ("Hessian of text", lambda: Quadratic([["a"]]), "'a'", "hessian must be real numbers"),
    ("design matrix flat", lambda: LinearLeastSquares(np.ones(3), np.ones(3)), "(3,)", "shape (m, n)"),
    ("targets too short", lambda: LinearLeastSquares(np.ones((3, 2)), np.ones(2)), "(2,)", "targets must be 3"),
    ("random matrix of size 0", lambda: gaussian_symmetric(0, 0), "0", "n must be a whole number of at least 1"),
    ("noise negative", lambda: Rosenbrock(noise=-1.0), "-1.0", "noise must be finite and at least zero"),
    ("one coordinate", lambda: Rosenbrock(n=1), "1", "at least 2"),
    ("noise of wrong shape", lambda: at(Rosenbrock(), [1.0, 1.0], sample=np.ones(3)), "(3,)", "have shape (1,)"),
    ("noise negative in a sample", lambda: at(Rosenbrock(), [1.0, 1.0], sample=-1.0), "-1.0", "at least zero"),
    ("noise a string", lambda: at(Rosenbrock(), [1.0, 1.0], sample="low"), "'low'", "one number"),
    ("spread NaN", lambda: Wood(spread=NAN), "nan", "spread must be finite"),
    ("kind unknown", lambda: RahimiRecht("columns"), "'columns'", "'rows' or 'svd'"),
    ("widths of two layers", lambda: RahimiRecht(widths=(6, 10)), "(6, 10)", "(in, hidden, out)"),
    ("hidden too narrow", lambda: RahimiRecht(widths=(6, 2, 10)), "2", "at least 6"),
    ("closed form without curvature", lambda: ClosedForm(INPUTS, sum, sum), "got neither", "needs its Hessian"),
    # networks and data
    ("widths of one layer", lambda: mlp(widths=(2,)), "(2,)", "at least the inputs and the outputs"),
    ("width zero", lambda: mlp(widths=(2, 0, 1)), "0", "every width must be a whole number of at least 1"),
    ("activation unknown", lambda: mlp(activation="gelu"), "'gelu'", "'softplus'"),
    ("loss a string", lambda: mlp(loss="mse"), "str", "refimpl.problems.losses"),
    ("initialization unknown", lambda: mlp(initialization="he"), "'he'", "'glorot'"),
    ("initial parameters", lambda: initial_parameters((2, 1), as_generator(0), "he"), "'he'", "'glorot'"),
    ("inputs too wide", lambda: mlp(inputs=np.ones((4, 3))), "(4, 3)", "(samples, 2)"),
    ("inputs with NaN", lambda: mlp(inputs=INPUTS * NAN), "NaN", "inputs must be finite"),
    ("inputs empty", lambda: mlp(inputs=np.ones((0, 2)), targets=[]), "empty", "at least one row"),
    ("inputs text", lambda: mlp(inputs=[["a", "b"]] * 4), "'a'", "inputs must be real numbers"),
    ("test set without targets", lambda: mlp(test=INPUTS), "ndarray", "a pair (inputs, targets)"),
    ("targets too many", lambda: mlp(targets=np.zeros(5)), "(5, 1)", "(4, 1)"),
    ("labels out of range", lambda: classifier([0, 1, 2, 3]), "0 … 3", "0 … 2"),
    ("labels floating", lambda: classifier([0.0, 1.0, 2.0, 0.0]), "float64", "integer dtype"),
    ("yes-no targets out of range", lambda: mlp(targets=[0, 1, 2, 1], loss=BinaryCrossEntropy()), "2.0", "[0, 1]"),
    ("batch above n", lambda: mlp(batch_size=5), "5", "at most the number of samples 4"),
    ("batch zero", lambda: mlp(batch_size=0), "0", "at least 1"),
    ("sample of row numbers", lambda: at(mlp(), np.zeros(13), sample=[0, 1]), "list", "Minibatch"),
    ("sample empty", lambda: at(mlp(), np.zeros(13), sample=Minibatch(np.array([], int))), "[]", "at least one row"),
    ("sample out of range", lambda: at(mlp(), np.zeros(13), sample=Minibatch(np.array([4]))), "[4]", "0 … 3"),
    ("prediction too wide", lambda: mlp().predict(np.zeros(13), np.ones((1, 3))), "(1, 3)", "(samples, 2)"),
    ("split seed negative", lambda: diabetes(-1), "-1", "non-negative integer"),
    ("validation takes all", lambda: mnist1d(validation_rows=4000), "4000", "less than 4000"),
    # Torch modules
    ("module not a module", lambda: torch_problem(module=np.ones(2)), "ndarray", "torch.nn.Module"),
    ("route unknown", lambda: torch_problem(route="finite-differences"), "'finite-differences'", "'kept-graph'"),
    ("dropout active", with_dropout, "Dropout", "call its eval()"),
    ("nothing to train", lambda: torch_problem(module=torch_module("ReLU")), "no parameter", "requires_grad=True"),
    (
        "module and backend disagree",
        lambda: torch_problem(backend=get_backend("torch", "float32")),
        "float32",
        "move one",
    ),
    ("module on NumPy", lambda: torch_problem(backend=F64), "'numpy'", "torch backend"),
    ("starting rule unknown", lambda: torch_problem(initialization="zero"), "'zero'", "'reset'"),
    ("image of odd width", lambda: convnet(image_shape=(1, 8, 7)), "8 x 7", "even"),
    ("convnet activation unknown", lambda: convnet(activation="swish"), "'swish'", "'softplus'"),
    # experiments, claims, pictures, checks
    ("scale unknown", lambda: Empty("e").record(None, scale="huge"), "'huge'", "'smoke'"),
    ("no seeds", lambda: Empty("e").record(None, seeds=0), "0", "seeds must be a whole number of at least 1"),
    ("record missing", lambda: read_record("nothing"), "no record 'nothing'", "experiments run nothing"),
    ("record incomplete", lambda: check_record(ONE), "incomplete", "provenance.commit"),
    ("bootstrap of nothing", lambda: bootstrap_median([]), "empty", "at least one run"),
    ("bootstrap level", lambda: bootstrap_median([1.0], level=95), "95", "between 0 and 1"),
    ("bootstrap without resamples", lambda: bootstrap_median([1.0], resamples=0), "0", "at least 1"),
    ("bootstrap of text", lambda: bootstrap_median(["a"]), "'a'", "real numbers"),
    ("claim without tolerance", lambda: Claims("1").close("a", "b", 1.0, 1.0), "rtol or atol", "use `equal`"),
    ("claim made twice", claims_twice, "1.same was made already", "its own name"),
    ("theme unknown", lambda: plot().use_style("sepia"), "'sepia'", "'light' or 'dark'"),
    ("method without a style", lambda: plot().method_style("sgd"), "'sgd'", "'gradient-descent'"),
    ("landscape scale", lambda: plot().landscape(None, HorseSaddle(), scale="cubic"), "'cubic'", "'symlog'"),
    ("landscape in 4 dimensions", lambda: plot().landscape(None, Wood()), "has 4", "2 parameters"),
    ("path in 3 dimensions", lambda: plot().path(None, np.ones((5, 3)), "adam"), "(5, 3)", "(steps, 2)"),
    ("slice along nothing", lambda: slice_along(HorseSaddle(), PAIR, 0 * PAIR), "direction", "finite and not zero"),
    ("slice backwards", lambda: slice_along(HorseSaddle(), PAIR, PAIR, span=(1, 0)), "(1, 0)", "in increasing order"),
    (
        "direction by layers",
        lambda: random_direction(HorseSaddle(), PAIR, 0, normalize="layers"),
        "'layers'",
        "'filters'",
    ),
    ("KryBall of a class", lambda: check_kryball(KryBall), "class", "an instance with init and step"),
    ("golden group unknown", lambda: cases("serie"), "'serie'", "'spectrum'"),
    ("golden call unknown", lambda: check_implementation("inverse", abs), "'inverse'", "'saddle_free_direction'"),
    ("oracle place too long", lambda: check_oracle(HorseSaddle(), [1.0, 2.0, 3.0]), "(3,)", "(2,)"),
    ("oracle place empty", lambda: check_oracle_functions(sum, abs, abs, []), "array([]", "n >= 1"),
    ("oracle of a class", lambda: check_oracle(HorseSaddle), "class", "an instance of a Problem"),
    ("oracle place with runs", lambda: check_oracle(HorseSaddle(), np.ones((3, 2))), "(3, 2)", "no leading axes"),
    ("oracle place NaN", lambda: check_oracle(HorseSaddle(), [NAN, 1.0]), "nan", "finite numbers of shape (n,)"),
    ("oracle of one direction", lambda: check_oracle(HorseSaddle(), directions=1), "1", "at least 2"),
    (
        "oracle loss a vector",
        lambda: check_oracle_functions(abs, abs, np.dot, [1.0, 2.0]),
        "(2,)",
        "f must return shape ()",
    ),
    ("oracle gradient a matrix", lambda: check_oracle_functions(np.sum, np.diag, np.dot, [1.0, 2.0]), "(2, 2)", "(2,)"),
]


@pytest.mark.parametrize(("call", "wrong", "right"), [pytest.param(*row[1:], id=row[0]) for row in MISTAKES])
def test_mistake_is_explained(call, wrong, right):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert wrong in message
    assert right in message
    assert len(message) > 20


def test_table_has_no_double_names():
    assert len({row[0] for row in MISTAKES}) == len(MISTAKES) > 60
