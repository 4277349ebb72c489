// Sends a picture to the server that this page came from, and draws what comes back.
"use strict";

const $ = (id) => document.getElementById(id);

const TOP = 5;
// As on the server's own overlays: hue is the sign, opacity the size.
const TINTS = [[-1, [0, 60, 170]], [-0.25, [20, 110, 240]], [0.25, [245, 40, 30]], [1, [180, 0, 20]]];
// Of sizes, which are neither for nor against.
const SIZES = [[0, [170, 110, 225]], [1, [95, 15, 150]]];
const PERCENTILE = 0.995;
const RETRY = 2000; // milliseconds
const GAMMA = 0.85;

const NARROW = matchMedia("(max-width: 820px)");

const state = {
  about: null, // the server's description of the model
  file: null, // the chosen picture
  target: null, // the class that was asked for; null is the predicted one
  answer: null, // the latest, and the class that had been asked for: {answer, target}
  shown: null, // {pixels, values, signed, width, height}: what is on the canvases
  asked: 0, // the number of the latest question: answers to others are late
};

// ------------------------------------------------------------------ asking

async function answerOf(response) {
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`The server's answer could not be read (${response.status}).`);
  }
  if (!response.ok) throw new Error(kindly(response.status, answer.error || response.statusText));
  return answer;
}

function kindly(status, reason) {
  if (status === 413) return `This file is too large: ${reason}.`;
  if (status === 429) return "The server is busy. Please try again in a moment.";
  if (status === 503) return `Not now: ${reason}. Please try again in a moment.`;
  if (status === 504) return `That took too long: ${reason}. A cheaper method may do.`;
  return `The server could not explain this: ${reason}.`;
}

async function connect() {
  const models = await answerOf(await fetch("v1/models"));
  const name = models.models[0];
  state.about = await answerOf(await fetch(`v1/models/${name}/metadata`));
  const { methods, class_names: names, size, classes } = state.about;
  document.title = `${name} · pyxai_fast`;
  const parts = [name];
  if (size) parts.push(`${size[0]} × ${size[1]}`);
  if (classes > 1) parts.push(`${classes} classes`);
  $("model").textContent = parts.join("  ·  ");
  $("method").replaceChildren(...methods.map((each) => new Option(words(each), each)));
  $("sample").hidden = !state.about.sample;
  if (names) {
    $("names").replaceChildren(...names.map((each) => new Option(each)));
  }
}

/** Again and again, until the server is there. */
async function connected() {
  for (;;) {
    try {
      await connect();
      problem(null);
      return;
    } catch (error) {
      problem(error);
      await new Promise((resume) => setTimeout(resume, RETRY));
    }
  }
}

async function explain() {
  if (!state.file || !state.about) return;
  const number = ++state.asked;
  const query = new URLSearchParams({
    method: $("method").value, top: TOP, format: "float32_b64,picture",
  });
  if (state.target !== null) query.set("target", state.target);
  busy(true);
  try {
    const response = await fetch(`v1/models/${state.about.name}:explain?${query}`, {
      method: "POST",
      body: state.file,
      headers: { "Content-Type": state.file.type || "image/unknown" },
    });
    const answer = (await answerOf(response)).explanations[0];
    if (number !== state.asked) return;
    await show(answer);
    state.answer = { answer, target: state.target };
    problem(null);
  } catch (error) {
    if (number === state.asked) refused(error);
  } finally {
    if (number === state.asked) busy(false);
  }
}

function take(file) {
  if (!file) return;
  if (state.about && file.size > state.about.limits.body) {
    problem(new Error(`This file is too large: at most ${sizeOf(state.about.limits.body)}.`));
    return;
  }
  state.file = file;
  state.target = state.answer = null;
  $("search").value = "";
  $("drop-text").replaceChildren(text("b", file.name), document.createElement("br"),
    "choose or drop another");
  // Where the result is below what was chosen it would not be seen.
  if (NARROW.matches) document.querySelector(".result").scrollIntoView();
  explain();
}

// ------------------------------------------------------------------ showing

async function show(answer) {
  const { b64, shape } = answer.attributions;
  const [channels, height, width] = shape;
  const values = signedSum(floatsOf(b64), channels, height * width);
  const pixels = await pixelsOf(answer.picture.b64, width, height);
  const signed = values.some((value) => value < 0);
  state.shown = { pixels, values: scaled(smoothed(values, width, height)), signed, width, height };
  $("empty").hidden = true;
  $("explanation").hidden = false;
  $("low").textContent = signed ? "against" : "weak";
  $("high").textContent = signed ? "for" : "strong";
  for (const radio of document.querySelectorAll("input[name=sign]")) {
    radio.disabled = !signed && radio.value !== "both";
  }
  if (!signed) document.querySelector("input[name=sign][value=both]").checked = true;
  drawPicture();
  drawOverlay();
  drawBar(signed);
  const caption = `${words(answer.method)} for ${short(answer.class_name || "the output")}`;
  $("caption").textContent = $("said").textContent = caption;
  $("overlay").setAttribute("aria-label", `${caption}, over the picture`);
  $("class-name").textContent = answer.class_name || "–";
  $("probability").textContent = answer.probability === null ? "–" : percent(answer.probability);
  $("delta").textContent = answer.delta === null ? "not promised" : figure(answer.delta);
  $("gradients").textContent = answer.cost.gradients.toLocaleString("en");
  $("queries").textContent = answer.cost.queries.toLocaleString("en");
  $("milliseconds").textContent = `${figure(answer.cost.milliseconds)} ms`;
  showClasses(answer);
}

function showClasses(answer) {
  const top = answer.top || [];
  const shown = top.some((each) => each.target === answer.target) || answer.target === null
    ? top
    : [...top, answer];
  $("search-box").hidden = !top.length || top.length >= (state.about.classes || Infinity);
  if (!shown.length) {
    $("classes").replaceChildren(text("p", "This model has one output.", "quiet hint"));
    return;
  }
  const focused = document.activeElement && document.activeElement.name === "class";
  $("classes").replaceChildren(...shown.map((each) => choice(each, each.target === answer.target)));
  if (focused) $("classes").querySelector("input:checked")?.focus();
}

function choice({ target, class_name: name, probability }, chosen) {
  const label = document.createElement("label");
  label.className = chosen ? "choice chosen" : "choice";
  const radio = document.createElement("input");
  Object.assign(radio, { type: "radio", name: "class", value: target, checked: chosen });
  radio.addEventListener("change", () => choose(target));
  const bar = document.createElement("progress");
  Object.assign(bar, { max: 1, value: probability });
  bar.setAttribute("aria-hidden", "true");
  const named = text("span", short(name), "name");
  named.title = name;
  label.append(radio, named, text("span", percent(probability)), bar);
  return label;
}

function choose(target) {
  state.target = target;
  explain();
}

/** What is shown is what was asked before, and that is what may be asked again. */
function refused(error) {
  if (state.answer) {
    state.target = state.answer.target;
    showClasses(state.answer.answer);
  }
  problem(error);
}

function problem(error) {
  $("error").hidden = !error;
  $("explanation").classList.toggle("stale", Boolean(error)); // it belongs to what was asked before
  $("error").textContent = !error ? ""
    : error instanceof TypeError ? "The server cannot be reached." : error.message;
}

function busy(is) {
  $("busy").hidden = !is;
  document.querySelector(".result").setAttribute("aria-busy", is);
}

// ------------------------------------------------------------------ numbers

function floatsOf(b64) {
  const bytes = Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function signedSum(values, channels, area) {
  const sum = new Float32Array(area);
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0; i < area; i++) {
      const value = values[channel * area + i];
      if (Number.isFinite(value)) sum[i] += value;
    }
  }
  return sum;
}

/** Blurred where neighbours of opposite sign would mix to grey: 2 pixels at 224. */
function smoothed(values, width, height) {
  const longer = Math.max(width, height);
  if (longer <= 64) return values;
  const sigma = longer / 112;
  const radius = Math.ceil(3 * sigma);
  const kernel = Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.exp(-0.5 * ((i - radius) / sigma) ** 2));
  const total = kernel.reduce((a, b) => a + b);
  const pass = (from, length, step, lines, lineStep) => {
    const to = new Float32Array(from.length);
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < length; i++) {
        let sum = 0;
        for (let k = -radius; k <= radius; k++) {
          const at = Math.min(length - 1, Math.max(0, i + k));
          sum += kernel[k + radius] * from[line * lineStep + at * step];
        }
        to[line * lineStep + i * step] = sum / total;
      }
    }
    return to;
  };
  return pass(pass(values, width, 1, height, width), height, width, width, 1);
}

/** To [-1, 1], so that a few outliers do not leave the rest invisible. */
function scaled(values) {
  const sizes = Float32Array.from(values, Math.abs).sort();
  const top = sizes[Math.round(PERCENTILE * (sizes.length - 1))] || sizes[sizes.length - 1] || 1;
  return values.map((value) => Math.max(-1, Math.min(1, value / top)));
}

function tint(value, tints) {
  let i = 1;
  while (i < tints.length - 1 && value > tints[i][0]) i++;
  const [[from, a], [to, b]] = [tints[i - 1], tints[i]];
  const part = Math.max(0, Math.min(1, (value - from) / (to - from)));
  return a.map((channel, c) => channel + part * (b[c] - channel));
}

function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
}

function figure(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    return value.toExponential(1).replace("-", "−").replace("e-", "e−");
  }
  return Number(value.toPrecision(3)).toString().replace("-", "−");
}

function sizeOf(bytes) {
  return `${Number((bytes / 2 ** 20).toPrecision(2))} MB`;
}

function short(name) {
  const first = String(name).split(",")[0].trim();
  return first.length > 40 ? `${first.slice(0, 39)}…` : first;
}

function words(method) {
  const spaced = method.replaceAll("_", " ").replace(/\big\b/, "IG");
  return spaced[0].toUpperCase() + spaced.slice(1);
}

function text(tag, content, kind = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = kind;
  return element;
}

// ------------------------------------------------------------------ drawing

async function pixelsOf(b64, width, height) {
  const bytes = Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

function contextOf(id, width, height) {
  const canvas = $(id);
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle("crisp", Math.max(width, height) <= 96);
  return canvas.getContext("2d");
}

function drawPicture() {
  const { pixels, width, height } = state.shown;
  contextOf("picture", width, height).putImageData(new ImageData(pixels, width, height), 0, 0);
}

function drawOverlay() {
  if (!state.shown) return;
  const { pixels, values, signed, width, height } = state.shown;
  const opacity = $("opacity").value / 100;
  const sign = document.querySelector("input[name=sign]:checked").value;
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    const at = 4 * i;
    const hidden = (sign === "positive" && values[i] < 0) || (sign === "negative" && values[i] > 0);
    const alpha = hidden ? 0 : opacity * Math.abs(values[i]) ** GAMMA;
    const grey = 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
    // Neither black nor white: both colours must show on every part of the picture.
    const base = 0.42 * 255 + 0.53 * grey;
    const colour = tint(values[i], signed ? TINTS : SIZES);
    for (let c = 0; c < 3; c++) image.data[at + c] = base * (1 - alpha) + colour[c] * alpha;
    image.data[at + 3] = 255;
  }
  contextOf("overlay", width, height).putImageData(image, 0, 0);
}

function drawBar(signed) {
  const width = 256;
  const image = new ImageData(width, 1);
  for (let i = 0; i < width; i++) {
    const value = signed ? (2 * i) / (width - 1) - 1 : i / (width - 1);
    const alpha = 0.9 * Math.abs(value) ** GAMMA;
    tint(value, signed ? TINTS : SIZES).forEach((channel, c) => {
      image.data[4 * i + c] = 0.8 * 255 * (1 - alpha) + channel * alpha;
    });
    image.data[4 * i + 3] = 255;
  }
  $("bar").getContext("2d").putImageData(image, 0, 0);
}

// ------------------------------------------------------------------ what the user does

function chooseNamed() {
  const wanted = $("search").value.trim();
  if (!wanted) return;
  const names = state.about.class_names || [];
  const known = names.indexOf(wanted);
  if (known >= 0) choose(known);
  else choose(wanted); // the server knows synonyms, and says what is wrong with it
}

$("file").addEventListener("click", () => { $("file").value = ""; }); // the same one may come again
$("file").addEventListener("change", () => take($("file").files[0]));
$("method").addEventListener("change", explain);
$("search").addEventListener("change", chooseNamed);
$("opacity").addEventListener("input", drawOverlay);
for (const radio of document.querySelectorAll("input[name=sign]")) {
  radio.addEventListener("change", drawOverlay);
}
$("sample").addEventListener("click", async () => {
  try {
    const data = await (await fetch("digit.png")).blob();
    take(new File([data], "a handwritten digit", { type: "image/png" }));
  } catch (error) {
    problem(error);
  }
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));

connected().then(explain);
