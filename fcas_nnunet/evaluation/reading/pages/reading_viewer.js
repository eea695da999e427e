// Volumes out of their pictures, slices of them in step, contours of the mask.

const PLANES = [
  { key: "axial", name: "Axial", letter: "a", axis: 0, edges: ["R", "L", "A", "P"] },
  { key: "coronal", name: "Coronal", letter: "c", axis: 1, edges: ["R", "L", "S", "I"] },
  { key: "sagittal", name: "Sagittal", letter: "s", axis: 2, edges: ["A", "P", "S", "I"] },
];
const WINDOWS = [
  { name: "Cardiac CTA", level: 200, width: 800 },
  { name: "Vessels", level: 350, width: 1000 },
  { name: "Soft tissue", level: 50, width: 400 },
];
const COLOURS = ["#ffb454", "#59c2ff", "#ff7b72", "#7ee787", "#79a8ff", "#ff9bce", "#c69cf4", "#fff06a"];

function labelColour(id) {
  return id <= COLOURS.length ? COLOURS[id - 1] : `hsl(${(id * 137.5) % 360} 85% 70%)`;
}

// A picture's grey values, slice by slice: [S, P, L] in one array.
async function decodeVolume(elementId, atlas, shape) {
  const image = new Image();
  image.src = `data:${atlas.type};base64,${document.getElementById(elementId).textContent}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const [count, height, width] = shape;
  const voxels = new Uint8Array(count * height * width);
  for (let row = 0; row * atlas.columns < count; row++) {
    // a row of slices at a time: the whole picture as RGBA would take four times its size
    const strip = context.getImageData(0, row * atlas.tile[0], canvas.width, height).data;
    for (let column = 0; column < atlas.columns; column++) {
      const slice = row * atlas.columns + column;
      if (slice >= count) break;
      for (let y = 0, to = slice * height * width; y < height; y++) {
        let from = (y * canvas.width + column * atlas.tile[1]) * 4 + 1;
        for (let x = 0; x < width; x++, to++, from += 4) voxels[to] = strip[from];
      }
    }
  }
  return voxels;
}

// Some browsers answer with noise when a page reads a canvas.
function canvasIsHonest() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 16;
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb(120, 120, 120)";
  context.fillRect(0, 0, 16, 16);
  return context.getImageData(0, 0, 16, 16).data.every((value, i) => value === (i % 4 === 3 ? 255 : 120));
}

// One slice as it is shown: head up, the patient's right on the left, from a volume [S, P, L].
function cutSlice(voxels, [s, p, l], axis, index) {
  if (axis === 0) return { values: voxels.subarray(index * p * l, (index + 1) * p * l), width: l, height: p };
  const width = axis === 1 ? l : p;
  const values = new Uint8Array(s * width);
  for (let row = 0, to = 0; row < s; row++) {
    const level = (s - 1 - row) * p * l;
    for (let column = 0; column < width; column++, to++) {
      values[to] = axis === 1 ? voxels[level + index * l + column] : voxels[level + column * l + index];
    }
  }
  return { values, width, height: s };
}

// Borders of a slice's labels, colour → path, in pixels of the slice; they join the middles between unlike pixels.
function contoursOf({ values, width, height }) {
  const paths = new Map();
  for (let y = 0; y + 1 < height; y++) {
    for (let x = 0; x + 1 < width; x++) {
      const at = y * width + x;
      const a = values[at], b = values[at + 1], c = values[at + width], d = values[at + width + 1];
      if (a === b && a === c && a === d) continue;
      const ends = [];
      if (a !== b) ends.push([x + 1, y + 0.5]);
      if (c !== d) ends.push([x + 1, y + 1.5]);
      if (a !== c) ends.push([x + 0.5, y + 1]);
      if (b !== d) ends.push([x + 1.5, y + 1]);
      const colour = labelColour(Math.max(a, b, c, d));
      if (!paths.has(colour)) paths.set(colour, new Path2D());
      const path = paths.get(colour);
      if (ends.length === 2) {
        path.moveTo(...ends[0]);
        path.lineTo(...ends[1]);
      } else {
        for (const end of ends) {
          path.moveTo(x + 1, y + 1);
          path.lineTo(...end);
        }
      }
    }
  }
  return paths;
}

class Viewer {
  constructor(data, panels, onChange) {
    this.data = data;
    this.panels = panels;
    this.onChange = onChange;
    this.plane = PLANES[0];
    this.level = WINDOWS[0].level;
    this.width = WINDOWS[0].width;
    this.contours = false;
    this.volumes = new Map(); // bag id → promise of name → voxels
    this.scratch = document.createElement("canvas");
    this.table = new Uint8ClampedArray(256);
    this.resetZoom();
    new ResizeObserver(() => this.draw()).observe(panels);
  }

  resetZoom() {
    this.zoom = 1;
    this.centre = [0.5, 0.5];
  }

  // Show a bag; the next one is decoded meanwhile, all others are forgotten.
  async show(number) {
    const bag = this.data.bags[number];
    this.bag = bag;
    this.shown = null;
    this.index = bag.shape.map((count) => count >> 1);
    this.resetZoom();
    this.build(bag);
    this.onChange();
    const wanted = [bag, this.data.bags[number + 1]].filter(Boolean);
    for (const id of this.volumes.keys()) if (!wanted.some((other) => other.id === id)) this.volumes.delete(id);
    const volumes = await this.decoded(bag);
    if (this.bag !== bag) return;
    this.shown = volumes;
    this.draw();
    if (wanted[1]) this.decoded(wanted[1]);
  }

  decoded(bag) {
    if (!this.volumes.has(bag.id)) {
      const names = Object.keys(bag.atlases);
      const all = Promise.all(names.map((name) => decodeVolume(`${bag.id}-${name}`, bag.atlases[name], bag.shape)));
      this.volumes.set(bag.id, all.then((voxels) => new Map(names.map((name, i) => [name, voxels[i]]))));
    }
    return this.volumes.get(bag.id);
  }

  build(bag) {
    this.panels.replaceChildren(...bag.letters.map((letter) => {
      const figure = element("figure", { className: "panel" });
      const canvas = element("canvas", { role: "img", ariaLabel: `Image ${letter}` });
      canvas.dataset.letter = letter;
      const edges = ["left", "right", "top", "bottom"].map((edge) => element("i", { className: `e-${edge}` }));
      figure.append(canvas, element("figcaption", { textContent: letter }), ...edges);
      return figure;
    }));
  }

  get count() { return this.bag.shape[this.plane.axis]; }
  get slice() { return this.index[this.plane.axis]; }
  get hasMask() { return "mask" in this.bag.atlases; }

  scroll(steps) { this.goTo(this.slice + steps); }

  goTo(slice) {
    this.index[this.plane.axis] = Math.min(Math.max(slice, 0), this.count - 1);
    this.change();
  }

  setPlane(plane) {
    this.plane = plane;
    this.resetZoom();
    this.change();
  }

  setWindow(level, width) {
    const { low_hu: low, high_hu: high } = this.data;
    this.level = Math.min(Math.max(Math.round(level), low), high);
    this.width = Math.min(Math.max(Math.round(width), 50), high - low);
    this.change();
  }

  setZoom(zoom) {
    this.zoom = Math.min(Math.max(zoom, 1), 8);
    this.move(0, 0);
  }

  // Shift the visible part, in fractions of it.
  move(dx, dy) {
    const half = 0.5 / this.zoom;
    this.centre = [[0, dx], [1, dy]].map(([i, d]) =>
      Math.min(Math.max(this.centre[i] + d / this.zoom, half), 1 - half));
    this.change();
  }

  change() {
    this.onChange();
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (!this.shown) return;
    const { low_hu: low, high_hu: high } = this.data;
    for (let i = 0; i < 256; i++) {
      const hu = low + (i / 255) * (high - low);
      this.table[i] = 255 * ((hu - this.level) / this.width + 0.5);
    }
    const mask = this.contours && this.shown.get("mask");
    const paths = mask ? contoursOf(cutSlice(mask, this.bag.shape, this.plane.axis, this.slice)) : new Map();
    for (const figure of this.panels.children) {
      const canvas = figure.querySelector("canvas");
      const voxels = this.shown.get(canvas.dataset.letter);
      this.drawSlice(canvas, cutSlice(voxels, this.bag.shape, this.plane.axis, this.slice), paths);
      figure.querySelectorAll("i").forEach((mark, i) => { mark.textContent = this.plane.edges[i]; });
    }
  }

  drawSlice(canvas, { values, width, height }, paths) {
    this.scratch.width = width;
    this.scratch.height = height;
    const pixels = new ImageData(width, height);
    for (let i = 0, to = 0; i < values.length; i++, to += 4) {
      pixels.data[to] = pixels.data[to + 1] = pixels.data[to + 2] = this.table[values[i]];
      pixels.data[to + 3] = 255;
    }
    this.scratch.getContext("2d").putImageData(pixels, 0, 0);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const context = canvas.getContext("2d");
    // voxels are even, but for rounding: the plane's own two spacings keep the shape exact
    const [across, down] = this.spacing();
    const scale = this.zoom * Math.min(canvas.width / (width * across), canvas.height / (height * down));
    context.imageSmoothingQuality = "high";
    context.setTransform(
      scale * across, 0, 0, scale * down,
      canvas.width / 2 - this.centre[0] * width * scale * across,
      canvas.height / 2 - this.centre[1] * height * scale * down,
    );
    context.drawImage(this.scratch, 0, 0);
    context.lineJoin = context.lineCap = "round";
    context.lineWidth = (1.3 * ratio) / (scale * across);
    for (const [colour, path] of paths) {
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  // mm a pixel, across and down.
  spacing() {
    const [s, p, l] = this.bag.spacing_mm;
    return [[l, p], [l, s], [p, s]][this.plane.axis];
  }
}

// Wheel, drag and touch on any image move all of them.
function listenToPanels(viewer, panels) {
  let travelled = 0;
  panels.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) return viewer.setZoom(viewer.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
    const size = event.deltaMode === 0 ? 40 : 1;
    travelled += event.deltaY / size;
    const steps = Math.trunc(travelled);
    travelled -= steps;
    if (steps) viewer.scroll(-steps);
  }, { passive: false });

  let drag = null;
  panels.addEventListener("pointerdown", (event) => {
    const canvas = event.target.closest("canvas");
    if (!canvas) return;
    canvas.setPointerCapture(event.pointerId);
    const windowed = event.shiftKey || event.button === 2;
    drag = {
      x: event.clientX, y: event.clientY, slice: viewer.slice, level: viewer.level, width: viewer.width,
      size: canvas.clientWidth, kind: windowed ? "window" : viewer.zoom > 1 ? "move" : "slices",
    };
  });
  panels.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (drag.kind === "window") viewer.setWindow(drag.level - dy * 2, drag.width + dx * 3);
    else if (drag.kind === "move") {
      viewer.move(-dx / drag.size, -dy / drag.size);
      drag.x = event.clientX;
      drag.y = event.clientY;
    } else {
      // fingers move sideways: up and down scrolls the page
      const way = event.pointerType === "touch" ? dx : -dy;
      viewer.goTo(drag.slice + Math.round((way / drag.size) * viewer.count));
    }
  });
  for (const end of ["pointerup", "pointercancel"]) panels.addEventListener(end, () => { drag = null; });
  panels.addEventListener("contextmenu", (event) => event.preventDefault());
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
