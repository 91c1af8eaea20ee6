// The neuron explorer: a map of all neurons, a card for the chosen one. No library, no network.
// Text that comes from prompts is only ever set as textContent.
"use strict";
function neurotraceExplorer(root, data) {
  const count = data.layers * data.width, decoded = new Map(), dark = matchMedia("(prefers-color-scheme: dark)");
  let column = 0, values = null, bins = null, bound = 1, across = 1, chosen = -1, other = -1, details = null, order = [], seen = 0;
  let view = [0, data.width];  // the neurons of each layer that the map shows

  // ---- data: gzip in base64, opened when first asked for
  const bytesOf = async (text) => {
    const letters = atob(text), raw = new Uint8Array(letters.length);
    for (let i = 0; i < raw.length; i++) raw[i] = letters.charCodeAt(i);
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
  const opened = () => data.details ? bytesOf(data.details).then((raw) => {
    details = JSON.parse(new TextDecoder().decode(raw));
    details.at = new Map(details.places.map((place, i) => [place, i]));
    return details;
  }) : Promise.resolve(null);
  const all = () => Promise.all([...data.scores.map(unpack), ...data.moments.map((m) => unpack(m.block))]);  // after the first paint

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
  const name = (place) => {  // as `Experts.name` has it; data.experts: (experts, width, shared) of each block of a mixture
    const layer = Math.floor(place / data.width), index = place % data.width, [experts, wide] = data.experts?.[layer] ?? [0];
    if (!experts) return `L${layer}.N${index}`;
    const expert = Math.floor(index / wide);
    return expert < experts ? `L${layer}.E${expert}.N${index % wide}` : `L${layer}.S.N${index - experts * wide}`;
  };
  const placeOf = (text) => {  // "L2.N250", "2.250", "2 250", "L2.E3.N4", "L2.S.N4"; -1 for what names no neuron of this model
    const inside = /^\s*#?L(\d+)\.(S|E\d+)\.N(\d+)\s*$/i.exec(text);
    if (inside) {
      const at = Number(inside[1]), [experts, wide, more] = data.experts?.[at] ?? [0, 0, 0], unit = Number(inside[3]);
      const own = /s/i.test(inside[2]), expert = own ? experts : Number(inside[2].slice(1));
      return experts && unit < (own ? more : wide) && (own || expert < experts) ? at * data.width + expert * wide + unit : -1;
    }
    const found = /^\s*#?L?(\d+)[.,\s]*N?(\d+)\s*$/i.exec(text), layer = Number(found?.[1]), index = Number(found?.[2]);
    return found && layer < data.layers && index < data.width ? layer * data.width + index : -1;
  };
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
  const choice = (options) => make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
  const pick = choice(data.scores.map((score, i) => [i, score.label])), go = make("input", { size: 10, placeholder: name(0), spellcheck: "false" });
  const only = choice([["", "all"], ...Array.from({ length: data.layers }, (_, i) => [i, String(i)])]);
  const sign = choice([["0", "both"], ["-1", "reasoning"], ["1", "memory"]]), top = choice([20, 50, 100, 200].map((n) => [n, String(n)]));
  const zoom = ["zoom out", "zoom in", "whole map"].map((text) => make("button", { type: "button" }, text));
  const form = make("form", { class: "nt-bar" }, make("label", {}, "Scores", pick), make("label", {}, "Layer", only), make("label", {}, "Sign", sign),
    make("label", {}, "Listed", top), make("label", {}, "Neuron", go), make("button", {}, "Show"), make("span", { class: "nt-zoom" }, ...zoom));
  const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label":
    `Map of ${data.layers} layers by ${data.width} neurons. Arrow keys move from neuron to neuron and layer to layer; plus and minus zoom; Enter goes to the card.` });
  const layers = make("div", { class: "nt-layers", "aria-hidden": "true" }), mark = make("div", { class: "nt-mark", hidden: "" });
  const tip = make("div", { class: "nt-tip", hidden: "" }), said = make("div", { class: "nt-said", "aria-live": "polite" });
  const unit = make("span"), most = make("span");
  const list = make("ol"), card = make("div", { class: "nt-card" }), ends = make("div", { class: "nt-ends" });
  root.replaceChildren(form, make("div", { class: "nt-map" }, layers, make("div", { class: "nt-field" }, canvas, mark), tip), ends, make("div", { class: "nt-key" },
    make("span", {}, "towards reasoning", make("span", { class: "nt-scale" }), "towards memory"), most, unit), said,
    make("div", { class: "nt-below" }, make("div", { class: "nt-list" }, make("h3", {}, "Strongest"), list), card));

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
  const filter = () => {  // by layer and sign
    const from = only.value === "" ? 0 : Number(only.value) * data.width, to = only.value === "" ? count : from + data.width;
    const side = data.scores[column].signed ? Number(sign.value) : 0, of = values;
    return (i) => of[i] === of[i] && i >= from && i < to && (side === 0 || of[i] * side > 0);
  };
  const shade = () => {  // what changes with the ranking, the size, the view and the colours
    if (!values) return;
    const [start, end] = view, wide = end - start, colours = palette(), score = data.scores[column], wanted = filter();
    across = Math.min(wide, Math.max(1, Math.floor(canvas.clientWidth || 800)));
    bound = boundOf(values);
    bins = new Int32Array(across * data.layers);
    canvas.width = across; canvas.height = data.layers;
    const high = Math.max(3, Math.min(26, Math.floor(420 / data.layers)));
    canvas.style.height = `${high * data.layers}px`;
    const image = canvas.getContext("2d", { willReadFrequently: true }).createImageData(across, data.layers);
    for (let layer = 0; layer < data.layers; layer++) for (let x = 0; x < across; x++) {
      const row = layer * data.width + start, from = Math.floor((x * wide) / across), to = Math.floor(((x + 1) * wide) / across);
      let best = row + from;
      for (let i = best; i < row + to; i++)
        if (wanted(i) && (!wanted(best) || Math.abs(values[i]) > Math.abs(values[best]))) best = i;
      bins[layer * across + x] = best;
      paint(image.data, 4 * (layer * across + x), wanted(best) || values[best] !== values[best] ? values[best] : 0, bound, colours);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    const every = Math.ceil(14 / high);
    layers.style.height = canvas.style.height;
    layers.replaceChildren(...Array.from({ length: Math.ceil(data.layers / every) }, (_, k) =>
      make("span", { style: `top:${(k * every + 0.5) * high}px` }, (k ? "" : "layer ") + k * every)));
    ends.replaceChildren(make("span", {}, `neuron ${start.toLocaleString("en")}`), make("span", {}, (end - 1).toLocaleString("en")));
    unit.textContent = score.unit;
    most.textContent = `full colour at ±${shown(bound)}`;
    zoom[0].disabled = zoom[2].disabled = wide === data.width; zoom[1].disabled = wide <= 16;
    draw();
  };
  const draw = () => {  // a frame around the chosen neuron, which keeps its colour
    const index = chosen % data.width, [start, end] = view;
    mark.hidden = chosen < 0 || index < start || index >= end;
    if (mark.hidden) return;
    const cell = Math.max(100 / across, 0.4), x = Math.floor(((index - start) * across) / (end - start)), high = 100 / data.layers;
    Object.assign(mark.style, { left: `${((x + 0.5) / across) * 100 - cell / 2}%`, width: `${cell}%`,
      top: `${Math.floor(chosen / data.width) * high}%`, height: `${high}%` });
  };
  const look = (wide) => {  // as many neurons of each layer, around the chosen one
    wide = Math.max(Math.min(16, data.width), Math.min(data.width, Math.round(wide)));
    const middle = chosen < 0 ? (view[0] + view[1]) / 2 : chosen % data.width;
    const start = Math.max(0, Math.min(data.width - wide, Math.round(middle - wide / 2)));
    view = [start, start + wide];
    shade();
    said.textContent = `neurons ${start} to ${start + wide - 1} of each layer`;
  };
  [4, 1 / 4, Infinity].forEach((by, k) => zoom[k].addEventListener("click", () => look((view[1] - view[0]) * by)));
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    // a click's coordinates are whole pixels, a pointer's not: what was pointed at is what is chosen
    const share = (at, from, size) => Math.max(0, Math.min(0.999999, (Math.floor(at) - from) / size));
    const x = Math.floor(share(event.clientX, box.left, box.width) * across);
    const y = Math.floor(share(event.clientY, box.top, box.height) * data.layers);
    return bins ? bins[y * across + x] : -1;
  };
  const shared = () => Math.ceil((view[1] - view[0]) / across);
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
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.width, ArrowDown: data.width };
    if (event.key === "Enter" && chosen >= 0) return void card.querySelector("h3")?.focus();
    if ("+=-".includes(event.key)) return void look((view[1] - view[0]) * (event.key === "-" ? 4 : 1 / 4));
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = chosen < 0 ? (order[0] ?? 0) : chosen + steps[event.key];
    if (next >= 0 && next < count) select(next);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const place = placeOf(go.value);
    go.setCustomValidity(place >= 0 ? "" : `Write a neuron of layers 0 to ${data.layers - 1}, ${name(0)} say`);
    if (place >= 0) select(place); else go.reportValidity();
  });
  go.addEventListener("input", () => go.setCustomValidity(""));
  pick.addEventListener("change", () => show(Number(pick.value)));
  for (const each of [only, sign, top]) each.addEventListener("change", () => show(column));
  const fromAddress = () => {  // a link to #L2.N250, #L2.E3.N4
    const place = /^#L\d+\.((S|E\d+)\.)?N\d+$/.test(location.hash) ? placeOf(location.hash) : -1;
    if (place < 0) return false;
    select(place);
    root.scrollIntoView();
    return true;
  };
  addEventListener("hashchange", fromAddress);

  // ---- the card
  const copy = async (text) => {  // the second way where a page may not use the first: old browsers, frames
    try { await navigator.clipboard.writeText(text); } catch {
      const field = make("textarea", { "aria-label": "table as CSV" });
      field.value = text; root.append(field); field.select(); document.execCommand("copy"); field.remove();
    }
  };
  const plain = (cell) => typeof cell === "number" && !Number.isInteger(cell) ? number(cell) : cell instanceof Node ? cell.textContent : String(cell ?? "–");
  const csv = (head, rows) => [head, ...rows].map((row) => row.map((cell) => {
    const text = cell instanceof Node ? cell.textContent : String(cell ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }).join(",")).join("\n");
  const table = (head, rows, attributes = {}) => {
    const body = make("tbody"), line = make("tr"), numeric = (k) => rows.every((row) => typeof row[k] === "number" || row[k] === null);
    let sorted = -1, up = false, limit = attributes.limit ?? Infinity;
    const more = make("button", { type: "button" }), taken = make("button", { type: "button" }, "copy as CSV");
    const fill = () => {
      body.replaceChildren(...rows.slice(0, limit).map((row) => make("tr", {}, ...row.map((cell, k) => make("td",
        { "data-name": head[k], ...(numeric(k) ? { class: "nt-num" } : {}) }, cell instanceof Node ? cell : make(attributes.code && !numeric(k) && k > 1 ? "code" : "span", {}, plain(cell)))))));
      more.hidden = rows.length <= limit;
      more.textContent = `show all ${rows.length} rows`;
    };
    more.addEventListener("click", () => { limit = Infinity; fill(); });
    taken.addEventListener("click", () => copy(csv(head, rows)).then(() => { said.textContent = `${rows.length} rows copied`; taken.textContent = "copied"; }));
    head.forEach((text, k) => {
      const cell = make("th", { scope: "col", ...(numeric(k) ? { class: "nt-num" } : {}) });
      if (attributes.sortable) {
        const button = make("button", { type: "button" }, text);
        button.addEventListener("click", () => {
          up = sorted === k ? !up : false; sorted = k;
          rows.sort((a, b) => (typeof a[k] === "number" ? a[k] - b[k] : plain(a[k]).localeCompare(plain(b[k]))) * (up ? 1 : -1));
          for (const each of line.children) each.removeAttribute("aria-sort");
          cell.setAttribute("aria-sort", up ? "ascending" : "descending"); fill();
        });
        cell.append(button);
      } else cell.append(text);
      line.append(cell);
    });
    fill();
    return make("div", { class: "nt-scroll" }, make("table", head.length > 4 ? { class: "nt-wide" } : {}, make("thead", {}, line), body),
      ...(attributes.bare ? [] : [make("p", { class: "nt-small" }, more, taken)]));
  };
  const folded = (title, ...parts) => make("details", {}, make("summary", {}, title), ...parts);
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
  const select = (place, kept) => {
    if (place < 0 || !values) return;
    chosen = place; go.value = name(place); tip.hidden = true;
    const index = place % data.width;
    if (index < view[0] || index >= view[1]) look(view[1] - view[0]); else draw();
    said.textContent = summary(place).slice(0, 3).join(", ");
    if (!kept) try { history.replaceState(null, "", `#${name(place)}`); } catch { /* a frame without an address */ }
    fillCard(place);
  };
  const turned = (e, i) => e.pairs.filter((_, k) => (e.before[k] > 0) !== (e.before[k] + e.effect[i][k] > 0)).length;
  const fillCard = async (place) => {
    const columns = await all();
    if (place !== chosen) return;
    const at = (k) => columns[data.scores.length + k] ? columns[data.scores.length + k][place] : NaN;
    const row = (of) => details && details.at.has(of) ? details.at.get(of) : -1, i = row(place), j = row(other), two = other >= 0 && other !== place;
    const keep = make("button", { type: "button" }, two ? `no longer beside ${name(other)}` : "keep for comparison");
    keep.addEventListener("click", () => { other = two ? -1 : place; said.textContent = other < 0 ? "" : `${name(other)} stays beside the next neuron`; fillCard(chosen); });
    const score = data.scores[column];
    const parts = [make("h3", { tabindex: -1 }, name(place), ...(two ? [" beside ", link(other)] : [])), make("p", { class: "nt-small" },
      `${score.label}: ${number(values[place])} ${score.unit}, rank ${rank(score, values, place)}. `, keep, ...(other === place ? [" Choose another neuron."] : []))];
    if (i < 0) parts.push(make("p", { class: "nt-small" }, details
      ? `Exact effects, prompts, tokens and neighbours are stored for the ${details.places.length.toLocaleString("en")} strongest neurons.` : data.details ? "Opening the details …" : "Exact effects, prompts, tokens and neighbours are not stored here."));
    if (i >= 0) parts.push(make("h4", {}, "Exact effect on L, nats, of this neuron alone"), table(["family", "direction", "intervention", "effect", "low", "high", "turns, of pairs", ...(two && j >= 0 ? [name(other)] : [])],
      details.effects.map((e) => [e.family, spoken(e.direction), e.mode, e.mean[i], e.low[i], e.high[i], `${turned(e, i)} of ${e.pairs.length}`, ...(two && j >= 0 ? [e.mean[j]] : [])])));
    const activations = [make("h4", {}, "Activation at the final token position")];
    if (i >= 0) activations.push(histogram(details.activations[i]));
    activations.push(make("p", { class: "nt-small" }, `${i >= 0 ? "Blue: memorization prompts, orange: reasoning prompts. " : ""}Mean ± sd, ${data.sample || "all pairs"}: ` +
      `${number(at(0))} ± ${shown(at(1))} recalling, ${number(at(2))} ± ${shown(at(3))} reasoning.`));
    parts.push(make("div", { class: "nt-two" }, make("div", {}, ...activations), ...(i >= 0 ? [make("div", {}, make("h4", {}, "Writes for and against (through W_U)"),
      table(["for", "logit", "against", "logit "], details.tokens[i].for.map((f, k) => [make("code", {}, f[0]), f[1], make("code", {}, details.tokens[i].against[k][0]), details.tokens[i].against[k][1]]), { bare: true })),
      make("div", {}, make("h4", {}, "Neighbours by cosine of their write directions"), table(["neuron", "cosine"], details.neighbours[i].map(([p, c]) => [link(p), c]), { bare: true }))] : [])));
    if (i >= 0 && details.prompts) parts.push(make("h4", {}, "Prompts with the highest and lowest activation"), table(["activation", "side", "prompt", "answer"],
      details.prompts[i].map(([p, side, value]) => { const pair = details.pairs[p], memory = side === 0;
        return [value, memory ? "memory" : "reasoning", memory ? pair.memorization : pair.reasoning, memory ? pair.memorized_answer : pair.reasoned_answer]; }), { code: true }));
    parts.push(folded(`All ${data.scores.length} scores and ranks`, table(["method", "score", "rank", "unit", ...(two ? [name(other), `rank of ${name(other)}`] : [])], data.scores.map((each, k) =>
      [each.label, columns[k][place], rank(each, columns[k], place), each.unit, ...(two ? [columns[k][other], rank(each, columns[k], other)] : [])]))));
    if (i >= 0) {
      const rows = [];
      for (const e of details.effects) e.pairs.forEach((p, k) => { const pair = details.pairs[p];
        rows.push([e.effect[i][k], e.before[k], (e.before[k] > 0) !== (e.before[k] + e.effect[i][k] > 0) ? "yes" : "no", spoken(e.direction),
          `${pair.memorization} → ${pair.memorized_answer}`, `${pair.reasoning} → ${pair.reasoned_answer}`]); });
      parts.push(folded(`Effect on each of ${rows.length} prompts`,
        table(["effect", "L before", "turns", "direction", "memorization prompt → answer", "reasoning prompt → answer"], rows, { sortable: true, code: true, limit: 24 })));
    }
    card.replaceChildren(...parts);
    card.dataset.neuron = name(place);
  };

  // ---- one ranking on the map
  const show = async (k) => {
    column = k; values = await unpack(data.scores[k]);
    const score = data.scores[k], best = [], many = Number(top.value), wanted = filter();
    for (let i = 0; i < count; i++) {  // the strongest that pass the filters, kept sorted
      const s = sign.value === "0" ? strength(score, values[i]) : Math.abs(values[i]);
      if (s === s && (best.length < many || s > best[best.length - 1][0]) && wanted(i)) {
        let at = best.length;
        while (at > 0 && best[at - 1][0] < s) at--;
        best.splice(at, 0, [s, i]);
        if (best.length > many) best.pop();
      }
    }
    order = best.map(([, i]) => i);
    list.replaceChildren(...order.map((i) => make("li", {}, link(i), ` ${number(values[i])}`)));
    shade();
    root.dataset.painted ??= performance.now();
    await new Promise((done) => setTimeout(done));  // the map first
    if (chosen >= 0) fillCard(chosen);
    else if (!fromAddress() && order.length) select(order[0], true);
  };
  new ResizeObserver(() => { if (canvas.clientWidth !== seen) { seen = canvas.clientWidth; shade(); } }).observe(root);
  for (const query of [dark, matchMedia("print")]) query.addEventListener("change", shade);
  return show(0).then(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))).then(opened).then(() => { if (chosen >= 0) fillCard(chosen); });
}
