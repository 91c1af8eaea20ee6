// The neuron explorer: a map of all neurons, a card for the chosen one. No library, no network.
// Text that comes from prompts is only ever set as textContent.
"use strict";
function neurotraceExplorer(root, data) {
  const count = data.layers * data.width, decoded = new Map(), dark = matchMedia("(prefers-color-scheme: dark)");
  let column = 0, values = null, bins = null, image = null, bound = 1, across = 1, chosen = -1, details = null, order = [], seen = 0;

  // ---- data: gzip in base64, opened when first asked for
  const bytesOf = async (text) => {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const halves = new Float32Array(65536);
  for (let h = 0; h < 65536; h++) {
    const e = (h >> 10) & 31, m = h & 1023, s = h >> 15 ? -1 : 1;
    halves[h] = e === 31 ? NaN : s * (e ? 2 ** (e - 15) * (1 + m / 1024) : 2 ** -24 * m);
  }
  const unpack = (block) => {  // low bytes, then high bytes, of half-precision numbers over a scale
    if (!decoded.has(block)) decoded.set(block, bytesOf(block.data).then((raw) => {
      const n = raw.length / 2, out = new Float32Array(n);
      for (let i = 0; i < n; i++) out[i] = halves[raw[i] | (raw[n + i] << 8)] * block.scale;
      return out;
    }));
    return decoded.get(block);
  };
  const opened = data.details ? bytesOf(data.details).then((raw) => {
    details = JSON.parse(new TextDecoder().decode(raw));
    details.at = new Map(details.places.map((place, i) => [place, i]));
    return details;
  }) : Promise.resolve(null);
  const all = Promise.all([...data.scores.map(unpack), ...data.moments.map((m) => unpack(m.block))]);

  // ---- small helpers
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.map((c) => (typeof c === "string" ? document.createTextNode(c) : c)));
    return node;
  };
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const name = (place) => `L${Math.floor(place / data.width)}.N${place % data.width}`;
  const spoken = (direction) => direction.replace("_", " ").replace("memorization", "memory");
  const number = (v) => Number.isNaN(v) || v === null || v === undefined ? "–" : (v > 0 ? "+" : v < 0 ? "−" : "") + shown(Math.abs(v));
  const shown = (v) => v !== 0 && (v < 0.001 || v >= 1e5) ? v.toExponential(1) : v.toPrecision(3);
  const strength = (score, v) => !score.signed ? Math.abs(v) : score.direction === "to_reasoning" ? -v : score.direction ? v : Math.abs(v);
  const rank = (score, of, place) => {
    const own = strength(score, of[place]);
    if (Number.isNaN(own)) return "not measured";
    let better = 0, measured = 0;
    const sign = score.signed && score.direction ? (score.direction === "to_reasoning" ? -1 : 1) : 0;
    for (let i = 0; i < of.length; i++) {
      const v = of[i];
      if (v === v) { measured++; if ((sign ? sign * v : Math.abs(v)) > own) better++; }
    }
    return `${(better + 1).toLocaleString("en")} of ${measured.toLocaleString("en")}`;
  };

  // ---- the parts of the page
  const pick = make("select"), go = make("input", { size: 10, placeholder: "L0.N0", spellcheck: "false" });
  data.scores.forEach((score, i) => pick.append(make("option", { value: i }, score.label)));
  const form = make("form", { class: "nt-bar" }, make("label", {}, "Scores", pick),
    make("label", {}, "Neuron", go), make("button", {}, "Show"));
  const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label":
    `Map of ${data.layers} layers by ${data.width} neurons. Arrow keys move from neuron to neuron and layer to layer; Enter shows the card.` });
  const tip = make("div", { class: "nt-tip", hidden: "" }), said = make("div", { class: "nt-said", "aria-live": "polite" });
  const unit = make("span"), most = make("span");
  const near = make("canvas", { "aria-hidden": "true" }), nearBox = make("div", { hidden: "" }, make("p", { class: "nt-small" }, ""), near);
  const list = make("ol"), card = make("div", { class: "nt-card" });
  root.replaceChildren(form, make("div", { class: "nt-map" }, canvas, tip), make("div", { class: "nt-key" },
    make("span", {}, "towards reasoning", make("span", { class: "nt-scale" }), "towards memory"), most, unit), nearBox, said,
    make("div", { class: "nt-below" }, make("div", {}, make("h3", {}, "Strongest"), list), card));

  // ---- colours
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const palette = () => {
    const style = getComputedStyle(root), of = (key) => {
      const hex = style.getPropertyValue(key).trim();
      return rgb(hex.length === 4 ? "#" + [...hex.slice(1)].map((c) => c + c).join("") : hex);
    };
    return { mid: of("--nt-mid"), mem: of("--nt-mem"), rea: of("--nt-rea"), none: of("--nt-none"), ink: of("--nt-ink") };
  };
  const paint = (pixels, at, v, bound, colours) => {
    let colour = colours.none, share = 1;
    if (v === v) { share = Math.min(1, Math.abs(v) / bound); colour = v > 0 ? colours.mem : colours.rea; }
    for (let c = 0; c < 3; c++) pixels[at + c] = v === v ? colours.mid[c] + (colour[c] - colours.mid[c]) * share : colour[c];
    pixels[at + 3] = 255;
  };
  const boundOf = (of) => {  // a few neurons carry the effect: a scale to the very largest shows nothing else
    const step = Math.max(1, Math.floor(of.length / 50000)), some = new Float32Array(Math.ceil(of.length / step));
    let largest = 0, kept = 0;
    for (let i = 0; i < of.length; i++) if (of[i] === of[i]) {
      const v = Math.abs(of[i]);
      if (v > largest) largest = v;
      if (i % step === 0) some[kept++] = v;
    }
    return some.subarray(0, kept).sort()[Math.floor(kept * 0.9995)] || largest || 1;
  };

  // ---- the map: a cell holds one neuron, or the strongest of those that share its pixel
  const shade = () => {  // what changes with the ranking, the size and the colours
    if (!values) return;
    across = Math.min(data.width, Math.max(1, Math.floor(canvas.clientWidth || 800)));
    const colours = palette(), score = data.scores[column];
    bound = boundOf(values);
    bins = new Int32Array(across * data.layers);
    canvas.width = across; canvas.height = data.layers;
    canvas.style.height = `${Math.max(3, Math.min(26, Math.floor(420 / data.layers))) * data.layers}px`;
    image = canvas.getContext("2d").createImageData(across, data.layers);
    for (let layer = 0; layer < data.layers; layer++) for (let x = 0; x < across; x++) {
      const from = Math.floor((x * data.width) / across), to = Math.floor(((x + 1) * data.width) / across);
      let best = layer * data.width + from;
      for (let i = best; i < layer * data.width + to; i++)
        if (values[i] === values[i] && !(Math.abs(values[i]) <= Math.abs(values[best]))) best = i;
      bins[layer * across + x] = best;
      paint(image.data, 4 * (layer * across + x), values[best], bound, colours);
    }
    unit.textContent = score.unit;
    most.textContent = `full colour at ±${shown(bound)}`;
    draw();
  };
  const draw = () => {
    if (!image) return;
    const context = canvas.getContext("2d");
    context.putImageData(image, 0, 0);
    context.fillStyle = "#e69f00";
    if (chosen >= 0) context.fillRect(Math.floor(((chosen % data.width) * across) / data.width), Math.floor(chosen / data.width), 1, 1);
    drawNear();
  };
  const drawNear = () => {  // the chosen neuron's neighbours in its layer, each wide enough to click
    nearBox.hidden = chosen < 0 || across === data.width;
    if (nearBox.hidden) return;
    const n = Math.min(96, data.width), layer = Math.floor(chosen / data.width), index = chosen % data.width;
    const from = Math.max(0, Math.min(data.width - n, index - n / 2)), colours = palette();
    near.width = n; near.height = 1; near.style.height = "22px"; near.from = layer * data.width + from; near.n = n;
    const context = near.getContext("2d"), image = context.createImageData(n, 1);
    for (let i = 0; i < n; i++) paint(image.data, 4 * i, values[near.from + i], bound, colours);
    image.data.set([230, 159, 0, 255], 4 * (index - from));
    context.putImageData(image, 0, 0);
    nearBox.firstChild.textContent = `layer ${layer}, neurons ${from} to ${from + n - 1}, one by one (click)`;
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    // a click's coordinates are whole pixels, a pointer's not: what was pointed at is what is chosen
    const share = (at, from, size) => Math.max(0, Math.min(0.999999, (Math.floor(at) - from) / size));
    const x = Math.floor(share(event.clientX, box.left, box.width) * across);
    const y = Math.floor(share(event.clientY, box.top, box.height) * data.layers);
    return bins ? bins[y * across + x] : -1;
  };
  const shared = () => Math.ceil(data.width / across);
  const summary = (place) => {
    const score = data.scores[column], lines = [name(place) + (shared() > 1 ? ` (strongest of ${shared()} here)` : ""),
      `${score.label}: ${number(values[place])}`, `rank ${rank(score, values, place)}`];
    const i = details && details.at.has(place) ? details.at.get(place) : -1;
    if (i >= 0) for (const e of details.effects.slice(0, 4)) lines.push(`${e.family}, ${spoken(e.direction)}: ${number(e.mean[i])} nats, exact`);
    return lines;
  };
  const hover = (event) => {
    const place = under(event);
    if (place < 0 || !values) return;
    tip.textContent = summary(place).join("\n");
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8)}px`;
  };
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => select(under(event)));
  near.addEventListener("click", (event) => {
    const box = near.getBoundingClientRect();
    select(near.from + Math.min(near.n - 1, Math.floor(((event.clientX - box.left) / box.width) * near.n)));
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.width, ArrowDown: data.width };
    if (event.key === "Enter" && chosen >= 0) return void card.querySelector("h3")?.focus();
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = chosen < 0 ? (order[0] ?? 0) : chosen + steps[event.key];
    if (next >= 0 && next < count) select(next);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const found = /^\s*L(\d+)\.?N(\d+)\s*$/i.exec(go.value), place = found ? Number(found[1]) * data.width + Number(found[2]) : -1;
    const right = found && Number(found[1]) < data.layers && Number(found[2]) < data.width;
    go.setCustomValidity(right ? "" : `Write L0.N0 to L${data.layers - 1}.N${data.width - 1}`);
    if (right) select(place); else go.reportValidity();
  });
  go.addEventListener("input", () => go.setCustomValidity(""));
  pick.addEventListener("change", () => show(Number(pick.value)));

  // ---- the card
  const table = (head, rows, attributes = {}) => {
    const body = make("tbody"), top = make("tr"), numeric = (k) => rows.every((row) => typeof row[k] === "number" || row[k] === null);
    let sorted = -1, up = false;
    const fill = () => body.replaceChildren(...rows.map((row) => make("tr", {}, ...row.map((cell, k) =>
      cell instanceof Node ? make("td", {}, cell) : numeric(k) ? make("td", { class: "nt-num" }, Number.isInteger(cell) ? String(cell) : number(cell))
        : make("td", {}, make(k && attributes.code ? "code" : "span", {}, String(cell)))))));
    head.forEach((text, k) => {
      const cell = make("th", { scope: "col", ...(numeric(k) ? { class: "nt-num" } : {}) });
      if (attributes.sortable) {
        const button = make("button", { type: "button" }, text);
        button.addEventListener("click", () => {
          up = sorted === k ? !up : false; sorted = k;
          rows.sort((a, b) => (typeof a[k] === "number" ? a[k] - b[k] : String(a[k]).localeCompare(String(b[k]))) * (up ? 1 : -1));
          for (const other of top.children) other.removeAttribute("aria-sort");
          cell.setAttribute("aria-sort", up ? "ascending" : "descending"); fill();
        });
        cell.append(button);
      } else cell.append(text);
      top.append(cell);
    });
    fill();
    return make("div", { class: "nt-scroll", tabindex: 0, role: "region", "aria-label": attributes.label || head.join(", ") },
      make("table", {}, make("thead", {}, top), body));
  };
  const link = (place) => {
    const button = make("button", { type: "button", class: "nt-name" }, name(place));
    button.addEventListener("click", () => select(place));
    return button;
  };
  const histogram = (one) => {
    const width = 300, high = 90, most = Math.max(...one.memorization, ...one.reasoning, 1), step = width / one.memorization.length;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${high + 18}`, role: "img", "aria-label":
      `Activations from ${shown(one.low)} to ${shown(one.high)}; counts on memorization prompts ${one.memorization.join(" ")}, on reasoning prompts ${one.reasoning.join(" ")}` });
    for (const [side, colour] of [["memorization", "--nt-mem"], ["reasoning", "--nt-rea"]])
      one[side].forEach((n, i) => picture.append(svg("rect", { x: i * step + (side === "reasoning" ? step / 2 : 0), y: high - (n / most) * high,
        width: step / 2 - 0.5, height: (n / most) * high, fill: `var(${colour})` })));
    picture.append(svg("line", { x1: 0, x2: width, y1: high, y2: high, stroke: "var(--nt-line)" }),
      svg("text", { x: 0, y: high + 14 }, number(one.low)), svg("text", { x: width, y: high + 14, "text-anchor": "end" }, number(one.high)));
    return picture;
  };
  const select = (place) => {
    if (place < 0 || !values) return;
    chosen = place; go.value = name(place); tip.hidden = true;
    draw();
    said.textContent = summary(place).slice(0, 3).join(", ");
    fillCard(place);
  };
  const fillCard = async (place) => {
    const columns = await all;
    if (place !== chosen) return;
    const heading = make("h3", { tabindex: -1 }, name(place)), parts = [heading];
    parts.push(make("h4", {}, "Scores"), table(["method", "score", "rank", "unit"],
      data.scores.map((score, k) => [score.label, columns[k][place], rank(score, columns[k], place), score.unit])));
    const i = details && details.at.has(place) ? details.at.get(place) : -1;
    if (i < 0) parts.push(make("p", { class: "nt-small" }, details
      ? `Exact effects, tokens and neighbours are stored for the ${details.places.length.toLocaleString("en")} strongest neurons.` : "Opening the details …"));
    const offset = data.scores.length, at = (k) => columns[offset + k] ? columns[offset + k][place] : NaN;
    const activations = [make("h4", {}, "Activation at the final token position")];
    if (i >= 0) activations.push(histogram(details.activations[i]));
    activations.push(make("p", { class: "nt-small" }, `${i >= 0 ? "Blue: memorization prompts, orange: reasoning prompts. " : ""}Mean ± sd, ${data.sample || "all pairs"}: ` +
      `${number(at(0))} ± ${shown(at(1))} recalling, ${number(at(2))} ± ${shown(at(3))} reasoning.`));
    if (i >= 0) {
      parts.push(make("h4", {}, "Exact effect on L, nats"), table(["family", "direction", "what", "effect", "low", "high", "pairs"],
        details.effects.map((e) => [e.family, spoken(e.direction), e.mode, e.mean[i], e.low[i], e.high[i], e.pairs.length])));
    }
    parts.push(make("div", { class: "nt-two" }, make("div", {}, ...activations), ...(i >= 0 ? [make("div", {}, make("h4", {}, "Writes for and against (through W_U)"),
      table(["for", "logit", "against", "logit "], details.tokens[i].for.map((f, k) => [make("code", {}, f[0]), f[1], make("code", {}, details.tokens[i].against[k][0]), details.tokens[i].against[k][1]]))),
      make("div", {}, make("h4", {}, "Neighbours by cosine of their write directions"), table(["neuron", "cosine"], details.neighbours[i].map(([p, c]) => [link(p), c])))] : [])));
    if (i >= 0) {
      const rows = [];
      for (const e of details.effects) e.pairs.forEach((p, k) => { const pair = details.pairs[p];
        rows.push([spoken(e.direction), e.effect[i][k], e.before[k], pair.memorization, pair.memorized_answer, pair.reasoning, pair.reasoned_answer]); });
      parts.push(make("h4", {}, `Effect on each of ${rows.length} prompts`),
        table(["direction", "effect", "L before", "memorization prompt", "answer", "reasoning prompt", "answer "], rows, { sortable: true, code: true, label: "effect on each pair" }));
    }
    card.replaceChildren(...parts);
    card.dataset.neuron = name(place);
  };

  // ---- one ranking on the map
  const show = async (k) => {
    column = k; values = await unpack(data.scores[k]);
    const score = data.scores[k], top = [];
    for (let i = 0; i < count; i++) {  // the 20 strongest, kept sorted
      const s = strength(score, values[i]);
      if (s === s && (top.length < 20 || s > top[top.length - 1][0])) {
        let at = top.length;
        while (at > 0 && top[at - 1][0] < s) at--;
        top.splice(at, 0, [s, i]);
        if (top.length > 20) top.pop();
      }
    }
    order = top.map(([, i]) => i);
    list.replaceChildren(...order.map((i) => make("li", {}, link(i), ` ${number(values[i])}`)));
    shade();
    if (chosen < 0 && order.length) select(order[0]);
  };
  new ResizeObserver(() => { if (canvas.clientWidth !== seen) { seen = canvas.clientWidth; shade(); } }).observe(root);
  for (const query of [dark, matchMedia("print")]) query.addEventListener("change", shade);
  opened.then(() => { if (chosen >= 0) fillCard(chosen); });
  return show(0);
}
