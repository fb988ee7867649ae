"use strict";
(() => {
  const style = () => getComputedStyle(document.documentElement);

  // --- colours ---------------------------------------------------------------------------------
  // A colour "--name" is looked up in the style sheet; only under keys that hold colours, so that a
  // text of the user which looks like one stays as it is.
  const paint = (node, looked, inColour = false) => {
    if (typeof node === "string") return inColour && node.startsWith("--") ? looked.getPropertyValue(node).trim() : node;
    if (Array.isArray(node)) return node.map((item) => paint(item, looked, inColour));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, paint(value, looked, /color(scale)?$/.test(key))]));
  };
  const mixed = (from, to, share) => `color-mix(in srgb, var(${to}) ${(100 * share).toFixed(1)}%, var(${from}))`;

  // --- plotly ----------------------------------------------------------------------------------
  const plots = [...document.querySelectorAll("script[data-plot]")].map((script) => ({
    element: document.getElementById(script.dataset.plot),
    figure: JSON.parse(script.textContent),
  }));
  // The buttons are named one by one: plotly's own set has one that uploads the plot to share it.
  const options = {
    displaylogo: false,
    responsive: true,
    displayModeBar: matchMedia("(hover: hover)").matches,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const narrow = () => window.innerWidth < 600;
  const closed = (element) => element.closest("details:not([open])") !== null;
  const draw = (paper = false, within = document) => {
    const looked = style();
    for (const { element, figure } of plots) {
      if (closed(element) || !within.contains(element)) continue; // drawn when it is opened
      const painted = paint(figure, looked);
      if (narrow()) {
        painted.layout.margin = { ...painted.layout.margin, l: 44, r: 8 };
        painted.layout.font.size = 11;
        for (const trace of painted.data) if (trace.type === "heatmap") trace.showscale = false;
      }
      if (paper) painted.layout.width = element.closest(".row") ? 310 : 640;
      Plotly.react(element, painted.data, painted.layout, options);
    }
  };

  // --- parallel coordinates --------------------------------------------------------------------
  const svg = (name, attributes, parent, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const lit = new Map(); // trial → function that lights its line up
  const light = (key, on) => {
    lit.get(key)?.(on);
  };

  const crossing = (script) => {
    const element = document.getElementById(script.dataset.parallel);
    const told = document.getElementById(script.dataset.told);
    const { axes, lines } = JSON.parse(script.textContent);
    const brushes = axes.map(() => null);
    const height = 380, top = 44, bottom = 18, room = height - top - bottom;
    const y = (place) => top + (1 - place) * room;

    const render = () => {
      const least = Math.max(280, axes.length * 118);
      const width = Math.max(least, element.parentElement.clientWidth - 4);
      const short = (text) => (text.length > 18 ? `${text.slice(0, 17)}…` : text);
      const left = Math.max(66, 14 + 7.5 * Math.max(...axes[0].ticks.map(([, label]) => short(label).length)));
      const x = (i) => (axes.length < 2 ? width / 2 : left + (i * (width - left - 72)) / (axes.length - 1));
      const root = svg("svg", { class: "crossing", width, height, viewBox: `0 0 ${width} ${height}` });
      lit.clear();
      const paths = [...lines].reverse().map((line) => {
        const points = line.places.map((place, i) => (place === null ? null : [x(i), y(place)])).filter(Boolean);
        const d = points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
        const path = svg("path", { d, style: `stroke:${mixed("--faint", "--winner", (1 - line.rank) ** 2)};opacity:${(0.3 + 0.7 * (1 - line.rank) ** 2).toFixed(2)}` }, root);
        lit.set(line.key, (on) => {
          path.classList.toggle("lit", on);
          told.textContent = on ? line.text : "\u00a0";
        });
        path.addEventListener("pointerenter", () => light(line.key, true));
        path.addEventListener("pointerleave", () => light(line.key, false));
        return { path, line };
      });
      const filter = () => {
        let kept = 0;
        for (const { path, line } of paths) {
          const on = brushes.every((brush, i) => brush === null || (line.places[i] !== null && line.places[i] >= brush[0] && line.places[i] <= brush[1]));
          path.classList.toggle("off", !on);
          kept += on;
        }
        told.textContent = brushes.some(Boolean) ? `${kept} of ${lines.length} trials pass.` : "\u00a0";
      };
      axes.forEach((axis, i) => {
        const group = svg("g", {}, root);
        svg("line", { class: "axis", x1: x(i), x2: x(i), y1: top, y2: top + room }, group);
        const anchor = i === 0 && axes.length > 1 ? "end" : "start"; // the outer axes have room outside
        const beside = anchor === "end" ? x(i) - 6 : x(i) + 6;
        for (const [place, label] of axis.ticks)
          svg("text", { x: beside, y: y(place), "dominant-baseline": "central", "text-anchor": anchor }, group, short(label));
        const words = axis.title.split(/(?<=\.)/);
        const last = words.pop();
        if (words.length) svg("text", { x: x(i), y: 12, "text-anchor": "middle" }, group, short(words.join("")));
        svg("text", { class: "title", x: x(i), y: 28, "text-anchor": "middle" }, group, short(last));
        const brush = svg("rect", { class: "brush", x: x(i) - 8, width: 16, y: 0, height: 0 }, group);
        const show = () => {
          const found = brushes[i];
          brush.setAttribute("y", found ? y(found[1]) : 0);
          brush.setAttribute("height", found ? Math.max(2, (found[1] - found[0]) * room) : 0);
        };
        const grip = svg("rect", { class: "grip", x: x(i) - 14, width: 28, y: top - 8, height: room + 16 }, group);
        let from = null;
        const at = (event) => Math.min(1, Math.max(0, 1 - (event.clientY - root.getBoundingClientRect().top - top) / room));
        grip.addEventListener("pointerdown", (event) => {
          grip.setPointerCapture(event.pointerId);
          from = at(event);
          brushes[i] = null;
          show();
          filter();
        });
        grip.addEventListener("pointermove", (event) => {
          if (from === null || Math.abs(at(event) - from) < 0.01) return;
          brushes[i] = [Math.min(from, at(event)), Math.max(from, at(event))];
          show();
          filter();
        });
        for (const end of ["pointerup", "pointercancel"]) grip.addEventListener(end, () => (from = null));
        show();
      });
      element.replaceChildren(root);
      if (brushes.some(Boolean)) filter();
    };
    render();
    return render;
  };

  // --- tables ----------------------------------------------------------------------------------
  const value = (row, column) => {
    const cell = row.cells[column];
    const number = Number.parseFloat(cell.dataset.sort);
    return Number.isNaN(number) ? cell.textContent.trim() : number;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: value(row, column) }));
        const empty = (item) => item.value === "–" || item.value === "";
        rows.sort((a, b) => empty(a) - empty(b) || (up ? 1 : -1) * compare(a.value, b.value));
        table.tBodies[0].append(...rows.map((item) => item.row));
      });
    });
    for (const row of table.tBodies[0].rows) {
      row.addEventListener("pointerenter", () => light(row.dataset.key, true));
      row.addEventListener("pointerleave", () => light(row.dataset.key, false));
    }
  }

  // --- the page --------------------------------------------------------------------------------
  const links = [...document.querySelectorAll("nav .strip a")];
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links) {
          const here = link.dataset.of.split(" ").includes(entry.target.id);
          link.classList.toggle("here", here);
          if (here) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 3;
        }
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);

  // Only a reader who asks for it has the page loaded again by itself. A browser may refuse a file any memory.
  const follow = document.getElementById("follow");
  const remembered = (told) => {
    try {
      if (told !== undefined) sessionStorage.setItem("follow", told);
      return sessionStorage.getItem("follow") === "yes";
    } catch {
      return told === "yes";
    }
  };
  let reload = 0;
  const following = (on) => {
    clearTimeout(reload);
    follow.setAttribute("aria-pressed", on);
    if (on) reload = setTimeout(() => location.reload(), 30000);
  };
  if (follow) {
    follow.addEventListener("click", () => following(remembered(follow.getAttribute("aria-pressed") === "true" ? "no" : "yes")));
    following(remembered());
  }

  const contents = document.querySelector("nav details");
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a")) contents.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") contents.open = false;
  });

  draw();
  const folds = [...document.querySelectorAll("main details")];
  let crossings = [];
  const crossed = () => {
    crossings = [...document.querySelectorAll("script[data-parallel]")].filter((script) => !closed(script)).map(crossing);
  };
  crossed();
  for (const fold of folds)
    fold.addEventListener("toggle", () => {
      if (!fold.open) return;
      draw(false, fold);
      if (fold.querySelector("script[data-parallel]")) crossed();
    });
  let timer = 0, before = window.innerWidth;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (window.innerWidth === before) return;
      before = window.innerWidth;
      draw();
      for (const render of crossings) render();
    }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  // On paper nothing stays closed. The script sees the window's width even while printing: plots get the widths that
  // fit on paper.
  let opened = [];
  const paper = (on) => {
    if (on) opened = folds.filter((fold) => !fold.open);
    for (const fold of opened) fold.open = on;
    if (!on) opened = [];
    draw(on);
  };
  matchMedia("print").addEventListener("change", (event) => paper(event.matches));
})();
