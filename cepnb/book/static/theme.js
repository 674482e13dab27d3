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
