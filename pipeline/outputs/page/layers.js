// The rasters of a map as layers of Leaflet, pixel for pixel: the plane is the map's own grid, in metres.

import { windowOf } from "./window.js";

const { L } = globalThis;
const TILE = 512;
const CONFIDENCE = [[94, 60, 153], [178, 171, 210], [247, 247, 247], [253, 184, 99], [230, 97, 1]].reverse();

/** The plane of a grid: zoom 0 shows a pixel as a pixel. */
export function planeOf(origin) {
  const { x, y, size } = origin;
  return L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1 / size, -x / size, -1 / size, y / size) });
}

/** Bounds of a file on that plane. */
export function boundsOf(cog) {
  const { x, y, size } = cog.origin;
  return L.latLngBounds([y - cog.height * size, x], [y, x + cog.width * size]);
}

/** Colours of a class map, one 32-bit word per code; what is not wanted is clear. */
export function classPalette(classes, hidden) {
  const palette = new Uint32Array(256);
  for (const { code, color } of classes) if (!hidden.has(code)) palette[code] = word(...rgb(color));
  return palette;
}

/** Colours of percent: orange is doubtful, white half, violet sure. */
export function confidencePalette() {
  const palette = new Uint32Array(256);
  for (let percent = 0; percent <= 100; percent += 1) palette[percent] = word(...confidenceColour(percent));
  return palette;
}

export function confidenceColour(percent) {
  const place = (Math.min(Math.max(percent, 0), 100) / 100) * (CONFIDENCE.length - 1);
  const low = Math.min(Math.floor(place), CONFIDENCE.length - 2);
  return CONFIDENCE[low].map((value, i) => Math.round(value + (place - low) * (CONFIDENCE[low + 1][i] - value)));
}

const rgb = (color) => [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
const word = (r, g, b) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** A layer of canvases. `paint(values, words)` turns values into colours, and may be changed: see `repaint`. */
export const CogLayer = L.GridLayer.extend({
  initialize(cog, paint, options) {
    const view = { tileSize: TILE, noWrap: true, keepBuffer: 1, updateWhenIdle: false, bounds: boundsOf(cog) };
    L.GridLayer.prototype.initialize.call(this, { ...view, minZoom: -16, maxZoom: 8, ...options });
    this.cog = cog;
    this.paint = paint;
    this.times = []; // milliseconds of each tile
  },

  createTile(coords, done) {
    const density = Math.min(2, Math.max(1, Math.round(globalThis.devicePixelRatio || 1)));
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = TILE * density;
    this.fill(canvas, coords, density).then(() => done(null, canvas), (error) => {
      done(error, canvas);
      this.fire("unreadable", { error });
    });
    return canvas;
  },

  async fill(canvas, coords, density) {
    const started = performance.now();
    const scale = 2 ** coords.z * density; // screen pixels per pixel of the map
    const anchor = this._map.options.crs.transformation.transform(L.point(this.cog.origin.x, this.cog.origin.y), 1);
    const [left, top] = [(coords.x * TILE * density) / scale - anchor.x, (coords.y * TILE * density) / scale - anchor.y];
    canvas.values = await windowOf(this.cog, left, top, scale, canvas.width);
    this.draw(canvas);
    this.times.push(performance.now() - started);
  },

  draw(canvas) {
    if (!canvas.values) return;
    const image = new ImageData(canvas.width, canvas.height);
    this.paint(canvas.values, new Uint32Array(image.data.buffer));
    canvas.getContext("2d").putImageData(image, 0, 0);
  },

  /** Other colours for what is there; nothing is read again. */
  repaint(paint) {
    this.paint = paint;
    for (const tile of Object.values(this._tiles)) this.draw(tile.el);
  },
});

/** Paints by a table of 256 colours. */
export const byPalette = (palette) => (values, words) => {
  for (let i = 0; i < words.length; i += 1) words[i] = palette[values[i]];
};

/** Paints red, green and blue; a pixel that is nodata in all is clear. */
export const byColour = (values, words) => {
  for (let i = 0, at = 0; i < words.length; i += 1, at += 3) {
    const [r, g, b] = [values[at], values[at + 1], values[at + 2]];
    words[i] = r | g | b ? word(r, g, b) : 0;
  }
};

/** Shows a pane of the map only to the right of a place between 0 and 1; `null`: everywhere. */
export function clipPane(map, pane, share) {
  const element = map.getPane(pane);
  if (share === null) {
    element.style.clip = "";
    return;
  }
  const start = map.containerPointToLayerPoint([0, 0]);
  const end = map.containerPointToLayerPoint(map.getSize());
  element.style.clip = `rect(${start.y}px, ${end.x}px, ${end.y}px, ${start.x + share * (end.x - start.x)}px)`;
}
