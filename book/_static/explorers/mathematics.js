/*
 * The mathematics of the interactive figures: no page, no drawing, numbers in and numbers out.
 *
 * window.SaddleFree holds the functions; tests/book/test_explorers.py compares them with the golden vectors of
 * refimpl/verify/vectors. Vectors are arrays, matrices arrays of rows. Wrong input throws a RangeError.
 */
(function (root) {
  "use strict";

  const EPS = 2 ** -52;

  function check(condition, message) {
    if (!condition) throw new RangeError(message);
  }

  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const norm = (a) => Math.hypot(...a);
  const times = (matrix, v) => matrix.map((row) => dot(row, v));

  function checkMatrix(matrix) {
    const n = matrix.length;
    check(n > 0 && matrix.every((row) => row.length === n), "the matrix must be square, with at least one row");
    check(matrix.every((row, i) => row.every((x, j) => Number.isFinite(x) && x === matrix[j][i])),
      "the matrix must be finite and symmetric");
  }

  /* ---- eigenvalues ------------------------------------------------------------------------------------------- */

  /**
   * Eigenvalues, ascending, and orthonormal eigenvectors (vectors[i] belongs to values[i]) of a symmetric matrix.
   * Cyclic Jacobi rotations: slow for large matrices, exact to rounding for the small ones of a figure.
   */
  function eigen(matrix) {
    checkMatrix(matrix);
    const n = matrix.length;
    const a = matrix.map((row) => row.slice());
    const v = a.map((_, i) => a.map((__, j) => (i === j ? 1 : 0)));
    for (let sweep = 0; sweep < 60; sweep++) {
      let off = 0;
      for (let p = 0; p < n; p++) {
        for (let q = p + 1; q < n; q++) {
          off = Math.max(off, Math.abs(a[p][q]));
          if (a[p][q] !== 0) rotate(a, v, p, q);
        }
      }
      if (off === 0) break;
    }
    const order = a.map((_, i) => i).sort((i, j) => a[i][i] - a[j][j]);
    return { values: order.map((i) => a[i][i]), vectors: order.map((i) => v.map((row) => row[i])) };
  }

  /** One Jacobi rotation, which makes a[p][q] zero. */
  function rotate(a, v, p, q) {
    const apq = a[p][q];
    if (Math.abs(apq) < 1e-18 * Math.sqrt(Math.abs(a[p][p])) * Math.sqrt(Math.abs(a[q][q]))) {
      a[p][q] = a[q][p] = 0;
      return;
    }
    const theta = (a[q][q] - a[p][p]) / (2 * apq);
    const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
    const c = 1 / Math.hypot(t, 1);
    const s = t * c;
    a[p][p] -= t * apq;
    a[q][q] += t * apq;
    a[p][q] = a[q][p] = 0;
    for (let k = 0; k < a.length; k++) {
      if (k !== p && k !== q) {
        const [x, y] = [a[k][p], a[k][q]];
        a[k][p] = a[p][k] = c * x - s * y;
        a[k][q] = a[q][k] = s * x + c * y;
      }
      const [x, y] = [v[k][p], v[k][q]];
      v[k][p] = c * x - s * y;
      v[k][q] = s * x + c * y;
    }
  }

  /** f(matrix) g for a function f of the eigenvalues. */
  function applyFunction(matrix, g, f) {
    const { values, vectors } = eigen(matrix);
    const answer = g.map(() => 0);
    values.forEach((value, i) => {
      const weight = f(value) * dot(vectors[i], g);
      vectors[i].forEach((x, j) => { answer[j] += weight * x; });
    });
    return answer;
  }

  /**
   * The saddle-free direction |H|^-1 g and its damped forms: mode "none", "abs" (|H|+d)^-1 g, "square"
   * (H^2+d^2)^(-1/2) g or "shift" |H+d|^-1 g. Eigenvalues of at most `threshold` count as `replacement`;
   * without one they are left out.
   */
  function saddleFreeDirection(matrix, g, { mode = "none", damping = 0, threshold = 0, replacement = null } = {}) {
    check(["none", "abs", "square", "shift"].includes(mode), `unknown mode ${mode}`);
    check(g.length === matrix.length, "matrix and gradient must have the same size");
    const tiny = Math.max(...eigen(matrix).values.map(Math.abs)) * EPS * matrix.length;
    return applyFunction(matrix, g, (h) => {
      if (mode === "abs") return 1 / (Math.abs(h) + damping);
      if (mode === "square") return 1 / Math.hypot(h, damping);
      if (mode === "shift") return 1 / Math.abs(h + damping);
      if (Math.abs(h) <= Math.max(threshold, tiny)) return replacement === null ? 0 : 1 / replacement;
      return 1 / Math.abs(h);
    });
  }

  /* ---- the series -------------------------------------------------------------------------------------------- */

  /** c_0, ..., c_{K-1} of 1/(sqrt(1-z) + d) = sum c_k z^k: all positive, by the recursion that cannot cancel. */
  function seriesCoefficients(terms, damping = 0) {
    check(Number.isInteger(terms) && terms >= 1, "terms must be a whole number of at least 1");
    check(damping >= 0, "damping must not be negative");
    const c = [1 / (1 + damping)];
    if (damping === 0) {
      for (let k = 1; k < terms; k++) c.push((c[k - 1] * (2 * k - 1)) / (2 * k));
      return c;
    }
    const b = [0]; // sqrt(1-z) = 1 - sum_{k>0} b_k z^k
    for (let k = 1; k < terms; k++) {
      b.push(k === 1 ? 0.5 : (b[k - 1] * (2 * k - 3)) / (2 * k));
      let sum = 0;
      for (let j = 1; j <= k; j++) sum += b[j] * c[k - j];
      c.push(sum / (1 + damping));
    }
    return c;
  }

  /** The sums s_1(z), ..., s_K(z) on one number z. */
  function scalarSums(z, terms) {
    const sums = [];
    let [term, sum] = [1, 0];
    for (let k = 0; k < terms; k++) {
      if (k > 0) term *= (z * (2 * k - 1)) / (2 * k);
      sum += term;
      sums.push(sum);
    }
    return sums;
  }

  /** The gain sqrt(1/V) s_K(1 - lambda^2/V), by which K terms multiply the component along an eigenvector. */
  function seriesGain(eigenvalue, terms, scale) {
    return scalarSums(1 - (eigenvalue * eigenvalue) / scale, terms)[terms - 1] / Math.sqrt(scale);
  }

  /** The rows sum_{j<=k} c_j Z^j g with Z = I - M/V for the product v -> Mv. */
  function sumsOf(product, g, c, scale) {
    let [power, sum] = [g.slice(), g.map((x) => c[0] * x)];
    const rows = [sum];
    for (let k = 1; k < c.length; k++) {
      const image = product(power);
      power = power.map((x, i) => x - image[i] / scale);
      sum = sum.map((x, i) => x + c[k] * power[i]);
      rows.push(sum);
    }
    return rows;
  }

  function seriesPartialSums(matrix, g, terms, scale) {
    checkMatrix(matrix);
    check(scale > 0, "the scale must be positive");
    return sumsOf((v) => times(matrix, times(matrix, v)), g, seriesCoefficients(terms), scale);
  }

  /** The truncated direction of K terms with scale V, undamped ("none") or damped as in saddleFreeDirection. */
  function seriesDirection(matrix, g, terms, scale, mode = "none", damping = 0) {
    checkMatrix(matrix);
    check(["none", "abs", "square", "shift"].includes(mode), `unknown mode ${mode}`);
    check(scale > 0, "the scale must be positive");
    const root = Math.sqrt(scale);
    const shift = mode === "shift" ? damping : 0;
    const more = mode === "square" ? damping * damping : 0;
    const once = (v) => times(matrix, v).map((x, i) => x + shift * v[i]);
    const square = (v) => once(once(v)).map((x, i) => x + more * v[i]);
    const c = seriesCoefficients(terms, mode === "abs" ? damping / root : 0);
    return sumsOf(square, g, c, scale)[terms - 1].map((x) => x / root);
  }

  /* ---- momentum with fixed parameters ------------------------------------------------------------------------ */

  function checkRule(rule) {
    check(rule === "curveball" || rule === "heavy-ball", `unknown rule ${rule}`);
  }

  /** The matrix of (step, error) for one eigenvalue h: CurveBall, or heavy ball, with momentum rho and beta h. */
  function transitionMatrix(momentum, scaledRate, rule = "curveball") {
    checkRule(rule);
    const keep = rule === "curveball" ? momentum - scaledRate : momentum;
    return [[keep, -scaledRate], [keep, 1 - scaledRate]];
  }

  /** The larger modulus of its eigenvalues: what an error is multiplied by per iteration, in the end. */
  function spectralRadius(momentum, scaledRate, rule = "curveball") {
    const [[a, b], [c, d]] = transitionMatrix(momentum, scaledRate, rule);
    const half = (a + d) / 2;
    const determinant = rule === "curveball" ? momentum - scaledRate : momentum; // ad - bc without cancellation
    const inside = half * half - determinant;
    return inside < 0 ? Math.sqrt(determinant) : Math.abs(half) + Math.sqrt(inside);
  }

  /** Corners of the triangle of all (beta h, rho) whose spectral radius is at most r. */
  function radiusTriangle(r, rule = "curveball") {
    checkRule(rule);
    const corners = [[2 * r, r * r], [0, -r * r], [-2 * r, r * r]]; // of (trace, determinant), by Jury's conditions
    return corners.map(([trace, determinant]) => [
      1 + determinant - trace,
      rule === "curveball" ? 1 + 2 * determinant - trace : determinant,
    ]);
  }

  /** Momentum and beta h_min with the least spectral radius over h_min, ..., kappa h_min, and that radius. */
  function optimalParameters(conditionNumber, rule = "curveball") {
    checkRule(rule);
    const kappa = conditionNumber;
    check(kappa >= 1, "the condition number must be at least 1");
    if (rule === "heavy-ball") {
      const root = Math.sqrt(kappa);
      const rate = (root - 1) / (root + 1);
      return { momentum: rate * rate, scaledRate: 4 / (root + 1) ** 2, rate };
    }
    if (kappa < 3) {
      const square = (kappa - 1) / (3 * kappa - 1);
      return { momentum: 1 - 2 * square, scaledRate: 1 - 3 * square, rate: Math.sqrt(square) };
    }
    let [low, high] = [0, 1];
    for (let i = 0; i < 200 && high - low > EPS * high; i++) {
      const s = (low + high) / 2;
      if (kappa * s * s * (3 - 2 * s) > (2 - s) * (2 - 3 * s + 2 * s * s)) high = s;
      else low = s;
    }
    const s = (low + high) / 2;
    return { momentum: 1 - 2 * s + 2 * s * s, scaledRate: s * s, rate: 1 - s };
  }

  /** |error| after 0, ..., steps iterations along one eigenvector, from error 1 at rest. */
  function errorDecay(momentum, scaledRate, steps, rule = "curveball") {
    const [[a, b], [c, d]] = transitionMatrix(momentum, scaledRate, rule);
    const errors = [1];
    let [step, error] = [0, 1];
    for (let k = 0; k < steps; k++) {
      [step, error] = [a * step + b * error, c * step + d * error];
      errors.push(Math.abs(error));
    }
    return errors;
  }

  root.SaddleFree = {
    EPS, check, dot, norm, times, eigen, saddleFreeDirection, seriesCoefficients, scalarSums, seriesGain,
    seriesPartialSums, seriesDirection, transitionMatrix, spectralRadius, radiusTriangle, optimalParameters, errorDecay,
  };
})(typeof window === "undefined" ? globalThis : window);
