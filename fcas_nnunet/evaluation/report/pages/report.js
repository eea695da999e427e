"use strict";
// The viewer. A volume is [z][y][x]: z from the feet to the head, y from front to back, x from the patient's right to
// the left. A scan is decoded when its case is opened, and the last few are kept.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("viewer-data").textContent);
  const ROWS = ["synthetic", "beside"];
  const PLANES = ["axial", "coronal", "sagittal"];
  const KEPT_SCANS = 4;
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const labelOf = new Map(data.labels.map((label) => [label.id, { ...label, rgb: rgb(label.colour), visible: true }]));
  const confidenceTable = data.confidenceColours.map(rgb);
  const greyToHu = Float32Array.from({ length: 256 }, (_, grey) => {
    const v = data.greyValues, h = data.greyHu;
    let i = 0;
    while (i < v.length - 2 && grey > v[i + 1]) i += 1;
    return h[i] + ((grey - v[i]) / (v[i + 1] - v[i])) * (h[i + 1] - h[i]);
  });
  const state = {
    index: -1, scan: null, other: null, position: [0, 0, 0], low: data.windows.heart[0], high: data.windows.heart[1],
    mask: true, outline: true, maskOpacity: 0.8, confidence: false, inside: false, confidenceOpacity: 0.65,
    crosshair: true, plane: "axial",
    beside: matchMedia("(min-width: 68rem)").matches ? "template" : "none", // a phone decodes it when asked to
  };

  // ---- Theme
  const themeButton = byId("theme");
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (preferred.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; themeButton.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
  const remembered = (() => { try { return localStorage.getItem("fcas-report-theme"); } catch { return null; } })();
  if (remembered === "dark" || remembered === "light") document.documentElement.dataset.theme = remembered;
  themeButton.hidden = false;
  nameTheme();
  preferred.addEventListener("change", nameTheme);
  themeButton.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("fcas-report-theme", document.documentElement.dataset.theme); } catch { /* private mode */ }
    nameTheme();
  });

  // ---- Scans: an atlas of slices, as an image, becomes bytes
  const scans = new Map();
  async function readAtlas(uri, [depth, height, width], columns) {
    const comma = uri.indexOf(",");
    const text = atob(uri.slice(comma + 1));
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    const blob = new Blob([bytes], { type: uri.slice(5, uri.indexOf(";")) });
    const picture = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const canvas = document.createElement("canvas");
    canvas.width = columns * width;
    canvas.height = height; // a row of slices at a time: phones limit the size of a canvas
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const volume = new Uint8Array(depth * height * width);
    for (let row = 0; row * columns < depth; row += 1) {
      context.drawImage(picture, 0, row * height, canvas.width, height, 0, 0, canvas.width, height);
      const pixels = context.getImageData(0, 0, canvas.width, height).data;
      for (let column = 0; column < columns && row * columns + column < depth; column += 1) {
        let to = (row * columns + column) * height * width;
        for (let y = 0; y < height; y += 1) {
          let from = 4 * (y * canvas.width + column * width);
          for (let x = 0; x < width; x += 1, from += 4) volume[to++] = pixels[from];
        }
      }
    }
    picture.close();
    return volume;
  }
  async function unpack(number) {
    const packed = JSON.parse(byId(`scan-${number}`).textContent);
    const read = (uri) => (uri ? readAtlas(uri, packed.shape, packed.columns) : null);
    const [grey, mask, confidence] = await Promise.all([read(packed.image), read(packed.mask), read(packed.confidence)]);
    for (let i = 0; i < mask.length; i += 1) mask[i] = Math.round(mask[i] / packed.labelStep);
    const voxel = packed.shape.map((n, axis) => (packed.sizes[axis] * packed.spacing[axis]) / n); // mm
    const scan = { number, shape: packed.shape, grey, mask, confidence, voxel, packed };
    scan.extent = Math.max(...packed.shape.map((n, axis) => n * voxel[axis]));
    return scan;
  }
  function getScan(number) {
    const found = scans.get(number) || unpack(number);
    scans.delete(number);
    scans.set(number, found); // the latest last
    for (const old of scans.keys()) if (scans.size > KEPT_SCANS) scans.delete(old);
    return found;
  }

  // ---- Planes
  // (u, v) → voxel, u to the right, v downwards; k is the slice.
  const GEOMETRY = {
    axial: { axis: 0, u: 2, v: 1, turned: false },
    coronal: { axis: 1, u: 2, v: 0, turned: true },
    sagittal: { axis: 2, u: 1, v: 0, turned: true },
  };
  const strides = (shape) => [shape[1] * shape[2], shape[2], 1];
  const canvases = ROWS.flatMap((row) => PLANES.map((plane) => {
    const canvas = byId(`${row}-${plane}`);
    const layer = document.createElement("canvas");
    return { row, plane, canvas, context: canvas.getContext("2d"), layer, layerContext: layer.getContext("2d"), ...GEOMETRY[plane] };
  }));

  /** Where a voxel of the synthetic scan lies in the scan beside it: by place on one grid, else by part of the heart's box. */
  function inOther(position) {
    const { scan, other } = state;
    const companion = data.cases[state.index].companions[state.beside];
    return position.map((index, axis) => {
      const n = other.shape[axis];
      let part = (index + 0.5) / scan.shape[axis];
      if (companion.same_grid) {
        const voxel = scan.packed.starts[axis] + part * scan.packed.sizes[axis];
        part = (voxel - other.packed.starts[axis]) / other.packed.sizes[axis];
      }
      return Math.min(n - 1, Math.max(0, Math.floor(part * n)));
    });
  }
  function fromOther(position) {
    const { scan, other } = state;
    const companion = data.cases[state.index].companions[state.beside];
    return position.map((index, axis) => {
      const n = scan.shape[axis];
      let part = (index + 0.5) / other.shape[axis];
      if (companion.same_grid) {
        const voxel = other.packed.starts[axis] + part * other.packed.sizes[axis];
        part = (voxel - scan.packed.starts[axis]) / scan.packed.sizes[axis];
      }
      return Math.min(n - 1, Math.max(0, Math.floor(part * n)));
    });
  }

  function slicePixels(view, scan, position, paint) {
    const step = strides(scan.shape), width = scan.shape[view.u], height = scan.shape[view.v];
    const image = view.layerContext.createImageData(width, height);
    const base = position[view.axis] * step[view.axis];
    for (let v = 0, at = 0; v < height; v += 1) {
      const line = base + (view.turned ? height - 1 - v : v) * step[view.v];
      for (let u = 0; u < width; u += 1, at += 4) paint(image.data, at, line + u * step[view.u]);
    }
    view.layer.width = width;
    view.layer.height = height;
    view.layerContext.putImageData(image, 0, 0);
  }

  function outlines(view, scan, position, place) {
    const step = strides(scan.shape), width = scan.shape[view.u], height = scan.shape[view.v];
    const base = position[view.axis] * step[view.axis];
    const label = (u, v) => {
      if (u < 0 || v < 0 || u >= width || v >= height) return 0;
      const found = scan.mask[base + (view.turned ? height - 1 - v : v) * step[view.v] + u * step[view.u]];
      return found && labelOf.get(found)?.visible ? found : 0;
    };
    const paths = new Map();
    const edge = (id, u1, v1, u2, v2) => {
      if (!paths.has(id)) paths.set(id, new Path2D());
      const path = paths.get(id);
      path.moveTo(place.left + u1 * place.su, place.top + v1 * place.sv);
      path.lineTo(place.left + u2 * place.su, place.top + v2 * place.sv);
    };
    for (let v = 0; v < height; v += 1) {
      for (let u = 0; u < width; u += 1) {
        const id = label(u, v);
        if (!id) continue;
        if (label(u - 1, v) !== id) edge(id, u, v, u, v + 1);
        if (label(u + 1, v) !== id) edge(id, u + 1, v, u + 1, v + 1);
        if (label(u, v - 1) !== id) edge(id, u, v, u + 1, v);
        if (label(u, v + 1) !== id) edge(id, u, v + 1, u + 1, v + 1);
      }
    }
    view.context.lineWidth = Math.max(1, 1.5 * (window.devicePixelRatio || 1));
    view.context.lineCap = "round";
    for (const [id, path] of paths) {
      view.context.strokeStyle = labelOf.get(id).colour;
      view.context.stroke(path);
    }
  }

  function draw(view) {
    const scan = view.row === "synthetic" ? state.scan : state.other;
    const ratio = window.devicePixelRatio || 1;
    const side = Math.max(16, Math.round(view.canvas.clientWidth * ratio));
    if (view.canvas.width !== side || view.canvas.height !== side) view.canvas.width = view.canvas.height = side;
    const { context } = view;
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    if (!scan) return;
    const position = view.row === "synthetic" ? state.position : inOther(state.position);
    const scale = side / scan.extent;
    const place = { su: scan.voxel[view.u] * scale, sv: scan.voxel[view.v] * scale };
    const width = place.su * scan.shape[view.u], height = place.sv * scan.shape[view.v];
    place.left = (side - width) / 2;
    place.top = (side - height) / 2;
    view.place = place;
    view.canvas.dataset.place = [place.left, place.top, place.su, place.sv].join(" ");

    const shown = Uint8ClampedArray.from(greyToHu, (hu) => (255 * (hu - state.low)) / (state.high - state.low));
    slicePixels(view, scan, position, (out, at, index) => {
      out[at] = out[at + 1] = out[at + 2] = shown[scan.grey[index]];
      out[at + 3] = 255;
    });
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(view.layer, place.left, place.top, width, height);
    if (state.confidence && scan.confidence) {
      slicePixels(view, scan, position, (out, at, index) => {
        const colour = confidenceTable[scan.confidence[index]];
        [out[at], out[at + 1], out[at + 2]] = colour;
        out[at + 3] = !state.inside || scan.mask[index] ? 255 : 0;
      });
      context.imageSmoothingEnabled = !state.inside;
      context.globalAlpha = state.confidenceOpacity;
      context.drawImage(view.layer, place.left, place.top, width, height);
    }
    if (state.mask) {
      context.globalAlpha = state.maskOpacity;
      if (state.outline) {
        outlines(view, scan, position, place);
      } else {
        slicePixels(view, scan, position, (out, at, index) => {
          const label = labelOf.get(scan.mask[index]);
          if (!label || !label.visible) return;
          [out[at], out[at + 1], out[at + 2]] = label.rgb;
          out[at + 3] = 255;
        });
        context.imageSmoothingEnabled = false;
        context.drawImage(view.layer, place.left, place.top, width, height);
      }
    }
    context.globalAlpha = 1;
    if (state.crosshair) drawCrosshair(view, scan, position, place, side, ratio);
  }

  function drawCrosshair(view, scan, position, place, side, ratio) {
    const v = view.turned ? scan.shape[view.v] - 1 - position[view.v] : position[view.v];
    const x = place.left + (position[view.u] + 0.5) * place.su, y = place.top + (v + 0.5) * place.sv, gap = 9 * ratio;
    const { context } = view;
    context.strokeStyle = "rgba(95, 208, 197, .75)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [a, b] of [[0, x - gap], [x + gap, side]]) if (b > a) { context.moveTo(a, y); context.lineTo(b, y); }
    for (const [a, b] of [[0, y - gap], [y + gap, side]]) if (b > a) { context.moveTo(x, a); context.lineTo(x, b); }
    context.stroke();
  }

  let pending = 0;
  function redraw() {
    if (pending) return;
    pending = requestAnimationFrame(() => {
      pending = 0;
      for (const view of canvases) if (view.row === "synthetic" || state.other) draw(view);
      describe();
    });
  }

  // ---- Words and numbers around the planes
  function describe() {
    const { scan, position } = state;
    if (!scan) return;
    PLANES.forEach((plane, axis) => {
      byId(`slice-${plane}`).value = String(position[axis]);
      byId(`label-${plane}`).textContent = `${position[axis] + 1} / ${scan.shape[axis]}`;
      byId(`slice-${plane}`).setAttribute("aria-valuetext", `${plane} slice ${position[axis] + 1} of ${scan.shape[axis]}`);
    });
    const step = strides(scan.shape);
    const index = position.reduce((sum, p, axis) => sum + p * step[axis], 0);
    const parts = [`<b>${signed(greyToHu[scan.grey[index]])} HU</b>`];
    const label = labelOf.get(scan.mask[index]);
    parts.push(label ? escapeText(label.name) : "background");
    if (scan.confidence) parts.push(`confidence <b>${(scan.confidence[index] / 255).toFixed(2)}</b>`);
    parts.push(`voxel (${fileVoxel(scan, position).join(", ")})`);
    byId("readout").innerHTML = parts.join(" · ");
    byId("level").value = String((state.low + state.high) / 2);
    byId("width").value = String(state.high - state.low);
    byId("level-value").textContent = `${signed((state.low + state.high) / 2)} HU`;
    byId("width-value").textContent = `${Math.round(state.high - state.low)} HU`;
    byId("mask-value").textContent = `${Math.round(100 * state.maskOpacity)} %`;
    byId("confidence-value").textContent = `${Math.round(100 * state.confidenceOpacity)} %`;
    for (const name of ["mask", "outline", "confidence", "inside"]) byId(name).setAttribute("aria-pressed", String(state[name]));
    for (const button of byId("windows").children) {
      const [low, high] = data.windows[button.dataset.window];
      button.setAttribute("aria-pressed", String(low === state.low && high === state.high));
    }
    for (const button of byId("beside").children) button.setAttribute("aria-pressed", String(button.dataset.role === state.beside));
  }
  /** Index (d, h, w) in the file's array of the voxel in the middle of a reduced one. */
  function fileVoxel(scan, position) {
    const p = scan.packed, voxel = [0, 0, 0];
    position.forEach((index, axis) => {
      const upright = p.starts[axis] + Math.floor(((index + 0.5) * p.sizes[axis]) / scan.shape[axis]);
      voxel[p.axes[axis]] = p.flips[axis] ? p.full[axis] - 1 - upright : upright;
    });
    return voxel;
  }
  const signed = (value) => String(Math.round(value)).replace("-", "−");
  function escapeText(text) {
    const element = document.createElement("span");
    element.textContent = text;
    return element.innerHTML;
  }
  function heartCentre(scan) {
    const [depth, height, width] = scan.shape, sum = [0, 0, 0];
    let count = 0;
    for (let z = 0, i = 0; z < depth; z += 1) for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1, i += 1) {
      if (!scan.mask[i]) continue;
      sum[0] += z; sum[1] += y; sum[2] += x; count += 1;
    }
    return count ? sum.map((s) => Math.round(s / count)) : scan.shape.map((n) => Math.floor(n / 2));
  }

  // ---- Cases
  async function openCase(index) {
    if (!data.cases.length) return;
    state.index = (index + data.cases.length) % data.cases.length;
    const wanted = state.index, entry = data.cases[wanted];
    byId("case").value = String(wanted);
    byId("viewer-error").hidden = true;
    if (state.beside !== "none" && !entry.companions[state.beside]) state.beside = "none";
    try {
      const scan = await getScan(entry.scan);
      const other = state.beside === "none" ? null : await getScan(entry.companions[state.beside].scan);
      if (wanted !== state.index) return; // another one was opened meanwhile
      const same = state.scan && state.scan.number === scan.number;
      Object.assign(state, { scan, other });
      if (!same) state.position = heartCentre(scan);
      PLANES.forEach((plane, axis) => { byId(`slice-${plane}`).max = String(scan.shape[axis] - 1); });
      byId("stage").hidden = false;
      byId("row-beside").hidden = !other;
      byId("stage").classList.toggle("alone", !other); // larger planes, the controls below
      byId("confidence-controls").hidden = !scan.confidence;
      title("synthetic", "synthetic", entry.id, scan);
      if (other) title("beside", state.beside, entry.companions[state.beside].case_id, other);
      writeLegend(entry);
      writeBeside(entry);
      byId("viewer").dataset.case = entry.id;
      redraw();
    } catch (error) {
      byId("viewer-error").textContent = `${entry.id} could not be decoded by this browser (${error.message}). Open the page in a current one.`;
      byId("viewer-error").hidden = false;
    }
  }
  function title(row, role, id, scan) {
    const [z, y, x] = scan.shape, tilt = scan.packed.tilt;
    const oblique = tilt > 1 ? `, grid tilted by up to ${tilt}°: letters name the nearest side` : "";
    byId(`title-${row}`).innerHTML = `${role} <b>${escapeText(id)}</b>, ${x} × ${y} × ${z} voxels of ${scan.voxel.slice().reverse().map((s) => s.toFixed(2)).join(" × ")} mm${oblique}`;
  }
  function writeLegend(entry) {
    const legend = byId("legend");
    legend.replaceChildren(...[...labelOf.values()].map((label) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.label = String(label.id);
      button.setAttribute("aria-pressed", String(label.visible));
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.style.background = label.colour;
      const volume = document.createElement("span");
      volume.className = "ml";
      volume.textContent = entry.volumes[label.key] ? `${entry.volumes[label.key]} mL` : "–";
      button.append(swatch, label.name, volume);
      button.addEventListener("click", () => {
        label.visible = !label.visible;
        button.setAttribute("aria-pressed", String(label.visible));
        redraw();
      });
      return button;
    }));
  }
  function writeBeside(entry) {
    const roles = ["none", ...Object.keys(entry.companions)];
    byId("beside").replaceChildren(...roles.map((role) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.role = role;
      button.textContent = role;
      button.addEventListener("click", () => { state.beside = role; openCase(state.index); });
      return button;
    }));
    const companion = entry.companions[state.beside];
    byId("beside-note").textContent = roles.length === 1
      ? "No real scan can be shown here: give the data set it was made from with --against."
      : !companion ? "" : companion.same_grid
        ? "On the same grid: the crosshair marks the same voxel." : "On another grid: the crosshair marks the same part of the heart’s box.";
  }

  // ---- Hands
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  function moveTo(axis, index) {
    if (!state.scan) return false;
    const next = clamp(index, 0, state.scan.shape[axis] - 1);
    const moved = next !== state.position[axis];
    state.position = state.position.map((p, a) => (a === axis ? next : p));
    redraw();
    return moved;
  }
  function setWindow(low, high) {
    const width = clamp(high - low, 50, 3000), level = clamp((low + high) / 2, -900, 1200);
    Object.assign(state, { low: level - width / 2, high: level + width / 2 });
    redraw();
  }
  function nextWindow() {
    const names = Object.keys(data.windows);
    const at = names.findIndex((name) => data.windows[name][0] === state.low && data.windows[name][1] === state.high);
    setWindow(...data.windows[names[(at + 1) % names.length]]);
  }
  function pointAt(view, event) {
    const scan = view.row === "synthetic" ? state.scan : state.other;
    if (!scan) return;
    const box = view.canvas.getBoundingClientRect(), factor = view.canvas.width / box.width;
    const u = Math.floor(((event.clientX - box.left) * factor - view.place.left) / view.place.su);
    const v = Math.floor(((event.clientY - box.top) * factor - view.place.top) / view.place.sv);
    const position = (view.row === "synthetic" ? state.position : inOther(state.position)).slice();
    position[view.u] = clamp(u, 0, scan.shape[view.u] - 1);
    const down = clamp(v, 0, scan.shape[view.v] - 1);
    position[view.v] = view.turned ? scan.shape[view.v] - 1 - down : down;
    const mapped = view.row === "synthetic" ? position : fromOther(position);
    mapped[view.axis] = state.position[view.axis];
    state.position = mapped;
    redraw();
  }
  
  for (const view of canvases) {
    let wheel = 0, drag = null;
    view.canvas.addEventListener("focus", () => { state.plane = view.plane; });
    view.canvas.addEventListener("wheel", (event) => {
      wheel += Math.abs(event.deltaY) < 30 && event.deltaMode === 0 ? event.deltaY / 30 : Math.sign(event.deltaY);
      const steps = Math.trunc(wheel);
      wheel -= steps;
      if (!steps || moveTo(view.axis, state.position[view.axis] - steps)) event.preventDefault();
    }, { passive: false });
    view.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    view.canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, low: state.low, high: state.high, from: state.position[view.axis], moved: false, kind: event.pointerType === "touch" ? "touch" : event.button === 2 ? "window" : "point" };
      view.canvas.setPointerCapture(event.pointerId);
      if (drag.kind === "point") pointAt(view, event);
    });
    view.canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      drag.moved ||= Math.hypot(dx, dy) > 5;
      if (drag.kind === "point") pointAt(view, event);
      else if (drag.kind === "touch" && drag.moved) moveTo(view.axis, drag.from + Math.round(dx / 6));
      else if (drag.kind === "window") {
        const level = (drag.low + drag.high) / 2 + 2 * dy, width = Math.max(50, drag.high - drag.low + 4 * dx);
        setWindow(Math.round(level - width / 2), Math.round(level + width / 2));
      }
    });
    view.canvas.addEventListener("pointerup", (event) => {
      if (drag?.kind === "touch" && !drag.moved) pointAt(view, event);
      drag = null;
    });
    view.canvas.addEventListener("pointercancel", () => { drag = null; });
    new ResizeObserver(redraw).observe(view.canvas);
  }
  PLANES.forEach((plane, axis) => byId(`slice-${plane}`).addEventListener("input", (event) => moveTo(axis, Number(event.target.value))));

  const toggle = (name) => { state[name] = !state[name]; redraw(); };
  for (const name of ["mask", "outline", "confidence", "inside"]) byId(name).addEventListener("click", () => toggle(name));
  byId("mask-opacity").addEventListener("input", (event) => { state.maskOpacity = event.target.value / 100; redraw(); });
  byId("confidence-opacity").addEventListener("input", (event) => { state.confidenceOpacity = event.target.value / 100; redraw(); });
  byId("level").addEventListener("input", (event) => { const half = (state.high - state.low) / 2; setWindow(event.target.value - half, Number(event.target.value) + half); });
  byId("width").addEventListener("input", (event) => { const level = (state.low + state.high) / 2; setWindow(level - event.target.value / 2, level + event.target.value / 2); });
  for (const name of Object.keys(data.windows)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dataset.window = name;
    button.addEventListener("click", () => setWindow(...data.windows[name]));
    byId("windows").append(button);
  }
  byId("ramp").style.background = `linear-gradient(to right, ${data.confidenceColours.filter((_, i) => i % 15 === 0).join(", ")})`;
  byId("previous").addEventListener("click", () => openCase(state.index - 1));
  byId("next").addEventListener("click", () => openCase(state.index + 1));
  byId("case").addEventListener("change", (event) => openCase(Number(event.target.value)));
  const help = () => { byId("help").hidden = !byId("help").hidden; byId("help-button").setAttribute("aria-expanded", String(!byId("help").hidden)); };
  byId("help-button").addEventListener("click", help);
  function nextBeside() {
    const roles = ["none", ...Object.keys(data.cases[state.index].companions)];
    state.beside = roles[(roles.indexOf(state.beside) + 1) % roles.length];
    openCase(state.index);
  }
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !state.scan) return;
    const typing = event.target.matches("input, select");
    const axis = GEOMETRY[state.plane].axis, at = state.position[axis];
    const actions = {
      ArrowUp: () => moveTo(axis, at + 1), ArrowDown: () => moveTo(axis, at - 1),
      PageUp: () => moveTo(axis, at + 10), PageDown: () => moveTo(axis, at - 10),
      ArrowLeft: () => openCase(state.index - 1), ArrowRight: () => openCase(state.index + 1),
      m: () => toggle("mask"), o: () => toggle("outline"), c: () => toggle("confidence"), x: () => toggle("crosshair"),
      w: nextWindow, b: nextBeside, "?": help,
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (typing && event.key.length > 1)) return;
    event.preventDefault();
    action();
  });

  // ---- Ways in
  const find = (id) => data.cases.findIndex((entry) => entry.id === id);
  for (const link of document.querySelectorAll("[data-open]")) {
    link.addEventListener("click", () => { const index = find(link.dataset.open); if (index >= 0) openCase(index); });
  }
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    if (state.index < 0) openCase(0);
  }, { rootMargin: "300px" });
  near.observe(byId("viewer"));
})();
