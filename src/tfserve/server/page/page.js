// The page of the server: asks it as any client would.
import { answered } from "./answers.js";
import { records } from "./tables.js";

const $ = (id) => document.getElementById(id);
const PART_RECORDS = 200, PART_CHARACTERS = 200_000, AT_ONCE = 3, ROWS_SHOWN = 500, ATTEMPTS = 20;
let info = null, example = null;

function headers(more) {
  const key = $("key").value;
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more };
}

async function ask(body, contentType, accept, signal) {
  const reply = await fetch("predict", {
    method: "POST", body, signal, headers: headers({ "Content-Type": contentType, Accept: accept }),
  });
  const text = await reply.text();
  if (reply.ok) return { text, reply };
  let error;
  try { error = JSON.parse(text).error; } catch { error = { message: `the server answered ${reply.status}` }; }
  error.status = reply.status;
  error.retryAfter = Number(reply.headers.get("Retry-After") || 0);
  throw error;
}

function say(element, error) {
  const places = ["line", "index", "field", "position"].filter((name) => name in error);
  const where = places.map((name) => `${name} ${error[name]}`).join(", ");
  element.textContent = error.message + (where ? ` (${where})` : "");
  element.hidden = false;
}

async function meet() {
  let reply;
  try {
    reply = await fetch("ping");
    if (reply.ok) reply = await fetch("info", { headers: headers() });
  } catch { reply = null; }
  if (reply?.ok) {
    info = await reply.json();
    $("task").textContent = info.task_name;
    const kinds = info.labels ? `, ${info.labels.length} labels` : "";
    $("model").textContent = `model ${info.model_version}${kinds}, windows of ${info.max_length} tokens`;
    $("threshold-row").hidden = info.task_name !== "multilabel-classif" && !(info.task_name === "classif" && info.labels.length === 2);
    if (info.use_bbox) {
      $("text-label").textContent = "Record";
      $("hint").textContent = "JSON with words and a box for each: x0 y0 x1 y1, 0 to 1000 over the page";
      $("hint").hidden = false;
    }
    example = info.example;
    $("example").hidden = !example;
    return;
  }
  if (reply?.status === 401) {
    $("model").textContent = "This server wants a key.";
    $("access").open = true;
    return;
  }
  let error = { message: "The server does not answer." };
  try { error = (await reply.json()).error; } catch { /* nobody there, or a proxy's page */ }
  $("model").textContent = error.message;
  setTimeout(meet, 1000);
}

function asked() {
  const text = $("text").value;
  let record = { text };
  if (info?.use_bbox || /^\s*\{/.test(text)) {
    try { record = JSON.parse(text); } catch (error) {
      if (info?.use_bbox) throw { message: `This is no JSON: ${error.message}` };
    }
  }
  const parameters = {};
  if (["classif", "multilabel-classif"].includes(info?.task_name)) parameters.top_k = 12;
  if (!$("own").hidden) parameters.threshold = Number($("threshold").value);
  return Object.keys(parameters).length ? { data: [record], parameters } : { data: [record] };
}

function shell(body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = $("key").value ? ` \\\n  -H "Authorization: Bearer $KEY"` : "";
  return `curl ${new URL("predict", document.baseURI)} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
}

async function submit(event) {
  event?.preventDefault();
  const button = $("ask").querySelector("[type=submit]");
  if (button.disabled || !info) return;
  $("error").hidden = true;
  button.disabled = true;
  try {
    const body = asked();
    $("command").textContent = shell(body);
    $("curl").hidden = false;
    const { text, reply } = await ask(JSON.stringify(body), "application/json", "application/json");
    const [answer] = JSON.parse(text).predictions;
    $("answer").replaceChildren(answered(answer, body.data[0], info, {
      tokens: reply.headers.get("x-tokens"), compute: reply.headers.get("x-compute-ms"),
      queue: reply.headers.get("x-queue-ms"),
    }));
    $("answer").hidden = false;
  } catch (error) {
    $("answer").hidden = true;
    say($("error"), error);
  } finally {
    button.disabled = false;
  }
}

function parts(found) {
  const cut = [];
  let part = [], characters = 0;
  for (const line of found) {
    part.push(line);
    characters += line.length;
    if (part.length === PART_RECORDS || characters > PART_CHARACTERS) {
      cut.push(part);
      part = []; characters = 0;
    }
  }
  if (part.length) cut.push(part);
  return cut;
}

async function persistently(part, signal) {
  for (let attempt = 1; ; attempt++) {
    try { return await ask(part.join("\n") + "\n", "application/jsonlines", "application/jsonlines", signal); }
    catch (error) {
      const passing = [429, 503].includes(error.status) && error.code !== "server.deadline";
      if (!passing || attempt === ATTEMPTS || signal.aborted) throw error;
      await new Promise((wake) => setTimeout(wake, 1000 * Math.max(1, error.retryAfter || 1)));
    }
  }
}

function row(number, line, answer) {
  const cells = document.createElement("tr");
  const failed = answer.error && !("pred" in answer);  // a record may have a key of that name
  const told = failed ? answer.error.message : Array.isArray(answer.entities)
    ? answer.entities.map((entity) => `${entity.label}: ${entity.text}`).join("; ") || "no entity"
    : [answer.pred ?? "not sure enough"].flat().join(", ");
  const score = typeof answer.proba === "number" ? answer.proba.toFixed(3) : "";
  let text = line;
  try { const record = JSON.parse(line); text = record.text ?? record.words?.join(" ") ?? record; } catch { /* as it is */ }
  text = typeof text === "string" ? text : JSON.stringify(text);
  for (const value of [number, text.length > 300 ? `${text.slice(0, 300)} …` : text, told, score]) {
    cells.append(Object.assign(document.createElement("td"), { textContent: value }));
  }
  cells.lastChild.className = "number";
  if (failed) cells.className = "bad";
  return cells;
}

let stopping = null;

async function answerFile(file) {
  stopping?.abort();
  const stop = stopping = new AbortController();
  for (const id of ["file-error", "download", "rows-region"]) $(id).hidden = true;
  $("rows").replaceChildren();
  let found;
  try { found = records(await file.text(), file.name); } catch (error) {
    $("progress").hidden = true;
    return say($("file-error"), error);
  }
  const cut = parts(found), answers = new Array(cut.length), began = performance.now();
  let next = 0, done = 0, bad = 0, shown = 0;
  $("progress").hidden = $("rows-region").hidden = $("stop").hidden = false;
  $("bar").max = found.length; $("bar").value = 0;
  $("count").textContent = `0 of ${found.length} answered`;

  function show() {  // in order, as far as there is no gap
    while (shown < cut.length && answers[shown]) {
      const before = cut.slice(0, shown).reduce((sum, part) => sum + part.length, 0);
      const rows = answers[shown].map((text, i) => [before + i + 1, cut[shown][i], JSON.parse(text)]);
      bad += rows.filter(([, , answer]) => answer.error && !("pred" in answer)).length;
      for (const one of rows) if (one[0] <= ROWS_SHOWN) $("rows").append(row(...one));
      done += rows.length;
      shown++;
    }
    $("bar").value = done;
    const rate = done / ((performance.now() - began) / 1000);
    $("count").textContent = `${done} of ${found.length} answered, ${bad} with an error, ${rate.toFixed(0)} a second`
      + (found.length > ROWS_SHOWN ? `; the first ${ROWS_SHOWN} are shown` : "");
  }

  async function work() {
    while (next < cut.length && !stop.signal.aborted) {
      const number = next++;
      const { text } = await persistently(cut[number], stop.signal);
      answers[number] = text.trimEnd().split("\n");
      show();
    }
  }

  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  } catch (error) {
    if (!stop.signal.aborted) { say($("file-error"), error); stop.abort(); }
  }
  if (stopping !== stop) return;
  $("stop").hidden = true;
  const lines = answers.slice(0, shown).flat();
  if (!lines.length) return;
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "application/jsonlines" }));
  $("download").download = `${file.name.replace(/\.[^.]*$/, "")}.answers.jsonl`;
  $("download").hidden = false;
}

function choose(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
}

for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key }) => {
    if (key !== "ArrowLeft" && key !== "ArrowRight") return;
    const other = tab.id === "tab-text" ? $("tab-file") : $("tab-text");
    choose(other);
    other.focus();
  });
}
$("ask").addEventListener("submit", submit);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
});
$("threshold").addEventListener("input", () => {
  $("threshold-value").value = Number($("threshold").value).toFixed(2);
  $("own").hidden = false;
});
$("own").addEventListener("click", () => {
  $("threshold-value").value = "the model's own";
  $("own").hidden = true;
  if (!$("answer").hidden) submit();
});
$("threshold").addEventListener("change", () => { if (!$("answer").hidden) submit(); });
$("example").addEventListener("click", () => {
  $("text").value = info.use_bbox ? JSON.stringify(example, null, 1) : example.text ?? example.words.join(" ");
  submit();
});
$("copy").addEventListener("click", () => navigator.clipboard?.writeText($("command").textContent));
$("file").addEventListener("change", () => { if ($("file").files[0]) answerFile($("file").files[0]); });
$("stop").addEventListener("click", () => stopping?.abort());
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) answerFile(event.dataTransfer.files[0]);
  });
}
$("key").value = sessionStorage.getItem("key") ?? "";
$("key-form").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); meet(); });
meet();
