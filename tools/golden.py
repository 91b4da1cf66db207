"""Computes the golden vectors in refimpl/verify/vectors again, in 60-digit arithmetic and without refimpl.

    python tools/golden.py          write the files, then the manifest of tools/vectors.py
    python tools/golden.py --check  compare the stored files with a fresh computation, write nothing

Only definitions are used here: the formula of each loss (derivatives are central differences, which in 60 digits
are good to about 30), eigenvalues from mpmath, and the recursions of the methods as their sources print them.
The schema is explained in refimpl/verify/vectors/README.md. Needs mpmath (Torch brings it).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpmath as mp
from golden_calculus import (
    DAUPHIN,
    SERIES,
    Case,
    G,
    H,
    Vector,
    along,
    case,
    gradient,
    hessian,
    hvp,
    through_eigenvalues,
    unit,
)
from golden_curveball import curveball_cases
from golden_elmo import elmo_cases
from golden_kryball import kryball_cases
from golden_methods import methods
from golden_problems import LOSSES, formula, network_loss, network_outputs
from golden_series import series
from vectors import problems as package_problems
from vectors import write as write_package

FOLDER = Path(__file__).resolve().parent.parent / "refimpl" / "verify" / "vectors"
SCHEMA = 1
DIGITS = 60


def files(only: Sequence[str] = (), digits: int = DIGITS) -> dict[str, dict[str, Any]]:
    """Name -> content of every file of golden vectors, or of those named; computed with so many decimal digits."""
    groups: dict[str, Callable[[], list[Case]]] = {
        "spectrum": spectrum, "methods": methods, "problems": problems, "networks": networks,
        "series": series, "curveball": curveball_cases, "kryball": kryball_cases,
        "elmo": elmo_cases,
    }  # fmt: skip
    about = f"expected values computed with {DIGITS} digits and rounded to binary64; inputs are exact in binary64"
    with mp.workdps(digits):
        return {
            name: {"schema": SCHEMA, "precision": about, "cases": plain(group())}
            for name, group in groups.items()
            if name in (only or groups)
        }


def direction(
    matrix: Any, gradient: Any, mode: str = "none", damping: Any = 0, threshold: Any = 0, replacement: Any = None
) -> Vector:
    """The saddle-free direction. Eigenvalues below 1e-40 are zero: their component is replaced or left out."""

    def factor(h: Any) -> Any:
        if mode == "abs":
            return 1 / (abs(h) + mp.mpf(damping))
        if mode == "square":
            return 1 / mp.sqrt(h**2 + mp.mpf(damping) ** 2)
        if mode == "shift":
            return 1 / abs(h + mp.mpf(damping))
        if abs(h) > max(mp.mpf(threshold), mp.mpf(10) ** -40):
            return 1 / abs(h)
        return mp.mpf(0) if replacement is None else 1 / mp.mpf(replacement)

    return list(through_eigenvalues(matrix, factor) * mp.matrix(gradient))


def spectrum() -> list[Case]:
    singular = [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -4.0]]
    rules: list[tuple[str, Any, Any, dict[str, Any], str]] = [
        ("undamped", H, G, {}, f"{DAUPHIN}, sec. 4"),
        ("threshold", H, G, {"threshold": 0.5, "replacement": 2.0}, f"{SERIES}, exact method of sec. 4"),
        ("damped-abs", H, G, {"mode": "abs", "damping": 0.25}, "series paper, released code"),
        ("damped-square", H, G, {"mode": "square", "damping": 0.25}, "(H^2 + d^2 I)^{-1/2} g"),
        ("damped-shift", H, G, {"mode": "shift", "damping": 0.25}, f"{SERIES}, damping as printed"),
        ("zero-gradient", H, [0.0] * 4, {}, "definition"),
        ("singular-left-out", singular, [1.0, 8.0, 2.0], {}, "pseudo-inverse"),
        ("singular-replaced", singular, [1.0, 8.0, 2.0], {"replacement": 0.5}, "series paper, sec. 4.1"),
        ("one-by-one", [[-4.0]], [2.0], {}, "definition"),
    ]
    values, _ = mp.eigsy(mp.matrix(H))
    return [
        case("eigenvalues", "eigenvalues", {"matrix": H}, sorted(values), "definition"),
        case("absolute", "absolute", {"matrix": H}, through_eigenvalues(H, abs), f"{DAUPHIN}, sec. 4"),
        *(
            case(f"direction-{name}", "saddle_free_direction", {"matrix": m, "gradient": g, **rule},
                 direction(m, g, **rule), source)
            for name, m, g, rule, source in rules
        ),
    ]  # fmt: skip


# -- problems ---------------------------------------------------------------------------------------------------------


def problems() -> list[Case]:
    places: list[tuple[str, list[float], dict[str, Any]]] = [
        ("horse-saddle", [1.5, -0.75], {}),
        ("monkey-saddle", [0.75, -1.25], {}),
        ("degenerate-saddle", [0.5, -1.25], {}),
        ("coupled-saddle", [0.75, -1.5], {}),
        ("double-well", [0.625, -0.5, 1.25], {"n": 3}),
        ("sqrt-valley", [0.75, -1.5, 2.0], {"n": 3}),
        ("sqrt-valley", [1.25], {"n": 1}),
        ("rosenbrock", [-1.25, 1.0], {}),
        ("rosenbrock", [-1.25, 1.0, 0.5, 0.75], {"n": 4}),
        ("wood", [-3.0, -1.0, -3.0, -1.0], {}),
        ("quadratic", [0.5, -1.0, 0.25, 2.0], {"hessian": H, "linear": G, "center": [0.25, 0.0, -0.5, 1.0]}),
    ]
    cases = []
    for name, x, options in places:
        v = [0.5, -1.0, 0.75, 0.25][: len(x)]
        problem = {"name": name, **options}
        f, place = formula(problem), [mp.mpf(a) for a in x]
        expected = {
            "loss": f(place), "gradient": gradient(f, place),
            "hvp": hvp(f, place, [mp.mpf(a) for a in v]), "hessian": hessian(f, place),
        }  # fmt: skip
        label = name if len(x) == 2 or name in ("wood", "quadratic") else f"{name}-{len(x)}"
        cases.append(case(label, "derivatives", {"problem": problem, "x": x, "v": v}, expected, "the loss's formula"))
    valley = {"name": "rosenbrock"}
    steep, flat = (formula(valley)([mp.mpf(a) for a in p]) for p in ([1.015625, 1.03125], [1.03125, 0.984375]))
    low, high = sorted(mp.eigsy(mp.matrix(hessian(formula(valley), [mp.mpf(1), mp.mpf(1)])))[0])
    noisy = formula({**valley, "steepness": 0.25})
    facts = {"loss": noisy([mp.mpf("-1.25"), mp.mpf(1)]), "gradient": gradient(noisy, [mp.mpf("-1.25"), mp.mpf(1)])}
    return [
        *cases,
        case("rosenbrock-conditioning", "conditioning", {"problem": valley, "x": [1.0, 1.0]},
             {"eigenvalues": [low, high], "condition_number": high / low},
             "CurveBall paper, sec. 4: condition number 2508", 1e-11, 1e-2),
        case("rosenbrock-valley", "losses", {"problem": valley, "places": [[1.015625, 1.03125], [1.03125, 0.984375]]},
             [steep, flat], "the loss's formula"),
        case("rosenbrock-noise", "derivatives", {"problem": valley, "x": [-1.25, 1.0], "sample": 0.25}, facts,
             "CurveBall paper, sec. 4: one steepness per sample"),
    ]  # fmt: skip


def networks() -> list[Case]:
    inputs = [[1.0, -2.0], [0.5, 0.25], [-0.75, 1.5]]
    continuous, labels, yes_no = (
        [[0.5, -1.0], [1.5, 0.25], [-0.5, 0.75]],
        [1, 0, 1],
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    )
    x = [
        0.5,
        -0.25,
        0.125,
        0.75,
        -0.5,
        0.375,
        0.25,
        -0.125,
        0.0625,
        0.625,
        -0.875,
        0.25,
        0.5,
        0.125,
        -0.75,
        0.3125,
        -0.25,
    ]
    v = [0.25, 0.5, -0.75, 0.125, 1.0, -0.5, 0.375, 0.25, -0.25, 0.5, 0.75, -0.125, 0.625, -1.0, 0.25, 0.5, -0.375]
    plan: list[tuple[str, str, Any]] = [
        ("tanh", "half-mse", continuous), ("softplus", "half-mse", continuous),
        ("tanh", "softmax-cross-entropy", labels), ("softplus", "binary-cross-entropy", yes_no),
    ]  # fmt: skip
    settings = [
        (f"{activation}-{loss}", {"name": "mlp", "widths": [2, 3, 2], "inputs": inputs, "targets": targets,
                                  "activation": activation, "loss": loss}, x, v)
        for activation, loss, targets in plan
    ]  # fmt: skip
    weights, biases = [0.1, -0.3, 0.2, 0.4, -0.5, 0.6], [0.0] * 3
    linear = {"name": "mlp", "widths": [2, 3], "inputs": inputs[:2], "targets": [2, 0], "activation": "tanh",
              "loss": "softmax-cross-entropy"}  # fmt: skip
    settings.append(("linear-softmax", linear, weights + biases, [1.0, 0.0, -0.5, 0.2, 0.3, -0.7, *biases]))
    corners = {"name": "xor"}
    start = [((7 * i) % 16 - 8) / 16 for i in range(33)]
    settings.append(("xor", corners, start, [((5 * i) % 16 - 7) / 8 for i in range(33)]))
    return [
        case(name, "network", {"problem": problem, "x": x, "v": v}, network_answers(problem, x, v),
             "the loss's formula; Schraudolph (2002) for the Gauss–Newton product")
        for name, problem, x, v in settings
    ]  # fmt: skip


def network_answers(problem: dict[str, Any], x: Vector, v: Vector) -> dict[str, Any]:
    place, move = [mp.mpf(a) for a in x], [mp.mpf(a) for a in v]
    f, phi, loss = network_loss(problem), network_outputs(problem), LOSSES[problem.get("loss", "binary-cross-entropy")]
    outputs, tangent = phi(place), along(phi, place, move)
    bent = hvp(lambda o: loss(o, problem), outputs, tangent)
    columns = [along(phi, place, unit(len(x), i)) for i in range(len(x))]
    product = hvp(f, place, move)
    return {
        "loss": f(place), "gradient": gradient(f, place), "hvp": product, "hessian_product": product,
        "outputs": outputs, "jvp": tangent,
        "ggnvp": [sum(c * b for c, b in zip(column, bent, strict=True)) for column in columns],
    }  # fmt: skip


# -- files ------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Numbers of mpmath to Python's floats, everything else as JSON has it."""
    if isinstance(value, mp.mpf):
        return float(value) if abs(value) > mp.mpf(10) ** -20 else 0.0
    if isinstance(value, mp.matrix):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def rendered(content: dict[str, Any]) -> str:
    """One case per line: short, and a change is one line of a diff."""
    lines = ",\n".join("  " + json.dumps(c, ensure_ascii=False) for c in content["cases"])
    head = ", ".join(f'"{key}": {json.dumps(content[key])}' for key in ("schema", "precision"))
    return f'{{{head},\n "cases": [\n{lines}\n]}}\n'


def main(arguments: Sequence[str]) -> int:
    """Write or compare; the exit status is 1 where a stored file differs from the fresh computation."""
    different = []
    for name, content in files().items():
        path, text = FOLDER / f"{name}.json", rendered(content)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {len(content['cases'])} cases")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            different.append(path.name)
    if different:
        print(f"differ from a fresh computation: {', '.join(different)}")
    try:
        wrong = package_problems()
        if "--check" not in arguments:
            write_package()
            wrong = []
    except ValueError as error:
        wrong = [str(error)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if different or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
