"""Which part of the package may import which: a method never knows a problem, and nothing that computes draws.

Oracle: the syntax tree of every file, so imports inside functions and under ``TYPE_CHECKING`` count as well.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "refimpl"

_CORE = {"arrays", "oracle", "curvature"}
_METHODS = {"optimizers", "optimizers.base"}
ALLOWED = {
    "": {"arrays", "oracle", "run"},
    "arrays": set(),
    "counts": {"arrays"},
    "oracle": {"arrays", "counts"},
    "trace": {"arrays", "oracle"},
    "curvature": {"arrays", "oracle"},
    "problems": _CORE,
    "optimizers.base": {"arrays", "oracle"},
    "optimizers": _CORE | {"trace", "optimizers.base"},
    "run": {"arrays", "oracle", "trace", "optimizers.base"},
    "torch_optim": _CORE | _METHODS | {"problems"},
    "experiments": _CORE | _METHODS | {"trace", "run", "problems"},
    "verify": _CORE | _METHODS | {"trace", "run", "problems", "experiments"},
    "bench": _CORE | _METHODS | {"", "trace", "run", "problems", "experiments"},
    "plot": {"arrays", "run", "trace"},
}
"""Layer -> layers it may import besides itself, lowest first. Nothing may import ``plot`` but chapters."""

TORCH_FILES = {
    "experiments/data_parallel_demo.py",
    "problems/closure.py",
    "problems/closure_evaluation.py",
    "problems/captured.py",
    "problems/captured_step.py",
    "problems/convnets.py",
    "problems/data_parallel.py",
    "problems/function_module.py",
    "problems/graph_memory.py",
    "problems/host_reads.py",
    "problems/image_problem.py",
    "problems/layer_factors.py",
    "problems/line_derivatives.py",
    "problems/models.py",
    "problems/module_parts.py",
    "problems/precision.py",
    "problems/programs.py",
    "problems/resnet.py",
    "problems/shared_evaluation.py",
    "problems/text_problem.py",
    "problems/torch_evaluation.py",
    "problems/torch_net.py",
    "problems/transformer.py",
    "torch_optim/__init__.py",
    "torch_optim/method.py",
    "torch_optim/state.py",
}


def layer_of(module: str) -> str:
    """``refimpl.optimizers.adam`` -> ``optimizers``; a file of its own layer keeps its name."""
    parts = module.split(".")[1:]
    longest = ".".join(parts[:2])
    return longest if longest in ALLOWED else ".".join(parts[:1])


def imported(tree: ast.AST, module: str, modules: set[str]):
    """Modules of the package that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "refimpl")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: len(module.split(".")) - node.level]
                base = ".".join([*parent, base] if base else parent)
            if base.split(".")[0] == "refimpl":
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield full if full in modules else base


def violations(package: Path) -> list[str]:
    """Every import that goes the wrong way, as ``file imports module``."""
    files = {path: _module(path, package) for path in sorted(package.rglob("*.py"))}
    found = []
    for path, module in files.items():
        layer = layer_of(module)
        if layer not in ALLOWED:
            found.append(f"{path.relative_to(package)} belongs to no layer; add {layer!r} to the table")
            continue
        for target in imported(ast.parse(path.read_text(encoding="utf-8")), module, set(files.values())):
            if layer_of(target) not in ALLOWED[layer] | {layer}:
                found.append(f"{path.relative_to(package)} imports {target}")
    return found


def imports_library(path: Path, library: str) -> bool:
    """Whether a file imports ``library`` when it is itself imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == library for name in names):
            return True
    return False


def _module(path: Path, package: Path) -> str:
    parts = ["refimpl", *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_go_one_way():
    assert violations(PACKAGE) == []


def test_torch_is_imported_only_where_it_is_needed():
    importing = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if imports_library(p, "torch")}
    assert importing == TORCH_FILES


def test_matplotlib_is_imported_by_plot_alone():
    assert [p.name for p in PACKAGE.rglob("*.py") if imports_library(p, "matplotlib")] == ["plot.py"]


def test_no_module_is_imported_by_a_lower_one_in_the_table():
    # The table itself has no cycle: every layer can be loaded after those it names.
    loaded, waiting = set(), dict(ALLOWED)
    while waiting:
        ready = [layer for layer, needs in waiting.items() if needs <= loaded]
        assert ready, f"cycle among {sorted(waiting)}"
        loaded |= set(ready)
        waiting = {layer: needs for layer, needs in waiting.items() if layer not in ready}


@pytest.mark.parametrize(
    ("file", "text", "violation"),
    [
        ("optimizers/sgd.py", "from refimpl.problems.toy import Wood\n", "refimpl.problems.toy"),
        ("optimizers/sgd.py", "from refimpl import problems\n", "refimpl.problems"),
        ("optimizers/sgd.py", "def f():\n    import refimpl.problems.toy\n", "refimpl.problems.toy"),
        ("optimizers/sgd.py", "from ..problems import toy\n", "refimpl.problems.toy"),
        ("optimizers/base.py", "from refimpl.optimizers.sgd import SGD\n", "refimpl.optimizers.sgd"),
        ("problems/toy.py", "from refimpl.run import minimize\n", "refimpl.run"),
        ("problems/toy.py", "from refimpl import plot\n", "refimpl.plot"),
        ("oracle.py", "import refimpl.curvature\n", "refimpl.curvature"),
        ("experiments/long.py", "from refimpl.verify import golden\n", "refimpl.verify"),
    ],
)
def test_planted_violation_is_found(tmp_path, file, text, violation):
    package = tmp_path / "refimpl"
    names = ("__init__", "plot", "run", "oracle", "curvature/__init__", "problems/__init__", "problems/toy")
    for name in (*names, "optimizers/__init__", "optimizers/base", "optimizers/sgd", "verify/__init__"):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from refimpl.arrays import Array\n", encoding="utf-8")
    assert violations(package) == []
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(text, encoding="utf-8")
    assert violations(package) == [f"{file} imports {violation}"]


def test_file_outside_every_layer_is_found(tmp_path):
    (tmp_path / "helpers.py").write_text("", encoding="utf-8")
    assert violations(tmp_path) == ["helpers.py belongs to no layer; add 'helpers' to the table"]
