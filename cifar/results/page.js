"use strict";
// Without this script the page shows all mistakes; with it, a part at a time, filtered by class and sorted by confidence.
(() => {
  const PART = 24;
  document.documentElement.classList.add("has-script");
  const filter = document.querySelector(".filter");
  if (!filter) return;
  const holder = document.querySelector(".mistakes");
  const more = document.querySelector(".more");
  const cards = [...holder.children]; // the most confident first
  const cells = [...document.querySelectorAll("[data-cell]")];
  let shown = PART;

  function show() {
    const of = (name) => filter.elements[name].value;
    const chosen = cards.filter(
      (card) => (!of("true") || card.dataset.t === of("true")) && (!of("predicted") || card.dataset.p === of("predicted")),
    );
    if (of("order") === "unsure") chosen.reverse();
    for (const card of cards) card.hidden = true;
    for (const card of chosen.slice(0, shown)) {
      card.hidden = false;
      holder.append(card);
    }
    more.hidden = chosen.length <= shown;
    const cell = cells.find((each) => each.dataset.cell === `${of("true")} ${of("predicted")}`);
    for (const each of cells) each.setAttribute("aria-pressed", each === cell);
    const all = cell ? Number(cell.textContent) : chosen.length;
    const leftOut = all > chosen.length ? `; ${all - chosen.length} more are left out of this page` : "";
    filter.querySelector("output").value = `${Math.min(shown, chosen.length)} of ${chosen.length} mistakes${leftOut}`;
  }

  function restart() {
    shown = PART;
    show();
  }

  filter.hidden = false;
  filter.addEventListener("change", restart);
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("reset", () => setTimeout(restart));
  more.addEventListener("click", () => {
    shown += PART;
    show();
  });
  for (const cell of cells) {
    cell.addEventListener("click", () => {
      [filter.elements.true.value, filter.elements.predicted.value] = cell.dataset.cell.split(" ");
      restart();
      document.getElementById("mistakes").scrollIntoView();
    });
  }
  show();
})();
