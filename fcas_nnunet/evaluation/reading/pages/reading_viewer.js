// The images of a bag, their slices in step.

// Some browsers answer with noise when a page reads a canvas.
function canvasIsHonest() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 16;
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb(120, 120, 120)";
  context.fillRect(0, 0, 16, 16);
  return context.getImageData(0, 0, 16, 16).data.every((value, i) => value === (i % 4 === 3 ? 255 : 120));
}

class Viewer {
  constructor(data, panels, onChange) {
    this.data = data;
    this.panels = panels;
    this.onChange = onChange;
    this.plane = PLANES[0];
    this.level = data.windows[0].level;
    this.width = data.windows[0].width;
    this.contours = false;
    this.volumes = new Map(); // bag id → promise of name → voxels
    this.intensities = intensitiesOfGreys(data);
    this.colours = new Map(data.labels.map(({ id, colour }) => [id, colour]));
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
      const all = Promise.all(names.map((name) =>
        decodeVolume(document.getElementById(`${bag.id}-${name}`).textContent, bag.atlases[name], bag.shape)));
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
    this.index[this.plane.axis] = clamp(slice, 0, this.count - 1);
    this.change();
  }

  setPlane(plane) {
    this.plane = plane;
    this.resetZoom();
    this.change();
  }

  setWindow(level, width) {
    const [low, high] = this.data.greyKnots;
    this.level = clamp(Math.round(level), low, high);
    this.width = clamp(Math.round(width), 50, high - low);
    this.change();
  }

  setZoom(zoom) {
    this.zoom = clamp(zoom, 1, 8);
    this.move(0, 0);
  }

  // Shift the visible part, in fractions of it.
  move(dx, dy) {
    const half = 0.5 / this.zoom;
    this.centre = [dx, dy].map((d, i) => clamp(this.centre[i] + d / this.zoom, half, 1 - half));
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
    const palette = greyPalette(this.intensities, this.level - this.width / 2, this.level + this.width / 2);
    const slice = (name) => cutSlice(this.shown.get(name), this.bag.shape, this.plane, this.slice);
    const paths = this.contours && this.hasMask ? contoursOf(slice("mask")) : new Map();
    for (const figure of this.panels.children) {
      const canvas = figure.querySelector("canvas");
      this.drawImage(canvas, slice(canvas.dataset.letter), palette, paths);
      figure.querySelectorAll("i").forEach((mark, i) => { mark.textContent = this.plane.edges[i]; });
    }
  }

  drawImage(canvas, slice, palette, paths) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    // voxels are even, but for rounding: the plane's own two spacings keep the shape exact
    const across = this.bag.spacing_mm[this.plane.u], down = this.bag.spacing_mm[this.plane.v];
    const scale = this.zoom * Math.min(canvas.width / (slice.width * across), canvas.height / (slice.height * down));
    const place = { su: scale * across, sv: scale * down };
    place.left = canvas.width / 2 - this.centre[0] * slice.width * place.su;
    place.top = canvas.height / 2 - this.centre[1] * slice.height * place.sv;
    const context = canvas.getContext("2d");
    paintSlice(context, slice, palette, place);
    strokeContours(context, paths, (id) => this.colours.get(id), place, 1.3 * ratio);
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
