"use strict";

const byId = (id) => document.getElementById(id);
const state = { models: [], features: [] };

// -- what there is ----------------------------------------------------------------------------------------------------

function options(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.map(String).includes(before)) select.value = before;
}

function chosen() {
  const model = state.models.find((m) => m.name === byId("model").value);
  const version = model?.versions.find((v) => String(v.number) === byId("version").value);
  const signature = version?.signatures.find((s) => s.name === byId("signature").value);
  return { model, version, signature };
}

function showModel() {
  byId("error").hidden = true;
  const { model } = chosen();
  if (!model) return fail("No model is served yet; see the server's log.");
  options(byId("version"), model.versions.map((v) => v.number));
  byId("status").href = `/v1/models/${encodeURIComponent(model.name)}`;
  byId("metadata").href = `/v1/models/${encodeURIComponent(model.name)}/metadata`;
  const broken = model.states.filter((s) => s.error);
  byId("broken").replaceChildren(...broken.map((s) => element("li", `Version ${s.number} is broken: ${s.error}`)));
  byId("broken").hidden = broken.length === 0;
  showVersion();
}

function showVersion() {
  const names = (chosen().version?.signatures ?? []).map((s) => s.name);
  // What people know are raw values, so that signature comes first where there is one.
  names.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  options(byId("signature"), names);
  if (!chosen().version) fail("No version of this model is available; see the server's log.");
  else if (names.length === 0) fail("This version has no signature that takes rows of features.");
  showFields();
}

const rank = (name) => (name === "raw" ? 0 : name === "serving_default" ? 1 : 2);

// -- the form ---------------------------------------------------------------------------------------------------------

function showFields() {
  state.features = chosen().signature?.features ?? [];
  byId("fields").replaceChildren(...state.features.map((feature, i) => {
    const label = element("label");
    const hints = { number: "number", id: "id", flag: "true or false", text: "text" };
    let hint = hints[feature.kind];
    if (feature.vocabulary_size) hint += ` 0–${feature.vocabulary_size - 1}`;
    if (feature.width === null || feature.width > 1) hint += feature.width === null ? ", several" : `, up to ${feature.width}`;
    const input = element("input");
    input.name = feature.name;
    input.dataset.index = i;
    input.value = initial(feature);
    input.autocomplete = "off";
    label.append(element("b", feature.name), ` ${hint}`, input);
    return label;
  }));
  byId("result").hidden = true;
}

const separator = (feature) => (feature.kind === "text" ? "|" : ",");

// Without the padding of ids; null is a NaN.
function joined(feature, values) {
  const kept = feature.kind === "id" ? values.filter((id) => id !== -1) : values;
  return kept.map((value) => value ?? "").join(separator(feature));
}

function initial(feature) {
  if (feature.example) return joined(feature, feature.example);
  return { number: feature.weight ? "1" : "0", id: "0", flag: "false", text: "" }[feature.kind];
}

function randomValue(feature) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const below = (n) => Math.floor(Math.random() * n);
  const list = (value) => Array.from({ length: 1 + below(feature.width ?? 1) }, value).join(",");
  if (feature.kind === "number") return feature.weight ? "1" : normal().toFixed(2);
  if (feature.kind === "id") return list(() => below(feature.vocabulary_size ?? 10));
  if (feature.kind === "flag") return String(Math.random() < 0.5);
  return initial(feature);
}

const empty = (feature) => ({ number: feature.nullable ? "null" : "0", id: "-1", flag: "false", text: '""' }[feature.kind]);

// Ids have up to 19 digits, more than a number of JavaScript holds: values stay the text that was typed.
function written(feature, text) {
  const parts = text.trim() === "" ? [] : text.split(separator(feature)).map((part) => part.trim());
  const legal = {
    number: /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/,
    id: /^-?\d+$/,
    flag: /^(true|false)$/,
    text: /[^]*/,
  }[feature.kind];
  const odd = parts.find((part) => !legal.test(part));
  if (odd !== undefined) throw new Error(`${feature.name}: “${odd}” is not ${feature.kind === "id" ? "an" : "a"} ${feature.kind}.`);
  const values = parts.map((part) =>
    feature.kind === "text" ? JSON.stringify(part) : feature.kind === "number" ? String(Number(part)) :
    feature.kind === "id" ? String(BigInt(part)) : part);
  if (feature.width !== null) {
    if (values.length > feature.width) throw new Error(`${feature.name}: at most ${feature.width} values.`);
    while (values.length < feature.width) values.push(feature.weight ? "1" : empty(feature));
  }
  return values;
}

const fields = () => [...byId("fields").querySelectorAll("input")].map((input) => ({ input, feature: state.features[input.dataset.index] }));

// A row of the form's values by input, in JSON; the value of the feature `without` is left out.
function row(without) {
  const inputs = new Map();
  for (const { input, feature } of fields()) {
    const typed = written(feature, input.value);
    const values = feature === without ? typed.map(() => empty(feature)) : typed;
    if (feature.flat) inputs.set(feature.input, values[0] ?? (feature.nullable ? "null" : '""'));
    else inputs.set(feature.input, [...(inputs.get(feature.input) ?? []), ...values]);
  }
  return new Map([...inputs].map(([name, values]) => [name, Array.isArray(values) ? `[${values.join(", ")}]` : values]));
}

function requestBody(extra, rows = [row()]) {
  const columns = [...rows[0].keys()].map((name) => `${JSON.stringify(name)}: [${rows.map((each) => each.get(name)).join(", ")}]`);
  return `{"signature_name": ${JSON.stringify(chosen().signature.name)}, ${extra}"inputs": {${columns.join(", ")}}}`;
}

// -- the answer -------------------------------------------------------------------------------------------------------

async function predict(event) {
  event.preventDefault();
  byId("error").hidden = true;
  byId("go").disabled = true;
  try {
    const { model, version } = chosen();
    const address = `/v1/models/${encodeURIComponent(model.name)}/versions/${version.number}`;
    const items = chosen().signature.items;
    if (items) await showItems(`${address}:predict`, items);
    else show(await ask(`${address}:explain`, { method: "POST", body: requestBody('"top": 15, ') }));
    const quoted = requestBody("").replaceAll("'", "'\\''");
    byId("curl").textContent = `curl ${location.origin}${address}:predict -d '${quoted}'`;
  } catch (error) {
    fail(error.message);
  } finally {
    byId("go").disabled = false;
  }
}

async function ask(address, how) {
  const response = await fetch(address, how);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
  return answer;
}

function show(answer) {
  byId("probability").textContent = answer.value.toFixed(4);
  byId("output").textContent = answer.output;
  byId("logit").textContent = answer.logit.toFixed(3);
  byId("bar").style.width = `${100 * Math.min(1, Math.max(0, answer.value))}%`;
  fill(byId("pairs"), answer.pairs.map((pair) => [pair.features.join(" × "), pair.change]));
  fill(byId("singles"), answer.features.map((f) => [`${f.name} = ${shown(f)}${unseen(f)}`, f.change]));
  byId("resolution").textContent = answer.resolution > 0.001
    ? `Changes below ${answer.resolution.toPrecision(1)} are rounding: the probability is too near 0 or 1.` : "";
  byId("list").hidden = true;
  byId("one").hidden = false;
  byId("result").hidden = false;
}

// The list of one user, whose last ids may be no items, and what put each item there: of the form's values the one without which
// the item's number falls most. An item that is not in the list then has fallen below all that are: by that much at least.
async function showItems(address, name) {
  const filled = fields().filter(({ input, feature }) => feature.name !== "exclude" && !feature.weight && input.value.trim() !== "");
  const rows = [row(), ...filled.map(({ feature }) => row(feature))];
  const { outputs } = await ask(address, { method: "POST", body: requestBody("", rows) });
  const [list, ...others] = outputs.ids.map((ids, i) => ids.map((id, j) => [id, outputs[name][i][j]]).filter(([id]) => id !== -1 && id !== ""));
  byId("items").tBodies[0].replaceChildren(...list.map(([id, number], i) => {
    const falls = others.map((other, j) => {
      const kept = other.find(([known]) => known === id);
      const last = kept ?? other.at(-1) ?? [id, number];
      return { fall: number - last[1], sign: kept ? "+" : "≥ +", text: `${filled[j].feature.name} = ${filled[j].input.value}` };
    });
    const most = falls.reduce((best, each) => (each.fall > best.fall ? each : best), { fall: 0 });
    const line = element("tr");
    const value = element("td", number.toFixed(4));
    value.className = "number";
    line.append(element("td", `${i + 1}. ${id}`), value, element("td", most.text ? `${most.sign}${most.fall.toFixed(4)} by ${most.text}` : ""));
    return line;
  }));
  byId("number").textContent = name;
  byId("list").hidden = false;
  byId("one").hidden = true;
  byId("result").hidden = false;
}

function shown(answered) {
  const feature = state.features.find((known) => known.name === answered.name);
  return joined(feature, answered.values) || "none";
}

// Of one value, or of several.
function unseen(answered) {
  if (!answered.unseen) return "";
  return answered.values.length > 1 ? ` (${answered.unseen} unseen)` : " (unseen)";
}

function fill(table, rows) {
  const largest = Math.max(...rows.map(([, change]) => Math.abs(change)), 1e-12);
  table.tBodies[0].replaceChildren(...rows.map(([name, change]) => {
    const row = element("tr");
    const digits = Math.abs(change).toFixed(4);
    const number = element("td", (digits === "0.0000" ? "" : change < 0 ? "−" : "+") + digits);
    number.className = "number";
    const cell = element("td");
    cell.className = "change";
    const track = element("div");
    track.className = "track";
    for (const side of ["left", "right"]) {
      const half = element("div");
      half.className = `half ${side}`;
      if (change < 0 === (side === "left")) {
        const bar = element("div");
        bar.className = change < 0 ? "minus" : "plus";
        bar.style.width = `${(100 * Math.abs(change)) / largest}%`;
        half.append(bar);
      }
      track.append(half);
    }
    cell.append(track);
    row.append(element("td", name), number, cell);
    return row;
  }));
}

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
}

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

// -- start ------------------------------------------------------------------------------------------------------------

async function start() {
  byId("model").addEventListener("change", showModel);
  byId("version").addEventListener("change", showVersion);
  byId("signature").addEventListener("change", showFields);
  byId("form").addEventListener("submit", predict);
  byId("reset").addEventListener("click", showFields);
  byId("random").addEventListener("click", () => {
    for (const { input, feature } of fields()) input.value = randomValue(feature);
  });
  try {
    state.models = (await ask("/page/models")).models;
    options(byId("model"), state.models.map((m) => m.name));
    showModel();
  } catch (error) {
    fail(error.message);
  }
}

start();
