/*
 * What every interactive figure has: sliders, buttons, readouts, a summary for screen readers, and redrawing.
 *
 * A page holds <figure class="explorer" data-explorer="name"> with its caption; SaddleFreeDrawing.explorer("name", plan)
 * fills it. The order of the page is the order of reading: title, pictures, numbers, sliders, suggestions, caption.
 */
(function (root) {
  "use strict";

  const CALM = root.matchMedia("(prefers-reduced-motion: reduce)");
  const NARROW = 540; // pixels: pictures below each other, lower, so that the sliders are in sight (see explorers.css)
  const QUIET = 450; // milliseconds without change before the summary is announced

  function html(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "html") made.innerHTML = value;
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  const plain = (markup) => markup.replace(/<[^>]*>/g, "");

  class Explorer {
    constructor(figure, plan) {
      Object.assign(this, { figure, plan, inputs: {}, values: {}, shown: {}, pictures: {}, running: 0 });
      const caption = figure.querySelector("figcaption");
      const id = `explorer-${figure.dataset.explorer}`;
      const body = html("div", { class: "explorer-body" });
      const pictures = html("div", { class: "explorer-pictures" });
      for (const [name, heading] of Object.entries(plan.pictures)) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("role", "img");
        this.pictures[name] = svg;
        pictures.append(html("div", { class: "explorer-picture" }, html("p", { class: "explorer-heading", html: heading }), svg));
      }
      this.legend = html("p", { class: "explorer-legend" });
      const numbers = html("dl", { class: "explorer-numbers" });
      const framed = html("div", { class: "explorer-rule" }, numbers);
      for (const [name, label] of Object.entries(plan.numbers)) {
        this.shown[name] = html("dd");
        numbers.append(html("div", {}, html("dt", { html: label }), this.shown[name]));
      }
      const sliders = html("div", { class: "explorer-sliders", role: "group", "aria-label": "Settings" });
      for (const [name, slider] of Object.entries(plan.sliders)) sliders.append(this.slider(`${id}-${name}`, name, slider));
      const names = Object.keys(plan.sliders).map((name) => `${id}-${name}`).join(" ");
      this.summary = html("output", { class: "explorer-summary", for: names, "aria-live": "polite" });
      body.append(pictures, this.legend, framed, sliders, this.suggestions(), this.summary);
      figure.insertBefore(body, caption);
      figure.dataset.ready = "";
      this.legend.innerHTML = (plan.legend || []).map(([style, text]) => `<span><i class="key ${style}"></i><span>${text}</span></span>`).join("");
      this.draw(true);
      let width = pictures.clientWidth;
      new ResizeObserver(() => {
        if (pictures.clientWidth === width) return;
        width = pictures.clientWidth;
        this.draw(true);
      }).observe(pictures);
    }

    slider(id, name, { label, min, max, step = 1, value, switch: isSwitch }) {
      this.values[name] = value;
      if (isSwitch) {
        const box = html("input", { type: "checkbox", id, role: "switch" });
        box.checked = value;
        box.addEventListener("change", () => this.change(name, box.checked));
        this.inputs[name] = { set: (checked) => { box.checked = checked; } };
        return html("div", { class: "explorer-switch" }, box, html("label", { for: id, html: label }));
      }
      const input = html("input", { type: "range", id, min, max, step, value });
      const output = html("output", { for: id, "aria-live": "off" }); // aria-valuetext says it already
      input.addEventListener("input", () => this.change(name, Number(input.value)));
      this.inputs[name] = {
        set: (to) => { input.value = to; },
        show: (text) => {
          output.innerHTML = text;
          input.setAttribute("aria-valuetext", plain(text));
        },
      };
      return html("div", { class: "explorer-slider" }, html("label", { for: id, html: label }), output, input);
    }

    suggestions() {
      const row = html("div", { class: "explorer-try", role: "group", "aria-label": "Try this" });
      row.append(html("span", { "aria-hidden": "true" }, "Try this:"));
      for (const { label, set } of this.plan.tries) {
        const button = html("button", { type: "button", html: label });
        button.addEventListener("click", () => this.go({ ...this.first(), ...set }));
        row.append(button);
      }
      const reset = html("button", { type: "button", class: "reset" }, "Reset");
      reset.addEventListener("click", () => this.go(this.first()));
      row.append(reset);
      return row;
    }

    first() {
      return Object.fromEntries(Object.entries(this.plan.sliders).map(([name, slider]) => [name, slider.value]));
    }

    change(name, value) {
      cancelAnimationFrame(this.running);
      this.values[name] = value;
      this.later();
    }

    /** Once per frame is enough, however fast a slider moves. */
    later() {
      cancelAnimationFrame(this.running);
      this.running = requestAnimationFrame(() => this.draw());
    }

    /** Move all sliders to new values: gliding, or at once for readers who want no motion. */
    go(target) {
      cancelAnimationFrame(this.running);
      const from = { ...this.values };
      const put = (part) => {
        for (const [name, to] of Object.entries(target)) {
          const between = typeof to === "number" && part < 1;
          const step = this.plan.sliders[name].step || 1;
          const value = between ? Math.round((from[name] + (to - from[name]) * part) / step) * step : to;
          this.values[name] = value;
          this.inputs[name].set(value);
        }
        this.draw(part === 1);
      };
      if (CALM.matches) {
        put(1);
        return;
      }
      const began = performance.now();
      const frame = (now) => {
        const part = Math.min(Math.max((now - began) / 450, 0), 1);
        put(part < 1 ? part * part * (3 - 2 * part) : 1);
        if (part < 1) this.running = requestAnimationFrame(frame);
      };
      this.running = requestAnimationFrame(frame);
    }

    draw(atOnce = false) {
      for (const svg of Object.values(this.pictures)) {
        const width = svg.parentNode.clientWidth;
        const ratio = this.figure.clientWidth < NARROW ? this.plan.narrow : this.plan.ratio;
        svg.dataset.height = Math.round(Math.min(Math.max(width * ratio, 180), 340));
      }
      const { values, numbers, descriptions, summary } = this.plan.draw(this.values, this.pictures);
      for (const [name, text] of Object.entries(values)) this.inputs[name].show(text);
      for (const [name, text] of Object.entries(numbers)) this.shown[name].innerHTML = text;
      for (const [name, text] of Object.entries(descriptions)) this.pictures[name].setAttribute("aria-label", plain(text));
      clearTimeout(this.waiting);
      const say = () => { this.summary.innerHTML = summary; };
      if (atOnce) say();
      else this.waiting = setTimeout(say, QUIET);
    }
  }

  /** Fill every figure of that name on the page. */
  function explorer(name, plan) {
    for (const figure of document.querySelectorAll(`figure[data-explorer="${name}"]:not([data-ready])`)) {
      new Explorer(figure, plan);
    }
  }

  Object.assign(root.SaddleFreeDrawing, { explorer });
})(window);
