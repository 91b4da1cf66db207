/* The truncated series for 1/|lambda|: what K terms make of each eigenvalue, and how far off the direction is. */
(function () {
  "use strict";

  const { scalarSums, norm, dot } = window.SaddleFree;
  const { Axes, explorer, number, percent, short } = window.SaddleFreeDrawing;

  const COUNT = 24;
  const TERMS = [1, 2, 3, 4, 6, 8, 12, 18, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];
  const MOST = TERMS[TERMS.length - 1];
  const FLOOR = 1e-5;

  /** Magnitudes from 1/kappa to 1, and signs: the given share is negative, spread evenly. */
  function spectrum(kappa, share) {
    return Array.from({ length: COUNT }, (_, i) => {
      const size = kappa ** (i / (COUNT - 1) - 1);
      return Math.floor((i + 1) * share + 1e-9) > Math.floor(i * share + 1e-9) ? -size : size;
    });
  }

  /** A gain's curve cut where its sign changes: [positive parts, negative parts]. */
  function bySign(points) {
    return [1, -1].map((sign) => points.map(([x, y]) => [x, y * sign > 0 ? Math.abs(y) : NaN]));
  }

  function draw(state, pictures) {
    const terms = TERMS[state.terms];
    const [kappa, share, ratio] = [10 ** state.condition, state.negative / 100, 2 ** state.scale];
    const scale = ratio / 2; // in units of the largest squared eigenvalue; V_min is half of it
    const root = Math.sqrt(scale);
    const values = spectrum(kappa, share);
    const sums = values.map((value) => scalarSums(1 - (value * value) / scale, MOST));
    const exact = values.map((value) => 1 / Math.abs(value)); // the gradient has a one in each component
    const errors = TERMS.map((_, k) => k).map((k) => {
      const found = sums.map((row) => row[TERMS[k] - 1] / root);
      return norm(found.map((gain, i) => gain - exact[i])) / norm(exact);
    });
    const gains = sums.map((row) => row[terms - 1] / root);
    const relative = gains.map((gain, i) => Math.abs(gain / exact[i] - 1));
    const error = errors[state.terms];
    const cosine = dot(gains, exact) / norm(gains) / norm(exact);
    const newton = values.map((value) => 1 / value);
    const newtonCosine = dot(newton, exact) / norm(newton) / norm(exact);
    const worst = relative.indexOf(Math.max(...relative));
    const diverges = ratio < 1;
    const product = 2 * (terms - 1);

    drawGains(pictures.gains, { values, gains, terms, scale, root });
    drawErrors(pictures.errors, { errors, terms, error });

    const slowest = `|<var>λ</var>| = ${number(Math.abs(values[worst]))}`;
    const region = diverges
      ? `The series diverges: <var>V</var> is below <var>V</var><sub>min</sub>, and eigenvalues above ${number(Math.SQRT2 * root)} explode.`
      : "The series converges.";
    const sentence = `${region} ${terms} ${terms === 1 ? "term leaves" : "terms leave"} the direction off by ${percent(error)} (its cosine with the exact one is `
      + `${number(cosine)}); furthest off, by ${percent(relative[worst])}, is the eigenvalue with ${slowest}.`;
    return {
      values: {
        terms: `${terms} ${terms === 1 ? "term" : "terms"}`,
        condition: short(kappa),
        negative: `${state.negative} %`,
        scale: number(ratio),
      },
      numbers: {
        error: `<b class="${diverges ? "bad" : ""}">${percent(error)}</b>`,
        slowest: `${number(Math.abs(values[worst]))} <small>${percent(relative[worst])} off</small>`,
        products: String(product),
        newton: number(newtonCosine),
      },
      descriptions: {
        gains: `Gain against the magnitude of the eigenvalue, on logarithmic axes. ${terms} terms follow the line 1/|λ| for large eigenvalues `
          + `and stay at ${number(gains[0])} for the smallest, where 1/|λ| is ${number(exact[0])}.${diverges ? " Right of a limit the series diverges." : ""}`,
        errors: `Error of the direction against the number of terms, on logarithmic axes: ${TERMS.filter((_, k) => k % 4 === 0)
          .map((K, k) => `${number(errors[4 * k])} for ${K}`).join(", ")}.`,
      },
      summary: sentence,
    };
  }

  function drawGains(svg, { values, gains, terms, scale, root }) {
    const axes = new Axes(svg, {
      x: { domain: [0.0025, 2], log: true, ticks: [0.01, 0.1, 1], label: "|<var>λ</var>| / |<var>λ</var>|<sub>max</sub>" },
      y: { domain: [0.25, 600], log: true, ticks: [1, 10, 100], label: "gain × |<var>λ</var>|<sub>max</sub>" },
    });
    const limit = Math.SQRT2 * root;
    axes.stripe(limit, 2, "forbidden");
    const at = Array.from({ length: 241 }, (_, i) => 0.0025 * 800 ** (i / 240));
    const curve = at.map((x) => [x, scalarSums(1 - (x * x) / scale, terms)[terms - 1] / root]);
    const [above, below] = bySign(curve);
    axes.line(at.map((x) => [x, 1 / x]), "reference dashed");
    axes.line(above, "green");
    axes.line(below, "orange dotted");
    values.forEach((value, i) => {
      const style = `${value > 0 ? "blue" : "red"} ${gains[i] < 0 ? "hollow" : ""}`;
      axes.mark(Math.abs(value), Math.abs(gains[i]), value > 0 ? "circle" : "down", style, 3.6);
    });
    const seen = root / Math.sqrt(terms);
    if (seen > 0.0025 && seen < 2) {
      axes.line([[seen, 0.25], [seen, 600]], "faint dashed");
      axes.text(seen, 0.25, "√(<var>V</var>/<var>K</var>)", { anchor: "end", dx: -4, dy: -6 });
    }
    axes.text(0.0047, 213, "1/|<var>λ</var>|", { dx: 10, dy: -2 });
    if (limit < 1.95) axes.text(2, 600, "diverges", { anchor: "end", dx: -4, dy: 14, style: "note warning" });
  }

  function drawErrors(svg, { errors, terms, error }) {
    const axes = new Axes(svg, {
      x: { domain: [0.85, 620], log: true, ticks: [1, 10, 100], label: "terms <var>K</var>" },
      y: { domain: [FLOOR, 100], log: true, ticks: [1e-4, 1e-2, 1, 100], label: "error of the direction" },
    });
    axes.area([[0.85, 1], [620, 1], [620, 100], [0.85, 100]], "forbidden");
    axes.line([[0.85, 1], [620, 1]], "faint dashed");
    axes.text(620, 1, "worse than no step", { anchor: "end", dx: -4, dy: -6 });
    const shown = (x) => Math.min(Math.max(x, FLOOR * 1.25), 78);
    axes.line(TERMS.map((K, k) => [K, Math.max(errors[k], FLOOR / 10)]), "green");
    axes.mark(terms, shown(error), "circle", "green now", 6);
    if (error > 78 || error < FLOOR * 1.25) {
      axes.text(terms, shown(error), `${number(error, 2)} ${error > 78 ? "↑" : "↓"}`, { anchor: "middle", dy: error > 78 ? 24 : -14 });
    }
  }

  const V_MIN = "<var>V</var> / <var>V</var><sub>min</sub>";
  explorer("series", {
    ratio: 0.78,
    narrow: 0.6,
    pictures: { gains: "What each eigenvalue is multiplied by", errors: "How far off the direction is" },
    legend: [
      ["line green", "<var>K</var> terms"], ["line reference dashed", "1/|<var>λ</var>|, the goal"], ["line orange dotted", "negative gain"],
      ["circle blue", "positive eigenvalue"], ["down red", "negative eigenvalue"],
    ],
    numbers: {
      error: "error of the direction", slowest: "slowest |<var>λ</var>| / |<var>λ</var>|<sub>max</sub>", products: "products with <var>H</var>",
      newton: "cosine of Newton's direction",
    },
    sliders: {
      terms: { label: "Order: terms <var>K</var>", min: 0, max: TERMS.length - 1, value: 7 },
      condition: { label: "Condition number <var>κ</var>", min: 0, max: 2.5, step: 0.05, value: 1.5 },
      negative: { label: "Negative eigenvalues", min: 0, max: 100, step: 5, value: 25 },
      scale: { label: `Scale ${V_MIN}`, min: -0.5, max: 5, step: 0.125, value: 1 },
    },
    tries: [
      { label: "All negative", set: { negative: 100 } },
      { label: "Ten times the <var>κ</var>", set: { condition: 2.5 } },
      { label: "<var>V</var> too small", set: { scale: -0.25, terms: 9 } },
    ],
    draw,
  });
})();
