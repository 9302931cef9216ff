/*
 * Ink on paper, and what becomes of it before a network sees it.
 *
 * Ink is a Float32Array of SIDE x SIDE values, rows first, 0 where the paper is bare and 1 where it is black.
 */

const PIXELS = 28; // The side of MNIST's images.
const BOX = 20; // The side of the box that MNIST's digits were scaled to fit.
const CELL = 10; // The ink has this many points along each side of one of MNIST's pixels.
const SIDE = PIXELS * CELL;
const PEN_RADIUS = 11;

function bareInk() {
  return new Float32Array(SIDE * SIDE);
}

/* Draws a stroke with a round pen from one point to another, both in points of the ink, its edge one point soft. */
function drawStroke(ink, [startX, startY], [endX, endY]) {
  const reach = PEN_RADIUS + 1;
  const [top, bottom] = [Math.min(startY, endY) - reach, Math.max(startY, endY) + reach];
  const [left, right] = [Math.min(startX, endX) - reach, Math.max(startX, endX) + reach];
  const [alongX, alongY] = [endX - startX, endY - startY];
  const length = Math.hypot(alongX, alongY);
  for (let y = Math.max(0, Math.floor(top)); y < Math.min(SIDE, bottom); y++) {
    for (let x = Math.max(0, Math.floor(left)); x < Math.min(SIDE, right); x++) {
      const [fromX, fromY] = [x + 0.5 - startX, y + 0.5 - startY];
      // How far along the stroke its point nearest to this one lies, from 0 to 1.
      const share = length ? Math.min(1, Math.max(0, (fromX * alongX + fromY * alongY) / length ** 2)) : 0;
      const distance = Math.hypot(fromX - share * alongX, fromY - share * alongY);
      const value = Math.min(1, Math.max(0, PEN_RADIUS + 0.5 - distance));
      ink[y * SIDE + x] = Math.max(ink[y * SIDE + x], value);
    }
  }
}

/*
 * The part of a smooth stroke that three points in turn decide: from the middle of the first two to the middle of the
 * last two, bent towards the one between, as a list of points near to each other.
 */
function bend(before, between, after) {
  const middle = (one, other) => one.map((place, axis) => (place + other[axis]) / 2);
  const [start, end] = [middle(before, between), middle(between, after)];
  const pieces = Math.max(1, Math.ceil(Math.hypot(end[0] - start[0], end[1] - start[1]) / 4));
  return Array.from({ length: pieces + 1 }, (_, piece) => {
    const share = piece / pieces;
    return start.map((place, axis) =>
      (1 - share) ** 2 * place + 2 * share * (1 - share) * between[axis] + share ** 2 * end[axis]);
  });
}

/* The ink of an image of 28 x 28 pixels, 0 .. 255, each a square of one grey. */
function inkOf(pixels) {
  return bareInk().map((_, index) => {
    const [row, column] = [Math.floor(index / SIDE / CELL), Math.floor((index % SIDE) / CELL)];
    return pixels[row * PIXELS + column] / 255;
  });
}

/* The smallest box that holds all ink, or null where there is none. */
function boundsOf(ink) {
  const bounds = { top: SIDE, bottom: -1, left: SIDE, right: -1 };
  ink.forEach((value, index) => {
    if (value === 0) return;
    const [row, column] = [Math.floor(index / SIDE), index % SIDE];
    bounds.top = Math.min(bounds.top, row);
    bounds.bottom = Math.max(bounds.bottom, row);
    bounds.left = Math.min(bounds.left, column);
    bounds.right = Math.max(bounds.right, column);
  });
  return bounds.bottom < 0 ? null : bounds;
}

/*
 * For each of `count` equal parts of the stretch from `start` to `end`: the points that it covers, and how much of
 * each.
 */
function parts(start, end, count) {
  const width = (end - start) / count;
  return Array.from({ length: count }, (_, part) => {
    const [from, to] = [start + part * width, start + (part + 1) * width];
    const covered = [];
    for (let point = Math.floor(from); point < to; point++) {
      const share = Math.min(to, point + 1) - Math.max(from, point);
      if (share > 1e-9) covered.push({ point, share: share / width });
    }
    return covered;
  });
}

/*
 * An image of 28 x 28 pixels, 0 .. 255, made of ink as the images of MNIST were made: the drawing is scaled, its shape
 * kept, to fit a box of 20 x 20 pixels, each of them the mean grey of what it covers, and the box is placed so that the
 * drawing's centre of mass comes as near to the middle of the image as whole pixels allow. All 0 where there is no ink.
 * Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits".
 */
function imageOf(ink) {
  const image = new Float32Array(PIXELS * PIXELS);
  const bounds = boundsOf(ink);
  if (!bounds) return image;
  const [height, width] = [bounds.bottom + 1 - bounds.top, bounds.right + 1 - bounds.left];
  const scale = BOX / Math.max(height, width);
  const [rows, columns] = [height, width].map((side) => Math.max(1, Math.round(side * scale)));
  const vertical = parts(bounds.top, bounds.bottom + 1, rows);
  const horizontal = parts(bounds.left, bounds.right + 1, columns);
  const greys = vertical.map((down) => horizontal.map((across) => {
    let grey = 0;
    for (const y of down) {
      for (const x of across) grey += ink[y.point * SIDE + x.point] * y.share * x.share;
    }
    return grey;
  }));

  let [mass, momentY, momentX] = [0, 0, 0];
  greys.forEach((line, row) => line.forEach((grey, column) => {
    mass += grey;
    momentY += grey * (row + 0.5);
    momentX += grey * (column + 0.5);
  }));
  const place = (moment, size) => Math.min(PIXELS - size, Math.max(0, Math.round(PIXELS / 2 - moment / mass)));
  const [top, left] = [place(momentY, rows), place(momentX, columns)];
  greys.forEach((line, row) => line.forEach((grey, column) => {
    image[(top + row) * PIXELS + left + column] = Math.round(255 * grey);
  }));
  return image;
}
