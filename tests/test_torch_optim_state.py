"""What an optimizer keeps between steps and between programs, the knobs in its group, and what it refuses.

Oracle of a round trip: the run that was never interrupted, to the last bit.
"""

# ruff: noqa: E402  (imports stand below the skip)

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="refimpl.torch_optim needs Torch: pip install 'refimpl[torch]'")

from torch import nn
from torch_optim_cases import IDS, STEPS, WRAPPED, Training, first_step

from refimpl import Counts, torch_optim
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.kfac import KFAC
from refimpl.optimizers.quasi_newton import LBFGS
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.torch_optim.state import decode, encode

ADAM, CURVEBALL = WRAPPED[IDS.index("Adam")], WRAPPED[IDS.index("CurveBall")]


def through_a_file(state, **options):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, **options)


# -- saving and loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_a_loaded_state_continues_bitwise(one, dtype):
    whole = Training(dtype=dtype)
    uninterrupted = one.make(whole.model)
    expected = whole.run(uninterrupted, outputs=one.outputs)

    first, second = Training(dtype=dtype), Training(dtype=dtype)
    begun = one.make(first.model)
    first.run(begun, range(5), outputs=one.outputs)
    # FOSI's base is an object: its class has to be named as safe. Everything else is plain data.
    with torch.serialization.safe_globals([type(one.knobs["base"])] if "base" in one.knobs else []):
        saved = through_a_file({"model": first.model.state_dict(), "optimizer": begun.state_dict()})
    continued = one.make(second.model)
    second.model.load_state_dict(saved["model"])
    continued.load_state_dict(saved["optimizer"])
    found = second.run(continued, range(5, STEPS), outputs=one.outputs)
    np.testing.assert_array_equal(found, expected[5:])
    assert continued.counts == uninterrupted.counts != Counts()


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_copies_go_on_like_the_original(one, after):
    training = Training()
    optimizer = one.make(training.model)
    training.run(optimizer, range(after), outputs=one.outputs)
    copies = copy.deepcopy((training, optimizer)), pickle.loads(pickle.dumps((training, optimizer)))
    expected = training.run(optimizer, range(after, 6), outputs=one.outputs)
    for other, its in copies:
        np.testing.assert_array_equal(other.run(its, range(after, 6), outputs=one.outputs), expected)
        assert its.counts == optimizer.counts
        assert repr(its) == repr(optimizer)


def test_a_state_from_before_the_first_step_begins_anew():
    training, twin = Training(), Training()
    fresh = CURVEBALL.make(twin.model)
    fresh.load_state_dict(through_a_file(CURVEBALL.make(training.model).state_dict()))
    np.testing.assert_array_equal(twin.run(fresh), training.run(CURVEBALL.make(training.model)))


class OwnAdam(Adam):
    """A method of a user, whose state class stands in another file."""


def test_a_method_of_a_user_continues_too():
    whole, half = Training(), Training()
    expected = whole.run(torch_optim.MethodOptimizer(whole.model.parameters(), OwnAdam(0.02)))
    begun = torch_optim.MethodOptimizer(half.model.parameters(), OwnAdam(0.02))
    half.run(begun, range(5))
    continued = torch_optim.MethodOptimizer(half.model.parameters(), OwnAdam())
    continued.load_state_dict(through_a_file(begun.state_dict()))
    np.testing.assert_array_equal(half.run(continued, range(5, STEPS)), expected[5:])


def test_a_snapshot_stays_what_it_was():
    training, optimizer = first_step(ADAM)
    snapshot, copied = optimizer.state_dict(), copy.deepcopy(optimizer.state_dict())
    loaded = ADAM.make(training.model)
    loaded.load_state_dict(snapshot)
    training.run(optimizer)
    training.run(loaded)
    assert str(snapshot) == str(copied)


def test_loading_takes_the_saved_knobs_and_this_dtype():
    _, optimizer = first_step(ADAM)
    other = Training(dtype="float32")
    mine = torch_optim.Adam(other.model.parameters(), learning_rate=0.5, beta1=0.1)
    mine.load_state_dict(optimizer.state_dict())
    assert mine.method == optimizer.method == ADAM.method()
    assert mine.param_groups[0]["lr"] == 0.02
    assert mine.state["method"]["state"]["fields"]["mean"].dtype == torch.float32
    other.run(mine, [1])
    assert other.x.dtype == np.float32


def test_a_state_of_one_kind_survives_plain_data():
    state = {"a": [torch.ones(2), (1, None)], "b": (2.5, "x", True)}
    assert str(decode(encode(state), Adam(), torch.zeros(1))) == str(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: torch.optim.Adam([torch.ones(2)]).state_dict(), "not the state_dict"),
        (lambda s: [], "not the state_dict"),
        (lambda s: {}, "not the state_dict"),
        (lambda s: {**s, "param_groups": []}, "not the state_dict"),
        (lambda s: first_step(CURVEBALL)[1].state_dict(), "saved method 'curveball' do not fit"),
        (lambda s: torch_optim.Adam([torch.ones(26, requires_grad=True)]).state_dict(), "shapes of the parameters"),
        (lambda s: _with_state(s, {"type": "dict", "fields": 3}), "type and fields"),
        (lambda s: _with_state(s, {"type": "CurveBallState", "fields": {"mean": 1}}), "does not have"),
        (lambda s: _with_state(s, {"type": "AdamState", "fields": {"mean": 1}}), "does not have"),
        (lambda s: {**s, "param_groups": [{**s["param_groups"][0], "beta1": 2.0}]}, "beta1 must lie in"),
        (lambda s: {**s, "param_groups": [{"params": s["param_groups"][0]["params"]}]}, "lacks the knob"),
    ],
)
def test_loading_refuses_what_does_not_fit_and_changes_nothing(change, message):
    training, optimizer = first_step(ADAM)
    before = str(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(change(copy.deepcopy(optimizer.state_dict())))
    assert str(optimizer.state_dict()) == before
    training.run(optimizer, [1])


def _with_state(saved, state):
    saved["state"]["method"]["state"] = state
    return saved


# -- knobs in the group ---------------------------------------------------------------------------------------------


def test_a_knob_changed_in_the_group_holds_from_the_next_step():
    training, twin = Training(), Training()
    changed = torch_optim.SaddleFreeNewton(training.model.parameters(), damping=0.5, mode="abs", learning_rate=0.3)
    group = changed.param_groups[0]
    assert {key: group[key] for key in ("lr", "damping", "mode")} == {"lr": 0.3, "damping": 0.5, "mode": "abs"}
    assert "learning_rate" not in group
    training.run(changed, range(3))
    group.update(lr=0.1, damping=2.0)
    training.run(changed, range(3, 6))
    assert (changed.method.learning_rate, changed.method.damping) == (0.1, 2.0)
    fixed = torch_optim.SaddleFreeNewton(twin.model.parameters(), damping=0.5, mode="abs", learning_rate=0.3)
    twin.run(fixed, range(3))
    fixed = torch_optim.SaddleFreeNewton(twin.model.parameters(), damping=2.0, mode="abs", learning_rate=0.1)
    np.testing.assert_array_equal(twin.run(fixed, range(3, 6))[-1], training.x)


def test_a_rate_that_the_method_chooses_is_no_lr():
    group = CURVEBALL.make(Training().model).param_groups[0]
    assert "lr" not in group
    assert group["learning_rate"] is None
    fixed = torch_optim.CurveBall(Training().model.parameters(), learning_rate=0.1).param_groups[0]
    assert fixed["lr"] == 0.1


def test_a_scheduler_sets_the_rate_of_a_second_order_method():
    training = Training()
    optimizer = torch_optim.LanczosSaddleFreeNewton(training.model.parameters(), products=4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    rates = []
    for step in range(4):
        training.run(optimizer, [step])
        rates.append(optimizer.method.learning_rate)
        scheduler.step()
    assert rates == [1.0, 0.5, 0.25, 0.125]
    optimizer.param_groups[0]["lr"] = 0.0
    before = training.x
    with pytest.raises(ValueError, match="learning_rate must be finite and positive"):
        training.run(optimizer, [0])
    np.testing.assert_array_equal(training.x, before)


# -- parameters -----------------------------------------------------------------------------------------------------


def test_frozen_parameters_stay_and_unused_ones_get_no_step():
    training = Training()
    parameters = list(training.model.parameters())
    frozen, unused = parameters[1].requires_grad_(False), torch.ones(3, dtype=torch.float64, requires_grad=True)
    before = frozen.clone()
    optimizer = torch_optim.DampedNewton([*parameters, unused], damping=1.0, mode="abs")
    training.run(optimizer, range(3))
    assert repr(optimizer).endswith(f"n={26 - 4 + 3})")
    assert torch.equal(frozen, before)
    assert torch.equal(unused, torch.ones(3))
    frozen.requires_grad_(True)
    with pytest.raises(ValueError, match="requires_grad of a parameter has changed"):
        training.run(optimizer, [0])


def test_one_group_named_parameters_and_a_generator_are_the_same():
    paths = []
    for wrap in (list, iter, lambda p: [{"params": list(p)}], lambda p: [{"params": p}]):
        training = Training()
        paths.append(training.run(torch_optim.Newton(wrap(training.model.parameters()), learning_rate=0.01)))
    training = Training()
    optimizer = torch_optim.Newton(training.model.named_parameters(), learning_rate=0.01)
    paths.append(training.run(optimizer))
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for path in paths[1:]:
        np.testing.assert_array_equal(path, paths[0])


def test_zero_grad_works_and_is_not_needed():
    training = Training()
    optimizer = ADAM.make(training.model)
    inner = training.closure(0)
    for to_none in (True, False):
        for p in training.model.parameters():
            p.grad = torch.ones_like(p)

        def closure(to_none=to_none):
            optimizer.zero_grad(set_to_none=to_none)
            return inner()

        optimizer.step(closure)
        assert all(p.grad is None or not p.grad.any() for p in training.model.parameters())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_parameters_keep_their_memory_layout(layout):
    model = nn.Conv2d(2, 3, 2).double().to(memory_format=layout)
    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 2, 3, 3)))
    strides, address = model.weight.stride(), model.weight.data_ptr()
    for one in (model, twin):
        optimizer = torch_optim.LanczosSaddleFreeNewton(one.parameters(), products=5)
        for _ in range(4):
            optimizer.step(lambda one=one: (one(inputs) ** 2).mean())
    assert (model.weight.stride(), model.weight.data_ptr()) == (strides, address)
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()), rtol=1e-9, atol=1e-12)


# -- what is refused ------------------------------------------------------------------------------------------------


def leaf(**options):
    return torch.ones(2, requires_grad=True, **options)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (lambda: [], "nothing to optimize"),
        (lambda: [torch.ones(2)], "nothing to optimize"),
        (lambda: [torch.ones(0, requires_grad=True)], "nothing to optimize"),
        (leaf, "list of tensors"),
        (lambda: 3, "list of tensors"),
        (lambda: {leaf()}, "order"),
        (lambda: [{"params": {leaf()}}], "order"),
        (lambda: [leaf().numpy(force=True)], "must be tensors"),
        (lambda: [leaf() * 2], "leaf"),
        (lambda: [leaf(), leaf(dtype=torch.float64)], "share dtype and device"),
        (lambda: [leaf(), leaf(device="meta")], "share dtype and device"),
        (lambda: [leaf(dtype=torch.bfloat16)], "float32 or float64"),
        (lambda: [leaf(dtype=torch.complex64)], "float32 or float64"),
        (lambda: [torch.eye(2).to_sparse().requires_grad_(True)], "dense"),
        (lambda: 2 * [leaf()], "twice"),
        (lambda: [{"params": [leaf()]}, {"params": [leaf()]}], "one group"),
        (lambda: [{"params": [leaf()], "lr": 0.1}], r"nothing else.*lr"),
        (lambda: [{"lr": 0.1}], r"must have 'params'"),
    ],
)
def test_parameters_that_are_no_vector_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        torch_optim.Adam(params())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Adam, {}, r"write Adam\(...\)"),
        (LBFGS(), {}, "owns its loop"),
        (KFAC(0.1, 0.1), {}, "module="),
        (KFAC(0.1, 0.1), {"module": 3}, "torch.nn.Module"),
        (KFAC(0.1, 0.1), {"module": nn.Linear(2, 1)}, "all trainable parameters"),
        (KFAC(0.1, 0.1), {"module": nn.Conv2d(1, 1, 1)}, "torch.nn.Linear"),
        (torch.optim.SGD([leaf()]), {}, "name, init and step"),
        (3, {}, "name, init and step"),
        (Adam(), {"buffers": [3]}, "buffers must be"),
        (Adam(), {"buffers": [leaf()]}, "buffers must be"),
    ],
)
def test_methods_buffers_and_modules_that_do_not_fit_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        torch_optim.MethodOptimizer([leaf()], method, **options)


@pytest.mark.parametrize(
    ("cls", "knobs", "message"),
    [
        (torch_optim.Adam, {"lr": 0.1}, "has the knobs .*learning_rate"),
        (torch_optim.DampedNewton, {}, "missing 1 required .*damping"),
        (torch_optim.Adam, {"learning_rate": -1}, "learning_rate must be finite and positive"),
        (torch_optim.SaddleFreeNewton, {"mode": "shift"}, "unknown mode"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(cls, knobs, message):
    with pytest.raises(ValueError, match=message):
        cls([leaf()], **knobs)


def test_a_second_group_is_refused():
    optimizer = torch_optim.Adam([leaf()])
    with pytest.raises(ValueError, match="couples all parameters"):
        optimizer.add_param_group({"params": [leaf()]})


def _backward(loss):
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.sum().item(), "tensor of shape"),
        (lambda x: None, "tensor of shape"),
        (lambda x: x * 2, r"shape \(\), got one of shape \(2,\)"),
        (lambda x: x.detach().sum(), "no graph"),
        (lambda x: leaf().sum(), "none of the parameters"),
        (lambda x: x.sum().double(), "loss must be torch.float32"),
        (lambda x: (x.sum(), x, x), "got 3 things"),
        (lambda x: (x.sum(), 3), "one tensor that is not empty"),
        (lambda x: (x.sum(), x[:0]), "one tensor that is not empty"),
        (lambda x: (x.sum(), x.double()), "outputs must be torch.float32"),
        (lambda x: (x.sum(), x.detach()), "outputs .* no graph"),
        (lambda x: (x.sum(), x * 1), "not computed from the outputs"),
        (lambda x: _backward((x**2).sum()), "called backward"),
    ],
)
def test_closures_that_return_something_else_are_refused(answer, message):
    x = leaf()
    optimizer = torch_optim.HessianFree([x], products=2)
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: answer(x))
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize(("closure", "message"), [(None, "needs a closure"), (3, "function without arguments")])
def test_a_step_without_a_closure_is_refused(closure, message):
    with pytest.raises(ValueError, match=message):
        torch_optim.Adam([leaf()]).step(closure)


def test_kfac_refuses_a_network_that_has_no_factors():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
    optimizer = torch_optim.KFAC(model.parameters(), learning_rate=0.1, damping=1.0, module=model)
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))

    def closure(reads=model):
        outputs = reads(inputs)
        return (outputs**2).mean(), outputs

    with pytest.raises(ValueError, match="BatchNorm in train mode"):
        optimizer.step(closure)
    model.eval()
    optimizer.step(closure)
    with pytest.raises(ValueError, match="used once"):
        optimizer.step(lambda: [closure(), closure()][1])

    def one_number():
        _, outputs = closure()
        mean = outputs.mean()
        return mean**2, mean

    with pytest.raises(ValueError, match=r"outputs \(samples, k\)"):
        optimizer.step(one_number)


def test_a_method_from_a_class_method_is_wrapped():
    method = SeriesSaddleFreeNewton.published(5, 1, damping=0.3, mode="abs")
    training = Training()
    optimizer = torch_optim.MethodOptimizer(training.model.parameters(), method)
    assert optimizer.param_groups[0]["guard"] is False
    training.run(optimizer, range(2))
    assert optimizer.last_info.restarts == 0
