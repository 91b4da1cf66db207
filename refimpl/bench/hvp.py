"""Hessian and Gauss–Newton products in gradients of the same network, by our routes and by others'."""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import get_backend, to_numpy
from refimpl.bench.peers import Missing, curvlinops_operator
from refimpl.bench.report import Found, Part, Session, skipped
from refimpl.bench.timing import device_race, gap, race, torch_threads
from refimpl.experiments.uci_exact import energy_network
from refimpl.problems.datasets import uci_energy_or_fallback
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy

HIDDEN = (12,) * 7
AMORTIZED = 20
"""Gauss–Newton products over which the set-up is spread."""


class Places(NamedTuple):
    """One network and batch: with the gradient's graph kept, and with a plain gradient; a place and vectors."""

    kept: Any
    plain: Any
    x: Any
    vectors: list[Any]


def picture_problems(
    *,
    batch: int,
    dtype: str = "float32",
    net: str = "resnet18",
    width: int = 64,
    bn: str = "train",
    activation: str = "relu",
    count: int = 8,
    device: str = "cpu",
    channels_last: bool = False,
) -> Places:
    """A convolutional network on random pictures (batch, 3, 32, 32) with ten classes.

    ``bn``: ``"train"``, ``"eval"`` or ``"none"``.
    """
    import torch

    from refimpl.problems import models
    from refimpl.problems.torch_net import TorchProblem

    backend, rng = get_backend("torch", dtype, device), np.random.default_rng(0)
    pictures, labels = rng.standard_normal((batch, 3, 32, 32)), rng.integers(0, 10, batch)

    def problem(route: Any) -> Any:
        if net == "resnet18":
            module = models.resnet18(width=width, activation=activation, batch_norm=bn != "none", backend=backend)
        elif net == "convnet":
            module = models.small_convnet(image_shape=(3, 32, 32), activation=activation, backend=backend)
        else:
            raise ValueError(f"unknown net {net!r}; choose one of ['convnet', 'mlp7x12', 'resnet18']")
        module.eval() if bn == "eval" else module.train()
        made = TorchProblem(module, SoftmaxCrossEntropy(), pictures, labels, backend=backend, route=route)
        if channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            made.inputs = made.inputs.contiguous(memory_format=torch.channels_last)
        return made

    kept, plain = problem("kept-graph"), problem("forward-over-reverse")
    x = kept.initial(rng)
    return Places(kept, plain, x, [backend.normal(rng, kept.n) for _ in range(count)])


def scaled_down(session: Session) -> dict[str, Any]:
    """The network of a full run, or a narrow one on two pictures."""
    if session.quick:
        return {"batch": 4, "width": 4, "count": 2}
    chosen = {key: session.knobs[key] for key in ("net", "bn", "batch") if key in session.knobs}
    return {"batch": 16, "count": _first(session.knobs.get("k", 8)), **chosen}


def buffer_steps(problem: Any) -> int:
    """How often the running statistics have advanced; ``num_batches_tracked`` of every BatchNorm must agree."""
    seen = {int(buffer) for name, buffer in problem.module.named_buffers() if name.endswith("num_batches_tracked")}
    if len(seen) > 1:
        raise ValueError(f"the layers' statistics advanced differently often: {sorted(seen)}")
    return seen.pop() if seen else 1


# -- a convolutional network ------------------------------------------------------------------------------------------


class Timed(NamedTuple):
    """Seconds of each route, its error in float64, how often the statistics advanced, what is missing."""

    seconds: dict[str, float]
    errors: dict[str, float]
    advanced: int
    missing: dict[str, str]


def picture_products(session: Session) -> Timed:
    """Every route on one convolutional network: timed in single precision, compared in double precision."""
    return session.once("picture products", lambda: _picture_products(session))


def _picture_products(session: Session) -> Timed:
    sizes = scaled_down(session)
    with torch_threads("torch", 1):
        errors, missing = _picture_errors(session, {**sizes, "batch": min(4, sizes["batch"])})
        places = picture_problems(**sizes)
        kept, plain, x, vectors = places
        point, forward = kept.at(x), plain.at(x)
        before = buffer_steps(kept)
        _ = point.gradient
        point.hvp(vectors[0]), point.ggnvp(vectors[0])
        advanced = buffer_steps(kept) - before if sizes.get("bn", "train") == "train" else 1
        turn = cycle(vectors)  # one product after the other at the same place
        jobs: dict[str, Any] = {
            "gradient": lambda: plain.at(x).gradient,
            "kept": lambda: point.hvp(next(turn)),
            "kept, next": lambda: point.hvp(next(turn)),
            "kept, set-up": lambda: kept.at(x).gradient,
            "func": lambda: forward.hvp(vectors[0]),
            "ggn": lambda: point.ggnvp(vectors[0]),
            "ggn, from scratch": lambda: plain.at(x).ggnvp(vectors[0]),
        }
        for kind in ("Hessian", "GGN"):
            if kind not in missing:
                operator = _curvlinops(kind, plain)
                jobs[f"curvlinops {kind}"] = lambda o=operator: o(vectors[0])
        seconds = device_race(jobs, session.rounds)
    seconds["kept"] = 0.5 * (seconds["kept"] + seconds.pop("kept, next"))
    base = seconds["gradient"]
    names = ", ".join(f"{key} {value}" for key, value in sizes.items())
    session.note(f"{sizes.get('net', 'resnet18')} ({names}), float32, relu: gradient {1e3 * base:.0f} ms")
    session.note("in gradients: " + ", ".join(f"{n} {t / base:.2f}" for n, t in seconds.items() if n != "gradient"))
    return Timed(seconds, errors, advanced, missing)


def _picture_errors(session: Session, sizes: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    kept, plain, x, vectors = picture_problems(**{**sizes, "count": 1}, dtype="float64")
    v, point = vectors[0], kept.at(x)
    found = {"func": gap(plain.at(x).hvp(v), point.hvp(v))}
    try:
        found["GGN"] = gap(_curvlinops("GGN", plain)(v), point.ggnvp(v))
        # Its Hessian of a network with BatchNorm in train mode is not the derivative of the gradient (tried: 3.0.1),
        # so the routes are compared on the network without.
        off = gap(_curvlinops("Hessian", plain)(v), point.hvp(v))
        bare = picture_problems(**{**sizes, "count": 1, "bn": "none"}, dtype="float64")
        w = bare.vectors[0]
        found["Hessian"] = gap(_curvlinops("Hessian", bare.plain)(w), bare.kept.at(bare.x).hvp(w))
    except Missing as reason:
        return found, dict.fromkeys(("Hessian", "GGN"), str(reason))
    difference = _difference(sizes)
    session.note(f"curvlinops' Hessian product with BatchNorm in train mode is {off:.1e} away from ours;")
    session.note(f"ours is {difference:.1e} away from a difference quotient of gradients (softplus, float64)")
    return found, {}


def _difference(sizes: dict[str, Any], step: float = 1e-5) -> float:
    kept, plain, x, vectors = picture_problems(
        **{**sizes, "count": 1, "width": 8}, dtype="float64", activation="softplus"
    )
    v = vectors[0]
    quotient = (plain.at(x + step * v).gradient - plain.at(x - step * v).gradient) / (2 * step)
    return gap(quotient, kept.at(x).hvp(v))


def _curvlinops(kind: str, problem: Any) -> Any:
    from torch import nn

    return curvlinops_operator(kind, problem.module, nn.CrossEntropyLoss(), problem.inputs, problem.targets)


def per_product(session: Session) -> Found:
    """G1: one Hessian product among several at one place."""
    found = picture_products(session)
    ratio = found.seconds["kept"] / found.seconds["gradient"]
    return {"product / gradient": Part(ratio, found.errors["func"])}


def against_others(session: Session) -> Found:
    """G2: the same product by forward mode over reverse mode and by curvlinops."""
    found = picture_products(session)
    seconds = found.seconds
    parts = {
        "jvp(grad) / product": Part(seconds["func"] / seconds["kept"], found.errors["func"]),
        "statistics advanced per point": Part(float(found.advanced)),
    }
    name = "curvlinops / product"
    if "Hessian" in found.missing:
        return {**parts, name: skipped(found.missing["Hessian"])}
    return {**parts, name: Part(seconds["curvlinops Hessian"] / seconds["kept"], found.errors["Hessian"])}


def gauss_newton(session: Session) -> Found:
    """G3: one Gauss–Newton product from nothing, and one of many."""
    found = picture_products(session)
    seconds, error = found.seconds, found.errors.get("GGN")
    base, scratch = seconds["gradient"], seconds["ggn, from scratch"]
    many = (scratch + (AMORTIZED - 1) * seconds["ggn"]) / AMORTIZED
    return {"from scratch / gradient": Part(scratch / base, error), "of 20 / gradient": Part(many / base, error)}


# -- a small network --------------------------------------------------------------------------------------------------


def small_network(session: Session) -> Found:
    """G4: the written-out R-operator on NumPy beside Torch's routes, on UCI Energy's network; the worst dtype."""
    worst: dict[str, float] = {}
    errors: dict[str, float] = {}
    missing = ""
    with torch_threads("torch", 1):
        for dtype in ("float64", "float32"):
            seconds, found, missing = _small(session, dtype)
            if dtype == "float64":
                errors = found
            ratios = {"product / gradient": seconds["product"] / seconds["gradient"]}
            for name in ("kept", "func", "curvlinops"):
                if name in seconds:
                    ratios[f"{name} / product"] = seconds[name] / seconds["product"]
            base = ", ".join(f"{name} {1e3 * time:.3f}" for name, time in seconds.items())
            session.note(f"{dtype}, softplus, ms: {base}")
            for name, ratio in ratios.items():
                pick = max if name == "product / gradient" else min
                worst[name] = pick(ratio, worst.get(name, ratio))
    labels = {"kept / product": "kept", "func / product": "func", "curvlinops / product": "curvlinops"}
    parts = {name: Part(ratio, errors.get(labels.get(name, "kept"))) for name, ratio in worst.items()}
    renamed = {"kept / product": "kept graph / product", "func / product": "jvp(grad) / product"}
    parts = {renamed.get(name, name): part for name, part in parts.items()}
    if missing:
        parts["curvlinops / product"] = skipped(missing)
    return parts


def _small(session: Session, dtype: str) -> tuple[dict[str, float], dict[str, float], str]:
    from torch import nn

    from refimpl.problems.models import load_flat, mlp_module
    from refimpl.problems.torch_net import TorchProblem

    dataset, _ = uci_energy_or_fallback()
    hidden = (4, 4) if session.quick else HIDDEN
    ours = energy_network(hidden, dataset, activation="softplus", backend=get_backend("numpy", dtype))
    backend, rng = get_backend("torch", dtype), np.random.default_rng(0)
    module = mlp_module(ours.widths, activation="softplus", backend=backend)
    x = ours.initial(rng)
    load_flat(module, backend.asarray(x))
    data = dataset.train_inputs, dataset.train_targets
    kept, plain = (
        TorchProblem(module, HalfMeanSquaredError(), *data, backend=backend, route=route)
        for route in ("kept-graph", "forward-over-reverse")
    )
    place, v = backend.asarray(x), ours.backend.normal(rng, ours.n)
    w = backend.asarray(v)
    point, torch_point, forward = ours.at(x), kept.at(place), plain.at(place)
    expected = point.hvp(v)
    errors = {"kept": gap(torch_point.hvp(w), expected), "func": gap(forward.hvp(w), expected)}
    calls = 2 if session.quick else 20
    jobs: dict[str, Any] = {
        "gradient": lambda: [ours.at(x).gradient for _ in range(calls)],
        "product": lambda: [point.hvp(v) for _ in range(calls)],
        "torch gradient": lambda: [plain.at(place).gradient for _ in range(calls)],
        "kept": lambda: [torch_point.hvp(w) for _ in range(calls)],
        "func": lambda: [forward.hvp(w) for _ in range(calls)],
    }
    missing = ""
    try:
        targets = kept.targets.reshape(-1, 1)
        operator = curvlinops_operator("Hessian", module, nn.MSELoss(), kept.inputs, targets)
        errors["curvlinops"] = gap(0.5 * to_numpy(operator(w)), expected)
        jobs["curvlinops"] = lambda: [operator(w) for _ in range(calls)]
    except Missing as reason:
        missing = str(reason)
    for job in jobs.values():
        job()
    seconds = race(jobs, 3 * session.rounds)
    return {name: time / calls for name, time in seconds.items()}, errors, missing


def _first(k: Any) -> int:
    return int(k[0] if isinstance(k, list | tuple) else k)
