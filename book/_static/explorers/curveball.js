/* Fixed momentum and learning rate on a quadratic: where CurveBall and heavy ball converge, and how fast. */
(function () {
  "use strict";

  const { spectralRadius, radiusTriangle, optimalParameters, errorDecay } = window.SaddleFree;
  const { Axes, explorer, number, short, fixed } = window.SaddleFreeDrawing;

  const RADII = [1, 0.9, 0.8, 0.7, 0.5, 0.3];
  const STEPS = 100;
  const END = { curveball: 2, "heavy-ball": 4.4 };

  /** Iterations per decimal digit, in words. */
  function perDigit(rate) {
    if (rate >= 1 - 1e-9) return "never";
    return rate < 1e-12 ? "1" : number(Math.log(10) / -Math.log(rate), 2);
  }

  function draw(state, pictures) {
    const rule = state.heavy ? "heavy-ball" : "curveball";
    const [momentum, low, kappa] = [state.momentum, 10 ** state.rate, 10 ** state.condition];
    const high = kappa * low;
    const ends = [low, high].map((scaled) => spectralRadius(momentum, scaled, rule));
    const rate = Math.max(...ends); // the sets {radius <= r} are convex, so nothing between is larger
    const best = optimalParameters(kappa, rule);
    const slow = ends[0] >= ends[1] ? "small" : "large";
    const name = state.heavy ? "Heavy ball" : "CurveBall";

    drawRegion(pictures.region, { rule, momentum, low, high, best, kappa });
    drawDecay(pictures.decay, { rule, momentum, low, high, rate });

    const converges = rate < 1 - 1e-9;
    const verdict = converges
      ? `${name} converges: each iteration multiplies the error by ${fixed(rate, 3)} in the end, ${perDigit(rate)} iterations per decimal digit.`
      : rate > 1 + 1e-9 ? `${name} diverges: the error along the ${slow}est eigenvalue is multiplied by ${number(rate)} each iteration.`
        : `${name} is on the boundary: an error stays.`;
    const summary = `${verdict} The slower end is the ${slow === "small" ? "smallest" : "largest"} eigenvalue. The best for <var>κ</var> = ${short(kappa)} `
      + `reach ${fixed(best.rate, 3)}, with <var>ρ</var> = ${fixed(best.momentum, 3)} and <var>βh</var><sub>min</sub> = ${number(best.scaledRate)}.`;
    return {
      values: { momentum: fixed(momentum, 2), rate: number(low), condition: short(kappa) },
      numbers: {
        rate: `<b class="${converges ? "" : "bad"}">${fixed(rate, 3)}</b>`,
        digit: perDigit(rate),
        best: `${fixed(best.rate, 3)} <small>${perDigit(best.rate)} per digit</small>`,
        slow: slow === "small" ? "<var>h</var><sub>min</sub>" : "<var>h</var><sub>max</sub>",
      },
      descriptions: {
        region: `Plane of beta h and momentum with nested triangles of equal spectral radius for ${name}. The spectrum is a horizontal segment at momentum `
          + `${fixed(momentum, 2)} from ${number(low)} to ${number(high)}; its largest spectral radius is ${fixed(rate, 3)}. The best segment lies at momentum ${fixed(best.momentum, 3)}.`,
        decay: `Error against iterations, logarithmic. After ${STEPS} iterations the error is ${number(errorDecay(momentum, low, STEPS, rule)[STEPS], 2)} along the smallest `
          + `and ${number(errorDecay(momentum, high, STEPS, rule)[STEPS], 2)} along the largest eigenvalue.`,
      },
      summary,
    };
  }

  function drawRegion(svg, { rule, momentum, low, high, best, kappa }) {
    const end = END[rule];
    const axes = new Axes(svg, {
      x: { domain: [0, end], label: "scaled rate <var>βh</var>" },
      y: { domain: [-0.1, 1.6], ticks: [0, 0.5, 1, 1.5], label: "momentum <var>ρ</var>" },
    });
    for (const r of RADII) axes.area(radiusTriangle(r, rule), r === 1 ? "basin edge" : "basin");
    const at = rule === "curveball" ? 0.62 : 1;
    for (const r of RADII) {
      if (r === 0.8) continue; // no room for its label
      axes.text(at, r * r + (rule === "curveball" ? at : 0), String(r), { anchor: "middle", dy: 13, style: "note small" });
    }
    const segment = (a, b, y, style) => axes.line([[a, y], [Math.min(b, 1.2 * end), y]], style);
    segment(best.scaledRate, kappa * best.scaledRate, best.momentum, "green dashed");
    axes.mark(best.scaledRate, best.momentum, "diamond", "green hollow", 5);
    axes.mark(kappa * best.scaledRate, best.momentum, "diamond", "green hollow", 5);
    segment(low, high, momentum, "ink");
    axes.mark(low, momentum, "circle", "blue now", 5.5);
    axes.mark(high, momentum, "square", "orange now", 5);
    if (high > end) {
      axes.text(end, momentum, `to ${number(high, 2)} →`, { anchor: "end", dx: -4, dy: -9 });
    }
  }

  function drawDecay(svg, { rule, momentum, low, high, rate }) {
    const axes = new Axes(svg, {
      x: { domain: [0, STEPS], label: "iteration" },
      y: { domain: [1e-7, 1e3], log: true, ticks: [1e-6, 1e-4, 1e-2, 1, 100], label: "|error|" },
    });
    const points = (scaled) => errorDecay(momentum, scaled, STEPS, rule).map((y, k) => [k, Math.min(Math.max(y, 1e-12), 1e30)]);
    axes.line([0, STEPS].map((k) => [k, Math.max(rate, 1e-12) ** k]), "reference dashed");
    axes.line(points(low), "blue");
    axes.line(points(high), "orange thin");
  }

  explorer("curveball", {
    ratio: 0.8,
    narrow: 0.62,
    pictures: { region: "Spectral radius and spectrum", decay: "Errors at both ends" },
    legend: [
      ["circle blue", "<var>βh</var><sub>min</sub>"], ["square orange", "<var>βh</var><sub>max</sub>"],
      ["diamond green hollow", "best for this <var>κ</var>"], ["box basin", "converges; stronger is faster"], ["line reference dashed", "the rate"],
    ],
    numbers: { rate: "rate per iteration", digit: "iterations per digit", best: "best possible rate", slow: "slower end" },
    sliders: {
      momentum: { label: "Momentum <var>ρ</var>", min: 0, max: 1.5, step: 0.01, value: 0.7 },
      rate: { label: "Scaled rate <var>βh</var><sub>min</sub>", min: -3.5, max: 0.25, step: 0.01, value: -1.2 },
      condition: { label: "Condition number <var>κ</var>", min: 0, max: 3, step: 0.02, value: 1 },
      heavy: { label: "Heavy ball instead of CurveBall", switch: true, value: false },
    },
    tries: [
      { label: "Best for <var>κ</var> = 100", set: { momentum: 0.81, rate: -1.94, condition: 2 } },
      { label: "Momentum one: wide, slow", set: { momentum: 1, rate: -1.88, condition: 2 } },
      { label: "Heavy ball, <var>κ</var> = 100", set: { momentum: 0.68, rate: -1.51, condition: 2, heavy: true } },
    ],
    draw,
  });
})();
