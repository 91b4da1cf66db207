"""The goals, and the tables that are measured beside them.

A goal has one or more limits, each a number that is a ratio of times, a ratio of memory, an error or a count. The
limits were set from measurements on one machine; ratios differ between machines far less than seconds do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refimpl.bench import (
    cards,
    classics,
    counts,
    curveball,
    dispatch,
    gpu,
    hvp,
    products,
    quality,
    seeds,
    series,
    sfn,
    small_steps,
    subproblem,
)
from refimpl.bench.report import Goal, Limit, Session

GOALS: tuple[Goal, ...] = (
    Goal("G1", "hvp", "Hessian product, ResNet-18 with BatchNorm, batch 16, one of 8 at a place",
         (Limit("product / gradient", 2.8),), hvp.per_product),
    Goal("G2", "hvp", "the same against forward over reverse mode and curvlinops",
         (Limit("jvp(grad) / product", 1.25, ">="), Limit("curvlinops / product", 1.5, ">="),
          Limit("statistics advanced per point", 1, timed=False)), hvp.against_others),
    Goal("G3", "hvp", "Gauss-Newton product, the same network",
         (Limit("from scratch / gradient", 2.2), Limit("of 20 / gradient", 1.5)), hvp.gauss_newton),
    Goal("G4", "hvp", "Hessian product written out on NumPy, UCI Energy's network (worst dtype)",
         (Limit("product / gradient", 1.1), Limit("kept graph / product", 1.7, ">="),
          Limit("jvp(grad) / product", 6, ">="), Limit("curvlinops / product", 12, ">=")), hvp.small_network),
    Goal("G5", "series", "series update, K = 18, N = 8, against its authors' way (JAX, compiled)",
         (Limit("float32 / theirs", 1.0), Limit("float64 / theirs", 1.3),
          Limit("Lanczos, 5 products / theirs", 0.35)), series.against_authors),
    Goal("G6", "series", "the same on Torch",
         (Limit("jvp(grad) / kept graph", 3.0, ">="),), series.torch_routes),
    Goal("G7", "series", "the same against 50 digits",
         (Limit("error of the update, float64", 1e-4, timed=False),
          Limit("warnings for float32 with N = 2", 1, ">=", timed=False),
          Limit("warnings for float32 with N = 1", 0, timed=False),
          Limit("warnings for float64 with N = 8", 0, timed=False)), series.digits),
    Goal("G8", "quality", "damped |H|^-1 g at the start on UCI Energy: Lanczos against the published series",
         (Limit("error of 5 products / the series' with 34", 1.0, timed=False),
          Limit("error of 34 products", 0.05, timed=False)), quality.at_the_start),
    Goal("G9", "seeds", "many seeds in one program, per seed: loop / batch",
         (Limit("CPU, float32, 10 seeds: gradient", 1.5, ">="),
          Limit("CPU, float32, 10 seeds: Hessian product", 1.5, ">="), Limit("toy, 50 runs", 30, ">="),
          Limit("GPU, 50 seeds / one", 2.0)), seeds.together),
    Goal("G10", "dispatch", "a step where there is nothing to compute, over the same formulas on NumPy",
         (Limit("Adam / NumPy", 1.15), Limit("CurveBall / NumPy", 1.15)), dispatch.dispatch),
    Goal("G11", "trs", "trust-region subproblem against SciPy's exact solver",
         (Limit("microseconds, k = 7", 100), Limit("SciPy / ours, k = 7", 5, ">="),
          Limit("|p| / radius - 1, hard case included", 1e-9, timed=False)), subproblem.trust_region),
    Goal("G12", "classics", "trust-region methods on Rosenbrock's function, n = 2, 10, 100",
         (Limit("not converged", 0, timed=False), Limit("ours / SciPy per iteration", 2.0),
          Limit("pytorch-minimize / ours per iteration", 2.0, ">=")), classics.rosenbrock),
    Goal("G13", "sfn", "exact saddle-free step, n = 1057, over Hessian and eigh; over a Lanczos step",
         (Limit("step / floor", 1.3), Limit("step / Lanczos step, 5 products", 100, ">=")), sfn.exact_step),
    Goal("G14", "count", "KryBall's Hessian products per step, M = 5",
         (Limit("reused, r = 3: mean", 4.0, timed=False), Limit("reused, r = 3: refresh", 6, timed=False),
          Limit("reused, r = 3: between", 3, timed=False),
          Limit("as printed, r = 3: mean, at least", 7.2, ">=", timed=False),
          Limit("as printed, r = 3: mean, at most", 7.34, timed=False)), counts.kryball),
    Goal("G15", "step", "a CurveBall step in gradients, parameters found automatically",
         (Limit("NumPy, MLP, float64", 3.5), Limit("Torch, convnet, float32", 3.5),
          Limit("host reads in five steps", 0, timed=False)), curveball.step_in_gradients),
    Goal("G16", "gpu", "Hessian product on a GPU, ResNet-18 with BatchNorm",
         (Limit("kept graph / gradient, large batch", 3.0), Limit("captured or compiled / gradient, batch 128", 2.6),
          Limit("eager / captured, batch 128", 2.0, ">=")), gpu.products),
    Goal("G17", "gpu", "memory of a Hessian product on a GPU",
         (Limit("peak / gradient's peak", 3.0), Limit("gigabytes, batch 3200", 80)), gpu.memory),
    Goal("G18", "cards", "the three long runs on a GPU end in time and say what they spent",
         tuple(Limit(f"{name}: seconds", seconds) for name, seconds in cards.LIMITS.items()), cards.recorded),
)  # fmt: skip
"""Every goal, once."""


@dataclass(frozen=True)
class Table:
    """What is measured and printed beside the goals; ``goals`` names those that stand on the same measurements."""

    name: str
    summary: str
    goals: tuple[str, ...]
    runs: tuple[Callable[[Session], None], ...]


TABLES: tuple[Table, ...] = (
    Table("products", "products that each route to |H|^-1 g needs, vectors it keeps", ("G8",), (products.products,)),
    Table("batches", "many seeds in one program, all libraries and chunk sizes", ("G9",), (seeds.batches,)),
    Table("curveball", "a CurveBall step in gradients; dispatch", ("G10", "G15"), ()),
    Table("kryball", "the subproblem, products, what a step adds to them", ("G11", "G14"), (small_steps.kryball,)),
    Table("elmo", "ELMO's scalar step, the cubic subproblem, a step of AMOS", (), (small_steps.elmo,)),
)


def sections() -> list[str]:
    """Names that choose goals or tables, besides the goals' own."""
    return list(dict.fromkeys([goal.section for goal in GOALS] + [table.name for table in TABLES]))


def chosen(names: Sequence[str]) -> tuple[list[Goal], list[Table]]:
    """The goals and tables that ``names`` (goals, sections or tables; none: all) ask for. ValueError for others."""
    known = [goal.id for goal in GOALS] + sections()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown goal or section {unknown[0]!r}; choose among {', '.join(known)}")
    tables = [table for table in TABLES if not names or table.name in names]
    wanted = set(names) | {goal for table in tables for goal in table.goals}
    goals = [goal for goal in GOALS if not names or {goal.id, goal.section} & wanted]
    return goals, tables
