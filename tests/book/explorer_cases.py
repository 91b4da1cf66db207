"""What the tests of the interactive figures share: the chapters' blocks, golden cases, ways to set and read sliders."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "book" / "_static"
FOLDER = STATIC / "explorers"
SITE = ROOT / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHAPTERS = {
    "saddle": "index.md",
    "series": "the-series/inverse-square-root.md",
    "curveball": "curveball/tuning-itself.md",
    "trust-region": "kryball/krylov-and-trust-regions.md",
}
BLOCK = re.compile(r'^```\{raw\} html\n(.*?<figure class="explorer".*?)^```$', re.S | re.M)
BROKEN = re.compile(r"NaN|undefined|Infinity|\[object")

CALLS = {  # how a golden call is made in JavaScript, `i` being its inputs
    "spectral_radius": "i.momentum.map((m, k) => S.spectralRadius(m, i.scaled_rate[k], i.rule))",
    "transition_matrix": "i.momentum.map((m, k) => S.transitionMatrix(m, i.scaled_rate[k], i.rule))",
    "optimal_parameters": "(({momentum, scaledRate, rate}) => ({momentum, scaled_learning_rate: scaledRate, rate}))"
    "(S.optimalParameters(i.condition_number, i.rule))",
    "trust_region_step": "S.trustRegionStep(i.matrix, i.gradient, i.radius)",
    "series_coefficients": "S.seriesCoefficients(i.terms, i.damping)",
    "series_partial_sums": "S.seriesPartialSums(i.matrix, i.gradient, i.terms, i.scale)",
    "series_direction": "S.seriesDirection(i.matrix, i.gradient, i.terms, i.scale, i.mode, i.damping)",
    "eigenvalues": "S.eigen(i.matrix).values",
    "saddle_free_direction": "S.saddleFreeDirection(i.matrix, i.gradient, i)",
}


def golden():
    """All golden cases of these calls."""
    for path in sorted((ROOT / "refimpl" / "verify" / "vectors").glob("*.json")):
        cases = json.loads(path.read_text(encoding="utf-8")).get("cases")
        for case in cases if isinstance(cases, list) else []:  # the list of the files has a number there
            if case.get("call") in CALLS:
                yield pytest.param(case, id=f"{path.stem}/{case['id']}")


def block(name):
    (found,) = BLOCK.findall((ROOT / "book" / CHAPTERS[name]).read_text(encoding="utf-8"))
    return found


def number(text):
    """The number that a readout begins with: a real minus sign, and powers of ten in superscripts."""
    text = text.replace("−", "-").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    mantissa, power, unit = re.match(r"(-?[\d.]+)(?:·10(-?\d+))?\s*(%|)", text).groups()
    return float(mantissa) * 10.0 ** int(power or 0) / (100 if unit else 1)


driven = [
    pytest.mark.site,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def in_browser(test):
    for mark in driven:
        test = mark(test)
    return test


PAGE = """<!DOCTYPE html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width"><style>
html {{ --pst-color-background: #fff; --pst-color-text-base: #222832; --pst-color-border: #d1d5da }}
html[data-theme=dark] {{ --pst-color-background: #121212; --pst-color-text-base: #ced6dd; --pst-color-border: #48566b }}
body {{ max-width: 800px; margin: 0 auto; background: var(--pst-color-background); color: var(--pst-color-text-base);
font: 16px/1.5 sans-serif }}</style><main><h1>{name}</h1>{block}<p id="after">After.</p></main></html>"""

SET = """(settings) => {
  for (const [name, value] of Object.entries(settings)) {
    const input = document.querySelector(`input[id$="-${name}"]`);
    if (input.type === "checkbox") { if (input.checked !== value) input.click(); }
    else { input.value = value; input.dispatchEvent(new Event("input")); }
  }
  return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
READ = """() => Object.fromEntries([...document.querySelectorAll(".explorer-numbers > div")].map(
  (row) => [row.querySelector("dt").textContent, row.querySelector("dd").textContent]))"""
STATE = """() => Object.fromEntries([...document.querySelectorAll(".explorer input")].map(
  (input) => [input.id.split("-").at(-1), input.type === "checkbox" ? input.checked : Number(input.value)]))"""


def settings(page, rng):
    """Random places for all sliders, each a place that the slider can take."""
    ranges = page.eval_on_selector_all(
        ".explorer input", "all => all.map((e) => [e.id.split('-').at(-1), e.type, +e.min, +e.max, +e.step])"
    )
    return {
        name: bool(rng.integers(2))
        if kind == "checkbox"
        else low + step * int(rng.integers(round((high - low) / step)))
        for name, kind, low, high, step in ranges
    }
