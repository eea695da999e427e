// What the viewers of both pages share: volumes out of their pictures, slices of volumes, contours of labels.
// A volume is [z][y][x]: z from the feet to the head, y from front to back, x from the patient's right to the left.

// u runs to the right on the screen, v downwards; `axis` is cut. Turned planes have the head on top.
const PLANES = [
  { key: "axial", name: "Axial", axis: 0, u: 2, v: 1, turned: false, edges: ["R", "L", "A", "P"] },
  { key: "coronal", name: "Coronal", axis: 1, u: 2, v: 0, turned: true, edges: ["R", "L", "S", "I"] },
  { key: "sagittal", name: "Sagittal", axis: 2, u: 1, v: 0, turned: true, edges: ["A", "P", "S", "I"] },
];
const strides = (shape) => [shape[1] * shape[2], shape[2], 1];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

// A picture's grey values, slice by slice: [z][y][x] in one array.
async function decodeVolume(base64, { type, columns, tile }, [depth, height, width]) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const picture = await createImageBitmap(new Blob([bytes], { type }), options);
  const canvas = element("canvas", { width: picture.width, height }); // a row of slices at a time: phones limit its size
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const voxels = new Uint8Array(depth * height * width);
  for (let row = 0; row * columns < depth; row += 1) {
    context.drawImage(picture, 0, row * tile[0], canvas.width, height, 0, 0, canvas.width, height);
    const pixels = context.getImageData(0, 0, canvas.width, height).data;
    for (let column = 0; column < columns && row * columns + column < depth; column += 1) {
      let to = (row * columns + column) * height * width;
      for (let y = 0; y < height; y += 1) {
        let from = 4 * (y * canvas.width + column * tile[1]);
        for (let x = 0; x < width; x += 1, from += 4) voxels[to++] = pixels[from];
      }
    }
  }
  picture.close();
  return voxels;
}

// Intensity of every grey value, linear between the knots of the page's scale.
function intensitiesOfGreys({ greyKnots: knots, greyValues: values }) {
  return Float32Array.from({ length: 256 }, (_, grey) => {
    let i = 0;
    while (i < values.length - 2 && grey > values[i + 1]) i += 1;
    return knots[i] + ((grey - values[i]) / (values[i + 1] - values[i])) * (knots[i + 1] - knots[i]);
  });
}

// A palette is a pixel for every value of a voxel; 0 is transparent.
const pixelOf = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const rgbOf = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

function greyPalette(intensities, low, high) {
  const greys = Uint8ClampedArray.from(intensities, (value) => (255 * (value - low)) / (high - low));
  return Uint32Array.from(greys, (grey) => pixelOf([grey, grey, grey]));
}

function cutSlice(voxels, shape, { axis, u, v, turned }, index) {
  const step = strides(shape), width = shape[u], height = shape[v];
  const values = new Uint8Array(width * height);
  for (let row = 0, to = 0; row < height; row += 1) {
    let from = index * step[axis] + (turned ? height - 1 - row : row) * step[v];
    for (let column = 0; column < width; column += 1, from += step[u]) values[to++] = voxels[from];
  }
  return { values, width, height };
}

// `place` is where the slice's first pixel begins on the canvas, and how large a pixel is: left, top, su, sv.
const scratch = element("canvas");
function paintSlice(context, { values, width, height }, palette, place, smooth = true) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < values.length; i += 1) pixels[i] = palette[values[i]];
  Object.assign(scratch, { width, height }).getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(scratch, place.left, place.top, width * place.su, height * place.sv);
}

// Borders of a slice's labels, id → path, in pixels of the slice; they join the middles between unlike pixels.
function contoursOf({ values, width, height }) {
  const paths = new Map();
  const label = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  for (let y = -1; y < height; y += 1) {
    for (let x = -1; x < width; x += 1) {
      const a = label(x, y), b = label(x + 1, y), c = label(x, y + 1), d = label(x + 1, y + 1);
      if (a === b && a === c && a === d) continue;
      const ends = [];
      if (a !== b) ends.push([x + 1, y + 0.5]);
      if (c !== d) ends.push([x + 1, y + 1.5]);
      if (a !== c) ends.push([x + 0.5, y + 1]);
      if (b !== d) ends.push([x + 1.5, y + 1]);
      const id = Math.max(a, b, c, d);
      if (!paths.has(id)) paths.set(id, new Path2D());
      const path = paths.get(id);
      const meet = ends.length === 2 ? ends.pop() : [x + 1, y + 1];
      for (const end of ends) {
        path.moveTo(...meet);
        path.lineTo(...end);
      }
    }
  }
  return paths;
}

function strokeContours(context, paths, colourOf, place, width) {
  context.lineWidth = width;
  context.lineCap = "round";
  for (const [id, path] of paths) {
    const placed = new Path2D();
    placed.addPath(path, new DOMMatrix([place.su, 0, 0, place.sv, place.left, place.top]));
    context.strokeStyle = colourOf(id);
    context.stroke(placed);
  }
}
