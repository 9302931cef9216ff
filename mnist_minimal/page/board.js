/*
 * The drawing board: pen and keys put ink on it, and the chosen network says what it sees.
 *
 * `page` is the data that mnist_minimal/report.py wrote: {networks, examples}.
 */

const page = JSON.parse(document.getElementById("data").textContent);
const element = Object.fromEntries(
  ["board", "clear", "network", "examples", "seen", "verdict", "probabilities", "layers"].map((id) =>
    [id, document.getElementById(id)]));

const state = {
  ink: bareInk(),
  example: null, // The pixels of the example on the board, if there is one; the first stroke takes it away.
  brush: [SIDE / 2 + CELL / 2, SIDE / 2 + CELL / 2], // Where the keys have moved the brush, in points of the ink.
  pen: null, // Where the pen is while it is down.
  waiting: false, // Whether the page will be brought up to date before the next frame.
};

function chosenNetwork() {
  return page.networks[element.network.selectedIndex];
}

/* Paints values, 0 white to 1 black, into a canvas of that many pixels. */
function paint(canvas, [rows, columns], values) {
  [canvas.height, canvas.width] = [rows, columns];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  values.forEach((value, index) => {
    const place = 4 * index;
    picture.data[place] = picture.data[place + 1] = picture.data[place + 2] = 255 * (1 - value);
    picture.data[place + 3] = 255;
  });
  context.putImageData(picture, 0, 0);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}\u00a0%`;
}

function showBoard() {
  paint(element.board, [SIDE, SIDE], state.ink);
  if (document.activeElement === element.board && !state.pen) {
    const context = element.board.getContext("2d");
    context.strokeStyle = "#D55E00";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(...state.brush, PEN_RADIUS, 0, 2 * Math.PI);
    context.stroke();
  }
}

function showProbabilities(probabilities, bare) {
  const order = Array.from(probabilities.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
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
  const shown = steps.filter((step, index) => !["relu", "softmax"].includes(steps[index + 1]?.kind));
  element.layers.replaceChildren(...shown.map((step) => {
    const [low, high] = [Math.min(...step.data), Math.max(...step.data)];
    const row = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = `${step.layer}: ${step.shape.join(" × ")}, from ${low.toFixed(2)} to ${high.toFixed(2)}`;
    const pictures = document.createElement("div");
    pictures.setAttribute("role", "img");
    pictures.setAttribute("aria-label", `Output of ${step.layer}, its smallest value white, its largest black`);
    // The values of a vector are pictures of one pixel.
    const depth = step.shape[step.shape.length - 1];
    const size = step.shape.length === 3 ? step.shape.slice(0, 2) : [1, 1];
    for (let channel = 0; channel < depth; channel++) {
      const canvas = document.createElement("canvas");
      const values = step.data.filter((_, index) => index % depth === channel);
      paint(canvas, size, Array.from(values, (value) => (value - low) / (high - low || 1)));
      canvas.style.setProperty("--columns", size[1]);
      pictures.append(canvas);
    }
    row.append(caption, pictures);
    return row;
  }));
}

/* Shows the ink, the image it gives, and what the chosen network makes of that. */
function show() {
  // An example is taken as it is: it was prepared already, and to prepare it again may move it by a pixel.
  const image = state.example ?? imageOf(state.ink);
  const steps = runNetwork(chosenNetwork(), image);
  showBoard();
  paint(element.seen, [PIXELS, PIXELS], Array.from(image, (pixel) => pixel / 255));
  showProbabilities(steps[steps.length - 1].data, image.every((pixel) => pixel === 0));
  showLayers(steps);
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

function draw(from, to) {
  if (state.example) clear();
  drawStroke(state.ink, from, to);
  refresh();
}

function pointOf(event) {
  const box = element.board.getBoundingClientRect();
  return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
}

element.board.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  element.board.setPointerCapture(event.pointerId);
  state.pen = pointOf(event);
  draw(state.pen, state.pen);
});

element.board.addEventListener("pointermove", (event) => {
  if (!state.pen) return;
  const to = pointOf(event);
  draw(state.pen, to);
  state.pen = to;
});

for (const ending of ["pointerup", "pointercancel"]) {
  element.board.addEventListener(ending, () => {
    state.pen = null;
  });
}

const MOVES = { ArrowUp: [0, -CELL], ArrowDown: [0, CELL], ArrowLeft: [-CELL, 0], ArrowRight: [CELL, 0] };

element.board.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " ") {
    draw(state.brush, state.brush);
  } else if (event.key in MOVES) {
    const from = state.brush;
    state.brush = from.map((place, axis) =>
      Math.min(SIDE - CELL / 2, Math.max(CELL / 2, place + MOVES[event.key][axis])));
    if (event.shiftKey) draw(from, state.brush);
    else refresh();
  } else {
    return;
  }
  event.preventDefault();
});

element.board.addEventListener("focus", refresh);
element.board.addEventListener("blur", refresh);
element.clear.addEventListener("click", clear);
element.network.addEventListener("change", refresh);

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

page.examples.forEach(({ note, pixels }) => {
  const bytes = bytesOf(pixels);
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `Example: ${note}`);
  button.title = note;
  const picture = document.createElement("canvas");
  paint(picture, [PIXELS, PIXELS], Array.from(bytes, (pixel) => pixel / 255));
  button.append(picture);
  button.addEventListener("click", () => showExample(bytes));
  element.examples.append(button);
});

page.networks.forEach(({ title }) => element.network.add(new Option(title)));

if (page.examples.length) showExample(bytesOf(page.examples[0].pixels));
else refresh();

/* For whoever wants to ask a network from a program. */
window.mnistMinimal = {
  networks: page.networks,
  classify: (pixels, network = chosenNetwork()) => Array.from(runNetwork(network, pixels).at(-1).data),
  steps: (pixels, network = chosenNetwork()) => runNetwork(network, pixels),
  inkOf,
  imageOf,
};
