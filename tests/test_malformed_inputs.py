"""Wrong inputs over the whole public interface: each a ValueError that says what was wrong and what would be right.

One row per mistake: a name, the call, a fragment of the message about what came in, and one about what is wanted.
"""

from dataclasses import dataclass

import array_api_strict as strict
import numpy as np
import pytest

from refimpl import get_backend, minimize
from refimpl.arrays import as_generator, backend_of, check_count, namespace
from refimpl.curvature.spectrum import absolute, apply_inverse_abs
from refimpl.experiments.records import check_record, read_record
from refimpl.experiments.runner import Experiment
from refimpl.experiments.statistics import bootstrap_median
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.quasi_newton import BFGS, LBFGS
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.datasets import diabetes, mnist1d
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP, initial_parameters
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic, gaussian_symmetric
from refimpl.problems.sampling import Minibatch
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock, Wood
from refimpl.trace import Trace
from refimpl.verify import check_implementation, check_oracle, check_oracle_functions
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
    # matrices
    ("matrix a list", lambda: apply_inverse_abs([[1.0]], np.ones(1)), "list", "matrix must be an array"),
    ("matrix of integers", lambda: absolute(np.eye(2, dtype=int)), "int64", "float32 or float64"),
    ("matrix not square", lambda: absolute(np.ones((2, 3))), "(2, 3)", "square matrix"),
    ("matrix asymmetric", lambda: absolute(np.array([[1.0, 2.0], [0.0, 1.0]])), "reaches 2", "use (A + A^T)/2"),
    ("matrix with NaN", lambda: absolute(np.full((2, 2), NAN)), "NaN", "matrix must be finite"),
    ("gradient too long", lambda: apply_inverse_abs(np.eye(2), np.ones(3)), "(3,)", "gradient must have shape (2,)"),
    ("gradient infinite", lambda: apply_inverse_abs(np.eye(2), np.array([INF, 1.0])), "infinity", "must be finite"),
    ("rule unknown", lambda: apply_inverse_abs(np.eye(2), np.ones(2), mode="clip"), "'clip'", "'square'"),
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
    ("convnet activation unknown", lambda: convnet(activation="gelu"), "'gelu'", "'softplus'"),
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
    ("golden group unknown", lambda: cases("series"), "'series'", "'spectrum'"),
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
