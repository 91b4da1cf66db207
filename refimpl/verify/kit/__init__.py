"""A conformance kit: is this optimizer the method it says it is?

>>> from refimpl.verify.kit import check_method
>>> def direction(gradient, hvp, learning_rate):
...     return -learning_rate * gradient
>>> check_method("gradient-descent", direction).passed
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from refimpl.verify.kit.adapter import Adapter, OptimizerAdapter, as_adapter, load
from refimpl.verify.kit.card import Card, NotConforming
from refimpl.verify.kit.levels import LEVELS, cases
from refimpl.verify.kit.method import Method
from refimpl.verify.kit.methods import METHODS, method_named
from refimpl.verify.kit.task import Task
from refimpl.verify.kit.tasks import TASKS
from refimpl.verify.kit.walks import Check, Examiner, common_factor, likely_cause, take

__all__ = [
    "LEVELS",
    "METHODS",
    "Adapter",
    "Card",
    "Check",
    "Method",
    "NotConforming",
    "OptimizerAdapter",
    "Task",
    "as_adapter",
    "assert_conforms",
    "check_method",
    "conformance_test",
    "load",
]


def check_method(
    method: str,
    adapter: Any,
    *,
    levels: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Check an optimizer against the method it claims to be, and name the likely cause where it is not.

    Parameters
    ----------
    method : a key of :data:`~refimpl.verify.kit.methods.METHODS`.
    adapter : the optimizer, see :func:`~refimpl.verify.kit.adapter.as_adapter`; or where to find it, as text for
        :func:`~refimpl.verify.kit.adapter.load`.
    levels : some of :data:`~refimpl.verify.kit.levels.LEVELS`; None runs them all.
    settings : settings that differ from those of the method.

    Returns
    -------
    Card
        Prints as a table. A failed check is no exception here: see :func:`assert_conforms`.

    Raises
    ------
    ValueError
        An unknown method, level or setting; settings with which the method itself cannot take a step; something that is
        no adapter.

    Notes
    -----
    A cause is named where a known slip gives the answers of the adapter in every comparison that was made, the right
    and the wrong ones; so more levels name fewer causes. Where there is none, but every first step is too long by the
    same factor, the factor is named instead. Takes a few seconds at most; an optimizer that never returns is not
    stopped.
    """
    chosen, under_test = method_named(method), _adapter(adapter)
    examiner = Examiner(chosen, under_test, _settings(chosen, settings))
    todo = cases(chosen, levels)
    rows = tuple(case.run(examiner) for case in todo)
    cause = ""
    if not all(row.passed for row in rows):
        cause = likely_cause(examiner) or common_factor(examiner)
    return Card(
        method=chosen.name,
        adapter=under_test.label,
        settings=examiner.settings,
        levels=tuple(dict.fromkeys(case.level for case in todo)),
        rows=rows,
        cause=cause,
        source=chosen.source,
        left_out=under_test.left_out(examiner.settings),
    )


def assert_conforms(method: str, adapter: Any, **options: Any) -> Card:
    """:func:`check_method` as an assertion: raises :class:`NotConforming`, whose message is the report card."""
    card = check_method(method, adapter, **options)
    if not card.passed:
        raise NotConforming(card)
    return card


def conformance_test(
    method: str,
    adapter: Any,
    *,
    levels: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A test function for pytest, one case per check: ``test_mine = conformance_test("curveball", adapter)``.

    The checks are run once, when the first case needs them. Raises like :func:`check_method`, and a ValueError where
    pytest is not installed.
    """
    try:
        import pytest
    except ImportError:
        raise ValueError("conformance_test needs pytest; check_method does not") from None
    todo = cases(method_named(method), levels)
    under_test = _adapter(adapter)
    _settings(method_named(method), settings)

    @cache
    def card() -> Card:
        return check_method(method, under_test, levels=levels, settings=settings)

    @pytest.mark.parametrize(("level", "check"), [(case.level, case.name) for case in todo])
    def test_conformance(level: str, check: str) -> None:
        row = next(row for row in card().rows if (row.level, row.name) == (level, check))
        if not row.passed:
            cause = f"\nlikely cause: {card().cause}" if card().cause else ""
            pytest.fail(f"error {row.error:.1e}, allowed {row.tolerance:.0e}: {row.note}{cause}", pytrace=False)

    return test_conformance


def _adapter(adapter: Any) -> Adapter:
    return load(adapter) if isinstance(adapter, str) else as_adapter(adapter)


def _settings(method: Method, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    unknown = set(changes or {}) - set(method.settings)
    if unknown:
        raise ValueError(f"{method.name} has no setting {sorted(unknown)}; it has {sorted(method.settings)}")
    settings = {**method.settings, **(changes or {})}
    if changes:
        # Without a right step there would be nothing to hold a wrong one against.
        right = take(as_adapter(method.reference), TASKS[method.tasks[0]], 1, settings)
        if right.problem or not np.isfinite(right.places).all():
            reason = right.problem or "its first step is not finite"
            raise ValueError(f"{method.name} cannot be run with {dict(changes)}: {reason}")
    return settings
