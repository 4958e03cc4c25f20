"use strict";
// Shows what /ui/events tells. All of it is text: nothing is ever parsed as markup.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const POINTS_MAX = 360;
const SILENCE_MAX_MS = 5000;
const numbers = new Intl.NumberFormat("en");

const state = { tables: new Map(), held: {}, points: [], rows: new Map(), sort: { key: "name", down: false },
  filter: "", now: 0, heardAt: Date.now(), isOrderOld: true, actions: [], isPaused: false,
  letters: { waiting: -1, asked: 0 } };

// Writes only what changed, so that a thousand rows cost nothing while nothing happens.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function rounded(value) {
  if (value >= 100) return numbers.format(Math.round(value));
  return String(Math.round(value * 10) / 10);
}

function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s >= 86400) return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  if (s >= 60) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${s} s`;
}

function ago(unix) {
  return unix > 0 ? `${age(state.now - unix)} ago` : "never";
}

function left(unix) {
  return unix ? `in ${age(unix - state.now)}` : "never, or not known";
}

function showHead(status) {
  setText(byId("headline"), status.headline);
  const worst = status.problems.length ? status.problems[0].severity : "good";
  const classes = { error: "bad", warning: "warn", note: "note", good: "good" };
  const head = document.querySelector("header");
  if (head.className !== classes[worst]) head.className = classes[worst];
  const name = status.consumer || "EDS";
  setText(byId("about"), `${name} into ${status.destination || "no destination yet"}`);
  document.title = `${status.headline} – ${name}`;
}

function showProblems(problems) {
  const list = byId("problems");
  while (list.children.length > problems.length) list.lastChild.remove();
  problems.forEach((problem, i) => {
    let item = list.children[i];
    if (!item) {
      item = element("li");
      item.append(element("span", "kind"), element("strong"), element("p", "text"), element("p", "quiet"));
      list.append(item);
    }
    if (item.className !== problem.severity) item.className = problem.severity;
    setText(item.children[0], problem.severity);
    setText(item.children[1], problem.title);
    setText(item.children[2], problem.text);
    setText(item.children[3], problem.since_unix ? `for ${age(state.now - problem.since_unix)}` : "");
  });
  byId("no-problems").hidden = problems.length > 0;
}

function draw(id, key, unit) {
  const svg = byId(id);
  const values = state.points.map((point) => point[key]);
  const highest = Math.max(1e-9, ...values);
  svg.setAttribute("viewBox", `0 0 ${POINTS_MAX} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  if (!svg.firstChild) {
    const line = document.createElementNS(SVG, "line");
    line.setAttribute("x1", "0");
    line.setAttribute("x2", String(POINTS_MAX));
    line.setAttribute("y1", "99");
    line.setAttribute("y2", "99");
    svg.append(line, document.createElementNS(SVG, "path"));
  }
  const most = `highest of the last hour: ${rounded(Math.max(...values))} ${unit}`;
  setText(svg.nextElementSibling, most);
  const first = POINTS_MAX - values.length;
  const steps = values.map((value, i) => `${i ? "L" : "M"}${first + i + 1} ${(98 - (value / highest) * 94).toFixed(1)}`);
  // The last step draws a dot where there is but one point.
  svg.lastChild.setAttribute("d", `${steps.join("")}h0`);
}

function showFlow(status) {
  setText(byId("rate"), `${rounded(status.events_per_second)} / s`);
  setText(byId("lag"), status.lag_seconds < 60 ? `${rounded(status.lag_seconds)} s` : age(status.lag_seconds));
  if (status.points.length) {
    state.points = state.points.concat(status.points).slice(-POINTS_MAX);
    draw("rate-chart", "events_per_second", "/ s");
    draw("lag-chart", "lag_seconds", "s");
    draw("batch-chart", "batch_milliseconds", "ms");
  }
  const last = state.points.findLast((point) => point.batch_milliseconds > 0);
  setText(byId("batch"), last ? `${rounded(last.batch_milliseconds)} ms` : "–");
  setText(byId("waiting"), numbers.format(status.lag_events));
  setText(byId("done"), numbers.format(status.done));
  setText(byId("passed"), `${numbers.format(status.filtered)}, ${numbers.format(status.stale)}, ${numbers.format(status.imported)}`);
  setText(byId("letters"), numbers.format(status.dead_letters_waiting));
  setText(byId("success"), ago(status.last_success_unix));
  setText(byId("error"), status.last_error ? "now" : ago(status.last_error_unix));
}

function values(name) {
  const counts = state.tables.get(name) || {};
  const held = state.held[name];
  const dead = counts.dead_letters || 0;
  return { state: held ? "held" : dead ? "dead letters" : "ok", name, upserts: counts.upserts || 0, deletes: counts.deletes || 0,
    held: held ? held.changes : 0, dead, passed: (counts.filtered || 0) + (counts.stale || 0) + (counts.imported || 0),
    change: counts.last_change_unix || 0, schema: counts.schema_version || "", imported: counts.imported_unix || 0,
    isHeld: Boolean(held) };
}

function showRow(name) {
  let row = state.rows.get(name);
  if (!row) {
    row = element("tr");
    for (let i = 0; i < 10; i += 1) row.append(element(i === 1 ? "th" : "td", i >= 2 && i <= 6 ? "n" : ""));
    row.children[1].scope = "row";
    state.rows.set(name, row);
    state.isOrderOld = true;
  }
  const of = values(name);
  const texts = [of.state, name, numbers.format(of.upserts), numbers.format(of.deletes), numbers.format(of.held),
    numbers.format(of.dead), numbers.format(of.passed), of.change ? ago(of.change) : "", of.schema, of.imported ? ago(of.imported) : ""];
  texts.forEach((text, i) => setText(row.children[i], text));
  const kind = of.isHeld ? "held" : of.dead ? "dead" : "";
  if (row.className !== kind) row.className = kind;
}

function showOrder() {
  const { key, down } = state.sort;
  const all = Array.from(state.rows.keys(), values).filter((of) => of.name.toLowerCase().includes(state.filter));
  const compared = (a, b) => (typeof a[key] === "number" ? a[key] - b[key] : a[key].localeCompare(b[key]));
  all.sort((a, b) => (down ? -1 : 1) * compared(a, b) || a.name.localeCompare(b.name));
  byId("rows").replaceChildren(...all.map((of) => state.rows.get(of.name)));
  const total = state.rows.size;
  setText(byId("table-count"), all.length === total ? `(${total})` : `(${all.length} of ${total})`);
  byId("no-tables").hidden = total > 0;
  state.isOrderOld = false;
}

function showTables(status, isMinute) {
  for (const [name, counts] of Object.entries(status.tables)) state.tables.set(name, counts);
  const touched = new Set([...Object.keys(status.tables), ...Object.keys(status.held), ...Object.keys(state.held)]);
  state.held = status.held;
  for (const name of isMinute ? new Set([...state.rows.keys(), ...touched]) : touched) showRow(name);
  if (state.isOrderOld) showOrder();
}

function showWarnings(warnings) {
  const list = byId("warnings");
  const texts = warnings.map((warning) => `${warning.at_unix} ${warning.times} ${warning.text}`).join("\n");
  if (list.dataset.shown === texts) return;
  list.dataset.shown = texts;
  list.replaceChildren(...warnings.slice().reverse().map((warning) => {
    const item = element("li");
    const at = new Date(warning.at_unix * 1000);
    const time = element("time", "", at.toLocaleString());
    time.dateTime = at.toISOString();
    item.append(time, warning.times > 1 ? `${warning.text} (${numbers.format(warning.times)} times)` : warning.text);
    return item;
  }));
  byId("no-warnings").hidden = warnings.length > 0;
}

function showSetup(status) {
  const { server } = status;
  const facts = [["Destination", status.destination || "none yet"], ["Consumer", status.consumer || "none yet"],
    ["Version", status.version], ["Running for", age(status.uptime_seconds)], ["Stream sequence", numbers.format(status.stream_sequence)],
    ["Credentials expire", left(server.credentials_expire_unix)]];
  if (server.session_renewal_unix) facts.push(["Next session of HQ", left(server.session_renewal_unix)]);
  if (server.workers) facts.push(["Workers started, failed", `${server.workers.started}, ${server.workers.failed}`]);
  const list = byId("setup");
  facts.forEach(([name, text], i) => {
    let fact = list.children[i];
    if (!fact) {
      fact = element("div");
      fact.append(element("dt", "", name), element("dd"));
      list.append(fact);
    }
    setText(fact.children[0], name);
    setText(fact.children[1], text);
  });
}

function showImport(running) {
  byId("import").hidden = !running;
  if (!running) return;
  const { tables, tables_done: done, rows, fraction } = running;
  byId("import-bar").value = fraction;
  const now = running.now.length ? `; now ${running.now.join(", ")}` : "";
  setText(byId("import-text"), tables === 0 ? `The export is waited for, for ${age(state.now - running.since_unix)}.`
    : `${Math.floor(fraction * 100)} %: ${numbers.format(rows)} rows, ${done} of ${tables} tables${now}`);
}

// Dead letters are read from the destination, so that they are asked for only when their number changes.
function askLetters(status) {
  const { letters } = state;
  const waiting = status.dead_letters_waiting;
  byId("letters-part").hidden = waiting === 0;
  if (waiting === 0 || (waiting === letters.waiting && state.now - letters.asked < 60)) {
    letters.waiting = waiting;
    return;
  }
  letters.waiting = waiting;
  letters.asked = state.now;
  fetch("ui/letters").then((answer) => answer.json()).then(showLetters).catch(() => {
    letters.waiting = -1;
  });
}

function showLetters({ letters, error }) {
  setText(byId("letter-count"), letters.length < state.letters.waiting ? `(the last ${letters.length} of ${state.letters.waiting})` : `(${letters.length})`);
  setText(byId("letters-error"), error ? `They cannot be read: ${error}` : "");
  byId("letters-error").hidden = !error;
  byId("letter-list").replaceChildren(...letters.map((letter) => {
    const item = element("li");
    const name = `${letter.letter} ${letter.table || "(no table)"}`;
    item.append(element("strong", "", name), element("span", "quiet", `${letter.kind}, ${ago(letter.since_unix)}`), element("p", "", letter.reason));
    if (state.actions.includes("retry")) {
      const button = element("button", "do", "Retry");
      button.type = "button";
      button.setAttribute("aria-label", `Retry dead letter ${name}`);
      button.addEventListener("click", () => act({ action: "retry", consumer: letter.consumer, letter: letter.letter }));
      item.append(button);
    }
    return item;
  }));
}

function showActions(status) {
  const actions = status.actions || [];
  if (actions.join() !== state.actions.join()) {
    state.actions = actions;
    state.letters.waiting = -1;
  }
  byId("actions").hidden = actions.length === 0;
  byId("pause").hidden = !actions.includes("pause");
  byId("import-part").hidden = !actions.includes("import");
  state.isPaused = status.state.name === "paused";
  setText(byId("pause"), state.isPaused ? "Go on" : "Pause");
  const names = byId("table-names");
  if (names.children.length !== state.rows.size) {
    names.replaceChildren(...Array.from(state.rows.keys(), (name) => {
      const option = element("option");
      option.value = name;
      return option;
    }));
  }
}

// The token stays in this page: it is kept nowhere, and sent with each action only.
async function act(action) {
  const token = byId("token").value.trim();
  const said = (text) => setText(byId("said"), text);
  if (!token) {
    said("Give the token first.");
    byId("token").focus();
    return;
  }
  said("…");
  try {
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch("ui/actions", { method: "POST", headers, body: JSON.stringify(action) });
    const told = await answer.json();
    said(told.error ? `Nothing was done: ${told.error}` : `Ordered: ${told.said}`);
  } catch {
    said("EDS did not answer: whether anything was done is not known.");
  }
}

let events = 0;
function show(status) {
  state.now = status.at_unix;
  state.heardAt = Date.now();
  byId("lost").hidden = true;
  showHead(status);
  showProblems(status.problems);
  showFlow(status);
  showTables(status, events % 10 === 0);
  showImport(status.import);
  showActions(status);
  askLetters(status);
  showWarnings(status.warnings);
  showSetup(status);
  events += 1;
}

function showSilence() {
  if (Date.now() - state.heardAt < SILENCE_MAX_MS) return;
  const since = new Date(state.heardAt).toLocaleTimeString();
  setText(byId("lost"), `EDS has not answered since ${since}: what is shown is of then. It is asked again and again.`);
  byId("lost").hidden = false;
}

function connect() {
  const source = new EventSource("ui/events");
  source.onmessage = (message) => show(JSON.parse(message.data));
  // A browser gives up where it was refused; EDS may be back in a moment.
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(connect, 2000);
  };
}

document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => {
    const { key } = button.dataset;
    const down = state.sort.key === key ? !state.sort.down : !["name", "schema"].includes(key);
    state.sort = { key, down };
    document.querySelectorAll("thead th").forEach((head) => head.setAttribute("aria-sort", "none"));
    button.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    showOrder();
  });
});
byId("filter").addEventListener("input", (event) => {
  state.filter = event.target.value.trim().toLowerCase();
  showOrder();
});
byId("pause").addEventListener("click", () => act({ action: state.isPaused ? "unpause" : "pause" }));
byId("import-go").addEventListener("click", () => act({ action: "import", table: byId("import-table").value.trim() }));
setInterval(showSilence, 1000);
connect();
