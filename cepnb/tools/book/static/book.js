// Tells the explorers which scheme a reader has chosen, by the sign that JupyterLab gives them.
(() => {
  const { dataset } = document.body;
  const tell = () => {
    if (["light", "dark"].includes(dataset.theme)) dataset.jpThemeLight = String(dataset.theme === "light");
    else delete dataset.jpThemeLight; // as the system has it
  };
  new MutationObserver(tell).observe(document.body, { attributeFilter: ["data-theme"] });
  tell();
})();

// Shrinks no output below half its size, where what is written in it could not be read: it scrolls on a narrow screen.
(() => {
  const hold = (node) => {
    if (node.naturalWidth && node.closest(".cell_output")) node.style.minWidth = `${node.naturalWidth / 2}px`;
  };
  [...document.images].forEach(hold);
  document.addEventListener("load", ({ target }) => hold(target), true); // of those that come later
})();

// Shows or folds the code of all cells by one button; the choice holds for the other pages, too.
(() => {
  const folds = document.querySelectorAll("article details.hide");
  if (!folds.length) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "all-code";
  const show = (open) => {
    for (const fold of folds) fold.open = open;
    button.textContent = open ? "Hide all code" : "Show all code";
    localStorage.setItem("code", open ? "shown" : "folded");
  };
  button.addEventListener("click", () => show(button.textContent.startsWith("Show")));
  show(localStorage.getItem("code") === "shown");
  document.querySelector("article h1").after(button);
})();

// Lets names in tables break after underscores, slashes and other marks; equations are left as they are.
for (const cell of document.querySelectorAll("article td, article th")) {
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  const named = [];
  while (texts.nextNode()) {
    const { data, parentElement } = texts.currentNode;
    if (/[_/.:]/.test(data) && !parentElement.closest(".math")) named.push(texts.currentNode);
  }
  for (const node of named) {
    const parts = node.data.split(/(?<=[_/.:])(?=[a-z]{2})/i).flatMap((part) => [part, document.createElement("wbr")]);
    node.replaceWith(...parts.slice(0, -1));
  }
}
