// Draws the figures when they come into view; plotly's script is opened on the first one.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), figures = [...document.querySelectorAll(".figure")];
  let plotly = null;
  const load = () => (plotly ??= (async () => {
    const raw = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const code = await new Response(new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const script = document.createElement("script");
    script.textContent = code;
    document.head.append(script);
    return window.Plotly;
  })());
  const draw = async (figure) => {
    const library = await load(), shaded = dark.matches && !matchMedia("print").matches;
    let text = figure.querySelector("script").textContent;
    if (shaded) text = text.replaceAll("#444444", "#cccccc").replaceAll('"#000000"', '"#ffffff"').replaceAll("#0072B2", "#56a8e8");
    const { data, layout } = JSON.parse(text), look = layout.template.layout, axes = [look.xaxis, look.yaxis];
    look.paper_bgcolor = look.plot_bgcolor = "rgba(0,0,0,0)";
    if (shaded) {
      look.font.color = "#e6e9ee";
      for (const axis of axes) Object.assign(axis, { gridcolor: "#323a46", zerolinecolor: "#566070", linecolor: "#8a93a0" });
    }
    await library.react(figure.querySelector("div"), data, layout, { responsive: true, displaylogo: false });
    figure.dataset.drawn = "yes";
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "300px" });
  figures.forEach((figure) => seen.observe(figure));
  dark.addEventListener("change", () => figures.forEach((figure) => figure.dataset.drawn && draw(figure)));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    figures.forEach(draw);
  });
})();
