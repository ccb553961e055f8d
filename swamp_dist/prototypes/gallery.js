"use strict";
// Searches the words and texts that the page holds, and orders its cards. Without this script the page shows
// all cards below the headings of their super-clusters.
(() => {
  const find = document.getElementById("find");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const flat = document.getElementById("flat");
  const groups = [...document.querySelectorAll("section.group")];
  const cards = [...document.querySelectorAll("article")].map((card, place) => {
    const labels = [...card.querySelectorAll("[aria-label]")].map((each) => each.getAttribute("aria-label"));
    const said = [card.textContent, ...labels].join(" ").toLowerCase();
    return { card, place, said, home: card.parentElement };
  });
  // A card without the figure comes last.
  const figure = (each, name) => (each.card.dataset[name] === "" ? -1 : Number(each.card.dataset[name]));

  function search() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { card, said } of cards) {
      card.hidden = !words.every((word) => said.includes(word));
      shown += card.hidden ? 0 : 1;
    }
    for (const group of groups) {
      group.hidden = group.querySelector("article:not([hidden])") === null;
    }
    count.value = `${shown} of ${cards.length} cards`;
  }

  function order() {
    const name = sort.value;
    if (name === "group") {
      for (const { card, home } of cards) home.append(card);
    } else {
      const sorted = [...cards].sort((x, y) => figure(y, name) - figure(x, name) || x.place - y.place);
      flat.append(...sorted.map((each) => each.card));
    }
    flat.hidden = name === "group";
    search();
  }

  find.addEventListener("input", search);
  sort.addEventListener("change", order);
  find.form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      find.focus();
    } else if (event.key === "Escape" && document.activeElement === find) {
      find.value = "";
      search();
    }
  });
  document.querySelector(".bar").hidden = false;
  order();
})();
