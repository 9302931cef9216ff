/*
 * The drawing board: pen and keys put ink on it, and the networks say what they see.
 *
 * `page` is the data that mnist_minimal/page/report.py wrote. Of networks that compute alike it has the steps once.
 */

const page = JSON.parse(document.getElementById("data").textContent);
for (const network of page.networks) network.steps = page.chains[network.steps];

const element = Object.fromEntries(
  ["board", "clear", "network", "examples", "seen", "digit", "verdict", "probabilities", "answers", "layers"].map(
    (id) => [id, document.getElementById(id)]));

const state = {
  ink: bareInk(),
  example: null, // The pixels of the example on the board, if there is one; the first stroke takes it away.
  brush: [SIDE / 2 + CELL / 2, SIDE / 2 + CELL / 2], // Where the keys have moved the brush, in points of the ink.
  pen: null, // The last two points of the pen while it is down.
  waiting: false, // Whether the page will be brought up to date before the next frame.
  asked: 0, // How many images the networks were asked about; who is late with an answer to an earlier one gives none.
};

const PEN_RESTS = 120; // Milliseconds.

function chosenNetwork() {
  return page.networks[Number(element.network.value)];
}

/* The colour of ink on the light or the dark page, as numbers, which a canvas wants. */
function inkColor() {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  return [1, 3, 5].map((place) => parseInt(context.fillStyle.slice(place, place + 2), 16));
}

let ink = inkColor();

/* Paints values, 0 bare to 1 full ink, into a canvas of that many pixels. */
function paint(canvas, [rows, columns], values) {
  [canvas.height, canvas.width] = [rows, columns];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  values.forEach((value, index) => {
    picture.data.set(ink, 4 * index);
    picture.data[4 * index + 3] = 255 * value;
  });
  context.putImageData(picture, 0, 0);
  return canvas;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}\u00a0%`;
}

/* The weights of four pixels in a row at a point between the middle two: cubic B-spline's, which smooth. */
function splineWeights(share) {
  const other = 1 - share;
  return [other ** 3 / 6, 2 / 3 - share ** 2 + share ** 3 / 2, 2 / 3 - other ** 2 + other ** 3 / 2, share ** 3 / 6];
}

/* CELL times as many values along a row as it has pixels. */
function stretched(row) {
  return Float32Array.from({ length: SIDE }, (_, point) => {
    const place = (point + 0.5) / CELL - 0.5;
    const first = Math.floor(place);
    return splineWeights(place - first).reduce((sum, weight, index) => sum + weight * (row[first - 1 + index] ?? 0), 0);
  });
}

/* An image of 28 x 28 pixels, 0 .. 255, as ink with smooth edges, to look at. */
function smoothInk(pixels) {
  const rows = Array.from({ length: PIXELS }, (_, row) => stretched(pixels.slice(row * PIXELS, (row + 1) * PIXELS)));
  const columns = Array.from({ length: SIDE }, (_, column) => stretched(rows.map((row) => row[column])));
  return bareInk().map((_, index) => {
    const value = columns[index % SIDE][Math.floor(index / SIDE)] / 255;
    // What is about half as dark as can be is the edge.
    const share = Math.min(1, Math.max(0, (value - 0.28) / 0.2));
    return share * share * (3 - 2 * share);
  });
}

function showBoard() {
  const canvas = element.board;
  const side = Math.max(SIDE, Math.round(canvas.clientWidth * devicePixelRatio));
  const values = state.example ? smoothInk(state.example) : state.ink;
  const picture = paint(document.createElement("canvas"), [SIDE, SIDE], values);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, side, side);
  if (document.activeElement === canvas && !state.pen) {
    context.scale(side / SIDE, side / SIDE);
    context.strokeStyle = "#D55E00";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(...state.brush, PEN_RADIUS, 0, 2 * Math.PI);
    context.stroke();
  }
}

function byProbability(probabilities) {
  return Array.from(probabilities.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
}

function showProbabilities(probabilities, bare) {
  const order = byProbability(probabilities);
  element.digit.textContent = bare ? "?" : order[0];
  element.verdict.textContent = bare
    ? "Nothing drawn yet."
    : `Most probable: ${order[0]} (${percent(probabilities[order[0]])}), ` +
      `then ${order[1]} (${percent(probabilities[order[1]])}).`;
  element.probabilities.replaceChildren(...Array.from(probabilities, (probability, digit) => {
    const row = document.createElement("li");
    row.classList.toggle("most", !bare && digit === order[0]);
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.setProperty("--share", bare ? 0 : probability);
    row.append(`${digit}`, bar, bare ? "–" : percent(probability));
    return row;
  }));
}

/* One row a layer; an activation that follows a layer stands for both. */
function showLayers(steps) {
  const shown = steps.filter((step, index) => !["relu", "silu", "softmax"].includes(steps[index + 1]?.kind));
  element.layers.replaceChildren(...shown.map((step) => {
    const [low, high] = [Math.min(...step.data), Math.max(...step.data)];
    const row = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = `${step.layer}: ${step.shape.join(" × ")}, from ${low.toFixed(2)} to ${high.toFixed(2)}`;
    const pictures = document.createElement("div");
    pictures.setAttribute("role", "img");
    pictures.setAttribute("aria-label", `Output of ${step.layer}, its smallest value blank, its largest full ink`);
    // The values of a vector are pictures of one pixel.
    const depth = step.shape[step.shape.length - 1];
    const size = step.shape.length === 3 ? step.shape.slice(0, 2) : [1, 1];
    for (let channel = 0; channel < depth; channel++) {
      const values = step.data.filter((_, index) => index % depth === channel);
      const canvas = paint(
        document.createElement("canvas"), size, Array.from(values, (value) => (value - low) / (high - low || 1)));
      canvas.style.setProperty("--columns", size[1]);
      pictures.append(canvas);
    }
    row.append(caption, pictures);
    return row;
  }));
}

/* A small chart of each study's best network, filled in by `showAnswers`; a click puts the network on the board. */
const answers = page.networks.flatMap((network, index) => {
  if (!network.best) return [];
  const card = document.createElement("button");
  card.type = "button";
  card.className = "answer";
  const [name, bars, digit] = ["span", "span", "b"].map((tag) => document.createElement(tag));
  name.textContent = network.study;
  bars.className = "bars";
  bars.append(...Array.from({ length: 10 }, () => document.createElement("i")));
  card.append(name, bars, digit);
  card.addEventListener("click", () => choose(index));
  return [{ network, index, card, bars, digit }];
});

/*
 * What every study's best network makes of an image, one after the other. They begin when the pen rests for a moment,
 * so that it never waits for them.
 */
function showAnswers(image, bare) {
  const asked = ++state.asked;
  const chosen = Number(element.network.value);
  for (const { index, card } of answers) card.setAttribute("aria-pressed", index === chosen);
  const ask = ([first, ...others]) => {
    if (!first || asked !== state.asked) return;
    const probabilities = runNetwork(first.network, image).at(-1).data;
    const [most] = byProbability(probabilities);
    first.digit.textContent = bare ? "–" : most;
    first.card.setAttribute("aria-label", `${first.network.title}: ` +
      (bare ? "nothing drawn yet" : `${most}, ${percent(probabilities[most])}`));
    first.card.title = first.card.getAttribute("aria-label");
    first.bars.childNodes.forEach((bar, digit) => {
      bar.style.setProperty("--share", bare ? 0 : probabilities[digit]);
      bar.classList.toggle("most", !bare && digit === most);
    });
    setTimeout(ask, 0, others);
  };
  setTimeout(ask, state.pen ? PEN_RESTS : 0, answers);
}

/* Shows the ink, the image it gives, and what the networks make of that. */
function show() {
  // An example is taken as it is: it was prepared already, and to prepare it again may move it by a pixel.
  const image = state.example ?? imageOf(state.ink);
  const bare = image.every((pixel) => pixel === 0);
  const steps = runNetwork(chosenNetwork(), image);
  showBoard();
  paint(element.seen, [PIXELS, PIXELS], Array.from(image, (pixel) => pixel / 255));
  showProbabilities(steps[steps.length - 1].data, bare);
  showAnswers(image, bare);
  if (element.layers.closest("details").open) showLayers(steps);
}

/* Has everything shown before the next frame: a pen may move several times until then. */
function refresh() {
  if (state.waiting) return;
  state.waiting = true;
  requestAnimationFrame(() => {
    state.waiting = false;
    show();
  });
}

function clear() {
  state.ink = bareInk();
  state.example = null;
  refresh();
}

function showExample(pixels) {
  state.ink = inkOf(pixels);
  state.example = pixels;
  refresh();
}

/* Draws through points, each a stroke from the one before. */
function draw(points) {
  if (state.example) clear();
  points.forEach((point, index) => drawStroke(state.ink, points[Math.max(0, index - 1)], point));
  refresh();
}

/* Puts a network on the board. */
function choose(index) {
  element.network.value = index;
  refresh();
}

/* The place in `page.networks` of a trial's own network; else, of its study's best; -1 where there is neither. */
function networkOf(study, seeds) {
  const own = page.networks.findIndex((network) => network.study === study && seeds.includes(network.seed));
  return own >= 0 ? own : page.networks.findIndex((network) => network.study === study && network.best);
}

function pointOf(event) {
  const box = element.board.getBoundingClientRect();
  return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
}

function middleOf([x, y], [otherX, otherY]) {
  return [(x + otherX) / 2, (y + otherY) / 2];
}

function penDown(event) {
  if (event.button !== 0) return;
  element.board.setPointerCapture(event.pointerId);
  const point = pointOf(event);
  state.pen = [point, point];
  draw([point]);
}

function penMove(event) {
  if (!state.pen) return;
  // Between two frames a pen may have been in more places than the event's own.
  const events = event.getCoalescedEvents?.() ?? [];
  for (const one of events.length ? events : [event]) {
    const to = pointOf(one);
    draw(bend(...state.pen, to));
    state.pen = [state.pen[1], to];
  }
}

function penUp() {
  if (!state.pen) return;
  const [before, last] = state.pen;
  draw([middleOf(before, last), last]);
  state.pen = null;
}

const MOVES = { ArrowUp: [0, -CELL], ArrowDown: [0, CELL], ArrowLeft: [-CELL, 0], ArrowRight: [CELL, 0] };

function keyDown(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " ") {
    draw([state.brush]);
  } else if (event.key in MOVES) {
    const from = state.brush;
    state.brush = from.map((place, axis) =>
      Math.min(SIDE - CELL / 2, Math.max(CELL / 2, place + MOVES[event.key][axis])));
    if (event.shiftKey) draw([from, state.brush]);
    else refresh();
  } else {
    return;
  }
  event.preventDefault();
}

function addExample({ note, pixels }) {
  const bytes = bytesOf(pixels);
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `Example: ${note}`);
  button.title = note;
  const picture = document.createElement("canvas");
  button.append(picture);
  button.addEventListener("click", () => showExample(bytes));
  element.examples.append(button);
  return () => paint(picture, [PIXELS, PIXELS], Array.from(bytes, (pixel) => pixel / 255));
}

/* The networks by study, that of the best trial first. */
function listNetworks() {
  const groups = new Map();
  page.networks.forEach(({ title, seed, best, accuracy }, index) => {
    if (!groups.has(title)) groups.set(title, Object.assign(document.createElement("optgroup"), { label: title }));
    const name = `${title.split(",")[0]}, seed ${seed}${best ? " (best)" : ""}: ${(100 * accuracy).toFixed(2)}\u00a0%`;
    groups.get(title).append(new Option(name, index));
  });
  element.network.replaceChildren(...groups.values());
  element.network.value = 0;
}

function beginBoard() {
  element.board.addEventListener("pointerdown", penDown);
  element.board.addEventListener("pointermove", penMove);
  for (const ending of ["pointerup", "pointercancel"]) element.board.addEventListener(ending, penUp);
  element.board.addEventListener("keydown", keyDown);
  for (const change of ["focus", "blur"]) element.board.addEventListener(change, refresh);
  element.clear.addEventListener("click", clear);
  element.network.addEventListener("change", refresh);
  const details = element.layers.closest("details");
  if (matchMedia("(max-width: 42rem)").matches) details.open = false;
  details.addEventListener("toggle", refresh);
  addEventListener("resize", refresh);
  listNetworks();
  element.answers.append(...answers.map(({ card }) => card));
  const pictures = page.examples.map(addExample);
  const paintAll = () => {
    ink = inkColor();
    for (const picture of pictures) picture();
    refresh();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);
  if (page.examples.length) showExample(bytesOf(page.examples[0].pixels));
  paintAll();
}

if (element.board) beginBoard();

/* For whoever wants to ask a network from a program. */
window.mnistMinimal = {
  networks: page.networks,
  classify: (pixels, network = chosenNetwork()) => Array.from(runNetwork(network, pixels).at(-1).data),
  steps: (pixels, network = chosenNetwork()) => runNetwork(network, pixels),
  inkOf,
  imageOf,
};
