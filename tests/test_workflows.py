"""The GitHub workflows against the repository. Oracle: the Makefile's targets, `.ci/run` and pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
BY_NAME = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def steps_of(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_is_one_for_tests_book_and_pages():
    assert [path.stem for path in FILES] == ["book", "pages", "tests"]


@BY_NAME
def test_every_target_that_is_made_exists(path):
    named = {name for step in steps_of(path) for name in re.findall(r"\bmake ([a-z]+)", step.get("run", ""))}
    assert named or path.stem == "tests"
    assert named <= TARGETS


@BY_NAME
def test_actions_are_pinned_and_files_exist(path):
    for step in steps_of(path):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        for script in re.findall(r"\bbash (\S+)", step.get("run", "")):
            assert (ROOT / script).is_file()


@BY_NAME
def test_rights_are_named_and_time_is_limited(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"]
    assert all(job["timeout-minutes"] <= 60 for job in content["jobs"].values())


def test_every_supported_python_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported


def test_all_of_ci_is_run_by_the_workflow():
    assert any(step.get("run") == "bash .ci/run" for step in steps_of(ROOT / ".github" / "workflows" / "tests.yml"))
