"""The table of deliberate bugs stays valid: each place is still there once, each named test still exists.

That the tests notice the bugs is what `make mutants` shows; this only keeps it able to.
"""

import ast
import json
from pathlib import Path

import pytest
from mutations import MUTANTS, RECORD, Mutant, judge, make_copy, mutated, row_of

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "refimpl"
BY_ID = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)


@BY_ID
def test_bug_can_be_planted(mutant):
    text = mutated(mutant, PACKAGE)
    assert text != (PACKAGE / mutant.file).read_text(encoding="utf-8")
    ast.parse(text)


@BY_ID
def test_named_test_exists(mutant):
    file, name = mutant.test.split("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_ids_are_unique_and_bugs_are_explained():
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS) >= 16
    assert all(mutant.bug.endswith(".") for mutant in MUTANTS)


def test_the_record_that_the_book_shows_is_of_these_bugs_and_all_were_caught():
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["mutants"]
    assert rows == [row_of(mutant, "caught") for mutant in MUTANTS], "make mutants ARGS=--record"


def test_text_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match=r"gone: its text is in oracle.py 0 times, not once"):
        mutated(Mutant("gone", "oracle.py", "no such line", "", "", ""), PACKAGE)


def test_judge_tells_caught_from_survived(tmp_path):
    copy = make_copy(tmp_path)
    (copy / "tests" / "conftest.py").unlink()
    (copy / "tests" / "test_seen.py").write_text(
        "import refimpl\ndef test_seen():\n    assert refimpl.__version__ != 'broken'\ndef test_blind():\n    pass\n",
        encoding="utf-8",
    )
    bug = Mutant(
        "version", "__init__.py", '__version__ = "0.1.0"', '__version__ = "broken"', "", "test_seen.py::test_seen"
    )
    before = (copy / "refimpl" / "__init__.py").read_text(encoding="utf-8")
    assert judge(bug, copy) == "caught"
    assert judge(bug._replace(test="test_seen.py::test_blind"), copy) == "SURVIVED"
    assert judge(bug._replace(test="test_seen.py::test_absent"), copy).startswith("BROKEN (pytest says 4")
    assert judge(bug._replace(text="no such line"), copy).startswith("NOT APPLIED")
    assert (copy / "refimpl" / "__init__.py").read_text(encoding="utf-8") == before
