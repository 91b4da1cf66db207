"""Claims of a chapter: a true one is listed, a false one stops the page."""

import json

import numpy as np
import pytest

from refimpl.verify.claims import ClaimFailed, Claims

MAKE = {
    "holds": lambda claims, good: claims.holds("x", "it is so", good),
    "equal": lambda claims, good: claims.equal("x", "it is so", 2 if good else 3, 2),
    "close": lambda claims, good: claims.close("x", "it is so", [1.0, 2.0 if good else 2.1], [1.0, 2.0], rtol=1e-3),
    "within": lambda claims, good: claims.within("x", "it is so", 0.5 if good else 1.5, 0.0, 1.0, runs=50),
    "recorded": lambda claims, good: claims.recorded("x", "it is so", good, record="uci"),
}
STATUS = {"holds": "exact", "equal": "exact", "close": "to tolerance", "within": "statistical", "recorded": "recorded"}


@pytest.mark.parametrize("kind", MAKE)
def test_true_claim_is_listed(kind):
    claims = Claims("3")
    MAKE[kind](claims, True)
    (made,) = claims.made
    assert (made.id, made.statement, made.status) == ("3.x", "it is so", STATUS[kind])
    assert made.check


@pytest.mark.parametrize("kind", MAKE)
def test_false_claim_stops_the_page(kind):
    claims = Claims("3")
    with pytest.raises(ClaimFailed, match=r"3\.x.*it is so"):
        MAKE[kind](claims, False)
    assert claims.made == []


def test_false_claim_is_an_assertion_error():
    with pytest.raises(AssertionError):
        Claims("3").holds("x", "no", False)


@pytest.mark.parametrize(
    ("value", "expected", "rtol", "atol", "good"),
    [
        (1.0 + 1e-6, 1.0, 1e-5, 0.0, True),
        (1.0 + 1e-4, 1.0, 1e-5, 0.0, False),
        (1e-9, 0.0, 0.5, 0.0, False),
        (1e-9, 0.0, 0.0, 1e-8, True),
        (float("nan"), 1.0, 1.0, 1.0, False),
        ([1.0, float("nan")], [1.0, 1.0], 1.0, 1.0, False),
        (float("inf"), 1.0, 1.0, 1.0, False),
        (-1.0, 1.0, 0.5, 0.0, False),
    ],
)
def test_closeness(value, expected, rtol, atol, good):
    claims = Claims("3")
    if good:
        claims.close("x", "near", value, expected, rtol=rtol, atol=atol)
        return
    with np.errstate(invalid="ignore"), pytest.raises(ClaimFailed, match="off by"):
        claims.close("x", "near", value, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_statistic_outside_its_band(value):
    with pytest.raises(ClaimFailed, match=r"not in \[0, 1\]"):
        Claims("3").within("x", "between", value, 0.0, 1.0, runs=5)


def test_ends_of_a_band_belong_to_it():
    claims = Claims("3")
    claims.within("low", "between", 0.0, 0.0, 1.0, runs=5)
    claims.within("high", "between", 1.0, 0.0, 1.0, runs=5)
    assert [c.check for c in claims.made] == ["in [0, 1] over 5 runs"] * 2


def test_name_is_used_once():
    claims = Claims("3")
    claims.holds("x", "a", True)
    with pytest.raises(ValueError, match="give each claim its own name"):
        claims.equal("x", "b", 1, 1)


def test_closeness_needs_a_tolerance():
    with pytest.raises(ValueError, match="give rtol or atol"):
        Claims("3").close("x", "near", 1.0, 1.0)


def test_table_is_markdown():
    pytest.importorskip("IPython")
    claims = Claims("3")
    claims.holds("size", "|H| is positive", True)
    lines = claims.table().data.splitlines()
    assert lines[0] == "| claim | statement | check | status |"
    assert lines[2] == r"| 3.size | \|H\| is positive | a condition that must be true | exact |"


def test_claims_are_written_for_the_ledger_as_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setenv("REFIMPL_CLAIMS_DIR", str(tmp_path / "claims"))
    claims = Claims("3")
    claims.holds("first", "before the table", True)
    path = tmp_path / "claims" / "chapter-3.json"
    claims.close("second", "after the table", 1.0, 1.0, rtol=1e-9, source="eq. 4")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [claim["id"] for claim in found] == ["3.first", "3.second"]
    assert found[1]["source"] == "eq. 4"
    assert set(found[0]) == {"id", "statement", "check", "status", "source", "tolerance", "of"}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda claims: claims.holds("x", "s", True), None),
        (lambda claims: claims.equal("x", "s", 1, 1), None),
        (lambda claims: claims.close("x", "s", 1.0, 1.0, rtol=1e-12), {"rtol": 1e-12}),
        (lambda claims: claims.close("x", "s", 1.0, 1.0, rtol=0.1, atol=2), {"rtol": 0.1, "atol": 2.0}),
        (lambda claims: claims.within("x", "s", 0.5, 0, 1, runs=50), {"low": 0.0, "high": 1.0, "runs": 50}),
        (lambda claims: claims.recorded("x", "s", True, record="uci"), None),
    ],
)
def test_tolerance_can_be_read_by_a_program(tmp_path, monkeypatch, make, expected):
    monkeypatch.setenv("REFIMPL_CLAIMS_DIR", str(tmp_path))
    claims = Claims("3")
    make(claims)
    (written,) = json.loads((tmp_path / "chapter-3.json").read_text(encoding="utf-8"))
    assert written["tolerance"] == expected == claims.made[0].tolerance


OF = {
    "holds": lambda claims, of: claims.holds("x", "s", True, of=of),
    "equal": lambda claims, of: claims.equal("x", "s", 1, 1, of=of),
    "close": lambda claims, of: claims.close("x", "s", 1.0, 1.0, rtol=1e-9, of=of),
    "within": lambda claims, of: claims.within("x", "s", 0.5, 0.0, 1.0, runs=5, of=of),
    "recorded": lambda claims, of: claims.recorded("x", "s", True, record="uci", of=of),
}


@pytest.mark.parametrize("kind", OF)
@pytest.mark.parametrize(("of", "expected"), [("thm-a", ["thm-a"]), (("thm-a", "lem-b"), ["thm-a", "lem-b"]), ((), [])])
def test_claim_names_the_theorems_that_it_supports(tmp_path, monkeypatch, kind, of, expected):
    monkeypatch.setenv("REFIMPL_CLAIMS_DIR", str(tmp_path))
    OF[kind](Claims("3"), of)
    assert json.loads((tmp_path / "chapter-3.json").read_text(encoding="utf-8"))[0]["of"] == expected


@pytest.mark.parametrize("of", ["", ("thm-a", ""), (3,)])
def test_label_of_a_theorem_is_text(of):
    claims = Claims("3")
    with pytest.raises(ValueError, match="must be the label of a theorem or a tuple of labels"):
        claims.holds("x", "s", True, of=of)
    assert claims.made == []


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.delenv("REFIMPL_CLAIMS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    Claims("3").holds("first", "a", True)
    assert list(tmp_path.iterdir()) == []
