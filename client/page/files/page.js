// Follows page/stream and writes each snapshot into the page. Everything is set as text: names and paths come from strangers.
"use strict";

const KEPT = 60; // points of a line, one a second
const RETRY_MS = 2000;
const KEY = "ingot-key"; // in this tab's storage only
const LATENCIES = ["ttft", "itl", "e2e"];
const NONE = "–";

const byId = (id) => document.getElementById(id);
const histories = new Map(); // by model: one list of figures
let chosen = null;
let latest = null;
let following = null; // aborts the open stream

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const share = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const number = (value) => (value === null ? NONE : (value < 10 ? fine : whole).format(value));
const percent = (value) => (value === null ? NONE : share.format(value));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  return seconds < 1 ? `${number(seconds * 1000)} ms` : `${fine.format(seconds)} s`;
}

function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  const parts = units.slice(first, first + 2);
  let left = Math.floor(seconds);
  return parts.map(([unit, size]) => { const count = Math.floor(left / size); left -= count * size; return `${count} ${unit}`; }).join(" ");
}

function write(id, text) {
  const place = byId(id);
  if (place.textContent !== text) place.textContent = text;
}

function state(kind, text) {
  byId("state").dataset.state = kind;
  write("state", text);
  document.body.classList.toggle("stale", kind === "waiting" && latest !== null);
}

// One path through `values` (null: a gap), newest at the right edge, in a box of KEPT - 1 by 1.
function path(values, top) {
  const from = KEPT - values.length;
  let drawing = false;
  return values.map((value, i) => {
    const begins = value !== null && !drawing;
    drawing = value !== null;
    return drawing ? `${begins ? "M" : "L"}${from + i} ${(1 - value / top).toFixed(4)}` : "";
  }).join("");
}

function draw(id, ...series) {
  const svg = byId(id);
  const top = 1.1 * Math.max(...series.flat().map((value) => value ?? 0)) || 1;
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 1`);
  const first = series[0].findIndex((value) => value !== null);
  const filled = series.length === 1 && first >= 0 ? series[0].slice(first).map((value) => value ?? 0) : [];
  const outline = filled.length > 1 ? `${path(filled, top)}L${KEPT - 1} 1L${KEPT - filled.length} 1Z` : "";
  const wanted = [["area", outline], ["lower", path(series[0], top)], ["upper", path(series[1] ?? [], top)]];
  for (const [name, d] of wanted) {
    let line = svg.querySelector(`.${name}`);
    if (!line) {
      line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      line.setAttribute("class", name);
      svg.append(line);
    }
    line.setAttribute("d", d);
  }
}

function fill(id, rows) {
  byId(id).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return row;
  }));
}

function remember(models) {
  for (const { name, figures } of models) {
    const history = histories.get(name) ?? [];
    history.push(figures);
    if (history.length > KEPT) history.shift();
    histories.set(name, history);
  }
  for (const name of histories.keys()) {
    if (!models.some((model) => model.name === name)) histories.delete(name);
  }
}

function choices(models) {
  const names = models.map((model) => model.name);
  if (!names.includes(chosen)) chosen = names[0] ?? null;
  const select = byId("model");
  if (JSON.stringify([...select.options].map((option) => option.value)) !== JSON.stringify(names)) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  select.value = chosen;
  byId("chooser").hidden = names.length < 2;
}

function show() {
  const history = histories.get(chosen);
  if (!history) return;
  const now = history[history.length - 1];
  write("output", number(now.output_tokens_per_second));
  write("prompt", number(now.prompt_tokens_per_second));
  write("running", whole.format(now.running));
  write("waiting", whole.format(now.waiting));
  write("kv", percent(now.kv_use));
  write("hits", percent(now.prefix_hit_rate));
  write("preemptions", whole.format(now.preemptions));
  write("finished", whole.format(now.finished));
  byId("kv-bar").style.width = `${100 * (now.kv_use ?? 0)}%`;
  byId("hits-bar").style.width = `${100 * (now.prefix_hit_rate ?? 0)}%`;
  draw("output-line", history.map((one) => one.output_tokens_per_second));
  draw("prompt-line", history.map((one) => one.prompt_tokens_per_second));
  for (const name of LATENCIES) {
    write(`${name}-p50`, duration(now[name]?.p50));
    write(`${name}-p95`, duration(now[name]?.p95));
    draw(`${name}-line`, history.map((one) => one[name]?.p50 ?? null), history.map((one) => one[name]?.p95 ?? null));
  }
}

function take(snapshot) {
  latest = snapshot;
  state(snapshot.health.ready ? "ready" : "down", snapshot.health.ready ? "Ready" : `Not ready: ${snapshot.health.detail}`);
  write("uptime", span(snapshot.uptime_seconds));
  write("version", snapshot.version);
  remember(snapshot.models);
  choices(snapshot.models);
  fill("models", snapshot.models.map((one) => [one.name, one.target, one.quant, whole.format(one.max_model_len), one.fingerprint, new Date(one.built * 1000).toISOString().slice(0, 16).replace("T", " ")]));
  const failures = snapshot.failures.map((one) => [one.status, one.meaning, whole.format(one.count), one.path, `${span(one.seconds_ago)} ago`]);
  fill("failures", failures.length ? failures : [["None", "", "", "", ""]]);
  show();
}

function ask(refused) {
  state("waiting", "Key needed");
  byId("ask").hidden = false;
  byId("figures").hidden = true;
  write("refused", refused ? "The server does not know this key." : "");
  byId("key").focus();
}

async function read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (text + part.value).split("\n\n");
    text = events.pop();
    for (const event of events) take(JSON.parse(event.slice("data: ".length)));
  }
}

async function follow() {
  const abort = new AbortController();
  following?.abort();
  following = abort;
  const key = sessionStorage.getItem(KEY);
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const reply = await fetch("page/stream", { headers, signal: abort.signal, cache: "no-store" });
    if (reply.status === 401) {
      sessionStorage.removeItem(KEY);
      ask(key !== null);
      return;
    }
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    byId("ask").hidden = true;
    byId("figures").hidden = false;
    await read(reply.body);
    if (latest.health.ready) state("waiting", "Reconnecting");
  } catch (error) {
    if (abort.signal.aborted) return;
    state("waiting", error instanceof TypeError ? "Out of reach; trying again" : error.message);
  }
  setTimeout(() => { if (following === abort && !document.hidden) follow(); }, RETRY_MS);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[\x20-\x7e]+$/.test(key)) return ask(true); // no header can carry it
  sessionStorage.setItem(KEY, key);
  follow();
});
byId("model").addEventListener("change", (event) => {
  chosen = event.target.value;
  show();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) following?.abort(); // a page nobody sees costs the server nothing
  else if (byId("ask").hidden) follow();
});
follow();
