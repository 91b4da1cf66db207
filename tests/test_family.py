"""The family of optimizers: adapters, the race at equal work, the tree as it is drawn, and the page's own definitions.

Oracles: Torch's own loop, central differences, counts of work by hand, boxes as the renderer measures them, and the
implementations of pytorch_optimizer for what the page defines because neither Torch nor this package has it.
"""

import ast
import math
import re
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from refimpl.experiments.family import ByRule, ByTorch, Course, Transformed, best, course
from refimpl.experiments.family_tree import BANDS, MEMBERS, draw_tree, edges, tree_size
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.quasi_newton import BFGS
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock
from refimpl.run import minimize

torch = pytest.importorskip("torch", reason="Torch is not installed")
PAGE = Path(__file__).resolve().parent.parent / "book" / "family-tree.md"


def by_hand(kind, rate, steps, start):
    """Torch's loop on Rosenbrock's function, gradients from autograd."""
    x = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, places = kind([x], lr=rate), [x.detach().numpy().copy()]
    for _ in range(steps):
        optimizer.zero_grad()
        (100.0 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2).backward()
        optimizer.step()
        places.append(x.detach().numpy().copy())
    return np.array(places)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Rprop, torch.optim.Adagrad])
def test_by_torch_is_torchs_own_loop(kind):
    run = course(Rosenbrock(), ByTorch(lambda p: kind(p, lr=0.01)), [-1.2, 1.0], 1e9, steps=30)
    np.testing.assert_allclose(run.places, by_hand(kind, 0.01, 30, [-1.2, 1.0]), rtol=1e-9)


def test_a_rule_finds_its_memory_again_and_the_given_state_is_not_changed():
    def counting(point, memory):
        memory["steps"] = memory.get("steps", 0) + 1
        return point.x + memory["steps"]

    method, problem = ByRule(counting), HorseSaddle()
    point = problem.at(problem.backend.asarray([0.0, 1.0]))
    state = method.step(point, method.init(point.x)).state
    assert method.step(point, state).state == {"steps": 2}
    assert state == {"steps": 1}
    assert minimize(problem, method, [0.0, 1.0], steps=3).x.tolist() == [6.0, 7.0]


MATRIX = np.array([[2.0, 0.5], [-0.3, 1.5]])


def test_derivatives_of_a_transformed_problem_against_differences():
    problem, y, v, h = Transformed(DoubleWell(), MATRIX, 3.0), np.array([0.4, -0.7]), np.array([0.3, 1.1]), 1e-5
    point = problem.at(y)
    assert float(point.loss) == pytest.approx(3.0 * float(DoubleWell().loss(MATRIX @ y)), rel=1e-13)
    slope = [(problem.loss(y + h * e) - problem.loss(y - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(point.gradient, slope, rtol=1e-7)
    bend = (problem.at(y + h * v).gradient - problem.at(y - h * v).gradient) / (2 * h)
    np.testing.assert_allclose(point.hvp(v), bend, rtol=1e-7)
    np.testing.assert_allclose(point.hessian() @ v, bend, rtol=1e-7)
    jacobian_v = (problem.at(y + h * v).outputs - problem.at(y - h * v).outputs) / (2 * h)
    np.testing.assert_allclose(point.jvp(v), jacobian_v, rtol=1e-7)
    np.testing.assert_allclose(point.vjp(point.output_gradient), point.gradient, rtol=1e-12)
    inner = DoubleWell().at(MATRIX @ y)
    np.testing.assert_allclose(point.ggnvp(v), 3.0 * MATRIX.T @ inner.ggnvp(MATRIX @ v), rtol=1e-12)


def test_special_places_of_a_transformed_problem_are_moved_along():
    problem = Transformed(DoubleWell(), MATRIX, 3.0)
    for place in (*problem.minimizers, *problem.saddles):
        assert np.linalg.norm(problem.at(np.array(place)).gradient) < 1e-12
    assert not Transformed(HorseSaddle(), MATRIX).at(np.ones(2)).has_outputs


@pytest.mark.parametrize(("matrix", "factor"), [(np.eye(3), 1.0), (np.ones((2, 2)), 1.0), (np.eye(2), 0.0)])
def test_a_transformation_that_is_none_is_refused(matrix, factor):
    with pytest.raises(ValueError, match="must be"):
        Transformed(DoubleWell(), matrix, factor)


def test_work_is_counted_before_each_look():
    run = course(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], 10.0)
    assert (run.work.tolist(), run.status) == (list(range(11)), "budget")
    run = course(Rosenbrock(), Newton(), [-1.2, 1.0], 12.0)  # a gradient and two products: 5 a step
    assert run.work.tolist() == [0, 5, 10]
    run = course(Rosenbrock(), BFGS(), [-1.2, 1.0], 20.0)
    assert run.work[0] == 0
    assert run.work[-1] <= 20 < len(course(Rosenbrock(), BFGS(), [-1.2, 1.0], 99.0).work)
    assert len(run.work) == len(run.losses) == len(run.places)
    np.testing.assert_allclose(Rosenbrock().loss(run.places), run.losses, rtol=1e-12)


def test_a_run_ends_where_it_stands_still_or_diverges():
    still = course(Quadratic(np.eye(2)), Newton(), [1.0, 1.0], 100.0)
    assert (still.status, still.final) == ("converged", 0.0)
    away = course(Quadratic(np.eye(2)), GradientDescent(10.0), [1.0, 1.0], 100.0)
    assert (away.status, away.final) == ("diverged", math.inf)
    assert len(course(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], 1e9, steps=4).losses) == 5


def test_best_takes_the_lowest_loss_and_never_one_that_diverged():
    def ended(loss, status="budget"):
        return Course(np.zeros((1, 1)), np.array([loss]), np.zeros(1), status)

    choices = [(1.0, ended(0.5)), (0.1, ended(0.5)), (0.01, ended(0.7)), (3.0, ended(0.0, "diverged"))]
    assert best(choices)[0] == 0.1


# -- the tree ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    figure = plt.figure(figsize=tree_size(), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    texts, paths = draw_tree(axes)
    figure.canvas.draw()
    renderer, to_units = figure.canvas.get_renderer(), axes.transData.inverted()
    boxes = {
        key: text.get_bbox_patch().get_window_extent(renderer).transformed(to_units) for key, text in texts.items()
    }
    labels = [t.get_window_extent(renderer).transformed(to_units) for t in axes.texts if t.get_text() in
              {band.label for band in BANDS.values()}]  # fmt: skip
    yield boxes, paths, labels, (*axes.get_xlim(), *axes.get_ylim())
    plt.close(figure)


def test_ancestors_are_known_older_and_further_left():
    for parent, child in edges():
        old, new = MEMBERS[parent], MEMBERS[child]
        assert not (old.year and new.year) or old.year <= new.year, (parent, child)
        assert old.x < new.x, (parent, child)


def test_every_member_is_in_its_band():
    for key, member in MEMBERS.items():
        band = BANDS[member.band]
        assert band.row <= member.row <= band.row + band.rows - 1, key


def test_no_box_covers_another_or_leaves_the_figure(drawn):
    boxes, _, labels, (_, width, _, height) = drawn
    keys = list(boxes)
    assert len(labels) == len(BANDS)
    for place, key in enumerate(keys):
        box = boxes[key]
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0, key
        for other in [*(boxes[k] for k in keys[place + 1 :]), *labels]:
            assert not box.overlaps(other), key


def test_no_edge_runs_through_a_box_that_is_not_its_own(drawn):
    boxes, paths, *_ = drawn
    assert set(paths) == set(edges())
    for pair, path in paths.items():
        dense = np.concatenate([np.linspace(a, b, 40) for a, b in pairwise(path)])
        for key, box in boxes.items():
            inside = (np.abs(dense[:, 0] - (box.x0 + box.x1) / 2) < box.width / 2) & (
                np.abs(dense[:, 1] - (box.y0 + box.y1) / 2) < box.height / 2
            )
            assert key in pair or not inside.any(), (pair, key)


# -- what the page defines itself --------------------------------------------------------------------------------------


def definitions():
    """The functions that the page defines, from its own cells."""
    cells = re.findall(r"```\{code-cell\} ipython3\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.S)
    names = {"np": np}
    for cell in cells:
        code = re.sub(r"^(:\w+:.*\n)+", "", cell)
        if code.startswith(("def ", "\ndef ")) and all(isinstance(n, ast.FunctionDef) for n in ast.parse(code).body):
            exec(compile(code, PAGE.name, "exec"), names)
    return names


def by_library(name, knobs, problem, start, steps):
    library = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    h = torch.tensor(np.diag(problem.matrix), dtype=torch.float64)
    x = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, places = getattr(library, name)([x], **knobs), [np.array(start)]
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (h * x * x).sum()).backward(create_graph=name == "AdaHessian")
        optimizer.step()
        places.append(x.detach().numpy().copy())
    return np.array(places)


CASES = {
    "lion": ("Lion", {"lr": 0.03, "betas": (0.9, 0.99), "weight_decay": 0.0}, {"rate": 0.03}),
    "adopt": ("ADOPT", {"lr": 0.03, "betas": (0.9, 0.9999), "weight_decay": 0.0, "eps": 1e-6}, {"rate": 0.03}),
    "adahessian": ("AdaHessian", {"lr": 0.03, "betas": (0.9, 0.999), "weight_decay": 0.0, "eps": 1e-8}, {"rate": 0.03}),
}


@pytest.mark.parametrize("name", CASES)
def test_definitions_of_the_page_against_pytorch_optimizer(name):
    # A diagonal Hessian: there r * H r is its diagonal for all signs r, and the two need not draw the same ones.
    problem, start = Quadratic(np.diag([2.0, 30.0])), [1.0, -0.3]
    kind, knobs, ours = CASES[name]
    theirs = by_library(kind, knobs, problem, start, 80)
    run = course(problem, ByRule(definitions()[name], ours), start, 1e9, steps=80)
    np.testing.assert_allclose(run.places, theirs, rtol=1e-6, atol=1e-9)


def test_secant_updates_of_the_page_satisfy_the_secant_equation():
    names, rng = definitions(), np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 4))
    start, hessian = a @ a.T + np.eye(4), b @ b.T + np.eye(4)
    s = rng.standard_normal(4)
    for update in (names["bfgs"], names["sr1"]):
        new = update(start, s, hessian @ s)
        np.testing.assert_allclose(new @ s, hessian @ s, rtol=1e-10)
        np.testing.assert_allclose(new, new.T, atol=1e-12)
    assert np.linalg.matrix_rank(names["sr1"](start, s, hessian @ s) - start, tol=1e-9) == 1
    assert np.array_equal(names["bfgs"](start, s, -s), start)  # no positive curvature along s: refused
