// Draws the frames of an explorer and moves between them by sliders. layers.py and frames.py (one folder up) pack the bytes.
// Runs as an anywidget, or with a plain object as the model in a page without a kernel.

const ARRAYS = { points: Uint16Array, shaded: Uint16Array, field: Uint8Array, arrows: Int8Array };
const POINT = 2; // diameter of a point in CSS pixels
const PLAY = 140; // milliseconds per frame
const SLIDER_KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
const BUTTON_KEYS = [" ", "Enter"];
const PATIENCE = 1000; // milliseconds before a reader learns why a frame is late
const SLOW = "Waiting for the kernel. If it is not running, run this cell again.";
const LOST = "The kernel has restarted. Run this cell again to move its sliders.";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Hides a control's own keys from JupyterLab, which would move to another cell. All other keys, such as Ctrl+S, keep their effect.
function keepKeys(control, keys) {
  control.addEventListener("keydown", (event) => {
    const shortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (keys.includes(event.key) && !shortcut) event.stopPropagation();
  });
}

function isDark() {
  const lab = document.body.dataset.jpThemeLight;
  return lab ? lab === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Red, green and blue of a colour such as "#0072B2".
function parts(colour) {
  return colour.match(/\w\w/g).map((part) => parseInt(part, 16));
}

// Colours of the numbers 0 to 255, as pixels: alpha, blue, green and red from the highest byte down.
function table(colourOf) {
  return Uint32Array.from({ length: 256 }, (_, n) => {
    const [red, green, blue, alpha] = colourOf(n);
    return (Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red;
  });
}

// Draws a square of numbers over the canvas.
function stamp(context, numbers, colours, look) {
  const side = Math.sqrt(numbers.length);
  const image = new ImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < numbers.length; i += 1) pixels[i] = colours[numbers[i]];
  if (!look.sheets.has(side)) look.sheets.set(side, new OffscreenCanvas(side, side));
  look.sheets.get(side).getContext("2d").putImageData(image, 0, 0);
  context.drawImage(look.sheets.get(side), 0, 0, context.canvas.width, context.canvas.width);
}

const draw = {
  // Counting points per pixel and then colouring is several times faster than one call per point.
  points(context, size, values, layer, look) {
    const side = Math.max(1, Math.round(POINT * look.ratio));
    const dot = []; // offsets of a point's pixels from its upper left corner
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < side; x += 1) {
        if (Math.hypot(x + 0.5 - side / 2, y + 0.5 - side / 2) <= Math.max(side / 2, 0.75)) dot.push(y * size + x);
      }
    }
    const step = (look.margin * size) / 65535;
    const shift = ((1 - look.margin) / 2) * size - side / 2;
    const counts = new Uint8ClampedArray(size * size);
    for (let i = 0; i < values.length; i += 2) {
      const x = Math.round(values[i] * step + shift);
      const y = Math.round(values[i + 1] * step + shift);
      if (x < 0 || y < 0 || x + side > size || y + side > size) continue;
      for (const pixel of dot) counts[y * size + x + pixel] += 1;
    }
    const colour = parts(layer.colour);
    stamp(context, counts, table((n) => [...colour, 1 - (1 - layer.alpha) ** n]), look);
  },

  shaded(context, size, values, layer, look) {
    const step = (look.margin * size) / 65535;
    const shift = ((1 - look.margin) / 2) * size;
    for (let i = 0; i < values.length; i += 3) {
      const shade = 3 * Math.round(values[i + 2] / 257);
      context.fillStyle = `rgb(${look.energy.subarray(shade, shade + 3)})`;
      context.beginPath();
      context.arc(values[i] * step + shift, values[i + 1] * step + shift, 1.2 * POINT * look.ratio, 0, 2 * Math.PI);
      context.fill();
    }
  },

  field(context, size, values, layer, look) {
    stamp(context, values, layer.density
      ? table((n) => [0, 0, 0, n / 510])
      : table((n) => [...look.energy.subarray(3 * n, 3 * n + 3), 1]), look);
  },

  arrows(context, size, values, layer, look) {
    const spacing = (0.9 * size) / (layer.side - 1);
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.1 * look.ratio;
    context.beginPath();
    for (let i = 0; i < values.length / 2; i += 1) {
      const dx = (values[2 * i] / 127) * spacing;
      const dy = (values[2 * i + 1] / 127) * spacing;
      if (Math.hypot(dx, dy) < look.ratio) continue;
      const x = 0.05 * size + (i % layer.side) * spacing + dx / 2;
      const y = 0.05 * size + Math.floor(i / layer.side) * spacing + dy / 2;
      context.moveTo(x - dx, y - dy);
      context.lineTo(x, y);
      context.moveTo(x - 0.35 * dx + 0.2 * dy, y - 0.35 * dy - 0.2 * dx);
      context.lineTo(x, y);
      context.lineTo(x - 0.35 * dx - 0.2 * dy, y - 0.35 * dy + 0.2 * dx);
    }
    context.stroke();
  },
};

// Marks have the colours of the panels, from one point to many on top of each other.
function legend(layers, sourceOf) {
  const seen = new Map();
  for (const layer of layers.filter((each) => each.label)) {
    seen.set([layer.label, sourceOf(layer), layer.colour].join(), layer);
  }
  return [...seen.values()].map((layer) => {
    const source = sourceOf(layer);
    const mark = make("span", { class: `cepnb-mark cepnb-${layer.density ? "density" : layer.kind}`, "aria-hidden": "true" });
    if (layer.kind === "arrows") mark.textContent = "→";
    if (layer.colour) {
      const colour = parts(layer.colour).join();
      mark.style.backgroundImage = `linear-gradient(90deg, rgba(${colour},${layer.alpha}), rgb(${colour}))`;
    }
    return make("div", { role: "listitem" }, mark, source ? `${layer.label}: ${source}` : layer.label);
  });
}

// Pictures of all frames, of which one is visible.
function pictures({ pictures: files, description, sliders: [{ symbol, labels }] }) {
  const images = files.map((file, k) => {
    return make("img", { src: `data:image/png;base64,${file}`, alt: `${description}, ${symbol} = ${labels[k]}` });
  });
  return {
    nodes: [make("div", { class: "cepnb-pictures" }, ...images)],
    load() {},
    fit() {},
    show: ([shown]) => images.forEach((image, k) => (image.hidden = k !== shown)),
  };
}

// Panels that are drawn from the layers in the model's data.
function panels(spec, model) {
  const sheets = new Map(); // by their size
  const energy = bytesOf(spec.energy);
  const node = make("div", { class: "cepnb-panels" });
  node.style.setProperty("--columns", spec.columns);
  const key = make("div", { class: "cepnb-legend", role: "list", "aria-label": "What is shown" });
  const panels = spec.panels.map((panel) => {
    const canvas = make("canvas", { role: "img" });
    node.append(make("figure", {}, make("figcaption", {}, panel.title), canvas));
    return { ...panel, canvas, context: canvas.getContext("2d") };
  });
  let buffer; // read once per data, not once per move

  // Number of a layer's frame at a position of the sliders.
  const indexOf = (layer, position) => layer.over.reduce((sum, k) => sum * spec.sliders[k].labels.length + position[k], 0);

  function frame(layer, position) {
    const type = ARRAYS[layer.kind];
    return new type(buffer, layer.offset + indexOf(layer, position) * layer.length * type.BYTES_PER_ELEMENT, layer.length);
  }

  function load() {
    const data = model.get("data");
    buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength); // starts at an even address
  }

  return {
    nodes: [node, key],
    load,
    fit() {
      for (const { canvas } of panels) {
        const size = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
        if (canvas.width !== size) canvas.width = canvas.height = size;
      }
    },
    show(position, at) {
      const { layers: all } = model.get("spec");
      const sourceOf = (layer) => (Array.isArray(layer.source) ? layer.source[indexOf(layer, position)] : layer.source);
      key.replaceChildren(...legend(all, sourceOf));
      const look = { ratio: devicePixelRatio, margin: spec.margin, energy, sheets };
      for (const { canvas, context, title, layers } of panels) {
        context.clearRect(0, 0, canvas.width, canvas.height);
        for (const layer of layers.map((number) => all[number])) {
          draw[layer.kind](context, canvas.width, frame(layer, position), layer, look);
        }
        const shown = layers.map((number) => all[number].label).filter(Boolean).join(", ");
        canvas.setAttribute("aria-label", `${title}, ${at.join(", ")}${shown ? `: ${shown}` : ""}`);
      }
    },
  };
}

// Pages style lists and paragraphs, so the elements here are plain, with roles.
function render({ model, el, isLost = () => false }) {
  const spec = model.get("spec"); // sliders, panels and pictures are constant; the kernel may replace layers
  const live = "at" in spec; // the kernel computes each frame, and sends it with its position
  const playing = new Map(); // slider → timer
  let waiting = 0; // timer

  const root = make("div", { class: "cepnb", role: "group", "aria-label": spec.description });
  const alert = make("div", { class: "cepnb-error", role: "alert", hidden: "" });
  const status = make("div", { class: "cepnb-status", role: "status" });

  // Shows an error under the panels and sends it to the kernel; readers would not see the console.
  function guarded(action) {
    return (...values) => {
      try {
        action(...values);
      } catch (error) {
        alert.textContent = `${error.name}: ${error.message}`;
        alert.hidden = false;
        console.error(error);
        model.set("error", alert.textContent);
        model.save_changes();
      }
    };
  }

  // The position of the frame that the page shows: a slider may be ahead of the kernel.
  const shownAt = () => (live ? model.get("spec").at : model.get("position"));
  const isBehind = () => String(shownAt()) !== String(model.get("position"));
  const texts = (position) => spec.sliders.map(({ symbol, labels }, k) => `${symbol} = ${labels[position[k]]}`);

  function move(number, index) {
    const position = [...model.get("position")];
    position[number] = index;
    model.set("position", position);
    model.save_changes();
  }

  function stop(number) {
    clearInterval(playing.get(number));
    playing.delete(number);
    const button = sliders[number].button;
    button?.setAttribute("aria-label", `Play ${spec.sliders[number].symbol}`);
    if (button) button.textContent = "▶";
  }

  function play(number) {
    if (playing.has(number)) return stop(number);
    const last = spec.sliders[number].labels.length - 1;
    if (model.get("position")[number] === last) move(number, 0);
    sliders[number].button.textContent = "■";
    sliders[number].button.setAttribute("aria-label", `Stop ${spec.sliders[number].symbol}`);
    playing.set(number, setInterval(guarded(() => {
      if (isBehind()) return;
      const next = model.get("position")[number] + 1;
      if (next <= last) move(number, next);
      if (next >= last) stop(number);
    }), PLAY));
  }

  const widest = Math.max(...spec.sliders.flatMap(({ symbol, labels }) => labels.map((label) => `${symbol} = ${label}`.length)));
  const sliders = spec.sliders.map((slider, number) => {
    const input = make("input", { type: "range", min: 0, max: slider.labels.length - 1, step: 1, "aria-label": slider.symbol });
    keepKeys(input, SLIDER_KEYS);
    const output = make("output");
    output.style.width = `${widest}ch`; // the layout does not move with the value
    input.addEventListener("input", guarded(() => {
      stop(number);
      move(number, Number(input.value));
    }));
    const button = slider.play ? make("button", { type: "button" }, "▶") : null;
    if (button) {
      button.setAttribute("aria-label", `Play ${slider.symbol}`);
      button.addEventListener("click", guarded(() => play(number)));
      keepKeys(button, BUTTON_KEYS);
    }
    const note = slider.note ? [make("span", { class: "cepnb-note" }, slider.note)] : [];
    root.append(make("div", { class: "cepnb-slider" }, output, input, ...(button ? [button] : []), ...note));
    return { input, output, button };
  });

  const frames = spec.pictures ? pictures(spec) : panels(spec, model);
  root.append(...frames.nodes, ...(live ? [status] : []), alert);
  el.append(root);

  const show = guarded(() => {
    const at = texts(shownAt());
    const wanted = texts(model.get("position"));
    sliders.forEach(({ input, output }, k) => {
      input.value = model.get("position")[k];
      input.setAttribute("aria-valuetext", wanted[k]);
      output.textContent = at[k];
    });
    frames.show(shownAt(), at);
    clearTimeout(waiting);
    if (!isBehind()) status.textContent = "";
    else waiting = setTimeout(() => (status.textContent = SLOW), PATIENCE);
  });

  const fit = guarded(() => {
    frames.fit();
    show();
  });

  const showError = guarded(() => {
    alert.textContent = model.get("error");
    alert.hidden = !alert.textContent;
    if (alert.hidden) return;
    clearTimeout(waiting); // the error is the kernel's answer
    status.textContent = "";
  });

  const theme = guarded(() => root.toggleAttribute("data-dark", isDark()));

  // ipywidgets announces the loss of a model's kernel by this event; a model never gets another kernel.
  const lose = guarded(() => {
    if (!live) return;
    [...playing.keys()].forEach(stop);
    for (const { input, button } of sliders) for (const control of [input, button]) control?.toggleAttribute("disabled", true);
    model.set("position", shownAt());
    show();
    status.textContent = LOST;
  });

  const sizes = new ResizeObserver(fit);
  sizes.observe(frames.nodes[0]);
  const themes = new MutationObserver(theme);
  themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", theme);
  window.addEventListener("resize", fit); // a sharper screen changes no size in CSS pixels
  const reload = guarded(() => { // spec and data change together, in either order
    frames.load();
    show();
  });
  const listeners = { "change:position": show, "change:spec": reload, "change:data": reload, "change:error": showError, comm_live_update: lose };
  for (const [event, action] of Object.entries(listeners)) model.on(event, action);
  theme();
  reload();
  showError();
  if (isLost()) lose();

  return () => {
    [...playing.keys()].forEach(stop);
    clearTimeout(waiting);
    sizes.disconnect();
    themes.disconnect();
    scheme.removeEventListener("change", theme);
    window.removeEventListener("resize", fit);
    for (const [event, action] of Object.entries(listeners)) model.off(event, action);
  };
}

// The explorers of the page by name, and the elements <cepnb-explorer name="…"> of outputs. Each holds a still picture, and
// shows its explorer instead while that is in the page. All widgets share them: each one runs this file.
const shared = (globalThis.cepnb ??= { explorers: new Map(), elements: new Set() });

function fill(element) {
  const explorer = shared.explorers.get(element.getAttribute("name"));
  if (!explorer || element.empty) return;
  element.picture = [...element.childNodes];
  element.replaceChildren();
  element.empty = explorer(element);
}

class Element extends HTMLElement {
  connectedCallback() {
    shared.elements.add(this);
    fill(this);
  }

  disconnectedCallback() {
    shared.elements.delete(this);
    if (!this.empty) return;
    this.empty();
    this.empty = null;
    this.replaceChildren(...this.picture);
  }
}

function initialize({ model }) {
  const name = model.get("name");
  let lost = false; // JupyterLab may render an output only when it is scrolled into view
  model.on("comm_live_update", () => (lost = true));
  shared.explorers.set(name, (el) => render({ model, el, isLost: () => lost }));
  if (!customElements.get("cepnb-explorer")) customElements.define("cepnb-explorer", Element);
  else [...shared.elements].filter((element) => element.getAttribute("name") === name).forEach(fill);
  return () => shared.explorers.delete(name);
}

export default { initialize, render };
