// The report's viewer. A scan is decoded when its case is opened, and the last few are kept.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("viewer-data").textContent);
  const ROWS = ["synthetic", "beside"];
  const KEPT_SCANS = 4;
  const labelOf = new Map(data.labels.map((label) => [label.id, { ...label, visible: true }]));
  const confidencePalette = Uint32Array.from(data.confidenceColours, (colour) => pixelOf(rgbOf(colour)));
  const labelPalette = Uint32Array.from({ length: 256 }, (_, id) => (labelOf.has(id) ? pixelOf(rgbOf(labelOf.get(id).colour)) : 0));
  const intensities = intensitiesOfGreys(data);
  const [[firstLow, firstHigh]] = Object.values(data.windows);
  const state = {
    index: -1, scan: null, other: null, position: [0, 0, 0], low: firstLow, high: firstHigh,
    mask: true, outline: true, maskOpacity: 0.8, confidence: false, inside: false, confidenceOpacity: 0.65,
    crosshair: true, axis: 0,
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

  // ---- Scans
  const scans = new Map();
  async function unpack(number) {
    const packed = JSON.parse(byId(`scan-${number}`).textContent);
    const read = (atlas) => atlas && decodeVolume(atlas.base64, atlas, packed.shape);
    const [grey, mask, confidence] = await Promise.all(["grey", "mask", "confidence"].map((name) => read(packed.atlases[name])));
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
  const canvases = ROWS.flatMap((row) => PLANES.map((plane) => {
    const canvas = byId(`${row}-${plane.key}`);
    return { row, canvas, context: canvas.getContext("2d"), ...plane };
  }));

  /** Where a voxel of a scan lies in another: by place on one grid, else by part of the heart's box. */
  function across(position, from, to) {
    const { same_grid: same } = data.cases[state.index].companions[state.beside];
    return position.map((index, axis) => {
      const n = to.shape[axis];
      let part = (index + 0.5) / from.shape[axis];
      if (same) {
        const voxel = from.packed.starts[axis] + part * from.packed.sizes[axis];
        part = (voxel - to.packed.starts[axis]) / to.packed.sizes[axis];
      }
      return clamp(Math.floor(part * n), 0, n - 1);
    });
  }
  const positionIn = (view) => (view.row === "synthetic" ? state.position : across(state.position, state.scan, state.other));

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
    const position = positionIn(view);
    const scale = side / scan.extent;
    const place = { su: scan.voxel[view.u] * scale, sv: scan.voxel[view.v] * scale };
    place.left = (side - place.su * scan.shape[view.u]) / 2;
    place.top = (side - place.sv * scan.shape[view.v]) / 2;
    view.place = place;
    view.canvas.dataset.place = [place.left, place.top, place.su, place.sv].join(" ");

    const slice = (volume) => cutSlice(volume, scan.shape, view, position[view.axis]);
    paintSlice(context, slice(scan.grey), greyPalette(intensities, state.low, state.high), place);
    const mask = slice(scan.mask);
    if (state.confidence && scan.confidence) {
      const trust = slice(scan.confidence);
      const values = state.inside ? Uint16Array.from(trust.values, (value, i) => (mask.values[i] ? value : 256)) : trust.values;
      context.globalAlpha = state.confidenceOpacity; // a 257th value has no colour
      paintSlice(context, { ...trust, values }, confidencePalette, place, !state.inside);
    }
    if (state.mask) {
      context.globalAlpha = state.maskOpacity;
      mask.values = mask.values.map((id) => (labelOf.get(id)?.visible ? id : 0));
      if (state.outline) strokeContours(context, contoursOf(mask), (id) => labelOf.get(id).colour, place, Math.max(1, 1.5 * ratio));
      else paintSlice(context, mask, labelPalette, place, false);
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
    PLANES.forEach(({ key: plane, axis }) => {
      byId(`slice-${plane}`).value = String(position[axis]);
      byId(`label-${plane}`).textContent = `${position[axis] + 1} / ${scan.shape[axis]}`;
      byId(`slice-${plane}`).setAttribute("aria-valuetext", `${plane} slice ${position[axis] + 1} of ${scan.shape[axis]}`);
    });
    const step = strides(scan.shape);
    const index = position.reduce((sum, p, axis) => sum + p * step[axis], 0);
    const parts = [`<b>${signed(intensities[scan.grey[index]])} ${data.unit}</b>`];
    const label = labelOf.get(scan.mask[index]);
    parts.push(label ? escapeText(label.name) : "background");
    if (scan.confidence) parts.push(`confidence <b>${(scan.confidence[index] / 255).toFixed(2)}</b>`);
    parts.push(`voxel (${fileVoxel(scan, position).join(", ")})`);
    byId("readout").innerHTML = parts.join(" · ");
    byId("level").value = String((state.low + state.high) / 2);
    byId("width").value = String(state.high - state.low);
    byId("level-value").textContent = `${signed((state.low + state.high) / 2)} ${data.unit}`;
    byId("width-value").textContent = `${Math.round(state.high - state.low)} ${data.unit}`;
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
  const escapeText = (text) => element("span", { textContent: text }).innerHTML;
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
      for (const { key, axis } of PLANES) byId(`slice-${key}`).max = String(scan.shape[axis] - 1);
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
      const button = element("button", { type: "button" });
      button.dataset.label = String(label.id);
      button.setAttribute("aria-pressed", String(label.visible));
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = label.colour;
      const volume = element("span", { className: "ml", textContent: entry.volumes[label.key] ? `${entry.volumes[label.key]} mL` : "–" });
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
      const button = element("button", { type: "button", textContent: role });
      button.dataset.role = role;
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
    const position = positionIn(view).slice();
    position[view.u] = clamp(u, 0, scan.shape[view.u] - 1);
    const down = clamp(v, 0, scan.shape[view.v] - 1);
    position[view.v] = view.turned ? scan.shape[view.v] - 1 - down : down;
    const mapped = view.row === "synthetic" ? position : across(position, state.other, state.scan);
    mapped[view.axis] = state.position[view.axis];
    state.position = mapped;
    redraw();
  }

  for (const view of canvases) {
    let wheel = 0, drag = null;
    view.canvas.addEventListener("focus", () => { state.axis = view.axis; });
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
  for (const { key, axis } of PLANES) byId(`slice-${key}`).addEventListener("input", (event) => moveTo(axis, Number(event.target.value)));

  const toggle = (name) => { state[name] = !state[name]; redraw(); };
  for (const name of ["mask", "outline", "confidence", "inside"]) byId(name).addEventListener("click", () => toggle(name));
  byId("mask-opacity").addEventListener("input", (event) => { state.maskOpacity = event.target.value / 100; redraw(); });
  byId("confidence-opacity").addEventListener("input", (event) => { state.confidenceOpacity = event.target.value / 100; redraw(); });
  byId("level").addEventListener("input", (event) => { const half = (state.high - state.low) / 2; setWindow(event.target.value - half, Number(event.target.value) + half); });
  byId("width").addEventListener("input", (event) => { const level = (state.low + state.high) / 2; setWindow(level - event.target.value / 2, level + event.target.value / 2); });
  for (const name of Object.keys(data.windows)) {
    const button = element("button", { type: "button", textContent: name });
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
    const { axis } = state, at = state.position[axis];
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
