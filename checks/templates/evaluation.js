"use strict";
// Sorting and filtering of the table of all classes. Without it the table is
// whole, in the order of the class numbers.
(() => {
  const table = document.getElementById("classes");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");

  const number = (row, column) =>
      parseFloat(row.cells[column].textContent.replace(/,/g, ""));
  const isNumber = (column) => headers[column].classList.contains("number");

  function sort(column) {
    const sign =
        headers[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[column].setAttribute(
        "aria-sort", sign > 0 ? "ascending" : "descending");
    rows.sort((a, b) => sign * (isNumber(column) ?
        number(a, column) - number(b, column) :
        a.cells[column].textContent.localeCompare(b.cells[column].textContent))
        || number(a, 0) - number(b, 0));
    body.append(...rows);
  }

  function search() {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`;
      row.hidden = !text.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  }

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(column));
    header.replaceChildren(button);
  });
  filter.addEventListener("input", search);
  filter.closest("p").hidden = false;
  search();
})();
