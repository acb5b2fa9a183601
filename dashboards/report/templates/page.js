"use strict";
// Reads a chart's exact figures from its own download, and shows those nearest to the pointer or the arrow keys.
(function () {
  const LEFT = 78, RIGHT = 26, WIDTH = 640, MOST = 14;

  function parse(href) {
    const text = decodeURIComponent(href.slice(href.indexOf(",") + 1));
    const rows = [[]];
    let cell = "", quoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') cell += c;
        else if (text[i + 1] === '"') { cell += '"'; i++; }
        else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === "," || c === "\n") {
        rows[rows.length - 1].push(cell);
        cell = "";
        if (c === "\n") rows.push([]);
      } else cell += c;
    }
    rows.pop();
    return { columns: rows[0], rows: rows.slice(1) };
  }

  function setUp(box) {
    const svg = box.querySelector("svg"), tip = box.querySelector(".tip"), cross = svg.querySelector(".cross");
    const column = box.dataset.hover;
    let data = null, xs = [], at = 0;

    function load() {
      if (data) return;
      data = parse(box.querySelector("a.data").getAttribute("href"));
      const index = data.columns.indexOf(column);
      data.rows = data.rows.filter((row) => Number.isFinite(parseFloat(row[index])));
      xs = data.rows.map((row) => parseFloat(row[index]));
    }

    function place(x) {
      const low = parseFloat(svg.dataset.low), high = parseFloat(svg.dataset.high), log = svg.dataset.log === "1";
      const share = log ? (Math.log(x) - Math.log(low)) / (Math.log(high) - Math.log(low)) : (x - low) / (high - low);
      return LEFT + share * (WIDTH - LEFT - RIGHT);
    }

    function show(index) {
      if (!xs.length) return;
      at = Math.max(0, Math.min(xs.length - 1, index));
      const here = place(xs[at]);
      for (const [name, value] of [["x1", here], ["x2", here], ["y1", 12], ["y2", 228]]) cross.setAttribute(name, value);
      cross.classList.add("on");
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = column + " " + data.rows[at][data.columns.indexOf(column)];
      tip.append(head);
      data.columns.forEach((name, i) => {
        if (name === column || data.rows[at][i] === "" || tip.childElementCount > MOST) return;
        const line = document.createElement("span");
        line.textContent = name + ": " + data.rows[at][i];
        tip.append(line);
      });
      tip.hidden = false;
      tip.classList.toggle("late", here > WIDTH / 2);
    }

    function hide() {
      tip.hidden = true;
      cross.classList.remove("on");
    }

    function nearest(event) {
      load();
      const bounds = svg.getBoundingClientRect();
      const wanted = (event.clientX - bounds.left) / bounds.width * WIDTH;
      let best = 0;
      for (let i = 1; i < xs.length; i++) {
        if (Math.abs(place(xs[i]) - wanted) < Math.abs(place(xs[best]) - wanted)) best = i;
      }
      show(best);
    }

    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", nearest);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => { load(); show(xs.length - 1); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? Math.max(1, Math.round(xs.length / 20)) : 1;
      const to = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: xs.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    });
  }

  for (const box of document.querySelectorAll("figure[data-hover]")) setUp(box);
})();
