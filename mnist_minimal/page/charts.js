/*
 * The three charts: all networks by their parameters, the trials of one as a strip of dots, and how they trained.
 *
 * Their numbers are those of mnist_minimal/page/charts.py; a dot is [accuracy, trials, seeds].
 */

function countOf(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function seedsOf(count, seeds) {
  if (!seeds.length) return countOf(count, "trial");
  if (count === 1) return `seed ${seeds[0]}`;
  return `${countOf(count, "trial")}: seeds ${seeds.join(", ")}${count > seeds.length ? ", ..." : ""}`;
}

/* What a click on some trials does: their network goes on the board. Nothing where there is no board, or no network. */
function actOf(study, seeds) {
  const index = element.board && study ? networkOf(study, seeds) : -1;
  if (index < 0) return {};
  const { seed } = page.networks[index];
  return {
    hint: seeds.includes(seed) ? `click: seed ${seed} on the board` : `click: the best, seed ${seed}, on the board`,
    act() {
      choose(index);
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      document.getElementById("draw").scrollIntoView({ behavior: still ? "auto" : "smooth" });
    },
  };
}

function exact(accuracy) {
  return `${(100 * accuracy).toFixed(2)}\u00a0%`;
}

/* Horizontal lines at round accuracies with their names, that of the target stronger, where it lies in the range. */
function accuracyLines(root, y, [low, high], [left, right], count, target) {
  const marks = ticks(low, high, count);
  if (target > low && target < high && marks.every((mark) => Math.abs(y(mark) - y(target)) > 14)) marks.push(target);
  for (const mark of marks) {
    root.append(line(left, y(mark), right, y(mark), "grid"),
      label(left - 8, y(mark) + 4, tickPercent(mark, marks[1] - marks[0] || 0.01), "tick", "end"));
  }
  if (target > low && target < high) root.append(line(left, y(target), right, y(target), "target"));
}

function drawPlane(root, width, height, plot) {
  const { target, models } = page.plane;
  const wide = models.reduce((sum, { name }) => sum + textWidth(name) + 16, 0) <= width - 20;
  const longest = Math.max(...models.map(({ name }) => textWidth(name)));
  const names = wide ? 22 : longest + 12;
  const [left, right, top, bottom] = [62, width - 12, names + 34, height - 44];
  const params = models.map((model) => model.params);
  const [fewest, most] = [Math.min(...params) / 1.4, Math.max(...params) * 1.4];
  const x = (count) => scale([Math.log(fewest), Math.log(most)], [left, right])(Math.log(count));
  const accuracies = models.flatMap(({ studies = [], published }) => [
    ...studies.flatMap(({ dots, interval }) => [...dots.map(([accuracy]) => accuracy), ...(interval ?? [])]),
    ...published.map(({ accuracy }) => accuracy),
  ]);
  const room = 0.04 * (Math.max(...accuracies) - Math.min(...accuracies) || 0.01);
  const range = [Math.min(...accuracies) - room, Math.max(...accuracies) + room];
  const y = scale(range, [bottom, top]);

  accuracyLines(root, y, range, [left, right], height > 420 ? 8 : 6, target);
  let before = 0;
  for (const tick of logTicks(fewest, most)) {
    const text = tick.toLocaleString("en");
    root.append(line(x(tick), bottom, x(tick), bottom + 4, "axis"));
    if (x(tick) - textWidth(text) / 2 < before) continue;
    root.append(label(x(tick), bottom + 18, text, "tick"));
    before = x(tick) + textWidth(text) / 2 + 8;
  }
  root.append(line(left, bottom, right, bottom, "axis"),
    label((left + right) / 2, height - 4, "trainable parameters", "tick"));

  const widths = models.map(({ name }) => (wide ? textWidth(name) + 14 : 17));
  const places = spread(params.map(x), widths, wide ? 2 : left - 12, width - 2);
  const points = [];
  const above = svg("g");
  models.forEach(({ name, params: count, studies = [], published }, index) => {
    const [place, at] = [places[index], x(count)];
    const text = label(wide ? place : place + 4, wide ? 15 : names - 6, name, "name", wide ? "middle" : "start");
    if (!wide) text.setAttribute("transform", `rotate(-90 ${place + 4} ${names - 6})`);
    root.append(text, svg("polyline", {
      points: `${place},${names} ${place},${names + 5} ${at},${top - 8} ${at},${bottom}`, class: "leader" }));
    for (const { study, measure, n, mean, interval, dots } of studies) {
      for (const [accuracy, trials, seeds] of dots) {
        const mark = svg("circle", {
          cx: at, cy: y(accuracy), r: 4.5, class: "dot", "fill-opacity": Math.min(0.95, 0.5 + 0.1 * (trials - 1)) });
        root.append(mark);
        const { act, hint } = actOf(study, seeds);
        points.push({ x: at, y: y(accuracy), mark, act, tip: [
          `${study}, ${seedsOf(trials, seeds)}`, `${measure}: ${exact(accuracy)}`, ...(hint ? [hint] : [])] });
      }
      const note = [`${study}, mean of ${countOf(n, "trial")}`, `${measure}: ${(100 * mean).toFixed(3)}\u00a0%`];
      above.append(line(at + 7, y(mean), at + 17, y(mean), "mean"));
      if (interval) above.append(line(at + 12, y(interval[0]), at + 12, y(interval[1]), "interval"));
      const { act, hint } = actOf(study, []);
      points.push({ x: at + 12, y: y(mean), act, tip: [...note, ...(hint ? [hint] : [])] });
    }
    for (const { accuracy, of, note } of published) {
      const [cx, cy, size] = [at, y(accuracy), of === "mean" ? 5 : 6];
      const mark = of === "mean"
        ? svg("rect", { x: cx - size, y: cy - size, width: 2 * size, height: 2 * size, class: "published" })
        : svg("path", {
          d: `M${cx} ${cy - size}l${size} ${size}l${-size} ${size}l${-size} ${-size}z`, class: "published" });
      above.append(mark);
      const { act, hint } = actOf(studies[0]?.study, []);
      points.push({ x: cx, y: cy, mark, act, tip: [`${name}, published`, note, ...(hint ? [hint] : [])] });
    }
  });
  root.append(above);
  pointing(plot, points);
}

/* Where the slider stands: the number of trials of which the best is marked. */
let bestOf = 10;

/*
 * Where the strip's parts lie at a width: each row's height follows its tallest stack of dots. Where the dots of the
 * tallest would be smaller than two pixels, bars stand for them.
 */
function stripLayout(width) {
  const { target, rows } = page.strip;
  const accuracies = rows.flatMap(({ dots }) => dots.map(([accuracy]) => accuracy));
  const [lowest, highest] = [Math.min(...accuracies), Math.max(...accuracies)];
  const near = target > highest && target - highest < highest - lowest ? target : highest;
  const room = 0.03 * (near - lowest || 0.01);
  const range = [lowest - room, near + room];
  const [left, right] = [12, width - 12];
  const x = scale(range, [left, right]);
  const gaps = rows.flatMap(({ dots }) => dots.slice(1).map(([accuracy], index) => accuracy - dots[index][0]));
  const step = gaps.length ? x(range[0] + Math.min(...gaps.filter((gap) => gap > 1e-9))) - left : 8;
  const stacks = rows.map(({ dots }) => Math.max(...dots.map(([, trials]) => trials)));
  const size = Math.min(0.96 * step, 9, 150 / Math.max(...stacks));
  const asBars = size < 2;
  const spaces = stacks.map((stack) => (asBars ? 110 : Math.max(24, size * stack)));
  const bases = [];
  let foot = 0;
  for (const space of spaces) {
    bases.push(foot + 60 + space);
    foot += space + 80;
  }
  return { range, x, left, right, step, size, asBars, spaces, bases, foot };
}

function drawStrip(root, width, height, plot) {
  const { target, rows } = page.strip;
  const { range, x, left, right, step, size, asBars, spaces, bases, foot } = stripLayout(width);
  const marks = ticks(...range, width / 80);
  for (const mark of marks) {
    root.append(line(x(mark), 0, x(mark), foot, "grid"),
      label(x(mark), height - 6, tickPercent(mark, marks[1] - marks[0] || 0.01), "tick"));
  }
  if (target > range[0] && target < range[1]) root.append(line(x(target), 0, x(target), foot, "target"));
  const points = [];
  rows.forEach(({ name, study, n, mean, sd, dots, best }, place) => {
    const [base, space, kind] = [bases[place], spaces[place], study ? "dot" : "published"];
    const measure = name.split(", ").at(-1);
    root.append(label(left, base - space - 42, name, "name", "start"),
      label(left, base - space - 27, `${countOf(n, "trial")}, mean ${(100 * mean).toFixed(3)}\u00a0%` +
        (sd ? `, sd ${(100 * sd).toFixed(3)}` : ""), "tick", "start"),
      line(left, base, right, base, "axis"));
    if (sd) root.append(line(x(mean - sd), base + 6, x(mean + sd), base + 6, `spread ${kind}`));
    root.append(svg("path", { d: `M${x(mean)} ${base + 1}l5 10h-10z`, class: `middle ${kind}` }));
    const tallest = Math.max(...dots.map(([, trials]) => trials));
    let below = 0;
    for (const [accuracy, trials, seeds] of dots) {
      below += trials;
      const share = `${(100 * below / n).toFixed(0)}\u00a0% of these are at or below`;
      const add = (mark, y, { act, hint }, ...lines) => {
        root.append(mark);
        points.push({ x: x(accuracy), y, mark, act, tip: [...lines, share, ...(hint ? [hint] : [])] });
      };
      if (asBars) {
        const [tall, wide] = [trials / tallest * space, Math.max(1, 0.9 * step)];
        add(svg("rect", { x: x(accuracy) - wide / 2, y: base - tall, width: wide, height: tall, class: `bin ${kind}` }),
          base - tall / 2, actOf(study, seeds), `${measure}: ${exact(accuracy)}`, seedsOf(trials, seeds));
        continue;
      }
      for (let one = 0; one < trials; one++) {
        // Each dot is one trial, as long as its seed is known.
        const its = seeds.length > one ? [seeds[one]] : [];
        const y = base - size * (one + 0.5) - 1;
        add(svg("circle", { cx: x(accuracy), cy: y, r: Math.max(1, 0.46 * size), class: kind }),
          y, actOf(study, its.length ? its : seeds),
          its.length ? `${study}, ${seedsOf(1, its)}` : name, `${measure}: ${exact(accuracy)}`);
      }
    }
    const found = best.find(([k]) => k === bestOf);
    if (found) {
      const at = x(found[1]);
      root.append(line(at, base - space - 18, at, base, "best"),
        label(at - 6, base - space - 8, `best of ${bestOf}: ${(100 * found[1]).toFixed(3)}\u00a0%`, "best",
          at > width / 2 ? "end" : "start"));
    }
  });
  pointing(plot, points, 14);
}

function sayBestOf() {
  document.getElementById("size-shown").textContent = bestOf;
  document.getElementById("best-of-answer").textContent = page.strip.rows.map(({ name, n, best }) => {
    const found = best.find(([k]) => k === bestOf);
    return `${name}: ${found ? `${(100 * found[1]).toFixed(3)}\u00a0%` : `there are only ${n} trials`}`;
  }).join("; ") + ".";
}

function beginSlider(redraw) {
  const { sizes } = page.strip;
  const input = document.getElementById("size");
  if (sizes.length < 2) return;
  input.max = sizes.length - 1;
  const start = sizes.findIndex((k) => k >= Math.min(10, page.strip.rows[0].n));
  input.value = start < 0 ? sizes.length - 1 : start;
  const update = () => {
    bestOf = sizes[Number(input.value)];
    input.setAttribute("aria-valuetext", `${bestOf}`);
    sayBestOf();
    redraw();
  };
  input.addEventListener("input", update);
  document.getElementById("best-of").hidden = false;
  update();
}

/* The learning rates of runs by epoch below their curves, on a logarithmic scale; gives a run's line there. */
function rateLines(root, runs, x, [left, right], [top, bottom]) {
  const rates = runs.flatMap((run) => run.rates.map(([, rate]) => rate)).filter((rate) => rate > 0);
  const [least, most] = rates.length ? [Math.min(...rates), Math.max(...rates)] : [1, 1];
  const logarithmic = scale([Math.log(least), Math.log(most)], [bottom, top]);
  const y = (rate) => logarithmic(Math.log(Math.max(rate, least)));
  const decades = [];
  for (let power = Math.ceil(Math.log10(least)); power <= Math.log10(most) + 1e-9; power++) decades.push(power);
  const every = Math.ceil(decades.length / 3);
  for (const power of decades.filter((_, index) => index % every === 0)) {
    root.append(line(left, y(10 ** power), right, y(10 ** power), "grid"),
      label(left - 8, y(10 ** power) + 4, powerOfTen(power), "tick", "end"));
  }
  root.append(label(left, top - 10, "learning rate", "tick", "start"));
  return (run) => run.rates.map(([epoch, rate], index) => {
    // A rate holds for the whole epoch, so that it changes between two of them.
    const at = x(index ? epoch - 0.5 : epoch).toFixed(1);
    return index ? `H${at}V${y(rate).toFixed(1)}` : `M${at} ${y(rate).toFixed(1)}`;
  }).join("") + `H${x(run.epochs.at(-1)).toFixed(1)}`;
}

/* The runs of a study by what they are: all but two pale, then that of the best kept model, then the median one. */
function rankedRuns({ median, best, runs }) {
  const kinds = runs.map((run) => [run.seed === median ? "bold" : run.seed === best ? "finest" : "pale", run]);
  return ["pale", "finest", "bold"].flatMap((wanted) => kinds.filter(([kind]) => kind === wanted));
}

function drawCurves(root, width, height, plot) {
  const { monitored, training, runs } = page.curves;
  const ranked = rankedRuns(page.curves);
  const [, bold] = ranked.at(-1);
  const highest = (run) => exact(Math.max(...run.accuracy));
  const named = ranked.filter(([kind]) => kind !== "pale").map(([kind, run]) => {
    const name = kind === "bold" ? "median" : "best kept model";
    return [kind, `${name}, seed ${run.seed}: ${highest(run)}`, run.epochs.at(-1), run.accuracy.at(-1)];
  });
  named.push(["training", "training accuracy of the median", bold.epochs.at(-1), training.at(-1)]);
  named.sort(([, , , one], [, , , other]) => other - one);

  const wide = width > 640;
  const names = Math.max(...named.map(([, text]) => textWidth(text)));
  const [left, right, top, bottom] = [62, width - (wide ? names + 16 : 12), 26, height - 142];
  const x = scale([1, Math.max(2, ...runs.map(({ epochs }) => epochs.at(-1)))], [left, right]);
  // The first epochs are far below all others and would flatten what matters.
  const early = Math.max(0, Math.min(bold.accuracy.length - 2, Math.max(2, Math.round(0.08 * bold.accuracy.length))));
  const low = Math.min(bold.accuracy[early], training[early]) - 0.002;
  const high = Math.max(...runs.flatMap(({ accuracy }) => accuracy), ...training);
  const range = [low, high + 0.03 * (high - low)];
  const y = scale(range, [bottom, top]);
  accuracyLines(root, y, range, [left, right], 6, page.strip.target);
  root.append(label(left, 12, `accuracy on the ${monitored}`, "tick", "start"));
  const rateLine = rateLines(root, runs, x, [left, right], [height - 112, height - 44]);
  const last = Math.max(...runs.map(({ epochs }) => epochs.at(-1)));
  const whole = (tick) => Math.abs(tick - Math.round(tick)) < 1e-6;
  for (const epoch of ticks(1, last, Math.min(last, width / 90)).filter(whole)) {
    root.append(label(x(epoch), height - 24, Math.round(epoch), "tick"));
  }
  root.append(line(left, height - 40, right, height - 40, "axis"),
    label((left + right) / 2, height - 4, "epoch", "tick"));

  const clip = svg("rect", { x: left, y: top, width: right - left, height: bottom - top });
  const clipped = svg("g", { "clip-path": "url(#curves-clip)" });
  root.append(svg("clipPath", { id: "curves-clip" }, clip), clipped);
  const points = [];
  const curve = (epochs, accuracy, kind) => svg("polyline", { class: `curve ${kind}`, points: epochs
    .map((epoch, index) => `${x(epoch).toFixed(1)},${y(accuracy[index]).toFixed(1)}`).join(" ") });
  for (const [kind, run] of ranked) {
    const mark = curve(run.epochs, run.accuracy, kind);
    clipped.append(mark);
    root.append(svg("path", { d: rateLine(run), class: `curve ${kind}` }));
    const { act, hint } = actOf(page.strip.rows[0].study, [run.seed]);
    run.epochs.forEach((epoch, index) => {
      if (run.accuracy[index] < low) return;
      points.push({ x: x(epoch), y: y(run.accuracy[index]), mark, act, tip: [
        `seed ${run.seed}`, `epoch ${epoch}: ${exact(run.accuracy[index])}`, ...(hint ? [hint] : [])] });
    });
  }
  clipped.append(curve(bold.epochs, training, "training"));
  // Beside the ends of their lines; on a narrow screen in the corner that curves leave free.
  const places = wide
    ? spread(named.map(([, , , accuracy]) => y(accuracy)), named.map(() => 18), top, bottom)
    : named.map((_, index) => bottom - 12 - 18 * (named.length - 1 - index));
  named.forEach(([kind, text, epoch, accuracy], index) => {
    if (wide) root.append(line(x(epoch) + 3, y(accuracy), right + 8, places[index], "leader"));
    root.append(label(wide ? right + 12 : right - 4, places[index] + 4, text, `name ${kind}`, wide ? "start" : "end"));
  });
  pointing(plot, points, 14);
}

chart("plane", (width) => (width > 640 ? 500 : 460), drawPlane);
beginSlider(chart("strip", (width) => stripLayout(width).foot + 26, drawStrip));
if (page.curves.runs) chart("curves", (width) => (width > 640 ? 500 : 440), drawCurves);
