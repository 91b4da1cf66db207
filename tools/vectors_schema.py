"""The JSON Schema of a file of golden vectors: what each call takes and what it answers, as a table."""

from __future__ import annotations

from typing import Any

LAYOUT = 1
"""The ``schema`` key of the files: it counts changes that an old reader would trip over."""

# call: inputs [inputs that may be left out] -> answer, which is an array of numbers, or named ones.
CALLS = """
eigenvalues: matrix -> vector
absolute: matrix -> matrix
saddle_free_direction: matrix gradient [mode damping threshold replacement] -> vector
run: problem method x0 steps -> matrix
learning_rate_and_momentum: model direction previous gradient -> vector
adapt_damping: damping ratios omega minimum -> vector
average_curvature: ema first later -> cube
derivatives: problem x [v sample] -> loss:number gradient:vector hvp:vector hessian:matrix
losses: problem places -> vector
conditioning: problem x -> eigenvalues:vector condition_number:number
network: problem x v -> loss:number gradient:vector hvp:vector hessian_product:vector outputs:vector jvp:vector ggnvp:vector
series_coefficients: terms damping -> vector
series_partial_sums: matrix gradient terms scale -> matrix
series_direction: matrix gradient terms scale mode damping -> vector
accelerate: sums method order -> vector
lanczos_tridiagonal: matrix gradient steps -> alpha:vector beta:vector
lanczos_direction: matrix gradient steps mode damping -> vector
lanczos_sv_direction: matrix gradient steps mode damping -> vector
minres: matrix right steps -> vector
multi_shift_cg: matrix right steps shifts -> matrix
inverse_root_quadrature: low high poles -> shifts:vector weights:vector
scale_ratio: matrix gradient previous -> number
scale_frobenius: matrix -> number
scale_power: matrix start iterations safety -> number
scale_lanczos: matrix gradient steps safety -> number
curveball_step: jacobian output_hessian output_gradient step damping [learning_rate momentum system] -> step:vector learning_rate:number momentum:number predicted_change:number
curveball_damping: damping ratios omega -> vector
plane_minimizer: matrix right -> vector
truncated_cg: matrix gradient steps [start stopping] -> x:vector model:number
transition_matrix: momentum scaled_rate rule -> cube
spectral_radius: momentum scaled_rate rule -> vector
optimal_parameters: condition_number rule -> momentum:number scaled_learning_rate:number rate:number
arnoldi: matrix start steps -> basis:matrix hessenberg:matrix
projected_step: matrix gradient steps [clip_absolute clip_relative] -> vector
reconstruction: matrix gradient steps -> best:vector used:vector cosine:vector change:vector
trust_region_step: matrix gradient radius -> step:vector multiplier:number model:number
dogleg_step: matrix gradient radius -> step:vector model:number
two_dimensional_step: matrix gradient radius -> step:vector model:number
radius_rule: radius trials [accept_above shrink_below expand_above shrink expand maximum_radius] -> ratio:vector accepted:vector radius:vector
kryball_step: hessian gradient quartic momentum radius dimension directions [maximum_radius basis matrix stale] -> step:vector predicted_change:number ratio:number radius:number
elmo_step: eigenvalue slope lipschitz -> vector
cubic_bounds: step eigenvalue slope lipschitz -> majorizer:vector minorizer:vector
row_sum: third vectors -> vector
elmo_direction: hessian gradient lipschitz [tie] -> step:vector predicted_change:number
cubic_step: matrix gradient sigma -> step:vector multiplier:number model:number
sophia_step: place gradient mean curvature sampled_gradient samples learning_rate beta1 beta2 rho weight_decay -> mean:vector curvature:vector place:vector
amos_lipschitz: estimates places sizes alpha epsilon2 threshold [aggregation] -> lipschitz:matrix group_lipschitz:matrix offloaded:matrix
"""  # noqa: E501

INPUTS = {
    "matrix": "matrix model first hessian jacobian output_hessian sums places trials estimates basis vectors",
    "vector": "gradient direction previous right x x0 v start ratios shifts quartic slope lipschitz eigenvalue mean "
    "curvature place step output_gradient scaled_rate",
    "cube": "later third",
    "count": "steps terms order poles iterations dimension samples",
    "counts": "sizes",
    "name": "mode rule stopping system directions stale aggregation",
    "named": "problem",
    "number": "damping threshold omega minimum ema sample scale low high safety learning_rate "
    "condition_number clip_absolute clip_relative radius accept_above shrink_below expand_above shrink expand "
    "maximum_radius sigma beta1 beta2 rho weight_decay alpha epsilon2 tie",
    "number or null": "replacement",
    "vector or null": "sampled_gradient",
}
"""Kind -> inputs of that kind."""

EXCEPTIONS = {
    ("run", "method"): "named", ("accelerate", "method"): "name", ("scale_ratio", "previous"): "number",
    ("curveball_step", "momentum"): "number", ("kryball_step", "momentum"): "vector",
    ("transition_matrix", "momentum"): "vector", ("spectral_radius", "momentum"): "vector",
}  # fmt: skip
"""Inputs whose kind depends on the call."""

KINDS: dict[str, Any] = {
    "number": {"type": "number"},
    "number or null": {"type": ["number", "null"], "description": "null is NaN"},
    "vector": {"type": "array", "items": {"$ref": "#/$defs/number or null"}},
    "vector or null": {"anyOf": [{"$ref": "#/$defs/vector"}, {"type": "null"}]},
    "matrix": {"type": "array", "items": {"$ref": "#/$defs/vector"}, "description": "rows"},
    "cube": {"type": "array", "items": {"$ref": "#/$defs/matrix"}},
    "count": {"type": "integer", "minimum": 0},
    "counts": {"type": "array", "items": {"$ref": "#/$defs/count"}},
    "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
    "named": {
        "type": "object", "required": ["name"], "properties": {"name": {"$ref": "#/$defs/name"}},
        "description": "a problem or a method by name, with its options",
    },
}  # fmt: skip


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every file of vectors meets."""
    calls = dict(_rule(line) for line in CALLS.strip().splitlines())
    case = {
        "type": "object",
        "required": ["id", "call", "inputs", "expected", "rtol", "rtol_float32", "source"],
        "additionalProperties": False,
        "properties": {
            "id": {"$ref": "#/$defs/name"},
            "call": {"enum": list(calls)},
            "inputs": {"type": "object"},
            "expected": {"type": ["number", "array", "object"]},
            "rtol": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-11},
            "rtol_float32": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-2},
            "source": {"type": "string", "minLength": 1},
        },
        "allOf": [
            {"if": {"properties": {"call": {"const": name}}}, "then": {"properties": rule}}
            for name, rule in calls.items()
        ],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A file of golden vectors",
        "description": "Small inputs with the answers that they must give; README.md says what each call computes.",
        "type": "object",
        "required": ["schema", "precision", "cases"],
        "additionalProperties": False,
        "properties": {
            "schema": {"const": LAYOUT},
            "precision": {"type": "string"},
            "cases": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/case"}},
        },
        "$defs": {"case": case, **KINDS},
    }


def _rule(line: str) -> tuple[str, dict[str, Any]]:
    """A line of the table -> the name of a call, and what its ``inputs`` and its ``expected`` have to be."""
    call, rest = line.split(": ", 1)
    taken, answer = rest.split(" -> ")
    required, _, optional = taken.partition(" [")
    names = required.split(), optional.rstrip("]").split()
    inputs = {
        "required": names[0],
        "additionalProperties": False,
        "properties": {name: _reference(_kind(call, name)) for name in (*names[0], *names[1])},
    }
    if ":" not in answer:
        return call, {"inputs": inputs, "expected": _reference(answer)}
    named = dict(part.split(":") for part in answer.split())
    expected = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _reference(kind) for name, kind in named.items()},
    }
    return call, {"inputs": inputs, "expected": expected}


def _kind(call: str, name: str) -> str:
    if (call, name) in EXCEPTIONS:
        return EXCEPTIONS[call, name]
    return next(kind for kind, inputs in INPUTS.items() if name in inputs.split())


def _reference(kind: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{kind}"}
