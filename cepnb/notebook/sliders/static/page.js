// Shows explorers in a page without a kernel. Each element of class cepnb-place holds the JSON of an explorer: frames for
// explorer.js, or pictures. A page from a file cannot load modules, so explorer.js is embedded below as a data address.
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

  function showPictures({ description, name, labels, start, pictures }, el) {
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: labels.length - 1, value: start });
    const output = document.createElement("output");
    const slider = document.createElement("div");
    const place = document.createElement("div");
    input.setAttribute("aria-label", name);
    output.style.width = `${Math.max(...labels.map((label) => label.length))}ch`; // the layout does not move with the value
    slider.className = "cepnb-slider";
    slider.append(output, input);
    place.innerHTML = pictures.join("");
    const show = () => {
      [...place.children].forEach((picture, k) => (picture.hidden = k !== Number(input.value)));
      output.textContent = labels[input.value];
      input.setAttribute("aria-valuetext", labels[input.value]);
    };
    el.className = "cepnb cepnb-pictures";
    el.setAttribute("role", "group");
    el.setAttribute("aria-label", description);
    el.append(slider, place);
    input.addEventListener("input", show);
    show();
  }

  for (const place of document.querySelectorAll(".cepnb-place")) {
    const state = JSON.parse(place.querySelector("script").textContent);
    const el = place.appendChild(document.createElement("div"));
    if (state.pictures) showPictures(state, el);
    else explorer.then((module) => module.default.render({ model: modelOf(state), el }));
  }
})();
