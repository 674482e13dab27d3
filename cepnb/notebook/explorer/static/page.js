// Brings explorers to life where there is no kernel. Each lies as JSON in an element of class cepnb-place: frames for
// explorer.js, which stands below as the text of an address, since a page opened from a file may load no modules; or pictures.
(() => {
  const explorer = import("data:text/javascript;base64,EXPLORER");

  function modelOf(state) {
    const data = new DataView(Uint8Array.from(atob(state.data), (letter) => letter.charCodeAt(0)).buffer);
    const values = { ...state, data, error: "" };
    const heard = new Map();
    return {
      get: (name) => values[name],
      set(name, value) {
        values[name] = value;
        heard.get(`change:${name}`)?.forEach((action) => action());
      },
      save_changes() {},
      on: (event, action) => heard.set(event, [...(heard.get(event) ?? []), action]),
      off: (event) => heard.delete(event),
    };
  }

  function showPictures({ description, name, labels, start, pictures }, el) {
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: labels.length - 1, value: start });
    const output = document.createElement("output");
    const slider = document.createElement("div");
    const place = document.createElement("div");
    input.setAttribute("aria-label", name);
    output.style.width = `${Math.max(...labels.map((label) => label.length))}ch`; // so that nothing moves with the value
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
