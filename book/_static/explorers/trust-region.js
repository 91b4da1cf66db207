/* The trust-region subproblem in the plane: the ball, the minimizer, the secular equation and the hard case. */
(function () {
  "use strict";

  const { trustRegionInEigenvectors, stepLength } = window.SaddleFree;
  const { Axes, explorer, number, fixed } = window.SaddleFreeDrawing;

  const SLOPE = 1.5; // |g|
  const TURN = 0.45; // the angle of v_1 in the picture
  const FARTHEST = 8; // right end of the multiplier's axis

  /** Cosine and sine of whole degrees, exactly zero where they are: the hard case needs a zero, not a rounding. */
  function direction(degrees) {
    const turned = ((degrees % 360) + 360) % 360;
    if (turned % 90 === 0) return [[1, 0], [0, 1], [-1, 0], [0, -1]][turned / 90];
    return [Math.cos((turned * Math.PI) / 180), Math.sin((turned * Math.PI) / 180)];
  }

  /** From components along v_1, v_2 to the picture. */
  const turn = ([a, b]) => [a * Math.cos(TURN) - b * Math.sin(TURN), a * Math.sin(TURN) + b * Math.cos(TURN)];

  /** The problem of one setting, solved: eigenvalues and components in ascending order, and a way back. */
  function solve({ first, second, angle, radius }) {
    const g = direction(angle).map((x) => SLOPE * x);
    const swapped = second < first;
    const sort = ([a, b]) => (swapped ? [b, a] : [a, b]);
    const [mu, c] = [sort([first, second]), sort(g)];
    const at = (size) => trustRegionInEigenvectors(mu, c, size, [1, 0]);
    const found = at(radius);
    return { mu, c, at, found, g, lowest: swapped ? 2 : 1, place: (weights) => turn(sort(weights)) };
  }

  const KINDS = {
    interior: "Interior: the model's minimum lies in the ball",
    boundary: "Boundary: the ball cuts the way down",
    hard: "Hard case: two solutions",
    singular: "Singular: the shortest of many minimizers",
  };

  function draw(state, pictures) {
    const { mu, c, at, found, g, lowest, place } = solve(state);
    const solutions = [found.weights, found.other].filter(Boolean).map(place);
    const orthogonal = c[0] === 0 && mu[0] < mu[1];
    const title = found.kind === "hard" && !found.other ? "Hard case: its edge, one solution" : KINDS[found.kind];
    const length = Math.hypot(...found.weights);

    drawBall(pictures.ball, { state, mu, c, at, found, g, lowest, place, solutions });
    drawSecular(pictures.secular, { mu, c, radius: state.radius, found, length });

    const why = {
      interior: "The matrix is positive definite and the Newton step is short enough, so <var>λ</var> = 0.",
      boundary: `The step reaches the boundary; <var>λ</var> = ${number(found.multiplier)} shifts the eigenvalues to `
        + `${mu.map((m) => number(m + found.multiplier)).join(" and ")}.`
        + (orthogonal && mu[0] < 0 ? ` The gradient is orthogonal to <var>v</var><sub>${lowest}</sub>, but in this small ball that does not matter yet.` : ""),
      hard: `The gradient is orthogonal to <var>v</var><sub>${lowest}</sub>. <var>λ</var> = ${number(found.multiplier)} is minus the lowest eigenvalue, the equation's `
        + "step is too short, and a multiple of the eigenvector fills up the rest: both signs are equally low.",
      singular: "The matrix has an eigenvalue of zero along which the model is flat.",
    }[found.kind];
    const numbers = (p) => `(${p.map((x) => fixed(x, 2)).join(", ")})`;
    return {
      values: {
        first: fixed(state.first, 1), second: fixed(state.second, 1), angle: `${state.angle}°`, radius: fixed(state.radius, 2),
      },
      numbers: {
        kind: `<b class="${found.kind === "hard" ? "bad" : ""}">${found.other ? "hard" : found.kind}</b>`,
        multiplier: number(found.multiplier),
        step: found.other ? `±${number(Math.abs(found.weights[0]))}, ${number(found.weights[1])}` : found.weights.map((w) => number(w)).join(", "),
        model: number(found.model),
      },
      descriptions: {
        ball: `Contour lines of the model with curvatures ${fixed(state.first, 1)} and ${fixed(state.second, 1)}, a circle of radius ${fixed(state.radius, 2)}, the `
          + `descent direction, and ${solutions.length === 2 ? "two solutions" : "the solution"} at ${solutions.map(numbers).join(" and ")}. ${title}.`,
        secular: `Length of the step against the multiplier. It ${c[0] === 0 ? "has no pole at minus the lowest eigenvalue and " : ""}falls; the solution is at `
          + `multiplier ${number(found.multiplier)} with length ${number(length)}, the radius is ${fixed(state.radius, 2)}.`,
      },
      summary: `<b>${title}.</b> ${why}`,
    };
  }

  function drawBall(svg, { state, mu, c, at, found, g, lowest, place, solutions }) {
    const axes = new Axes(svg, {
      x: { ticks: [-2, -1, 0, 1, 2], label: "<var>p</var><sub>1</sub>", domain: [0, 0] },
      y: { ticks: [-2, -1, 0, 1, 2], label: "<var>p</var><sub>2</sub>", domain: [-2.7, 2.7] },
      square: true,
    });
    const model = (x, y) => {
      const [a, b] = [x * Math.cos(TURN) + y * Math.sin(TURN), -x * Math.sin(TURN) + y * Math.cos(TURN)];
      return g[0] * a + g[1] * b + 0.5 * (state.first * a * a + state.second * b * b);
    };
    const heights = [-12, -9, -7, -5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 2, 3, 4.5, 6, 8, 11, 15];
    axes.contours(model, heights, (height) => (height < 0 ? "below" : "above"));
    const axis = lowest === 1 ? [4, 0] : [0, 4];
    axes.line([turn(axis), turn(axis.map((x) => -x))], "faint dotted");
    const label = turn(axis.map((x) => x * 0.57));
    axes.text(label[0], label[1], `<var>v</var><sub>${lowest}</sub>`, { dx: 6, dy: 14 });
    axes.circle(0, 0, state.radius, "ball");
    const sizes = Array.from({ length: 61 }, (_, i) => 0.001 + (i / 60) * state.radius);
    const path = sizes.map((size) => at(size));
    for (const side of ["weights", "other"]) {
      const points = path.map((step) => (side === "other" && !step.other ? null : step[side])).filter(Boolean).map(place);
      if (points.length > 1) axes.line(points, "teal");
    }
    const down = turn(g.map((x) => (-0.75 * x) / SLOPE));
    axes.arrow([0, 0], down, "orange");
    axes.text(down[0], down[1], "−<var>g</var>", { dx: down[0] < 0 ? -8 : 8, dy: down[1] < 0 ? 14 : -6, anchor: down[0] < 0 ? "end" : "start" });
    axes.mark(0, 0, "circle", "ink hollow", 3.5);
    for (const [x, y] of solutions) axes.mark(x, y, "circle", "red now", 6);
  }

  function drawSecular(svg, { mu, c, radius, found, length }) {
    const axes = new Axes(svg, {
      x: { domain: [-1, FARTHEST], ticks: [0, 2, 4, 6, 8], label: "multiplier <var>λ</var>" },
      y: { domain: [0, 3.6], ticks: [0, 1, 2, 3], label: "‖<var>p</var>(<var>λ</var>)‖" },
    });
    const pole = -mu[0];
    axes.stripe(-1, Math.max(0, pole), "forbidden");
    axes.line([[-1, radius], [FARTHEST, radius]], "ink dashed");
    axes.text(FARTHEST, radius, "radius <var>Δ</var>", { anchor: "end", dx: -4, dy: -6 });
    if (pole > -1) {
      axes.line([[pole, 0], [pole, 3.6]], "faint dotted");
      axes.text(pole, 0, "−<var>μ</var><sub>min</sub>", { anchor: "end", dx: -4, dy: -7 });
    }
    const distances = mu.map((m) => m - mu[0]);
    const start = Math.max(-1, pole) - pole;
    const curve = Array.from({ length: 301 }, (_, i) => {
      const s = start + (FARTHEST + 1) * (i / 300) ** 3 + 1e-9;
      return [s + pole, stepLength(c, distances, s)];
    });
    const valid = curve.filter(([x]) => x >= 0);
    axes.line(curve.filter(([x]) => x <= 0.02), "teal faded");
    axes.line(valid, "teal");
    if (found.kind === "hard") {
      const short = Math.abs(found.weights[1]);
      axes.line([[pole, short], [pole, radius]], "red");
      axes.mark(pole, short, "circle", "teal hollow", 4.5);
    }
    axes.mark(found.multiplier, length, "circle", "red now", 6);
  }

  explorer("trust-region", {
    ratio: 0.84,
    narrow: 0.72,
    pictures: { ball: "The model and the ball", secular: "The secular equation" },
    legend: [
      ["circle red", "solution"], ["line teal", "path <var>p</var>(<var>Δ</var>), length ‖<var>p</var>(<var>λ</var>)‖"],
      ["line below", "model below its value at 0"], ["box forbidden", "<var>λ</var> not allowed"],
    ],
    numbers: {
      kind: "case", multiplier: "multiplier <var>λ</var>", step: "step along low and high curvature", model: "model <var>m</var>(<var>p</var>)",
    },
    sliders: {
      first: { label: "Curvature along <var>v</var><sub>1</sub>", min: -3, max: 3, step: 0.1, value: -1 },
      second: { label: "Curvature along <var>v</var><sub>2</sub>", min: -3, max: 3, step: 0.1, value: 1.5 },
      angle: { label: "Angle from <var>v</var><sub>1</sub> to <var>g</var>", min: 0, max: 360, step: 1, value: 65 },
      radius: { label: "Radius <var>Δ</var>", min: 0.25, max: 2.4, step: 0.05, value: 1.5 },
    },
    tries: [
      { label: "Hard case", set: { angle: 90 } },
      { label: "One degree beside it", set: { angle: 89 } },
      { label: "Convex, minimum inside", set: { first: 1, second: 2.5, angle: 50, radius: 2 } },
    ],
    draw,
  });
})();
