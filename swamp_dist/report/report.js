"use strict";
// Searches the rows of all tables, sorts a table by a column, hides the lines of a group of runs. Without this
// script the page shows everything.
(() => {
  const find = document.getElementById("find");
  const count = document.getElementById("count");
  const rows = [...document.querySelectorAll("tbody tr")].map((row) => ({
    row, said: row.textContent.toLowerCase(), folder: row.closest("details"),
  }));

  function search() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const each of rows) {
      each.row.hidden = !words.every((word) => each.said.includes(word));
      shown += each.row.hidden ? 0 : 1;
    }
    count.value = words.length ? `${shown} of ${rows.length} rows` : "";
    if (words.length === 0) return;
    for (const { row, folder } of rows) {
      if (folder !== null && !row.hidden) folder.open = true;
    }
  }

  // A cell begins with its number, or has none and comes last.
  const sizes = { k: 1e3, K: 1024, M: 1e6, G: 1e9, T: 1e12 };
  function figure(text) {
    const found = /^[+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?/.exec(text.trim());
    if (found === null) return null;
    const unit = /^\s?([kKMGT])(i?)(?:B|FLOP)/.exec(text.trim().slice(found[0].length));
    const size = unit === null ? 1 : unit[2] ? 1024 ** ("KMGT".indexOf(unit[1]) + 1) : sizes[unit[1]];
    return Number(found[0].replaceAll(",", "")) * size;
  }

  function sort(table, place, heading) {
    const down = heading.getAttribute("aria-sort") !== "descending";
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const cells = [...body.rows].map((row) => {
      const text = row.cells[place].textContent;
      return { row, text, number: figure(text) };
    });
    const numeric = cells.filter((cell) => cell.number !== null).length * 2 >= cells.length;
    const sign = down ? -1 : 1;
    cells.sort((x, y) => {
      if (!numeric) return sign * x.text.localeCompare(y.text);
      if (x.number === null || y.number === null) return (x.number === null) - (y.number === null);
      return sign * (x.number - y.number);
    });
    body.append(...cells.map((cell) => cell.row));
  }

  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.querySelectorAll("thead th")].forEach((heading, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      if (button.textContent === "") button.setAttribute("aria-label", "name");
      heading.append(button);
      button.addEventListener("click", () => sort(table, place, heading));
    });
  }

  for (const button of document.querySelectorAll("button.toggle")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const line of document.querySelectorAll(`g[data-line="${button.dataset.line}"]`)) {
        line.classList.toggle("off", !shown);
      }
    });
  }

  find.addEventListener("input", search);
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
  document.querySelector(".find").hidden = false;
})();
