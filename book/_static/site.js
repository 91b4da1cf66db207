/* The site's own small helpers: what a term or an equation says, shown where it is mentioned; the menu of a page;
   the colour of the browser's bar. A classic script without libraries, so that pages opened as files work too. */
(function () {
  "use strict";

  /* ---- tooltips of terms and equations; glossary.json.js holds what they say ---- */

  const DELAY = 150;
  let tip = null;
  let owner = null;
  let showing = 0;
  let hiding = 0;

  function content(link) {
    const known = window.SaddleFreeReferences;
    const id = decodeURIComponent((link.getAttribute("href").split("#")[1] || ""));
    if (!known) return null;
    if (known.terms[id]) return { heading: known.terms[id][0], text: known.terms[id][1] };
    if (known.equations[id]) return { heading: "Equation " + link.textContent.trim(), text: known.equations[id] };
    return null;
  }

  function build() {
    tip = document.createElement("div");
    tip.id = "reference-tip";
    tip.className = "reference-tip d-print-none";
    tip.setAttribute("role", "tooltip");
    tip.hidden = true;
    tip.append(document.createElement("strong"), document.createElement("div"));
    tip.lastChild.className = "mathjax_process";
    tip.addEventListener("mouseenter", () => clearTimeout(hiding));
    tip.addEventListener("mouseleave", () => hideSoon(owner));
    document.body.append(tip);
  }

  function put() {
    if (!owner) return;
    const at = owner.getClientRects()[0] || owner.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(at.left, room - tip.offsetWidth - 8));
    const above = at.bottom + tip.offsetHeight + 12 > window.innerHeight && at.top > tip.offsetHeight + 12;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = (above ? at.top - tip.offsetHeight - 6 : at.bottom + 6) + window.scrollY + "px";
  }

  function show(link) {
    const found = content(link);
    clearTimeout(hiding);
    if (!found) return;
    if (!tip) build();
    if (owner && owner !== link) owner.removeAttribute("aria-describedby");
    owner = link;
    const body = tip.lastChild;
    if (window.MathJax && window.MathJax.typesetClear) window.MathJax.typesetClear([body]);
    tip.firstChild.textContent = found.heading;
    body.textContent = found.text;
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    put();
    if (/\\[([]/.test(found.text) && window.MathJax && window.MathJax.typesetPromise) {
      window.MathJax.typesetPromise([body]).then(put, () => undefined);
    }
  }

  function hide() {
    clearTimeout(showing);
    clearTimeout(hiding);
    if (!owner) return;
    owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  }

  /* The pointer may wander from the link into the tooltip; a link that has the focus keeps its tooltip. */
  function hideSoon(link) {
    clearTimeout(showing);
    if (link !== owner || link === document.activeElement) return;
    clearTimeout(hiding);
    hiding = setTimeout(hide, 2 * DELAY);
  }

  function tooltips() {
    const links = document.querySelectorAll('.bd-article a.internal[href*="#term-"], .bd-article a.internal[href*="#equation-"]');
    for (const link of links) {
      link.addEventListener("mouseenter", () => {
        clearTimeout(showing);
        if (link === owner) clearTimeout(hiding);
        else showing = setTimeout(() => show(link), DELAY);
      });
      link.addEventListener("mouseleave", () => hideSoon(link));
      link.addEventListener("focus", () => show(link));
      link.addEventListener("blur", () => { if (link === owner) hide(); });
      link.addEventListener("click", hide);
    }
  }

  /* ---- the menu of a page closes by Escape and by a click elsewhere ---- */

  function menus() {
    const menu = document.querySelector("details.launch-menu");
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      hide();
      if (menu && menu.open) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
    });
    if (!menu) return;
    document.addEventListener("click", (event) => {
      if (menu.open && !menu.contains(event.target)) menu.open = false;
    });
    menu.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
    });
  }

  /* ---- the browser's bar has the colour of the page ---- */

  function bar() {
    const meta = document.querySelector('meta[name="theme-color"]');
    if (!meta) return;
    const follow = () => { meta.content = document.documentElement.dataset.theme === "dark" ? "#121212" : "#ffffff"; };
    new MutationObserver(follow).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    follow();
  }

  /* ---- what scrolls sideways can be reached by keyboard (the theme sees to code and tables) ---- */

  function scrolling() {
    const look = () => {
      for (const figure of document.querySelectorAll(".bd-article figure")) {
        if (figure.scrollWidth > figure.clientWidth + 1) figure.tabIndex = 0;
        else figure.removeAttribute("tabindex");
      }
    };
    window.addEventListener("load", look);
    window.addEventListener("resize", look);
  }

  /* ---- on paper: the light theme and every drop-down open, as before afterwards; folded code stays folded ---- */

  function paper() {
    const root = document.documentElement;
    let theme = "";
    let opened = [];
    window.addEventListener("beforeprint", () => {
      theme = root.dataset.theme;
      root.dataset.theme = "light";
      opened = [...document.querySelectorAll(".bd-article details:not([open]):not(.hide)")];
      for (const details of opened) details.open = true;
    });
    window.addEventListener("afterprint", () => {
      root.dataset.theme = theme;
      for (const details of opened) details.open = false;
      opened = [];
    });
  }

  /* ---- the theme binds only the first toggle of each sidebar, which stands in a header that we do not show ---- */

  function toggles() {
    for (const side of ["primary", "secondary"]) {
      const [first, ...others] = document.querySelectorAll("." + side + "-toggle");
      for (const button of others) button.addEventListener("click", () => first.click());
    }
  }

  function start() {
    toggles();
    tooltips();
    menus();
    bar();
    scrolling();
    paper();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
