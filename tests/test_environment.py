"""The places that name versions agree: pyproject.toml, requirements.lock, requirements-nodeps.lock and environment.yml.

Oracle: the files themselves, read by three different parsers (TOML, pip's line format, YAML).
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
CONDA_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
ELSEWHERE = {"cupy", "curvlinops"}
"""Extras that requirements.lock leaves out: one needs a GPU, one is in requirements-nodeps.lock."""


def read_lock(name="requirements.lock"):
    """Requirement by name for each line of a lock file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in requirements}


def locked_version(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not pinned"
    return specifier.version


def read_environment():
    """Version by PyPI name for each line of environment.yml, conda's and pip's; Python apart."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    versions = {}
    for line in content["dependencies"]:
        for entry in line["pip"] if isinstance(line, dict) else [line]:
            if entry.startswith("-") or entry == "pip":
                continue
            match = re.fullmatch(r"([\w.-]+)={1,2}([\w.*]+)", entry)
            assert match, f"{entry!r} names no exact version"
            versions[canonicalize_name(CONDA_NAMES.get(match[1], match[1]))] = match[2]
    return versions


LOCK = read_lock()
WITHOUT_DEPENDENCIES = read_lock("requirements-nodeps.lock")
ENVIRONMENT = read_environment()
WANTED = [
    pytest.param(Requirement(line), id=f"{group}:{Requirement(line).name}")
    for group, lines in {
        "core": PROJECT["project"]["dependencies"],
        "build": PROJECT["build-system"]["requires"],
        **{extra: lines for extra, lines in EXTRAS.items() if extra not in ELSEWHERE},
    }.items()
    for line in lines
]


@pytest.mark.parametrize("requirement", WANTED)
def test_lock_meets_pyproject(requirement):
    name = canonicalize_name(requirement.name)
    assert name in LOCK, f"{name} is in pyproject.toml but not in requirements.lock"
    assert locked_version(LOCK[name]) in requirement.specifier


@pytest.mark.parametrize("requirement", WANTED)
def test_environment_names_the_locked_version(requirement):
    name = canonicalize_name(requirement.name)
    assert ENVIRONMENT.get(name) == locked_version(LOCK[name])


def test_environment_names_nothing_that_is_not_locked():
    assert {name: v for name, v in ENVIRONMENT.items() if name != "python"}.keys() <= LOCK.keys()


def test_the_lock_without_dependencies_meets_its_extra():
    for line in EXTRAS["curvlinops"]:
        requirement = Requirement(line)
        assert locked_version(WITHOUT_DEPENDENCIES[canonicalize_name(requirement.name)]) in requirement.specifier
    assert not WITHOUT_DEPENDENCIES.keys() & LOCK.keys()


def test_lock_is_portable():
    for requirement in [*LOCK.values(), *WITHOUT_DEPENDENCIES.values()]:
        assert requirement.url is None, f"{requirement} names a place"
        assert Version(locked_version(requirement)).local is None, f"{requirement} names one build"


def test_python_versions_agree():
    assert Version(ENVIRONMENT["python"]) in Requirement(f"python{PROJECT['project']['requires-python']}").specifier


def test_gpu_lines_are_comments():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if "GPU" in line]
    assert len(marked) >= 2
    assert all(line.lstrip().startswith("#") for line in marked)


def test_extras_are_the_documented_ones():
    assert {"book", "torch", "cupy", "sweep", "peers", "curvlinops", "pdf", "test", "lint", "data"} == set(EXTRAS)
