/*
 * What the charts are made of: elements of SVG, scales, ticks, labels that keep out of each other's way, and a tip.
 *
 * Charts are drawn in CSS pixels for the width that they have, and drawn again when that changes.
 */

/* An SVG element with attributes and children. */
function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function label(x, y, text, kind = "", anchor = "middle") {
  return svg("text", { x, y, class: kind, "text-anchor": anchor }, text);
}

/* The width of a text in a chart, in pixels. */
const textWidth = (() => {
  const context = document.createElement("canvas").getContext("2d");
  return (text) => {
    context.font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
    return context.measureText(text).width;
  };
})();

/* A linear map from one pair of numbers to another. */
function scale([from, to], [low, high]) {
  return (value) => low + (value - from) / (to - from || 1) * (high - low);
}

/* Round numbers in a range, about as many as wanted. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

/* 1, 2 and 5 times powers of ten in a range. */
function logTicks(low, high) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const factor of [1, 2, 5]) if (factor * power >= low && factor * power <= high) found.push(factor * power);
  }
  return found;
}

/* A power of ten as 10 with its exponent. */
function powerOfTen(exponent) {
  const digits = String(Math.abs(exponent)).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/* An accuracy in per cent with as many decimals as tell ticks apart that are so far from each other. */
function tickPercent(value, step) {
  const decimals = Math.max(0, Math.ceil(-Math.log10(100 * step) - 1e-9));
  return `${(100 * value).toFixed(decimals)}\u00a0%`;
}

/*
 * Places for things of given widths, in order, that do not overlap and lie as near to where they belong as least
 * squares allow, within [low, high] where they fit: neighbours that collide become a block around their mean.
 */
function spread(places, widths, low, high) {
  const blocks = [];
  places.forEach((place, index) => {
    blocks.push({ members: [index], width: widths[index], start: place - widths[index] / 2 });
    for (let last = blocks.length - 1; last > 0; last--) {
      const [left, right] = [blocks[last - 1], blocks[last]];
      if (left.start + left.width <= right.start) break;
      const count = left.members.length + right.members.length;
      // Where the block would start if each of its members alone were to lie where it belongs.
      const start = (left.start * left.members.length + (right.start - left.width) * right.members.length) / count;
      const members = [...left.members, ...right.members];
      blocks.splice(last - 1, 2, { members, width: left.width + right.width, start });
    }
  });
  const found = [];
  let end = low;
  const total = widths.reduce((sum, width) => sum + width, 0);
  let left = total;
  for (const block of blocks) {
    let at = Math.max(end, Math.min(block.start, high - left));
    for (const member of block.members) {
      found[member] = at + widths[member] / 2;
      at += widths[member];
      left -= widths[member];
    }
    end = at;
  }
  return found;
}

const tip = document.getElementById("tip");

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.flatMap((text, index) => {
    const row = document.createElement(index ? "div" : "b");
    row.textContent = text;
    return [row];
  }));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x - box.width / 2), document.documentElement.clientWidth - box.width - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${y - box.height - 14 > 4 ? y - box.height - 14 : y + 18}px`;
}

function hideTip() {
  tip.hidden = true;
}

/*
 * Lets a pointer find the nearest of some points in a chart.
 *
 * `points` are {x, y, tip: lines of text, mark: an element to highlight, act: what a click does, if anything}; with a
 * finger the first tap shows the tip and the second one acts.
 */
function pointing(plot, points, reach = 18) {
  let current = null;
  const nearest = (event) => {
    const box = plot.firstChild.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [found, least] = [null, reach];
    for (const point of points) {
      const distance = Math.hypot(point.x - x, point.y - y);
      if (distance < least) [found, least] = [point, distance];
    }
    return [found, box];
  };
  const leave = () => {
    current?.mark?.classList.remove("pointed");
    current = null;
    plot.style.cursor = "";
    hideTip();
  };
  const point = (event) => {
    const [found, box] = nearest(event);
    if (found !== current) leave();
    if (!found) return;
    current = found;
    found.mark?.classList.add("pointed");
    plot.style.cursor = found.act ? "pointer" : "";
    showTip(found.tip, box.left + found.x, box.top + found.y);
  };
  plot.onpointermove = point;
  plot.onpointerleave = leave;
  plot.onclick = (event) => {
    const [found] = nearest(event);
    const again = event.pointerType !== "touch" || plot.touched === found;
    plot.touched = found;
    point(event);
    if (found?.act && again) {
      leave();
      found.act();
    }
  };
}

/*
 * Draws a chart into its place, now and whenever its width changes; gives a function that draws it again.
 * `height(width)` is its height, `draw(root, width, height, plot)` fills its SVG element.
 */
function chart(id, height, draw) {
  const plot = document.getElementById(id);
  let drawn = 0;
  const redraw = () => {
    const width = plot.clientWidth;
    if (!width) return;
    drawn = width;
    const tall = height(width);
    const root = svg("svg", { width, height: tall, viewBox: `0 0 ${width} ${tall}`, "aria-hidden": "true" });
    plot.replaceChildren(root);
    draw(root, width, tall, plot);
  };
  redraw();
  new ResizeObserver(() => {
    if (plot.clientWidth !== drawn) redraw();
  }).observe(plot);
  return redraw;
}
