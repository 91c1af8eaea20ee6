// Draws the figures when they come into view; plotly's script is opened on the first one.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), still = matchMedia("(prefers-reduced-motion: reduce)");
  const figures = [...document.querySelectorAll(".figure")];
  const shades = { "#1d2430": "#e6e9ee", "#0072B2": "#56a8e8", "#D55E00": "#f0955f", "#7f7f7f": "#9aa3b0", "#6A51A3": "#a995e0", "#8A6D00": "#d1b04a",
    "#f4f4f4": "#262c35", "#00795a": "#4fc3a1", "rgba(0,114,178,": "rgba(86,168,232,", "rgba(213,94,0,": "rgba(240,149,95," };
  let plotly = null;
  const load = () => (plotly ??= (async () => {
    const raw = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const code = await new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const script = document.createElement("script");
    script.textContent = code;
    document.head.append(script);
    return window.Plotly;
  })());
  const offer = (figure, states, data) => {
    let button = figure.querySelector("button");
    const shown = () => Number(button?.getAttribute("aria-pressed") === "true");
    data.forEach((trace, place) => { trace.visible = states[shown()].args[0].visible[place]; });
    if (button) return;
    button = document.createElement("button");
    button.type = "button"; button.textContent = states[1].label; button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!shown()));
      window.Plotly.restyle(figure.querySelector("div"), { visible: states[shown()].args[0].visible });
    });
    figure.append(button);
  };
  const draw = async (figure) => {
    const library = await load(), shaded = dark.matches && !matchMedia("print").matches;
    let text = figure.querySelector("script").textContent;
    if (shaded) for (const [light, other] of Object.entries(shades)) text = text.replaceAll(light, other);
    const { data, layout } = JSON.parse(text), look = layout.template.layout, axes = [look.xaxis, look.yaxis];
    look.paper_bgcolor = look.plot_bgcolor = "rgba(0,0,0,0)";
    if (shaded) {
      for (const axis of axes) Object.assign(axis, { gridcolor: "#323a46", zerolinecolor: "#566070", linecolor: "#8a93a0" });
    }
    const menu = layout.updatemenus?.[0];
    if (menu) {  // as a button of the page: it takes the keyboard and the page's colours
      delete layout.updatemenus; layout.height -= 28; layout.margin.b -= 28;
      offer(figure, menu.buttons, data);
    }
    if (still.matches) layout.transition = { duration: 0 };
    await library.react(figure.querySelector("div"), data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    figure.dataset.drawn = "yes";
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "300px" });
  figures.forEach((figure) => seen.observe(figure));
  for (const table of document.querySelectorAll(".stack")) {  // on a phone each cell stands under its column's name
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent);
    for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, place) => { cell.dataset.name = names[place] ?? ""; });
    table.classList.add("named");
  }
  dark.addEventListener("change", () => figures.forEach((figure) => figure.dataset.drawn && draw(figure)));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    figures.forEach(draw);
  });
})();
