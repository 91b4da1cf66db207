/* Steps on a quadratic saddle: gradient descent, Newton's method and the exact saddle-free step. */
(function () {
  "use strict";

  const { saddleFreeDirection, times } = window.SaddleFree;
  const { Axes, explorer, number, fixed } = window.SaddleFreeDrawing;

  const STEPS = 12;
  const TURN = 0.3; // the angle of the first eigenvector in the picture
  const METHODS = {
    gradient: { label: "gradient descent", style: "grey", shape: "circle" },
    newton: { label: "Newton", style: "purple", shape: "down" },
    saddleFree: { label: "saddle-free Newton", style: "blue", shape: "plus" },
  };

  /** Places of the three methods in the eigenvectors' coordinates, the start first. */
  function walks({ across, along, angle, share }) {
    const H = [[across, 0], [0, along]];
    const radians = (angle * Math.PI) / 180;
    const start = angle % 90 === 0 ? [[1.5, 0], [0, 1.5], [-1.5, 0], [0, -1.5]][(angle / 90) % 4] : [1.5 * Math.cos(radians), 1.5 * Math.sin(radians)];
    const steepest = Math.max(across, Math.abs(along));
    const steps = {
      gradient: (g) => g.map((x) => x / steepest),
      newton: (g) => [g[0] / across, along === 0 ? 0 : g[1] / along],
      saddleFree: (g) => saddleFreeDirection(H, g),
    };
    const found = {};
    for (const [name, step] of Object.entries(steps)) {
      found[name] = [start];
      for (let k = 0; k < STEPS; k++) {
        const x = found[name][k];
        const s = step(times(H, x));
        found[name].push(x.map((value, i) => value - share * s[i]));
      }
    }
    return { found, loss: ([a, b]) => 0.5 * (across * a * a + along * b * b) };
  }

  const turn = ([a, b]) => [a * Math.cos(TURN) - b * Math.sin(TURN), a * Math.sin(TURN) + b * Math.cos(TURN)];

  function draw(state, pictures) {
    const { found, loss } = walks(state);
    const losses = Object.fromEntries(Object.entries(found).map(([name, places]) => [name, places.map(loss)]));
    drawLandscape(pictures.landscape, { state, found, loss });
    drawLosses(pictures.losses, losses);

    const last = Object.fromEntries(Object.entries(losses).map(([name, values]) => [name, values[STEPS]]));
    const kind = state.along < 0 ? "a saddle" : state.along > 0 ? "a minimum" : "a valley with a flat floor";
    const stuck = state.along < 0 && found.saddleFree[0][1] === 0;
    const why = stuck ? "The start lies on the ridge: the gradient does not point to either side, and all three methods run into the saddle. One degree beside it only Newton does."
      : state.along < 0 ? "It attracts Newton's method. Saddle-free Newton divides by the size of the curvature and turns away; so does gradient descent, slowly where the curvature is weak."
        : state.along > 0 ? "Here Newton and saddle-free Newton take the same steps, straight to the minimum."
          : "Along the flat direction the gradient vanishes and no method moves.";
    return {
      values: { across: fixed(state.across, 1), along: fixed(state.along, 2), angle: `${state.angle}°`, share: fixed(state.share, 2) },
      numbers: Object.fromEntries(Object.entries(last).map(([name, value]) => [name, Math.abs(value) < 1e-9 ? "0" : number(value)])),
      descriptions: {
        landscape: `Contour lines of ${kind} with curvatures ${fixed(state.across, 1)} and ${fixed(state.along, 2)} and three paths from one start. `
          + `${Object.entries(METHODS).map(([name, { label }]) => `${label} ends at ${turn(found[name][STEPS]).map((x) => number(x, 2)).join(", ")}`).join("; ")}.`,
        losses: `Loss minus the loss at the centre against steps. After ${STEPS} steps: ${Object.entries(METHODS).map(([name, { label }]) => `${label} ${number(last[name], 2)}`).join(", ")}.`,
      },
      summary: `The landscape is ${kind}. ${why}`,
    };
  }

  function drawLandscape(svg, { state, found, loss }) {
    const axes = new Axes(svg, {
      x: { domain: [0, 0], ticks: [-2, -1, 0, 1, 2], label: "<var>x</var><sub>1</sub>" },
      y: { domain: [-2.2, 2.2], ticks: [-2, -1, 0, 1, 2], label: "<var>x</var><sub>2</sub>" },
      square: true,
    });
    const model = (x, y) => loss([x * Math.cos(TURN) + y * Math.sin(TURN), -x * Math.sin(TURN) + y * Math.cos(TURN)]);
    const heights = [-6, -4, -2.5, -1.5, -0.8, -0.3, -0.05, 0.05, 0.3, 0.8, 1.5, 2.5, 4, 6, 9, 13];
    axes.contours(model, heights, (height) => (height < 0 ? "below" : "above"));
    axes.mark(0, 0, "diamond", "ink hollow", 4.5);
    for (const [name, { style, shape }] of Object.entries(METHODS)) {
      const places = found[name].map(turn);
      axes.line(places, style);
      places.slice(1).forEach(([x, y]) => axes.mark(x, y, shape, style, 3.6));
    }
    const [x, y] = turn(found.newton[0]);
    axes.mark(x, y, "circle", "ink hollow", 6);
    axes.text(x, y, "start", { dx: x < 0 ? -10 : 10, anchor: x < 0 ? "end" : "start", dy: 4 });
    axes.text(0, 0, state.along < 0 ? "saddle" : state.along > 0 ? "minimum" : "", { dx: 9, dy: 15 });
  }

  function drawLosses(svg, losses) {
    const axes = new Axes(svg, {
      x: { domain: [0, STEPS], ticks: [0, 4, 8, 12], label: "step" },
      y: { domain: [-4, 4.6], ticks: [-4, -2, 0, 2, 4], label: "loss above the centre" },
    });
    axes.line([[0, 0], [STEPS, 0]], "faint dashed");
    for (const [name, { style, shape }] of Object.entries(METHODS)) {
      axes.line(losses[name].map((value, k) => [k, Math.max(value, -100)]), style);
      losses[name].forEach((value, k) => axes.mark(k, value, shape, style, 3.6));
    }
  }

  explorer("saddle", {
    ratio: 0.8,
    narrow: 0.66,
    pictures: { landscape: "Three methods from one start", losses: "How far down they get" },
    legend: Object.values(METHODS).map(({ label, style, shape }) => [`line ${shape} ${style}`, label]),
    numbers: { gradient: "loss, gradient descent", newton: "loss, Newton", saddleFree: "loss, saddle-free Newton" },
    sliders: {
      along: { label: "Curvature along the pass", min: -2, max: 2, step: 0.05, value: -0.5 },
      across: { label: "Curvature across the pass", min: 0.5, max: 4, step: 0.1, value: 2 },
      angle: { label: "Place of the start", min: 0, max: 360, step: 1, value: 14 },
      share: { label: "Share of the step taken", min: 0.05, max: 1, step: 0.05, value: 0.35 },
    },
    tries: [
      { label: "A weak saddle", set: { along: -0.05 } },
      { label: "A start on the ridge", set: { angle: 0 } },
      { label: "A minimum", set: { along: 0.5, angle: 40 } },
    ],
    draw,
  });
})();
