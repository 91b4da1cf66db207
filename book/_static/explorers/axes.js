/*
 * Axes for the interactive figures: SVG drawn anew for each setting, in the colours that explorers.css names.
 *
 * Labels are written in a little HTML, <var>, <sub> and <sup>, which becomes tspans here.
 */
(function (root) {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const CHARACTER = 6.6; // width of a digit of a tick label in pixels, about

  function element(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** The pieces of a label as tspans; what follows an index goes back to the line. */
  function spans(markup) {
    const pieces = [];
    let [back, tag] = [0, ""];
    for (const token of markup.split(/(<\/?(?:var|sub|sup)>)/)) {
      const match = /^<(\/?)(var|sub|sup)>$/.exec(token);
      if (match) {
        tag = match[1] ? "" : match[2];
      } else if (token) {
        const dy = { sub: 3.5, sup: -5 }[tag] || 0;
        const piece = element("tspan", tag ? { class: tag } : {}, token);
        if (dy - back) piece.setAttribute("dy", dy - back);
        back = dy;
        pieces.push(piece);
      }
    }
    return pieces;
  }

  /* ---- numbers as text --------------------------------------------------------------------------------------- */

  const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const superscript = (n) => (n < 0 ? "⁻" : "") + [...String(Math.abs(n))].map((d) => SUPERSCRIPT[d]).join("");
  const withMinus = (text) => text.replace("-", "−");

  /** A number with so many significant digits; powers of ten where a decimal fraction would be long. */
  function number(x, digits = 3) {
    if (Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size >= 99999.5 || size < 0.000995) {
      const [mantissa, exponent] = x.toExponential(Math.max(digits - 2, 0)).split("e");
      return `${withMinus(mantissa)}·10${superscript(Number(exponent))}`;
    }
    const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
    return withMinus(places ? x.toFixed(places) : String(Math.round(x)));
  }

  /** So many decimal places, with a real minus sign and no "-0". */
  function fixed(x, places) {
    const text = x.toFixed(places);
    return withMinus(Number(text) === 0 ? text.replace("-", "") : text);
  }

  /** The same without zeros at the end: 10, not 10.0. */
  const short = (x, digits = 3) => number(x, digits).replace(/\.0+$/, "");

  /** A share in percent; a multiple where it is ten or more. */
  const percent = (x) =>
    x >= 9.995 ? `${number(x, 2)} times` : x >= 0.9995 ? `${Math.round(100 * x)} %` : `${number(100 * x, 2)} %`;

  /* ---- scales ------------------------------------------------------------------------------------------------ */

  function scale({ domain, log = false }, from, to) {
    const f = log ? Math.log10 : (x) => x;
    const [low, high] = domain.map(f);
    return (x) => from + ((f(x) - low) / (high - low)) * (to - from);
  }

  function ticksOf({ domain: [low, high], log = false, ticks }) {
    if (ticks) return ticks;
    const found = [];
    if (log) {
      const step = Math.ceil((Math.log10(high / low) + 0.01) / 6);
      for (let e = Math.ceil(Math.log10(low) - 1e-9); 10 ** e <= high * (1 + 1e-9); e += step) found.push(10 ** e);
      return found;
    }
    const rough = (high - low) / 5;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 2.5, 5, 10].find((m) => m * unit >= rough * 0.999);
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }

  function tickText(x, { log = false }) {
    if (!log) return withMinus(String(Number(x.toPrecision(6))));
    const exponent = Math.round(Math.log10(x));
    const whole = Math.abs(x / 10 ** exponent - 1) < 1e-9;
    return whole && (exponent < -2 || exponent > 3) ? `10${superscript(exponent)}` : String(Number(x.toPrecision(3)));
  }

  /* ---- axes -------------------------------------------------------------------------------------------------- */

  let clips = 0;

  /**
   * Axes in an <svg>, filling it. x and y are {domain: [low, high], log, ticks, label}; with `square` a unit of x is
   * as long as a unit of y, and the domain of x is widened to what fits.
   */
  class Axes {
    constructor(svg, { x, y, square = false }) {
      const width = svg.clientWidth || svg.parentNode.clientWidth || 320;
      const height = Number(svg.dataset.height);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      const widest = Math.max(...ticksOf(y).map((tick) => tickText(tick, y).length));
      this.box = { left: 26 + CHARACTER * widest, right: width - 10, top: 10, bottom: height - 42 };
      const { left, right, top, bottom } = this.box;
      if (square) {
        const half = ((y.domain[1] - y.domain[0]) * (right - left)) / (bottom - top) / 2;
        x = { ...x, domain: [-half, half] };
      }
      this.x = scale(x, left, right);
      this.y = scale(y, bottom, top);
      this.domain = { x: x.domain, y: y.domain };
      const id = `explorer-clip-${(clips += 1)}`;
      const clip = element("clipPath", { id }, element("rect", { x: left, y: top, width: right - left, height: bottom - top }));
      this.back = element("g", { class: "grid" });
      this.inside = element("g", { "clip-path": `url(#${id})` });
      this.front = element("g");
      svg.replaceChildren(clip, this.back, this.inside, this.front);
      this.frame(x, y);
    }

    frame(x, y) {
      const { left, right, top, bottom } = this.box;
      for (const tick of ticksOf(x)) {
        const at = this.x(tick);
        this.back.append(element("line", { x1: at, x2: at, y1: top, y2: bottom }));
        this.front.append(element("text", { x: at, y: bottom + 16, class: "tick", "text-anchor": "middle" }, tickText(tick, x)));
      }
      for (const tick of ticksOf(y)) {
        const at = this.y(tick);
        this.back.append(element("line", { x1: left, x2: right, y1: at, y2: at }));
        this.front.append(element("text", { x: left - 6, y: at + 4, class: "tick", "text-anchor": "end" }, tickText(tick, y)));
      }
      this.front.append(
        element("path", { d: `M${left} ${top}V${bottom}H${right}`, class: "spine" }),
        element("text", { x: (left + right) / 2, y: bottom + 35, class: "name", "text-anchor": "middle" }, ...spans(x.label)),
        element("text", { class: "name", "text-anchor": "middle", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)` }, ...spans(y.label)),
      );
    }

    /** The path through points; places without a number break it, and far ones are kept near the frame. */
    path(points, closed = false) {
      const { left, right, top, bottom } = this.box;
      const near = (value, low, high) => Math.min(Math.max(value, low - 4000), high + 4000);
      let [d, pen] = ["", "M"];
      for (const [x, y] of points) {
        const [u, v] = [this.x(x), this.y(y)];
        if (Number.isNaN(u) || Number.isNaN(v)) {
          pen = "M";
        } else {
          d += `${pen}${near(u, left, right).toFixed(1)} ${near(v, top, bottom).toFixed(1)}`;
          pen = "L";
        }
      }
      return d + (closed && d ? "Z" : "");
    }

    line(points, style) {
      this.inside.append(element("path", { d: this.path(points), class: `line ${style}` }));
    }

    area(points, style) {
      this.inside.append(element("path", { d: this.path(points, true), class: style }));
    }

    /** A vertical stripe. */
    stripe(low, high, style) {
      const ends = [low, high].map((x) => Math.min(Math.max(this.x(x), this.box.left), this.box.right));
      const { top, bottom } = this.box;
      if (!(ends[1] > ends[0])) return;
      this.inside.append(element("rect", { x: ends[0], y: top, width: ends[1] - ends[0], height: bottom - top, class: style }));
    }

    circle(x, y, radius, style) {
      const r = Math.abs(this.y(y + radius) - this.y(y));
      this.inside.append(element("circle", { cx: this.x(x), cy: this.y(y), r, class: style }));
    }

    mark(x, y, shape, style, size = 5) {
      const [u, v] = [this.x(x), this.y(y)];
      if (!Number.isFinite(u) || !Number.isFinite(v)) return;
      const s = size;
      const paths = {
        circle: `M${u - s} ${v}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0Z`,
        square: `M${u - s} ${v - s}h${2 * s}v${2 * s}h${-2 * s}Z`,
        down: `M${u - 1.1 * s} ${v - 0.8 * s}h${2.2 * s}L${u} ${v + 1.1 * s}Z`,
        diamond: `M${u} ${v - 1.3 * s}L${u + 1.3 * s} ${v}L${u} ${v + 1.3 * s}L${u - 1.3 * s} ${v}Z`,
        plus: `M${u - s} ${v}h${2 * s}M${u} ${v - s}v${2 * s}`,
      };
      this.inside.append(element("path", { d: paths[shape], class: `mark ${style}` }));
    }

    /** Text at a place, moved by dx and dy pixels; pulled in where it would leave the frame. */
    text(x, y, markup, { anchor = "start", dx = 0, dy = 0, style = "note" } = {}) {
      const made = element("text", { "text-anchor": anchor, class: style }, ...spans(markup));
      this.front.append(made);
      const { left, right, top, bottom } = this.box;
      const long = made.getComputedTextLength();
      const before = { start: 0, middle: long / 2, end: long }[anchor];
      const u = Math.min(Math.max(this.x(x) + dx, left + before + 4), right - (long - before) - 4);
      made.setAttribute("x", u);
      made.setAttribute("y", Math.min(Math.max(this.y(y) + dy, top + 12), bottom - 5));
    }

    arrow([x1, y1], [x2, y2], style) {
      const [a, b, c, d] = [this.x(x1), this.y(y1), this.x(x2), this.y(y2)];
      const long = Math.hypot(c - a, d - b);
      if (!(long > 1)) return;
      const [u, v] = [(c - a) / long, (d - b) / long];
      const size = Math.min(8, long / 2);
      const head = [1, -1].map((s) => `L${c - size * (u + 0.45 * s * -v)} ${d - size * (v + 0.45 * s * u)}`);
      this.inside.append(
        element("path", { d: `M${a} ${b}L${c - 0.8 * size * u} ${d - 0.8 * size * v}`, class: `line ${style}` }),
        element("path", { d: `M${c} ${d}${head[0]}${head[1]}Z`, class: `head ${style}` }),
      );
    }

    /** Contour lines of f at ascending heights, by marching over the triangles of a grid. */
    contours(f, heights, style, cells = 44) {
      const [[x0, x1], [y0, y1]] = [this.domain.x, this.domain.y];
      const at = (i, j) => {
        const [x, y] = [x0 + ((x1 - x0) * i) / cells, y0 + ((y1 - y0) * j) / cells];
        return { x: this.x(x), y: this.y(y), value: f(x, y) };
      };
      const nodes = Array.from({ length: cells + 1 }, (_, i) => Array.from({ length: cells + 1 }, (__, j) => at(i, j)));
      const paths = heights.map(() => []);
      for (let i = 0; i < cells; i++) {
        for (let j = 0; j < cells; j++) {
          const [a, b] = [nodes[i][j], nodes[i + 1][j + 1]];
          cross(a, b, nodes[i][j + 1], heights, paths);
          cross(a, b, nodes[i + 1][j], heights, paths);
        }
      }
      heights.forEach((height, k) => {
        this.inside.append(element("path", { d: paths[k].join(""), class: `contour ${style(height)}` }));
      });
    }
  }

  /** Add to each height's path its segment across one triangle. */
  function cross(a, b, c, heights, paths) {
    const [low, middle, high] = [a, b, c].sort((p, q) => p.value - q.value);
    const cut = (p, q, height) => {
      const t = (height - p.value) / (q.value - p.value);
      return `${(p.x + t * (q.x - p.x)).toFixed(1)} ${(p.y + t * (q.y - p.y)).toFixed(1)}`;
    };
    for (let k = 0; k < heights.length && heights[k] < high.value; k++) {
      const height = heights[k];
      if (height < low.value || low.value === high.value) continue;
      const shorter = height < middle.value ? [low, middle] : [middle, high];
      if (shorter[0].value < shorter[1].value) paths[k].push(`M${cut(low, high, height)}L${cut(...shorter, height)}`);
    }
  }

  root.SaddleFreeDrawing = { Axes, element, number, short, fixed, percent };
})(window);
