// The page as a whole: bags, keys, what is kept, what is saved.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STORE = `fcas-reading:${data.reading_id}`;
let keeps = true;
let state = restored() || emptyState();

function emptyState() {
  return { reader: { name: "", experience: "" }, current: 0, bags: {} };
}

function restored() {
  try {
    return JSON.parse(localStorage.getItem(STORE));
  } catch {
    keeps = false;
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    keeps = false;
    notice("This browser keeps nothing for this page. Press Save before you close it.", true);
  }
}

function entryOf(bag) {
  const entry = (state.bags[bag.id] ??= {});
  entry.scores ??= {};
  entry.ties ??= {};
  return entry;
}

function notice(text, warn = false) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("notice").classList.toggle("warn", warn);
}

const viewer = new Viewer(data, $("panels"), showTools);
const sheet = new Sheet(data, $("sheet"), () => {
  keep();
  showProgress();
});

// --- bags ---

function showBag(number, focus = false) {
  state.current = Math.min(Math.max(number, 0), data.bags.length - 1);
  keep();
  const bag = data.bags[state.current];
  const many = bag.letters.length;
  const columns = many <= 5 ? many : Math.ceil(many / Math.ceil(many / 6));
  document.documentElement.style.setProperty("--columns", columns);
  $("viewer").classList.toggle("few", many <= 4);
  viewer.show(state.current).catch(() => notice("An image of this bag could not be decoded. Ask for the page again, or take another browser.", true));
  sheet.show(bag, entryOf(bag));
  showProgress();
  if (focus) {
    window.scrollTo({ top: 0 });
    $("sheet").querySelector("input").focus({ preventScroll: true });
  }
}

function showProgress() {
  const states = data.bags.map((bag) => sheet.state(bag, entryOf(bag)));
  const complete = states.filter((one) => one.kind === "complete").length;
  $("progress-fill").style.width = `${(100 * complete) / data.bags.length}%`;
  $("progress-text").textContent = `${complete} of ${data.bags.length} bags complete`;
  $("bags").replaceChildren(...states.map((one, i) => {
    const button = element("button", { type: "button", textContent: i + 1, ariaLabel: `Bag ${i + 1}, ${one.kind}` });
    button.dataset.state = one.kind;
    if (i === state.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => showBag(i));
    return button;
  }));
  const here = states[state.current];
  const missing = here.of - here.given;
  $("bag-state").textContent = here.kind === "complete" ? `Bag ${state.current + 1} is complete.`
    : missing ? `Bag ${state.current + 1}: ${missing} of ${here.of} scores to give.`
      : `Bag ${state.current + 1}: equal totals wait for your decision.`;
  $("previous").disabled = state.current === 0;
  $("next").disabled = state.current === data.bags.length - 1;
  const { name, experience } = state.reader;
  $("reader-line").textContent = [name, experience].filter(Boolean).join(" · ") || "No reader yet";
}

// --- the viewer's tools ---

function segments(root, name, items, onPick) {
  for (const [i, item] of items.entries()) {
    const label = element("label");
    const input = element("input", { type: "radio", name, value: i });
    input.addEventListener("change", () => onPick(item));
    label.append(input, element("span", { textContent: item.name }));
    root.append(label);
  }
}

function showTools() {
  $("planes").querySelectorAll("input").forEach((input, i) => { input.checked = PLANES[i] === viewer.plane; });
  $("windows").querySelectorAll("input").forEach((input, i) => {
    input.checked = data.windows[i].level === viewer.level && data.windows[i].width === viewer.width;
  });
  $("slice").max = viewer.count - 1;
  $("slice").value = viewer.slice;
  $("slice-text").textContent = `${viewer.slice + 1} / ${viewer.count}`;
  $("level").value = viewer.level;
  $("width").value = viewer.width;
  $("level-text").textContent = `${viewer.level} ${data.unit}`;
  $("width-text").textContent = `${viewer.width} ${data.unit}`;
  $("zoom-text").textContent = `${viewer.zoom.toFixed(viewer.zoom % 1 ? 1 : 0)}×`;
  $("contours").disabled = !viewer.hasMask;
  $("contours").setAttribute("aria-pressed", viewer.contours);
  $("legend").hidden = !viewer.contours || !viewer.hasMask;
}

function toggleContours() {
  viewer.contours = !viewer.contours && viewer.hasMask;
  viewer.change();
}

function prepareTools() {
  segments($("planes"), "plane", PLANES, (plane) => viewer.setPlane(plane));
  segments($("windows"), "window", data.windows, ({ level, width }) => viewer.setWindow(level, width));
  Object.assign($("level"), { min: data.greyKnots[0], max: data.greyKnots[1] });
  Object.assign($("width"), { min: 50, max: data.greyKnots[1] - data.greyKnots[0] });
  $("slice").addEventListener("input", (event) => viewer.goTo(Number(event.target.value)));
  $("level").addEventListener("input", (event) => viewer.setWindow(Number(event.target.value), viewer.width));
  $("width").addEventListener("input", (event) => viewer.setWindow(viewer.level, Number(event.target.value)));
  $("contours").addEventListener("click", toggleContours);
  $("zoom-in").addEventListener("click", () => viewer.setZoom(viewer.zoom * 1.5));
  $("zoom-out").addEventListener("click", () => viewer.setZoom(viewer.zoom / 1.5));
  $("legend").replaceChildren(...data.labels.map(({ name, colour }) => {
    const item = element("li");
    const stroke = element("b");
    stroke.style.background = colour;
    item.append(stroke, name);
    return item;
  }));
  document.addEventListener("pointerdown", (event) => {
    if (!$("fine").contains(event.target)) $("fine").open = false;
  });
  listenToPanels(viewer, $("panels"));
  // the images stay in view while scores are given: what gets the focus must not slip under them
  new ResizeObserver(() => {
    const sticks = getComputedStyle($("viewer")).position === "sticky";
    document.documentElement.style.scrollPaddingTop = sticks ? `${$("viewer").offsetHeight + 56}px` : "";
  }).observe($("viewer"));
}

// --- the reader's file ---

function scoresFile() {
  const bags = {};
  for (const bag of data.bags) {
    const entry = entryOf(bag);
    const { groups } = sheet.standing(bag, entry);
    const complete = sheet.state(bag, entry).kind === "complete";
    if (Object.keys(entry.scores).length || entry.comment) {
      bags[bag.id] = { scores: entry.scores, order: complete ? groups : null, comment: entry.comment || "" };
    }
  }
  return {
    schema: data.schema, schema_version: data.schema_version, reading_id: data.reading_id,
    reader: state.reader, saved_at: new Date().toISOString(), bags,
  };
}

function save() {
  if (!state.reader.name) return openReader("A name or code has to be on the file.");
  const slug = state.reader.name.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "_").replace(/^_+|_+$/g, "") || "reader";
  const url = URL.createObjectURL(new Blob([`${JSON.stringify(scoresFile(), null, 1)}\n`], { type: "application/json" }));
  const link = element("a", { href: url, download: `scores_${slug}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  const left = data.bags.filter((bag) => sheet.state(bag, entryOf(bag)).kind !== "complete").length;
  notice(left ? `Saved as ${link.download}. ${left} ${left === 1 ? "bag is" : "bags are"} not complete yet.`
    : `Saved as ${link.download}. All bags are complete: send this file back.`);
}

// A saved file as a state; throws a sentence for the reader.
function stateOf(file) {
  if (file?.schema !== data.schema || file.schema_version !== data.schema_version) throw new Error("This is no file of scores.");
  if (file.reading_id !== data.reading_id) throw new Error("This file belongs to another reading.");
  const made = emptyState();
  made.reader = { name: String(file.reader?.name ?? ""), experience: String(file.reader?.experience ?? "") };
  if (!made.reader.name) throw new Error("This file names no reader.");
  for (const bag of data.bags) {
    const from = file.bags?.[bag.id];
    if (!from) continue;
    const entry = (made.bags[bag.id] = { scores: {}, ties: {}, comment: String(from.comment ?? "") });
    for (const letter of bag.letters) {
      for (const key of sheet.keys) {
        const score = from.scores?.[letter]?.[key];
        if (score === undefined) continue;
        if (!sheet.levels.includes(score)) throw new Error(`This file has a score that is none: ${bag.id}, ${letter}.`);
        (entry.scores[letter] ??= {})[key] = score;
      }
    }
    for (const members of from.order ? sheet.standing(bag, entry).tied : []) {
      const groups = from.order.map((group) => group.filter((letter) => members.includes(letter))).filter((group) => group.length);
      entry.ties[members.join("")] = groups;
    }
  }
  return made;
}

async function load(file) {
  try {
    const loaded = stateOf(JSON.parse(await file.text()));
    const begun = Object.values(state.bags).some((entry) => Object.keys(entry.scores ?? {}).length);
    if (begun && !window.confirm("Replace the scores on this page with those of the file?")) return;
    state = loaded;
    const first = data.bags.findIndex((bag) => sheet.state(bag, entryOf(bag)).kind !== "complete");
    showBag(Math.max(first, 0));
    if ($("reader-dialog").open) $("reader-dialog").close();
    notice(`Loaded ${file.name}.`);
  } catch (error) {
    const text = error instanceof SyntaxError ? "This is no file of scores." : error.message;
    if ($("reader-dialog").open) openReader(text);
    else notice(text, true);
  }
}

// --- the reader ---

function openReader(fault = "") {
  $("reader-name").value = state.reader.name;
  $("reader-experience").value = state.reader.experience;
  $("reader-fault").textContent = fault;
  $("reader-fault").hidden = !fault;
  $("restart").hidden = !state.reader.name;
  $("begin").textContent = state.reader.name ? "Done" : "Begin";
  if (!$("reader-dialog").open) $("reader-dialog").showModal();
}

function prepareReader() {
  $("reader-form").addEventListener("submit", (event) => {
    const name = $("reader-name").value.trim();
    if (!name) {
      event.preventDefault();
      return openReader("A name or code has to be on the file.");
    }
    state.reader = { name, experience: $("reader-experience").value.trim() };
    keep();
    showProgress();
  });
  $("restart").addEventListener("click", () => {
    if (!window.confirm("Clear all scores on this page? Save them first if they are needed.")) return;
    state = emptyState();
    showBag(0);
    openReader();
  });
  $("open-reader").addEventListener("click", () => openReader());
  $("open-help").addEventListener("click", () => $("help-dialog").showModal());
  $("save").addEventListener("click", save);
  $("load").addEventListener("change", (event) => {
    if (event.target.files[0]) load(event.target.files[0]);
    event.target.value = "";
  });
  document.querySelectorAll("[data-load]").forEach((button) => button.addEventListener("click", () => $("load").click()));
  $("previous").addEventListener("click", () => showBag(state.current - 1, true));
  $("next").addEventListener("click", () => showBag(state.current + 1, true));
}

// --- keys ---

const KEYS = {
  ArrowUp: () => viewer.scroll(1), ArrowDown: () => viewer.scroll(-1),
  PageUp: () => viewer.scroll(10), PageDown: () => viewer.scroll(-10),
  m: toggleContours, r: () => { viewer.resetZoom(); viewer.change(); },
  "+": () => viewer.setZoom(viewer.zoom * 1.5), "-": () => viewer.setZoom(viewer.zoom / 1.5),
  w: () => {
    const at = data.windows.findIndex(({ level, width }) => level === viewer.level && width === viewer.width);
    const { level, width } = data.windows[(at + 1) % data.windows.length];
    viewer.setWindow(level, width);
  },
  n: () => showBag(state.current + 1, true), p: () => showBag(state.current - 1, true),
  "?": () => $("help-dialog").showModal(),
};
for (const plane of PLANES) KEYS[plane.key[0]] = () => viewer.setPlane(plane);
for (const level of sheet.levels) if (level <= 9) KEYS[level] = () => sheet.type(level);

document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("textarea, input[type=text], input[type=range]");
  if (writing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// --- begin ---

document.querySelectorAll("[data-app]").forEach((part) => { part.hidden = false; });
prepareTools();
prepareReader();
showBag(state.current);
if (!keeps) notice("This browser keeps nothing for this page. Press Save before you close it.", true);
else if (!canvasIsHonest()) notice("This browser alters images that a page reads (protection against fingerprinting). Allow canvas access, or take another browser.", true);
if (!state.reader.name) openReader();
