"""The optimizers of other libraries that :mod:`refimpl.verify.third_party` holds against the kit, one entry each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.verify.third_party import Host, JumpOf, Peer, StepOf, TorchOptimizer, WalkOf, attribute
from refimpl.verify.third_party_products import OPERATORS, SOLVERS

# -- torch.optim and pytorch_optimizer --------------------------------------------------------------------------------


def _torch_like(module: str, name: str, translate: Callable[..., dict[str, Any]]) -> Callable[[], TorchOptimizer]:
    """An optimizer class whose arguments ``translate`` makes of the method's settings."""
    return lambda: TorchOptimizer(lambda parameters, s: attribute(module, name)(parameters, **translate(**s)))


def _descent(learning_rate: float, **fixed: Any) -> dict[str, Any]:
    return {"lr": learning_rate, **fixed}


def _momentum(learning_rate: float, momentum: float, **fixed: Any) -> dict[str, Any]:
    return {"lr": learning_rate, "momentum": momentum, **fixed}


def _adaptive(learning_rate: float, epsilon: float, **fixed: Any) -> dict[str, Any]:
    return {"lr": learning_rate, "eps": epsilon, **fixed}


def _smoothed(name: str, learning_rate: float, epsilon: float, beta: float, **fixed: Any) -> dict[str, Any]:
    return {"lr": learning_rate, "eps": epsilon, name: beta, **fixed}


def _adam(learning_rate: float, beta1: float, beta2: float, epsilon: float, **fixed: Any) -> dict[str, Any]:
    return {"lr": learning_rate, "betas": (beta1, beta2), "eps": epsilon, **fixed}


def _lion(learning_rate: float, beta1: float, beta2: float, weight_decay: float) -> dict[str, Any]:
    return {"lr": learning_rate, "betas": (beta1, beta2), "weight_decay": weight_decay}


def _dampened(learning_rate: float, momentum: float) -> dict[str, Any]:
    return {"lr": learning_rate, "momentum": momentum, "dampening": momentum}


def _sophia() -> TorchOptimizer:
    """rho stands on the other side: (eta/rho) clip(m/h, rho) for eta clip(m/(rho h), 1)."""

    def make(parameters: Any, s: dict[str, Any]) -> Any:
        optimizer = attribute("pytorch_optimizer", "SophiaH")(
            parameters, lr=s["learning_rate"] / s["rho"], betas=(s["beta1"], s["beta2"]), p=s["rho"],
            weight_decay=s["weight_decay"] * s["rho"], update_period=s["interval"], eps=1e-14,
        )  # fmt: skip
        return optimizer

    def advance(optimizer: Any, task: Any, x: Host, count: int) -> None:
        import torch

        due = count % optimizer.update_period == 0
        diagonal = torch.from_numpy(np.diag(task.hessian(x)).copy()) if due else None
        optimizer.step(hessian=[diagonal] if due else None)

    return TorchOptimizer(make, advance)


_TORCH = partial(Peer, package="torch", modules=("torch",))
_MORE = partial(Peer, package="pytorch_optimizer", modules=("torch", "pytorch_optimizer"))


def _optim(name: str, method: str, translate: Callable[..., dict[str, Any]], said: str = "", differs: str = "") -> Peer:
    label = f"torch.optim.{name}{said}"
    return _TORCH(label, method=method, make=_torch_like("torch.optim", name, translate), differs=differs)


def _extra(name: str, method: str, translate: Callable[..., dict[str, Any]], differs: str = "") -> Peer:
    make = _torch_like("pytorch_optimizer", name, translate)
    return _MORE(f"pytorch_optimizer.{name}", method=method, make=make, differs=differs)


_FIRST_ORDER = (
    _optim("SGD", "gradient-descent", _descent),
    _optim("SGD", "heavy-ball", _momentum, "(momentum)"),
    _optim("SGD", "nesterov", partial(_momentum, nesterov=True), "(nesterov)"),
    _optim("SGD", "heavy-ball", _dampened, "(dampening)",
           "the dampening is left out of the first step: the velocity starts at g, not at (1 - dampening) g"),
    _optim("Adagrad", "adagrad", _adaptive),
    _optim("RMSprop", "rmsprop", partial(_smoothed, "alpha", beta=0.9)),
    _optim("RMSprop", "rmsprop", partial(_smoothed, "alpha", centered=True), "(centered)",
           "the square of the mean gradient is subtracted from the mean square"),
    _optim("Adadelta", "adadelta", partial(_smoothed, "rho", beta=0.9)),
    _optim("Adam", "adam", _adam),
    _optim("AdamW", "adamw", _adam),
    _optim("Adam", "adamw", _adam, "(weight_decay)",
           "the decay is added to the gradient, and so divided by the root of the second moment as well"),
    _optim("Adam", "amsgrad", partial(_adam, amsgrad=True), "(amsgrad)"),
    _optim("NAdam", "nadam", _adam),
    _optim("Adamax", "adamax", _adam),
    _extra("Lion", "lion", _lion,
           "a gradient of NaN passes unseen: its sign is 0 in Torch"),
    _extra("ADOPT", "adopt", _adam,
           "the bound of the clip counts the first, idle step: 2^(1/4) in the first step that moves, 1 in the paper"),
    _extra("AdaMax", "adamax", _adam),
    _extra("AdaDelta", "adadelta", partial(_smoothed, "rho", beta=0.9, weight_decay=0.0)),
    _MORE("pytorch_optimizer.SophiaH", method="sophia", make=_sophia),
)  # fmt: skip


# -- SciPy ------------------------------------------------------------------------------------------------------------


def _minres(task: Any, x: Host, *, learning_rate: float) -> Host:
    from scipy.sparse.linalg import LinearOperator, minres

    h = LinearOperator((task.n, task.n), matvec=lambda v: task.hvp(x, v.ravel()), dtype=task.dtype)
    return -learning_rate * minres(h, task.gradient(x), rtol=1e-14, maxiter=5 * task.n)[0]


def _cg(task: Any, x: Host, *, damping: float, learning_rate: float) -> Host:
    from scipy.sparse.linalg import LinearOperator, cg

    def damped(v: Host) -> Host:
        return task.hvp(x, v.ravel()) + damping * v.ravel()

    h = LinearOperator((task.n, task.n), matvec=damped, dtype=task.dtype)
    return -learning_rate * cg(h, task.gradient(x), rtol=1e-12, maxiter=5 * task.n)[0]


def _sqrtm(task: Any, x: Host, *, damping: float, mode: str, learning_rate: float) -> Host:
    """mode "square": the root of H^2 + d^2 I."""
    from scipy.linalg import sqrtm

    h = task.hessian(x).astype(float)
    return -learning_rate * np.linalg.solve(sqrtm(h @ h + damping**2 * np.eye(task.n)).real, task.gradient(x))


def _polar(task: Any, x: Host, *, damping: float, mode: str, learning_rate: float) -> Host:
    """mode "abs": |H| is the symmetric factor of the polar decomposition H = U |H|."""
    from scipy.linalg import polar

    _, size = polar(task.hessian(x).astype(float))
    return -learning_rate * np.linalg.solve(size + damping * np.eye(task.n), task.gradient(x))


def _trust_exact(task: Any, steps: int, *, initial_radius: float, maximum_radius: float) -> list[Host]:
    from scipy.optimize import minimize

    places: list[Host] = []
    minimize(task.loss, task.start.astype(float), jac=task.gradient, hess=task.hessian, method="trust-exact",
             callback=lambda x: places.append(x.copy()),
             options={"initial_trust_radius": initial_radius, "max_trust_radius": maximum_radius, "eta": 0.0,
                      "gtol": 0.0, "maxiter": steps})  # fmt: skip
    return places


_LOOSE = "a step may be 10 % longer or shorter than the radius (k_easy = 0.1, which minimize does not hand on)"
_SCIPY = partial(Peer, package="scipy", modules=("scipy",))
_SECOND_ORDER = (
    _SCIPY("scipy.sparse.linalg.minres", method="newton", make=lambda: StepOf(_minres),
           differs="a singular Hessian: it reports success at a finite place, 1e13 away"),
    _SCIPY("scipy.sparse.linalg.cg", method="damped-newton", make=lambda: StepOf(_cg)),
    _SCIPY("scipy.linalg.sqrtm", method="saddle-free-newton", make=lambda: StepOf(_sqrtm)),
    _SCIPY("scipy.linalg.polar", method="saddle-free-newton", make=lambda: StepOf(_polar), settings={"mode": "abs"}),
    _SCIPY("scipy.optimize trust-exact", method="trust-region", make=lambda: WalkOf(_trust_exact), differs=_LOOSE),
)  # fmt: skip

# -- pytorch-minimize -------------------------------------------------------------------------------------------------


def _newton_exact(handle: str) -> Callable[..., Host]:
    def jump(task: Any, x: Host, *, learning_rate: float, damping: float = 0.0) -> Host:
        import torch

        found = attribute("torchmin", "minimize")(
            task.torch_loss, torch.from_numpy(x.copy()), method="newton-exact", max_iter=1,
            options={"lr": learning_rate, "line_search": "none", "handle_npd": handle, "tikhonov": damping},
        )  # fmt: skip
        return np.asarray(found.x.detach())

    return jump


def _torchmin_trust_exact(task: Any, steps: int, *, initial_radius: float, maximum_radius: float) -> list[Host]:
    import torch

    places: list[Host] = []
    attribute("torchmin", "minimize")(
        task.torch_loss, torch.from_numpy(task.start), method="trust-exact", max_iter=steps,
        callback=lambda x: places.append(x.numpy().copy()),
        options={"initial_trust_radius": initial_radius, "max_trust_radius": maximum_radius, "eta": 0.0, "gtol": 0.0},
    )  # fmt: skip
    return places


_TORCHMIN = partial(Peer, package="pytorch-minimize", modules=("torch", "torchmin"))
_MINIMIZE = (
    _TORCHMIN("torchmin newton-exact (lu)", method="newton", make=lambda: JumpOf(_newton_exact("lu"))),
    _TORCHMIN("torchmin newton-exact (lu, tikhonov)", method="damped-newton", make=lambda: JumpOf(_newton_exact("lu"))),
    _TORCHMIN("torchmin newton-exact", method="newton", make=lambda: JumpOf(_newton_exact("grad")),
              differs="where the Hessian is not positive definite it goes down the gradient, which is not inverted"),
    _TORCHMIN("torchmin newton-exact (eig)", method="saddle-free-newton",
              make=lambda: JumpOf(lambda task, x, *, learning_rate, **_: _newton_exact("eig")(
                  task, x, learning_rate=learning_rate)), settings={"damping": 0.0},
              differs="the Hessian is shifted by 1.5 times its lowest eigenvalue: no absolute values are taken"),
    _TORCHMIN("torchmin trust-exact", method="trust-region", make=lambda: WalkOf(_torchmin_trust_exact),
              differs=_LOOSE, levels=("one step", "ten steps")),
)  # fmt: skip


PEERS: tuple[Peer, ...] = (*_FIRST_ORDER, *_SECOND_ORDER, *_MINIMIZE, *OPERATORS, *SOLVERS)
"""All of them, in the order of the table."""
