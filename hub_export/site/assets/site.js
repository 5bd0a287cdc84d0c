"use strict";
// Everything works without this, but for search where no server answers it.

const plain = (word) => word.toLowerCase().replace(/[^a-z0-9]+/g, "");

function searchable(form) {
  const list = document.querySelector(".models");
  const items = [...list.children];
  const fields = form.elements;
  const button = form.querySelector("button");

  function apply() {
    const words = fields.q.value.split(/\s+/).map(plain).filter(Boolean);
    let count = 0;
    for (const item of items) {
      item.hidden = !(
        (!fields.kind.value || item.dataset.kind === fields.kind.value) &&
        words.every((word) => item.dataset.text.includes(word)));
      count += !item.hidden;
    }
    document.getElementById("shown").textContent = count;
    document.getElementById("none").hidden = count > 0;
    order(fields.order.value);
  }

  function order(name) {
    const key = name && name.replace(/_(.)/g, (_, c) => c.toUpperCase());
    const figure = (item) => key && item.dataset[key] !== ""
      ? Number(item.dataset[key]) : Infinity;
    const place = (item) => Number(item.dataset.place);
    // Two infinities are equal, though their difference is no number.
    list.append(...[...items].sort((a, b) => figure(a) === figure(b)
      ? place(a) - place(b) : figure(a) - figure(b)));
  }

  function remember() {
    const query = new URLSearchParams(
      [...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  }

  function restore() {
    const query = new URLSearchParams(location.search);
    for (const name of ["q", "kind", "order"]) {
      fields[name].value = query.get(name) || "";
    }
    apply();
  }

  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
    remember();
  });
  form.hidden = false;
  button.hidden = true;  // Results follow every key.
  restore();
}

function copyable(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent.trimEnd());
      button.textContent = "Copied";
    } catch {
      // Without https there is no clipboard for pages: mark the text instead.
      getSelection().selectAllChildren(code);
      button.textContent = document.execCommand("copy") ? "Copied" : "Marked";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  block.append(button);
}

document.querySelectorAll("form.search").forEach(searchable);
document.querySelectorAll(".code").forEach(copyable);
