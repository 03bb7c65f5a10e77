"use strict";
// Without this script the page shows all its images; with it, a part at a time, filtered by the lists and sorted by confidence.
(() => {
  const PART = 24;
  document.documentElement.classList.add("has-script");
  const filter = document.querySelector(".filter");
  if (!filter) return;
  const holder = document.querySelector(".filtered");
  const more = document.querySelector(".more");
  const cards = [...holder.children]; // the most confident first
  const cells = [...document.querySelectorAll("[data-cell]")];
  const order = filter.elements.order;
  const lists = [...filter.querySelectorAll("select")].filter((list) => list !== order); // each is named after a data attribute of the cards
  let shown = PART;

  function show() {
    const chosen = cards.filter((card) => lists.every((list) => !list.value || card.dataset[list.name] === list.value));
    if (order.value === "unsure") chosen.reverse();
    for (const card of cards) card.hidden = true;
    for (const card of chosen.slice(0, shown)) {
      card.hidden = false;
      holder.append(card);
    }
    const isLast = chosen.length <= shown;
    if (isLast && document.activeElement === more) cards[0].closest("section").focus({ preventScroll: true }); // not lost with the button
    more.hidden = isLast;
    const cell = cells.find((each) => each.dataset.cell === lists.map((list) => list.value).join(" "));
    for (const each of cells) each.setAttribute("aria-pressed", each === cell);
    const all = cell ? Number(cell.textContent) : chosen.length;
    const leftOut = all > chosen.length ? `; ${all - chosen.length} more are left out of this page` : "";
    filter.querySelector("output").value = `${Math.min(shown, chosen.length)} of ${chosen.length} ${filter.dataset.what}${leftOut}`;
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
    cell.disabled = false;
    cell.addEventListener("click", () => {
      const values = cell.dataset.cell.split(" ");
      for (const [number, list] of lists.entries()) list.value = values[number];
      restart();
      const mistakes = document.getElementById("mistakes");
      mistakes.scrollIntoView();
      mistakes.focus({ preventScroll: true });
    });
  }
  show();
})();
