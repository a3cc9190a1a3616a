// What the folder holds: the list of maps, and of each map its sub-regions and files.

import { openCog } from "./cog.js";

const MOST_BYTES = 64 * 2 ** 20;
const cogs = new Map();
const told = new Map();

async function json(address) {
  const response = await fetch(address, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  if (Number(response.headers.get("Content-Length") ?? 0) > MOST_BYTES) throw new Error(`${address}: too large`);
  return response.json();
}

/** `{explains, languages, maps}`, see `maps.json`. */
export async function loadMaps() {
  const document = await json("maps.json");
  if (document.version !== 1 || !Array.isArray(document.maps)) throw new Error("maps.json: another version than this page reads");
  return document;
}

/** Address of a file of a map; `null` where it has none. */
export function fileOf(map, key) {
  const name = map.files[key];
  return name ? `../${map.folder.split("/").map(encodeURIComponent).join("/")}/${encodeURIComponent(name)}` : null;
}

/** A raster of a map, opened once; `null` where it has none. */
export function cogOf(map, key) {
  const address = fileOf(map, key);
  if (!address) return Promise.resolve(null);
  if (!cogs.has(address)) {
    const opened = openCog(new URL(address, document.baseURI).href);
    cogs.set(address, opened);
    opened.catch(() => cogs.delete(address));
  }
  return cogs.get(address);
}

/** Sub-regions of a map: `{id, name, text, area_ha, classes, geometry, ...}`; none where it has no explanations. */
export function regionsOf(map) {
  const address = fileOf(map, "explanations");
  if (!address) return Promise.resolve([]);
  if (!told.has(address)) {
    const read = json(address).then((document) => (Array.isArray(document.regions) ? document.regions : []));
    told.set(address, read);
    read.catch(() => told.delete(address));
  }
  return told.get(address);
}

/** Maps of one area and grid, the earliest first. */
export function seriesOf(maps, name, crs) {
  return maps.filter((map) => map.name === name && map.crs === crs);
}

/** The smallest sub-region that holds a place, degrees. */
export function regionAt(regions, lon, lat) {
  const holding = regions.filter((region) => holds(region.geometry, lon, lat));
  return holding.sort((a, b) => a.area_ha - b.area_ha)[0] ?? null;
}

/** Rings of a geometry, degrees; a polygon's holes follow it. */
export function ringsOf(geometry) {
  if (geometry?.type === "Polygon") return [geometry.coordinates];
  if (geometry?.type === "MultiPolygon") return geometry.coordinates;
  return [];
}

function holds(geometry, lon, lat) {
  return ringsOf(geometry).some((rings) => rings.reduce((inside, ring) => inside !== crosses(ring, lon, lat), false));
}

function crosses(ring, x, y) {
  let inside = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i, i += 1) {
    const [[xi, yi], [xj, yj]] = [ring[i], ring[j]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

/** Why the map has its class at a point, from `spex view`: `{text}` or `{error}`. */
export const whyAt = (map, lon, lat) => json(`why.json?run=${encodeURIComponent(map.run)}&at=${lon.toFixed(6)},${lat.toFixed(6)}`);
