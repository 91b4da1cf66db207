"""Write requirements.lock and requirements-nodeps.lock from what is installed: `.venv/bin/python tools/lock.py`.

The lock holds what the package, its build backend and its extras need, directly or through others, at the
installed versions. `cupy` is left out: it needs a CUDA machine. What only `curvlinops` needs is in the second file,
which is installed without dependencies: one of its packages names torchvision, which is not called here.
"""

from __future__ import annotations

import importlib.metadata as metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"cupy", "curvlinops"}
NOT_CALLED = {"torchvision"}
HEADER = """\
# The versions that `make book` and `make test` install, for Python 3.11, 3.12 and 3.13.
# Written by tools/lock.py from an environment in which everything passes; do not edit by hand.
"""
HEADER_WITHOUT_DEPENDENCIES = """\
# Installed after requirements.lock with `pip install --no-deps`: curvlinops, what only it needs, not torchvision.
# Written by tools/lock.py; do not edit by hand.
"""


def wanted(project: dict) -> list[Requirement]:
    """All requirements of pyproject.toml that the lock has to meet."""
    groups = [project["project"]["dependencies"], project["build-system"]["requires"]]
    groups += [names for extra, names in project["project"]["optional-dependencies"].items() if extra not in LEFT_OUT]
    return [Requirement(line) for group in groups for line in group]


def without_dependencies(project: dict) -> list[Requirement]:
    """The requirements of pyproject.toml that the second file has to meet."""
    return [Requirement(line) for line in project["project"]["optional-dependencies"]["curvlinops"]]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Map each package needed by `requirements`, directly or not, to its installed version."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = list(requirements)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in NOT_CALLED:
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            versions[name] = distribution.version.partition("+")[0]
            for line in distribution.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return versions


def main() -> None:
    """Write requirements.lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = closure(wanted(project))
    others = {name: v for name, v in closure(without_dependencies(project)).items() if name not in versions}
    for file, header, found in (
        ("requirements.lock", HEADER, versions),
        ("requirements-nodeps.lock", HEADER_WITHOUT_DEPENDENCIES, others),
    ):
        lines = [f"{name}=={version}" for name, version in sorted(found.items())]
        (ROOT / file).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
        print(f"{file}: {len(lines)} packages")


if __name__ == "__main__":
    main()
