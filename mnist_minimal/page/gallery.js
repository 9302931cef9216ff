/* The gallery of mistakes shows those of one cell of the map when that is pressed, and all of them again. */

const mistakes = Array.from(document.querySelectorAll("#gallery [data-pair]"));
const cells = Array.from(document.querySelectorAll(".confusion button"));
const all = document.getElementById("all-wrong");

function showMistakes(pair) {
  for (const mistake of mistakes) mistake.hidden = Boolean(pair) && mistake.dataset.pair !== pair;
  for (const cell of cells) cell.setAttribute("aria-pressed", cell.dataset.pair === pair);
  all.hidden = !pair;
}

for (const cell of cells) {
  cell.addEventListener("click", () =>
    showMistakes(cell.getAttribute("aria-pressed") === "true" ? null : cell.dataset.pair));
}
all?.addEventListener("click", () => showMistakes(null));
