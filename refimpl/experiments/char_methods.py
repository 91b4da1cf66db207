"""The methods of the study :mod:`refimpl.experiments.char_transformer`, and what the ELMO paper says of its own.

A method is made from its name and from what was *chosen* on the tuning seed (:mod:`refimpl.experiments.char_tuning`):

* ``rates``: learning rates of ``adamw`` and ``sgd``; ``sophia``: learning rate and rho of Sophia alone; ``amos``: those
  of the Sophia inside AMOS, of all its controls, and of ``sophia-amos``, which is AMOS without offloading;
* ``offload_rate``: the rate of gradient descent for offloaded tensors;
* ``thresholds``: quantiles of the tensors' Lipschitz estimates in a run of Sophia, by percent. That is hindsight: they
  are known only after such a run;
* ``fractions``: the mean share of parameters that AMOS offloads at each of these thresholds.

All rates rise over the first steps and then follow half a cosine down to a tenth (:func:`scheduled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from refimpl.optimizers.adam import AdamW
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.schedule import Scheduled, warmup_cosine
from refimpl.optimizers.sophia import Sophia

PAPER: dict[str, Any] = {
    "layers": 12,
    "heads": 12,
    "steps": 2010,
    "offloaded_mean": 9.0,
    "offloaded_max": 91.0,
    "offloaded": {0.0: 70.16, 0.7: 16.19, 0.8: 17.90, 0.9: 14.65, 0.95: 0.65, 0.99: 0.91, 0.995: 0.65, 0.999: 0.02},
    "adamw": {"learning_rate": 6e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
    "sgd": {"learning_rate": 1.25e-5},
    "sophia": {"learning_rate": 6e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "rho": 0.01},
    "amos": {"alpha": 0.99, "threshold": 2e-10, "epsilon2": 1e-12, "offload_rate": 1.25e-5},
    "amos-newton": {"threshold": "newton", "aggregation": "max", "epsilon2": 1e-15, "offload_rate": 3.125e-6},
}
"""ELMO paper, section 4.1 and appendices E, K: percents of parameters on SGD (mean and largest of the run with a tuned
threshold; ``offloaded`` by alpha, table 2, with the threshold of eq. 8; alpha = 0 is only in the list without a caption
in appendix E), and the settings."""

PERCENTS = (90, 75, 50)
CHUNKS = (256, 1024, 8192)
ALPHAS = (0.0, 0.7, 0.9, 0.99)
STATIC = {"static-tokens": (0,), "static-early": (0, 1, 3)}
"""Tensors always on gradient descent, by place among the parameters: the tied token embedding; and with it the
positions and the first norm of the first block."""

MAIN = (
    "adamw", "sgd", "sophia", "sophia-amos",
    *(f"amos-{p}" for p in PERCENTS), *(f"random-{p}" for p in PERCENTS), *STATIC,
)  # fmt: skip
SIDE = (
    "freeze-75", "freeze-50", "newton-mean", "newton-max", "certificate", *(f"chunks-{size}" for size in CHUNKS),
    "draws-4",
)  # fmt: skip
MOMENTUM = tuple(f"alpha-{alpha:g}-{kind}" for alpha in ALPHAS for kind in ("raw", "corrected"))
PAPER_METHODS = ("adamw", "sgd", "sophia", "amos", *(f"amos-newton-{alpha:g}" for alpha in PAPER["offloaded"]))
CASES = {"main": MAIN, "side": SIDE, "momentum": MOMENTUM, "paper": PAPER_METHODS}
"""Case -> its methods. ``momentum`` is a smaller model, ``paper`` has the paper's own settings."""


def scheduled(method: Any, plan: Mapping[str, Any]) -> Optimizer:
    """``method`` with all its rates following the schedule of ``plan`` (``steps``, ``warmup``, ``floor``)."""
    knobs = [name for name in ("learning_rate", "offload_rate") if hasattr(method, name)]
    factor = warmup_cosine(plan["steps"], plan["warmup"], plan["floor"])
    found: Any = Scheduled(method, factor, tuple(knobs))
    return found


def adamw(rate: float) -> AdamW:
    """AdamW with this rate and the paper's other settings; unlike there, norms decay as well."""
    return AdamW(**{**PAPER["adamw"], "learning_rate": rate})


def amos(chosen: Mapping[str, Any], interval: int, **knobs: Any) -> AMOS:
    """AMOS on the Sophia chosen for it; with neither a threshold nor a selection it never offloads."""
    watching = {} if "selection" in knobs else {"threshold": 1e30}
    return AMOS(**{"interval": interval, "offload_rate": 1.0, **watching, **chosen["amos"], **knobs})


def build(case: str, name: str, chosen: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Optimizer:
    """The method ``name`` of ``case``; ``seed`` decides its sampled targets. A ValueError for an unknown one."""
    if name not in CASES.get(case, ()):
        raise ValueError(f"unknown method {name!r} of case {case!r}; choose one of {list(CASES.get(case, CASES))}")
    method = _paper(name, settings) if case == "paper" else _ours(case, name, chosen, settings)
    if hasattr(method, "seed"):
        method = replace(method, seed=seed)
    if case == "paper" and name == "sgd":  # the paper tried a schedule for SGD and left it out
        return method
    return scheduled(method, settings["small" if case == "momentum" else "plan"])


def _ours(case: str, name: str, chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    interval = settings["interval"]
    if name == "adamw":
        return adamw(chosen["rates"]["adamw"])
    if name == "sgd":
        return GradientDescent(chosen["rates"]["sgd"])
    if name == "sophia":
        return Sophia(interval=interval, **chosen["sophia"])
    if name == "sophia-amos":
        return Sophia(interval=interval, **chosen["amos"])
    rest, _, last = name.rpartition("-")
    offload = {"offload_rate": chosen["offload_rate"]}
    threshold = {key: {"threshold": value, **offload} for key, value in chosen["thresholds"].items()}
    if case == "momentum":
        alpha = float(name.split("-")[1])
        knobs = {"alpha": alpha, "bias_correction": last == "corrected", "threshold": chosen["small_threshold"]}
        return amos(chosen, interval, **knobs, **offload)
    if rest == "amos":
        return amos(chosen, interval, **threshold[last])
    if rest == "random":
        return amos(chosen, interval, selection="random", fraction=chosen["fractions"][last], **offload)
    if name in STATIC:
        return amos(chosen, interval, selection="static", static=STATIC[name], **offload)
    if rest == "freeze":
        return amos(chosen, interval, **threshold[last], offload="freeze")
    if rest == "newton":
        return amos(chosen, interval, threshold="newton", aggregation=last, **offload)
    if name == "certificate":
        return amos(chosen, interval, threshold="certificate", **offload)
    if rest == "chunks":
        return amos(chosen, interval, chunk=int(last), **threshold["75"])
    return amos(chosen, interval, draws=4, **threshold["75"])


def _paper(name: str, settings: Mapping[str, Any]) -> Any:
    interval = settings["interval"]
    if name == "adamw":
        return AdamW(**PAPER["adamw"])
    if name == "sgd":
        return GradientDescent(**PAPER["sgd"])
    if name == "sophia":
        return Sophia(interval=interval, **PAPER["sophia"])
    if name == "amos":
        return AMOS.published(interval=interval, **PAPER["amos"])
    alpha = float(name.rpartition("-")[2])
    return AMOS.published(interval=interval, alpha=alpha, **PAPER["amos-newton"])
