"""The conformance kit: its tasks, how it takes an optimizer in, and that each level sees what those before it miss.

Oracles: differences of the loss, autograd, matrices; and small optimizers written here, right or broken on purpose.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from refimpl.optimizers.newton import Newton
from refimpl.verify.__main__ import main
from refimpl.verify.kit import (
    LEVELS,
    METHODS,
    NotConforming,
    OptimizerAdapter,
    as_adapter,
    assert_conforms,
    check_method,
    conformance_test,
    load,
)
from refimpl.verify.kit.tasks import EDGE_TASKS, TASKS

ALL = [*TASKS.values(), *EDGE_TASKS.values()]


def descent(gradient, hvp, learning_rate):
    return -learning_rate * gradient


class HeavyBall:
    """Right, in the style of a library: updates in place, keeps everything in one object."""

    def init(self, task, *, learning_rate, momentum):
        return SimpleNamespace(x=task.start, v=np.zeros_like(task.start), rate=learning_rate, mu=momentum)

    def step(self, task, state):
        state.v *= state.mu
        state.v += state.rate * task.gradient(state.x)
        state.x -= state.v
        return state


# -- tasks ------------------------------------------------------------------------------------------------------------


def seen(task):
    """The task, and the same turned, shifted and scaled."""
    turned = np.linalg.qr(np.random.default_rng(4).standard_normal((task.n, task.n)))[0]
    return [task, task.rotated(turned).translated(np.linspace(0.1, 0.4, task.n)).scaled(3.0)]


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_derivatives_are_those_of_the_loss(task):
    for one in seen(task):
        x, rng, h = one.start + 0.1, np.random.default_rng(0), 1e-5
        v = rng.standard_normal(one.n)
        size = 1 + np.abs(one.hessian(x)).max()
        slope = (one.loss(x + h * v) - one.loss(x - h * v)) / (2 * h)
        assert one.gradient(x) @ v == pytest.approx(slope, abs=1e-6 * size)
        bend = (one.gradient(x + h * v) - one.gradient(x - h * v)) / (2 * h)
        assert one.hvp(x, v) == pytest.approx(bend, abs=1e-6 * size)
        assert one.hessian(x) @ v == pytest.approx(one.hvp(x, v), abs=1e-11 * size)


@pytest.mark.parametrize("task", [t for t in ALL if t.has_outputs], ids=lambda task: task.name)
def test_gauss_newton_parts_fit_together(task):
    for one in seen(task):
        x, rng = one.start + 0.1, np.random.default_rng(1)
        v, h = rng.standard_normal(one.n), 1e-6
        jacobian = np.stack([one.jvp(x, e) for e in np.eye(one.n)], axis=-1)
        differences = (one.outputs(x + h * v) - one.outputs(x - h * v)) / (2 * h)
        assert jacobian @ v == pytest.approx(differences, rel=1e-6, abs=1e-6)
        u = one.output_gradient(x)
        assert one.vjp(x, u) == pytest.approx(jacobian.T @ u)
        assert one.vjp(x, u) == pytest.approx(one.gradient(x))
        assert one.ggnvp(x, v) == pytest.approx(jacobian.T @ one.output_hvp(x, jacobian @ v))


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_autograd_sees_the_same_loss(task):
    torch = pytest.importorskip("torch")
    for one in seen(task):
        x = torch.tensor(one.start + 0.1, requires_grad=True)
        loss = one.torch_loss(x)
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        (product,) = torch.autograd.grad(g.sum(), x)
        place = x.detach().numpy()
        assert loss.item() == pytest.approx(one.loss(place))
        assert g.detach().numpy() == pytest.approx(one.gradient(place))
        assert product.numpy() == pytest.approx(one.hvp(place, np.ones(one.n)), abs=1e-9)
        assert one.in_dtype("float32").torch_loss(x.detach().float()).dtype == torch.float32


def test_copies_are_the_same_loss_seen_otherwise():
    task, rng = TASKS["wood"], np.random.default_rng(2)
    x, q = task.start, np.linalg.qr(rng.standard_normal((4, 4)))[0]
    turned, moved, order = task.rotated(q), task.translated(np.ones(4)), [2, 0, 3, 1]
    assert turned.start == pytest.approx(q.T @ x)
    assert turned.gradient(q.T @ x) == pytest.approx(q.T @ task.gradient(x))
    assert moved.start == pytest.approx(x - 1)
    assert moved.loss(x - 1) == task.loss(x)
    assert task.permuted(order).start == pytest.approx(x[order])
    assert task.permuted(order).gradient(x[order]) == pytest.approx(task.gradient(x)[order])
    assert task.scaled(3).loss(x) == pytest.approx(3 * task.loss(x))
    assert task.from_place(x + 1).start == pytest.approx(x + 1)


def test_answers_have_the_dtype_of_the_task():
    task = TASKS["least squares"].in_dtype("float32")
    x = task.start
    for answer in (x, task.gradient(x), task.hvp(x, x), task.hessian(x), task.outputs(x), task.ggnvp(x, x)):
        assert answer.dtype == np.float32
    assert task.gradient(x).tolist() == TASKS["least squares"].gradient(x).astype(np.float32).tolist()


def test_a_start_that_is_changed_in_place_does_not_change_the_task():
    task = TASKS["bowl"]
    task.start[:] = 7.0
    assert not (task.start == 7.0).any()


def test_products_are_counted_anew_in_each_copy():
    task = TASKS["bowl"].from_place([0.0, 0.0, 0.0, 1.0])
    task.hvp(task.start, task.start)
    task.ggnvp(task.start, task.start)
    assert task.products == 2
    task.hessian(task.start)
    assert task.products == 6
    assert task.from_place(task.start).products == 0


def test_poison_is_in_the_loss_and_in_one_entry_of_the_gradient():
    task = TASKS["least squares"].poisoned(np.nan)
    assert np.isnan(task.loss(task.start))
    assert np.isnan(task.gradient(task.start)).tolist() == [True, False, False]
    assert np.isnan(task.output_gradient(task.start)).any()


def test_wrong_questions_are_refused():
    task = TASKS["coupled saddle"]
    with pytest.raises(ValueError, match=r"x must have shape \(2,\), got \(3,\)"):
        task.gradient(np.zeros(3))
    with pytest.raises(ValueError, match="v must be an array of numbers"):
        task.hvp(task.start, "north")
    with pytest.raises(ValueError, match="'coupled saddle' has no outputs"):
        task.outputs(task.start)
    with pytest.raises(ValueError, match=r"floating torch\.Tensor"):
        task.torch_loss(np.zeros(2))


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_an_object_a_namespace_and_a_function_are_adapters():
    space = SimpleNamespace(init=lambda task: task.start, step=lambda task, x: x - 0.05 * task.gradient(x))
    for thing in (descent, space, METHODS["gradient-descent"].reference):
        assert check_method("gradient-descent", thing, levels=["ten steps"]).passed
    assert check_method("heavy-ball", HeavyBall()).passed


def test_read_is_used_where_there_is_one():
    hidden = SimpleNamespace(
        init=lambda task, learning_rate: {"weights": task.start, "rate": learning_rate},
        step=lambda task, s: {**s, "weights": s["weights"] - s["rate"] * task.gradient(s["weights"])},
        read=lambda s: s["weights"],
    )
    assert check_method("gradient-descent", hidden, levels=["one step"]).passed
    del hidden.read
    row = check_method("gradient-descent", hidden, levels=["one step"]).rows[0]
    assert "give the adapter a read(state)" in row.note


def test_a_torch_tensor_is_a_place():
    torch = pytest.importorskip("torch")

    class Sgd:
        def init(self, task, learning_rate):
            x = torch.tensor(task.start, requires_grad=True)
            return SimpleNamespace(x=x, optimizer=torch.optim.SGD([x], lr=learning_rate))

        def step(self, task, state):
            state.optimizer.zero_grad()
            task.torch_loss(state.x).backward()
            state.optimizer.step()
            return state

    assert check_method("gradient-descent", Sgd()).passed


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "'int' is no adapter"),
        (HeavyBall, "got the class 'HeavyBall'; make an instance"),
        (SimpleNamespace(init=print), "has init but no step"),
        (SimpleNamespace(step=print), "has step but no init"),
        (lambda gradient: gradient, "must take a gradient and hvp"),
        (json, "'json' is no adapter"),
    ],
)
def test_what_is_no_adapter_is_refused(thing, message):
    with pytest.raises(ValueError, match=message):
        as_adapter(thing)


@pytest.fixture
def file(tmp_path):
    """A module with a right optimizer as a class, a wrong one as a function, and one that is a module."""
    path = tmp_path / "own_optimizer.py"
    path.write_text(
        "class Descent:\n"
        "    def init(self, task, learning_rate=0.05):\n        self.rate = learning_rate\n        return task.start\n"
        "    def step(self, task, x):\n        return x - self.rate * task.gradient(x)\n"
        "class Needs:\n    def __init__(self, rate): pass\n"
        "def ascent(gradient, hvp, learning_rate):\n    return learning_rate * gradient\n",
        encoding="utf-8",
    )
    return path


def test_load_finds_files_and_modules(file, monkeypatch):
    assert check_method("gradient-descent", load(f"{file}:Descent"), levels=["one step"]).passed
    monkeypatch.syspath_prepend(str(file.parent))
    assert not check_method("gradient-descent", "own_optimizer:ascent", levels=["one step"]).passed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:x", "cannot import 'no_such_module_here'"),
        ("no_such_file.py:x", "there is no file"),
        ("{file}:Absent", "has no 'Absent'; it has .*ascent"),
        ("{file}:Needs", "cannot be made without arguments"),
        ("{file}", "'own_optimizer' is no adapter"),
    ],
)
def test_load_says_what_is_not_there(file, name, message):
    with pytest.raises(ValueError, match=message):
        load(name.format(file=file))


# -- each level sees what those before it do not ----------------------------------------------------------------------


class Forgets(HeavyBall):
    def step(self, task, state):
        state.v[:] = 0.0
        return super().step(task, state)


class Remembers(HeavyBall):
    """Where a run began before, its velocity is still there."""

    def __init__(self):
        self.kept = {}

    def init(self, task, **settings):
        state = super().init(task, **settings)
        state.v = self.kept.setdefault(state.x.tobytes(), state.v)
        return state


class Clips(HeavyBall):
    """Gradients longer than any on the tasks as they are."""

    longest = 1.3 * max(
        np.linalg.norm(TASKS[name].gradient(walked))
        for name in METHODS["heavy-ball"].tasks
        for walked in [TASKS[name].start, *np.random.default_rng(3).uniform(-2, 2, (40, TASKS[name].n))]
    )

    def step(self, task, state):
        g = task.gradient(state.x)
        state.v = state.mu * state.v + state.rate * g * min(1.0, self.longest / max(np.linalg.norm(g), 1e-300))
        state.x = state.x - state.v
        return state


def swallows(gradient, hvp, learning_rate):
    return -learning_rate * np.nan_to_num(gradient, posinf=1.0)


def promotes(gradient, hvp, learning_rate):
    return -np.float64(learning_rate) * gradient


def stops_early(gradient, hvp, learning_rate):
    return -learning_rate * gradient if np.linalg.norm(gradient) > 1e-8 else 0 * gradient


def bare_lanczos(gradient, hvp, products, damping, mode, learning_rate):
    """Without a look at whether the Krylov space is exhausted."""
    beta, q, before = np.linalg.norm(gradient), gradient / np.linalg.norm(gradient), 0 * gradient
    basis, alphas, betas = [], [], []
    for _ in range(products):
        basis.append(q)
        w = hvp(q) - (betas[-1] if betas else 0.0) * before
        alphas.append(q @ w)
        w = w - alphas[-1] * q
        betas.append(np.linalg.norm(w))
        before, q = q, w / betas[-1]
    values, u = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
    return -learning_rate * beta * np.stack(basis, axis=-1) @ (u @ (u[0] / (np.abs(values) + damping)))


@pytest.mark.parametrize(
    ("method", "mistake", "level", "row"),
    [
        ("gradient-descent", lambda gradient, hvp, learning_rate: -2 * learning_rate * gradient, "one step", "bowl"),
        ("heavy-ball", Forgets(), "ten steps", "bowl"),
        ("heavy-ball", Remembers(), "ten steps", "a second run"),
        ("heavy-ball", Clips(), "invariances", "loss times 4"),
        ("gradient-descent", swallows, "edge cases", "NaN"),
        ("lanczos-sfn", bare_lanczos, "edge cases", "minimum"),
        ("gradient-descent", promotes, "precision", "dtype kept"),
        ("gradient-descent", stops_early, "precision", "small loss"),
    ],
    ids=["factor", "no-momentum", "old-velocity", "clipping", "swallowed-nan", "breakdown", "promotion", "tolerance"],
)
def test_each_level_sees_what_those_before_it_miss(method, mistake, level, row):
    card = check_method(method, mistake)
    failed = {check.level: check for check in reversed(card.failed)}
    assert next(name for name in LEVELS if name in failed) == level
    assert any(check.name.startswith(row) for check in card.failed if check.level == level)
    assert all(check.passed for name in LEVELS[: LEVELS.index(level)] for check in card.level(name))


def test_levels_can_be_chosen():
    card = check_method("gradient-descent", promotes, levels=["ten steps", "one step"])
    assert card.passed
    assert card.levels == ("one step", "ten steps")
    assert check_method("gradient-descent", descent, levels="precision").levels == ("precision",)


# -- what the card says -----------------------------------------------------------------------------------------------


def raises(gradient, hvp, learning_rate):
    raise ZeroDivisionError("no luck today\nand more")


@pytest.mark.parametrize(
    ("mistake", "note"),
    [
        (raises, "ZeroDivisionError: no luck today"),
        (lambda gradient, hvp: np.zeros((3, 1)), "it must be"),
        (lambda gradient, hvp: "up", r"the direction has shape \(\); it must be \(4,\)"),
        (lambda gradient, hvp: gradient[0], r"the direction has shape \(\); it must be \(4,\)"),
        (lambda gradient, hvp: None, r"the direction has shape \(\)"),
        (lambda gradient, hvp: sys.exit(0), "SystemExit: 0"),
        (
            SimpleNamespace(init=lambda task: SimpleNamespace(x=task.start), step=lambda task, s: None),
            "the state is None; init and step must return it",
        ),
    ],
)
def test_an_exception_is_a_failed_row_with_its_first_line(mistake, note):
    card = check_method("gradient-descent", mistake, levels=["one step"])
    assert not any(row.passed for row in card.rows)
    assert re.search(note, card.rows[0].note)
    assert card.cause == ""


def test_a_direction_may_be_a_list_or_a_tensor():
    torch = pytest.importorskip("torch")
    for form in (list, lambda move: torch.tensor(move, requires_grad=True)):
        with_form = lambda gradient, hvp, learning_rate, form=form: form(-learning_rate * gradient)  # noqa: E731
        assert check_method("gradient-descent", with_form, levels=["one step"]).passed


def test_float64_that_is_rounded_to_float32_is_seen():
    coarse = SimpleNamespace(
        init=lambda task: task.start.astype("f4"),
        step=lambda task, x: x - np.float32(0.05) * task.gradient(x).astype("f4"),
    )
    (row,) = [row for row in check_method("gradient-descent", coarse).failed if row.name == "dtype kept"]
    assert row.note == "float64 rounded to float32"


@pytest.mark.parametrize(("form", "finite"), [(np.sign, ()), (lambda m: np.nan_to_num(np.sign(m)), ("NaN",))])
def test_an_infinite_gradient_is_a_long_one_where_steps_are_bounded(form, finite):
    """Lion as it is printed: the sign of infinity is 1. That NaN has no sign must still show."""

    class Lion:
        def init(self, task, **settings):
            return SimpleNamespace(x=task.start, m=np.zeros_like(task.start), k=SimpleNamespace(**settings))

        def step(self, task, s):
            g = task.gradient(s.x)
            s.x = s.x - s.k.learning_rate * (form(s.k.beta1 * s.m + (1 - s.k.beta1) * g) + s.k.weight_decay * s.x)
            s.m = s.k.beta2 * s.m + (1 - s.k.beta2) * g
            return s

    assert tuple(row.name.split()[0] for row in check_method("lion", Lion()).failed) == finite


def test_settings_that_are_not_taken_are_said_where_something_failed():
    wrong = check_method("gradient-descent", lambda gradient, hvp, lr=0.001: -lr * gradient, levels=["one step"])
    assert "not taken by name, so its own values were used: learning_rate" in wrong.text()
    assert "used: learning\\_rate" in wrong.markdown()
    assert wrong.as_json()["left_out"] == ["learning_rate"]
    right = check_method("gradient-descent", lambda gradient, hvp: -0.05 * gradient, levels=["one step"])
    assert "not taken" not in right.text() + right.markdown()


def test_the_first_wrong_step_is_named():
    class Late(HeavyBall):
        def step(self, task, state):
            state.steps = getattr(state, "steps", 0) + 1
            state.mu *= 1.5 if state.steps == 4 else 1.0
            return super().step(task, state)

    row = check_method("heavy-ball", Late(), levels=["ten steps"]).failed[0]
    assert row.note == "step 4 is the first wrong one"


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        (
            lambda gradient, hvp, learning_rate: -3 * learning_rate * gradient,
            "every first step is 3 times the right one",
        ),
        (lambda gradient, hvp, learning_rate: learning_rate * gradient, METHODS["gradient-descent"].slips["uphill"]),
        (lambda gradient, hvp, learning_rate: 3 * learning_rate * gradient, "goes the opposite way, and is 3 times"),
        (lambda gradient, hvp, learning_rate: -learning_rate * gradient**3, ""),
        (promotes, ""),
        (swallows, ""),
    ],
)
def test_a_cause_is_named_where_one_fits_and_only_there(mistake, cause):
    card = check_method("gradient-descent", mistake)
    assert not card.passed
    assert (cause in card.cause) if cause else card.cause == ""


def test_a_right_optimizer_has_no_cause():
    assert check_method("gradient-descent", descent).cause == ""


def test_settings_are_those_of_the_method_unless_others_are_asked_for():
    card = check_method("gradient-descent", descent, settings={"learning_rate": 0.02})
    assert card.passed
    assert card.settings == {"learning_rate": 0.02}
    fixed = check_method("gradient-descent", lambda gradient, hvp: -0.02 * gradient, levels=["one step"])
    assert not fixed.passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "no such"}, "unknown method 'no such'; choose one of .*curveball"),
        ({"levels": ["twelve steps"]}, "unknown level 'twelve steps'"),
        ({"settings": {"rate": 1}}, r"gradient-descent has no setting \['rate'\]; it has \['learning_rate'\]"),
        ({"settings": {"learning_rate": -1}}, "gradient-descent cannot be run with .*finite and positive, got -1"),
        ({"settings": {"learning_rate": [1]}}, "cannot be run with .*must be a real number"),
        ({"method": "lion", "settings": {"learning_rate": float("inf")}}, "its first step is not finite"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_method(**{"method": "gradient-descent", "adapter": descent, **options})


def test_card_prints_as_text_markdown_and_json():
    right, wrong = check_method("gradient-descent", descent), check_method("gradient-descent", swallows)
    assert "FAIL" not in right.text()
    assert right.text(all_rows=True).count("ok  ") == len(right.rows)
    assert "FAIL edge cases: NaN loss and gradient: inf" in str(wrong)
    assert "`descent` conforms to **gradient-descent**" in right.markdown()
    table = [line for line in wrong.markdown().splitlines() if line.startswith("|")]
    assert [line.count("|") for line in table] == [5] * len(table)
    back = json.loads(wrong.json())
    assert back["passed"] is False
    assert len(back["rows"]) == len(wrong.rows)
    assert {"level": "edge cases", "error": None, "passed": False}.items() <= next(
        row for row in back["rows"] if row["name"].startswith("NaN")
    ).items()


def test_markdown_prints_a_message_as_it_is():
    def odd(gradient, hvp):
        raise ValueError("a|b <class 'x'> __init__ *b* `c`")

    table = check_method("gradient-descent", odd, levels=["one step"]).markdown()
    assert r"a\|b \<class 'x'\> \_\_init\_\_ \*b\* \`c\`" in table


def test_json_is_valid_whatever_the_settings_are():
    card = check_method("gradient-descent", descent, settings={"learning_rate": np.float32(0.05)}, levels=["one step"])
    assert json.loads(card.json())["settings"] == {"learning_rate": pytest.approx(0.05)}
    odd = replace(card, settings={"a": np.int64(3), "b": np.inf, "c": (1, 2), "d": None, "e": True})
    assert json.loads(odd.json())["settings"] == {"a": 3, "b": None, "c": "(1, 2)", "d": None, "e": True}


def test_assert_conforms_raises_the_card():
    assert assert_conforms("gradient-descent", descent).passed
    with pytest.raises(NotConforming, match="swallows as gradient-descent") as caught:
        assert_conforms("gradient-descent", swallows, levels=["edge cases"])
    assert caught.value.card.failed
    assert isinstance(caught.value, AssertionError)


def test_pytest_runs_one_case_per_check(tmp_path):
    (tmp_path / "test_own.py").write_text(
        "from refimpl.verify.kit import conformance_test\n"
        "def right(gradient, hvp, learning_rate): return -learning_rate * gradient\n"
        "def wrong(gradient, hvp, learning_rate): return learning_rate * gradient\n"
        "test_right = conformance_test('gradient-descent', right)\n"
        "test_wrong = conformance_test('gradient-descent', wrong, levels=['one step'])\n",
        encoding="utf-8",
    )
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
    right, wrong = (len(check_method("gradient-descent", descent, levels=v).rows) for v in (None, ["one step"]))
    assert f"{wrong} failed, {right} passed" in done.stdout
    assert "test_wrong[one step-bowl, place 1]" in done.stdout
    assert f"likely cause: {METHODS['gradient-descent'].slips['uphill']}" in done.stdout


def test_conformance_test_refuses_at_once():
    with pytest.raises(ValueError, match="unknown method"):
        conformance_test("no such", descent)
    with pytest.raises(ValueError, match="has no setting"):
        conformance_test("gradient-descent", descent, settings={"rate": 1})
    with pytest.raises(ValueError, match="cannot be run"):
        conformance_test("gradient-descent", descent, settings={"learning_rate": -1})
    with pytest.raises(TypeError, match="level"):
        conformance_test("gradient-descent", descent, level="one step")


def test_an_optimizer_of_this_package_is_wrapped():
    assert check_method("newton", OptimizerAdapter(Newton)).passed


def test_the_slowest_method_takes_a_few_seconds():
    start = time.process_time()
    check_method("kryball", METHODS["kryball"].textbook("no growing"))
    assert time.process_time() - start < 6.0


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_lists_the_methods(capsys):
    assert main(["--method", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(METHODS)
    assert main(["--method", "list", "--json"]) == 0
    assert {entry["method"] for entry in json.loads(capsys.readouterr().out)} == set(METHODS)


def test_command_checks_an_optimizer(file, capsys):
    method = ["--method", "gradient-descent"]
    assert main([*method, f"{file}:Descent"]) == 0
    assert "Descent as gradient-descent (learning_rate=0.05)" in capsys.readouterr().out
    assert main([*method, f"{file}:ascent", "--level", "one step", "--json", "--setting", "learning_rate=0.1"]) == 1
    card = json.loads(capsys.readouterr().out)
    assert card["settings"] == {"learning_rate": 0.1}
    assert card["levels"] == ["one step"]
    assert card["cause"] == METHODS["gradient-descent"].slips["uphill"]
    assert main([*method, f"{file}:ascent", "--markdown"]) == 1
    assert "does **not** conform" in capsys.readouterr().out


def test_command_prints_nothing_but_the_card(tmp_path, capsys):
    (tmp_path / "beside_it.py").write_text("RATE = 0.05\n", encoding="utf-8")
    (tmp_path / "talks.py").write_text(
        "import beside_it\nprint('made')\n"
        "def own(gradient, hvp):\n    print('step')\n    return -beside_it.RATE * gradient\n",
        encoding="utf-8",
    )
    assert main(["--method", "gradient-descent", f"{tmp_path / 'talks.py'}:own", "--level", "one step", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["passed"]
    assert said.err.split()[:2] == ["made", "step"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "gradient-descent"], "say which optimizer to check"),
        (["--method", "no such", "{file}:Descent"], "unknown method"),
        (["--method", "adam", "{file}:Absent"], "has no 'Absent'"),
        (["--method", "adam", "{file}:ascent", "--setting", "oops"], "a setting looks like damping=0.1"),
        (["--method", "adam", "{file}:ascent", "--level", "oops"], "unknown level"),
        (["--method", "adam", "{broken}:x"], "raised SyntaxError"),
        (["{file}:Descent"], "needs --method"),
        (["--markdown"], "needs --method"),
        (["--method", "adam", "{file}:ascent", "--only", "spectrum"], "--only is for golden vectors"),
        (["--method", "adam", "{file}:ascent", "--setting", "beta1=[1]"], "adam cannot be run with"),
        (["--method", "adam", "{leaves}:x"], "called sys.exit(0)"),
    ],
)
def test_command_says_what_is_wrong(file, tmp_path, capsys, arguments, message):
    broken = tmp_path / "broken.py"
    broken.write_text("def :", encoding="utf-8")
    leaves = tmp_path / "leaves.py"
    leaves.write_text("import sys\nsys.exit(0)", encoding="utf-8")
    assert main([a.format(file=file, broken=broken, leaves=leaves) for a in arguments]) == 2
    assert message in capsys.readouterr().err
