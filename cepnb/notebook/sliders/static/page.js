// Shows explorers in a page without a kernel. Each element of class cepnb-place holds the JSON of an explorer for
// explorer.js. A page from a file cannot load modules, so explorer.js is embedded below as a data address.
(() => {
  const explorer = import("data:text/javascript;base64,EXPLORER");

  function modelOf(state) {
    const data = new DataView(Uint8Array.from(atob(state.data), (letter) => letter.charCodeAt(0)).buffer);
    const values = { ...state, data, error: "" };
    const listeners = new Map();
    return {
      get: (name) => values[name],
      set(name, value) {
        values[name] = value;
        listeners.get(`change:${name}`)?.forEach((action) => action());
      },
      save_changes() {},
      on: (event, action) => listeners.set(event, [...(listeners.get(event) ?? []), action]),
      off: (event) => listeners.delete(event),
    };
  }

  for (const place of document.querySelectorAll(".cepnb-place")) {
    const state = JSON.parse(place.querySelector("script").textContent);
    const el = place.appendChild(document.createElement("div"));
    explorer.then((module) => module.default.render({ model: modelOf(state), el }));
  }
})();
