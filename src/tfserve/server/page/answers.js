// An answer as something to look at.

const SVG = "http://www.w3.org/2000/svg";

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

// The same colour for a label every time; neighbours in the list of labels are far apart.
function hue(label, labels) {
  const kinds = [...new Set((labels ?? []).map((name) => name.replace(/^[BI]-/, "")).filter((name) => name !== "O"))];
  return (Math.max(0, kinds.indexOf(label)) * 137) % 360;
}

function bars(scores, best) {
  const list = make("dl", { className: "bars" });
  for (const [label, share] of Object.entries(scores)) {
    const chosen = best.includes(label) ? "best" : "";
    const fill = make("i");
    fill.style.width = percent(share);
    list.append(
      make("dt", { className: chosen, textContent: label }),
      make("dd", { className: "number", textContent: percent(share) }),
      make("dd", { className: `${chosen} track`, ariaHidden: "true" }, fill),
    );
  }
  return list;
}

function spans(text, entities, labels) {
  const shown = make("p", { className: "text" });
  const characters = Array.from(text);  // offsets count characters, not UTF-16 units
  let at = 0;
  for (const entity of entities) {
    shown.append(characters.slice(at, entity.start).join(""));
    const mark = make("mark", { title: `${entity.label} ${percent(entity.proba)}, ${entity.start} to ${entity.end}` },
      characters.slice(entity.start, entity.end).join(""), make("small", { textContent: entity.label }));
    mark.style.setProperty("--hue", hue(entity.label, labels));
    shown.append(mark);
    at = entity.end;
  }
  shown.append(characters.slice(at).join(""));
  return shown;
}

function table(entities) {
  const rows = entities.map((entity) => make("tr", {}, ...[
    entity.label, entity.text, `${entity.start}–${entity.end}`, percent(entity.proba),
  ].map((value) => make("td", { textContent: value }))));
  const header = ["Label", "Text", "Characters", "Score"].map((name) => make("th", { textContent: name, scope: "col" }));
  return make("table", {}, make("thead", {}, make("tr", {}, ...header)), make("tbody", {}, ...rows));
}

// The words at their boxes, 0..1000 both ways, coloured by their tags.
function page(record, answer, labels) {
  const words = record.words ?? record.text.split(/[ \t\n\r\f\v]+/).filter(Boolean);
  const numbers = typeof record.bbox === "string" ? record.bbox.split(/[\s,]+/).map(Number) : record.bbox.flat(2).map(Number);
  const drawing = draw("svg", { viewBox: "0 0 1000 1000", class: "page", role: "img",
    "aria-label": `${words.length} words at their boxes` });
  const lowest = Math.max(...numbers.filter((_, i) => i % 4 === 3), 100);
  drawing.setAttribute("viewBox", `0 0 1000 ${Math.min(1000, lowest + 20)}`);
  words.forEach((word, i) => {
    const [x0, y0, x1, y1] = numbers.slice(4 * i, 4 * i + 4);
    const tag = Array.isArray(answer.pred) ? String(answer.pred[i] ?? "O").replace(/^[BI]-/, "") : "O";
    const width = Math.max(x1 - x0, 4), height = Math.max(y1 - y0, 8);
    const box = draw("rect", { x: x0, y: y0, width, height, rx: 2 });
    if (tag === "O") box.setAttribute("class", "none");
    else box.style.setProperty("--hue", hue(tag, labels));
    const text = draw("text", { x: x0 + 1, y: y0 + height * 0.78, "font-size": Math.min(height * 0.85, 22),
      textLength: Math.max(width - 2, 2), lengthAdjust: "spacingAndGlyphs" }, word);
    drawing.append(box, text, draw("title", {}, `${word}: ${tag}`));
  });
  return drawing;
}

// A half circle over three standard deviations around the mean of training.
function gauge(value, info) {
  const low = info.mean - 3 * info.std, high = info.mean + 3 * info.std;
  const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const point = (at, radius) => [120 - radius * Math.cos(Math.PI * at), 120 - radius * Math.sin(Math.PI * at)];
  const arc = (from, to, colour) => draw("path", { fill: "none", stroke: colour, "stroke-width": 16,
    d: `M ${point(from, 90)} A 90 90 0 0 1 ${point(to, 90)}` });
  const [x, y] = point(share, 74);
  const round = (number) => Number(number.toPrecision(3));
  return draw("svg", { viewBox: "0 0 240 150", class: "gauge", role: "img", "aria-label": `${value}, where training ranged about ${round(low)} to ${round(high)}` },
    arc(0, 1, "var(--line)"), arc(0, Math.max(share, 0.002), "var(--accent)"),
    draw("line", { x1: 120, y1: 120, x2: x, y2: y, stroke: "var(--ink)", "stroke-width": 3 }),
    draw("text", { x: 120, y: 105, "text-anchor": "middle", class: "value" }, String(round(value))),
    draw("text", { x: 30, y: 142, "text-anchor": "middle" }, String(round(low))),
    draw("text", { x: 210, y: 142, "text-anchor": "middle" }, String(round(high))));
}

export function answered(answer, record, info, took) {
  const shown = document.createDocumentFragment();
  const { pred } = answer, scores = answer.scores ?? {};
  if (info.task_name === "classif") shown.append(make("h2", { textContent: pred ?? "not sure enough" }), bars(scores, [pred]));
  else if (info.task_name === "multilabel-classif") {
    const chips = pred.map((label, i) => make("li", { textContent: `${label} ${percent(answer.proba[i])}` }));
    shown.append(pred.length ? make("ul", { className: "chips" }, ...chips) : make("h2", { textContent: "no label" }), bars(scores, pred));
  } else if (info.task_name === "regression") shown.append(gauge(pred, info));
  if (info.use_bbox && record.bbox) shown.append(page(record, answer, info.labels));
  if (answer.entities) {
    const text = record.words ? record.words.join(" ") : record.text;
    shown.append(spans(text, answer.entities, info.labels));
    shown.append(answer.entities.length ? table(answer.entities) : make("p", { className: "quiet", textContent: "no entity" }));
  }
  if (answer.truncated) shown.append(make("p", { className: "quiet", textContent: "The text is longer than the model reads: its end was not seen." }));
  shown.append(make("p", { className: "quiet", textContent: `${took.tokens} tokens, ${took.compute} ms in the model, ${took.queue} ms before` }));
  return shown;
}
