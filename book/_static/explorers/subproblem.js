/*
 * The trust-region subproblem, to rounding: the least value of g.p + p.Bp/2 over |p| <= radius. Added to
 * window.SaddleFree; needs mathematics.js before it. Compared with golden vectors by tests/book/test_explorers.py.
 */
(function (root) {
  "use strict";

  const { EPS, check, dot, norm, eigen } = root.SaddleFree;

  /**
   * {step, multiplier, kind, model} and `other`, the second minimizer of a hard case (else null).
   * kind: "interior", "boundary", "hard" (the gradient has nothing along the lowest eigenvectors) or "singular".
   */
  function trustRegionStep(matrix, gradient, radius) {
    const { values, vectors } = eigen(matrix);
    check(gradient.length === values.length, "matrix and gradient must have the same size");
    check(radius >= 0 && Number.isFinite(radius), "the radius must be a number of at least zero");
    const c = vectors.map((v) => dot(v, gradient));
    const found = inEigenvectors(values, c, radius, vectors[0]);
    const back = (weights) =>
      gradient.map((_, j) => weights.reduce((sum, weight, i) => sum + weight * vectors[i][j], 0));
    return { ...found, step: back(found.weights), other: found.other && back(found.other) };
  }

  /** The same where the eigenvalues ascend and c are the gradient's components: nothing is rounded by a rotation. */
  function inEigenvectors(values, c, radius, first) {
    const mu = values.slice();
    const length = norm(c);
    const size = Math.max(Math.abs(mu[0]), Math.abs(mu[mu.length - 1]));
    if (Math.abs(mu[0]) <= 4 * EPS * size) mu[0] = 0; // rounding decides its sign: semi-definite
    const lowest = mu[0];
    const answer = (weights, multiplier, kind, other = null) => {
      const model = weights.reduce((sum, w, i) => sum + w * (c[i] + 0.5 * mu[i] * w), 0);
      return { weights, multiplier, kind, other, model: Math.min(model, 0) };
    };
    if (radius === 0 || (length === 0 && lowest >= 0)) {
      return answer(c.map(() => 0), 0, lowest > 0 ? "interior" : "singular");
    }
    if (lowest > 0) {
      const weights = c.map((x, i) => -x / mu[i]);
      if (norm(weights) <= radius) return answer(weights, 0, "interior");
    }
    // Eigenvalues that rounding cannot tell from the lowest count as the lowest.
    const close = lowest + 1e-12 * Math.max(size, length / radius);
    const distances = mu.map((m) => (m > close ? m - lowest : 0));
    const along = norm(c.filter((_, i) => distances[i] === 0));
    if (lowest <= 0 && along <= 1e-14 * length) {
      const weights = c.map((x, i) => (distances[i] === 0 ? 0 : -x / distances[i]));
      const missing = radius * radius - dot(weights, weights);
      if (missing >= 0 && lowest === 0) return answer(weights, 0, "singular");
      if (missing >= 0) {
        const largest = first.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
        const [plus, minus] = [1, -1].map((sign) =>
          weights.map((w, i) => (i === 0 ? sign * Math.sign(largest) * Math.sqrt(missing) : w)));
        return answer(plus, -lowest, "hard", missing > 0 ? minus : null);
      }
    }
    const shift = secularRoot(c, distances, radius, Math.max(along / radius, lowest, 1e-300), length / radius);
    const weights = c.map((x, i) => -x / (distances[i] + shift));
    const rounded = radius / norm(weights);
    return answer(weights.map((w) => rounded * w), Math.max(shift - lowest, 0), "boundary");
  }

  /** |p(s)| with s = lambda + mu_1, the distance from the pole. */
  function stepLength(c, distances, s) {
    return norm(c.map((x, i) => (x === 0 ? 0 : x / (distances[i] + s))));
  }

  /** The s in [low, high] with |p(s)| = radius; Newton's method on 1/|p(s)|, nearly a straight line, kept inside. */
  function secularRoot(c, distances, radius, low, high) {
    let shift = low;
    for (let i = 0; i < 200; i++) {
      const reached = stepLength(c, distances, shift);
      if (Math.abs(reached - radius) <= 4 * EPS * radius) break;
      if (reached > radius) low = Math.max(low, shift);
      else high = Math.min(high, shift);
      const cube = c.reduce((sum, x, k) => sum + (x === 0 ? 0 : (x * x) / (distances[k] + shift) ** 3), 0);
      let next = shift + ((reached / radius - 1) * reached * reached) / cube;
      if (!(next > low && next < high)) next = high > 100 * low ? Math.sqrt(low) * Math.sqrt(high) : (low + high) / 2;
      if (next === shift || high - low <= EPS * high) break;
      shift = next;
    }
    return shift;
  }

  Object.assign(root.SaddleFree, { trustRegionStep, trustRegionInEigenvectors: inEigenvectors, stepLength });
})(typeof window === "undefined" ? globalThis : window);
