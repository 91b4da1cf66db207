"""The conformance kit on optimizers whose mistakes are known: each must be seen and named, and none where none is.

Oracle: the mistakes are planted. Those in the files ``kit_mistakes*.py`` stand alone, in the style of published code;
those of the textbook forms are made by their ``slip`` switch.
"""

import itertools
from functools import cache

import kit_mistakes_curvature
import kit_mistakes_descent
import kit_mistakes_regions
import kit_mistakes_scales
import numpy as np
import pytest
from kit_mistakes import EVERY, MISTAKES, RIGHT

from refimpl.verify.kit import LEVELS, METHODS, NotConforming, assert_conforms, check_method
from refimpl.verify.kit.textbook_first_order import FIRST_ORDER

FILES = (kit_mistakes_curvature, kit_mistakes_descent, kit_mistakes_regions, kit_mistakes_scales)
# Those of the other methods, and what is right of them, are in test_kit_second_order.py.
SWITCHED = [(name, slip) for name in FIRST_ORDER for slip in METHODS[name].slips]
WALKS = ("one step", "ten steps")

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.mark.parametrize("form", ["reference", "textbook"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_what_is_right_passes_every_level(name, form):
    method = METHODS[name]
    card = check_method(name, method.reference if form == "reference" else method.textbook(""))
    assert card.passed, card.text()
    assert card.levels == LEVELS == EVERY
    assert card.cause == ""


@pytest.mark.parametrize(("name", "adapter", "levels"), RIGHT, ids=[f"{name}-{a.__name__}" for name, a, _ in RIGHT])
def test_right_scripts_pass(name, adapter, levels):
    card = assert_conforms(name, adapter, levels=levels)
    assert len(card.rows) >= 10


@cache
def card_of(planted):
    return check_method(planted.method, planted.adapter, levels=planted.levels, settings=dict(planted.settings))


@pytest.mark.parametrize("planted", MISTAKES, ids=[f"{m.method}-{m.adapter.__name__}" for m in MISTAKES])
def test_published_mistakes_are_reported_and_named(planted):
    card = card_of(planted)
    assert not card.passed, f"not seen: {planted.seen_in}"
    if planted.words:
        assert planted.words in card.cause, card.text()
        assert card.cause.count("; or ") == planted.words.count("; or "), f"more than one cause: {card.cause}"
    else:
        assert card.cause == "", card.text()
    assert any(planted.note in row.note for row in card.failed), card.text()


@pytest.mark.parametrize(("name", "slip"), SWITCHED, ids=[f"{n}-{s.replace(' ', '-')}" for n, s in SWITCHED])
def test_slips_of_the_textbook_forms_are_reported_and_named(name, slip):
    card = check_method(name, METHODS[name].textbook(slip), levels=WALKS)
    assert not card.passed
    assert card.cause == METHODS[name].slips[slip]


def test_counts():
    assert len(MISTAKES) >= 60
    assert sum(1 for planted in MISTAKES if planted.words) >= 50
    assert len({planted.method for planted in MISTAKES}) >= 20
    assert sum(1 for planted in MISTAKES if planted.method not in FIRST_ORDER) >= 25
    assert len(MISTAKES) + sum(len(method.slips) for method in METHODS.values()) >= 250
    assert all(planted.seen_in for planted in MISTAKES)


def test_published_mistakes_do_not_use_the_kit():
    """They import nothing of this package: a cause is found in code that the kit has never seen."""
    import ast
    from pathlib import Path

    import kit_mistakes

    for module in (kit_mistakes, *FILES):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("refimpl") for name in names), module.__name__


def test_mistakes_of_the_same_method_leave_different_cards():
    """No script is planted twice under two names."""
    for one, two in itertools.combinations(MISTAKES, 2):
        if (one.method, one.levels, one.settings) == (two.method, two.levels, two.settings):
            a, b = (np.round([row.error for row in card_of(planted).rows], 9) for planted in (one, two))
            assert not np.array_equal(a, b), f"{one.adapter} and {two.adapter} make the same steps"


def test_the_message_of_a_failure_names_the_cause():
    planted = next(m for m in MISTAKES if m.adapter.__name__ == "AdamFromScratch")
    with pytest.raises(NotConforming, match="likely cause: the bias correction is missing"):
        assert_conforms("adam", planted.adapter, levels=WALKS)
