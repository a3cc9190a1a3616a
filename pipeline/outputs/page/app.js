// The page: one state, which the address holds; everything that is shown follows from it.

import { readAddress, writeAddress } from "./address.js";
import { cogOf, fileOf, loadMaps, regionAt, regionsOf, ringsOf, seriesOf, whyAt } from "./catalog.js";
import { element } from "./charts.js";
import { byColour, byPalette, boundsOf, classPalette, clipPane, CogLayer, confidencePalette, planeOf } from "./layers.js";
import { areasOf, labelOf, showCharts, showCredits, showLegend, showPoint, showRegions } from "./panel.js";
import { gridOf } from "./projection.js";
import { className, languageName, loadTexts, percent, t } from "./texts.js";

const { L } = globalThis;
const MOST_PERIODS = 60; // whose sub-regions are read for a chart
const by = (id) => document.getElementById(id);
const state = { folder: null, show: "classes", opacity: 80, swipe: null, off: new Set(), point: null, region: null, language: null };
let list; // maps.json
let map = null; // the entry that is shown
let plane = null; // Leaflet's map, of one grid
let grid = null; // its code
let layers = {};
let outlines = null;
let marker = null;
let turn = 0; // what is loaded for an earlier choice is thrown away

/** Tells what went wrong, or nothing. */
function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
}

async function start() {
  const given = readAddress(location.hash);
  try {
    list = await loadMaps();
  } catch (error) {
    return say(`${error.message}`);
  }
  state.language = given.language ?? null;
  const language = await loadTexts(given.language, list.languages);
  fill(by("language"), list.languages.map((tag) => [tag, languageName(tag)]), language);
  if (list.maps.length === 0) return say(t("no_maps"));
  by("main").hidden = false;
  say(t("reading"));
  wire();
  return restore(given);
}

/** Shows what an address says. */
async function restore(given) {
  state.show = given.show ?? "classes";
  state.opacity = given.opacity ?? 80;
  state.swipe = given.swipe ?? null;
  state.off = new Set(given.off ?? []);
  state.region = given.region ?? null;
  state.point = given.point ?? null;
  const wanted = list.maps.find((one) => one.folder === given.folder) ?? newest(list.maps);
  await choose(wanted, given.centre);
}

const newest = (maps) => maps.reduce((best, one) => (one.end > best.end ? one : best));

/** Shows another map: area, grid or period. */
async function choose(chosen, centre) {
  turn += 1;
  const mine = turn;
  map = chosen;
  state.folder = map.folder;
  showChoice();
  showCredits(map);
  let opened;
  try {
    opened = await Promise.all(["landcover", "confidence", "truecolor"].map((key) => cogOf(map, key)));
  } catch (error) {
    if (mine === turn) say(error.message);
    return;
  }
  if (mine !== turn) return;
  const [classes, confidence, picture] = opened;
  if (!classes.origin) return say(t("no_grid", { name: classes.name }));
  say("");
  if (grid !== map.crs) openPlane(classes);
  if (centre) plane.setView([centre[1], centre[0]], centre[2], { animate: false });
  layers = replaced({ classes, confidence, picture });
  by("swipe-on").disabled = !picture;
  by("no-picture").hidden = Boolean(picture);
  if (!picture) state.swipe = null;
  applyShow();
  remember();
  const regions = await regionsOf(map).catch((error) => (say(error.message), []));
  if (mine !== turn) return;
  drawOutlines(regions);
  chooseRegion(state.region, false);
  if (state.point) askPoint(...state.point);
}

/** A plane for a grid; maps of other periods of it come and go. */
function openPlane(cog) {
  plane?.remove();
  grid = map.crs;
  marker = outlines = null;
  layers = {};
  plane = L.map("map", { crs: planeOf(cog.origin), attributionControl: false, zoomControl: false, fadeAnimation: false, minZoom: -12, maxZoom: 4, zoomSnap: 0.25 });
  L.control.zoom({ zoomInTitle: t("zoom_in"), zoomOutTitle: t("zoom_out") }).addTo(plane);
  L.control.scale({ imperial: false, maxWidth: 140 }).addTo(plane);
  for (const [name, order] of [["picture", 200], ["top", 300], ["outlines", 400]]) plane.createPane(name).style.zIndex = order;
  plane.getPane("outlines").style.pointerEvents = "none";
  plane.fitBounds(boundsOf(cog), { animate: false });
  plane.setMinZoom(Math.min(0, plane.getZoom() - 1));
  plane.setMaxBounds(boundsOf(cog).pad(1));
  plane.on("move resize zoomend", applySwipe);
  plane.on("moveend", remember);
  plane.on("click", ({ latlng }) => askPoint(latlng.lng, latlng.lat));
}

function replaced(files) {
  const before = Object.values(layers);
  const made = {};
  const add = (name, cog, pane, paint) => {
    if (!cog) return;
    made[name] = new CogLayer(cog, paint, { pane });
    made[name].on("unreadable", ({ error }) => say(error.message));
  };
  add("picture", files.picture, "picture", byColour);
  add("classes", files.classes, "top", byPalette(classPalette(map.classes, state.off)));
  add("confidence", files.confidence, "top", byPalette(confidencePalette()));
  made.picture?.addTo(plane);
  before.forEach((layer) => layer.remove());
  return made;
}

// -- what is shown ---------------------------------------------------------------------------------------------------

function showChoice() {
  const names = [...new Set(list.maps.map((one) => one.name))];
  const zones = [...new Set(list.maps.filter((one) => one.name === map.name).map((one) => one.crs))];
  const series = seriesOf(list.maps, map.name, map.crs);
  fill(by("name"), names.map((name) => [name, name]), map.name);
  fill(by("zone"), zones.map((crs) => [crs, crs]), map.crs);
  by("zone-label").hidden = zones.length < 2;
  by("period-box").hidden = series.length < 2;
  const now = series.indexOf(map);
  Object.assign(by("period"), { max: series.length - 1, value: now });
  by("period").setAttribute("aria-valuetext", labelOf(map));
  [by("earlier").disabled, by("later").disabled] = [now <= 0, now >= series.length - 1];
  by("period-text").textContent = labelOf(map);
  by("title").textContent = map.name;
  by("subtitle").textContent = `${t("title")} · ${labelOf(map)}`;
  document.title = `${map.name}, ${labelOf(map)}`;
  for (const [id, key] of [["report", "report"], ["csv", "regions"]]) {
    const address = fileOf(map, key);
    by(id).hidden = !address;
    if (address) by(id).href = address;
  }
}

function applyShow() {
  if (!layers.confidence) state.show = "classes";
  for (const name of ["classes", "confidence"]) {
    const wanted = state.show === name;
    if (!layers[name] || plane.hasLayer(layers[name]) === wanted) continue;
    if (wanted) layers[name].addTo(plane);
    else layers[name].remove();
  }
  for (const input of document.querySelectorAll("[name=show]")) {
    input.checked = input.value === state.show;
    input.disabled = input.value === "confidence" && !layers.confidence;
  }
  by("opacity").value = state.opacity;
  plane.getPane("top").style.opacity = String(state.opacity / 100);
  by("swipe-on").checked = state.swipe !== null;
  applySwipe();
  showLegend(map, state.show, state.off, toggleClass);
}

function applySwipe() {
  const [slider, line] = [by("swipe"), by("swipe-line")];
  slider.hidden = line.hidden = state.swipe === null;
  if (state.swipe !== null) {
    slider.value = state.swipe;
    line.style.left = `${state.swipe}%`;
  }
  clipPane(plane, "top", state.swipe === null ? null : state.swipe / 100);
}

function toggleClass(code, on) {
  if (code === null) state.off = new Set(on ? [] : map.classes.map((c) => c.code));
  else if (on) state.off.delete(code);
  else state.off.add(code);
  layers.classes.repaint(byPalette(classPalette(map.classes, state.off)));
  if (code === null) showLegend(map, state.show, state.off, toggleClass);
  remember();
}

function drawOutlines(regions) {
  outlines?.remove();
  outlines = null;
  const zone = gridOf(map.crs);
  if (!zone) return;
  outlines = L.featureGroup();
  for (const region of regions) {
    const rings = ringsOf(region.geometry).map((polygon) => polygon.map((ring) => ring.map(([lon, lat]) => zone.forward(lon, lat).reverse())));
    const line = L.polygon(rings, { pane: "outlines", interactive: false, fill: false, className: "outline" });
    line.region = region.id;
    outlines.addLayer(line);
  }
  outlines.addTo(plane);
}

async function chooseRegion(id, move = true) {
  const mine = turn;
  const regions = await regionsOf(map).catch(() => []);
  if (mine !== turn) return;
  const region = regions.find((one) => one.id === id) ?? null;
  state.region = region?.id ?? null;
  showRegions(map, regions, state.region, (chosen) => chooseRegion(chosen));
  outlines?.eachLayer((line) => {
    line.getElement()?.classList.toggle("chosen", line.region === state.region);
    if (line.region === state.region) line.bringToFront();
    if (move && line.region === state.region) plane.fitBounds(line.getBounds(), { padding: [24, 24] });
  });
  if (move) by("region").querySelector("h3")?.focus({ preventScroll: true });
  remember();
  const series = seriesOf(list.maps, map.name, map.crs);
  const near = series.slice(Math.max(0, series.indexOf(map) + 1 - MOST_PERIODS)).slice(0, MOST_PERIODS);
  const size = layers.classes.cog.origin.size;
  const periods = await Promise.all(near.map(async (one) => {
    const theirs = region ? (await regionsOf(one).catch(() => [])).find((r) => r.id === region.id) : null;
    return { label: labelOf(one), short: one.start.slice(0, 7), classes: region && !theirs ? [] : areasOf(one, theirs, (size * size) / 1e4) };
  }));
  if (mine !== turn || state.region !== (region?.id ?? null)) return;
  showCharts(region ? region.name : t("whole_map"), periods, near.indexOf(map), (i) => choose(near[i]));
}

/** The pixel at a place of the plane. */
async function askPoint(x, y) {
  const mine = turn;
  state.point = [x, y];
  marker?.remove();
  marker = L.circleMarker([y, x], { pane: "outlines", radius: 7, interactive: false, className: "marker" }).addTo(plane);
  remember();
  showPoint(null);
  const lonlat = gridOf(map.crs)?.inverse(x, y) ?? null;
  try {
    const [classes, confidence, scores, regions] = await Promise.all([valueAt("landcover", x, y), valueAt("confidence", x, y), valueAt("scores", x, y), regionsOf(map).catch(() => [])]);
    if (mine !== turn || state.point?.[0] !== x || state.point?.[1] !== y) return;
    const entry = map.classes.find((c) => c.code === classes?.[0]) ?? null;
    const ranked = scores && entry ? map.classes.map((c, i) => ({ entry: c, score: scores[i] })).filter((s) => s.score > 0 && s.score <= 100) : [];
    const region = lonlat ? regionAt(regions, ...lonlat) : null;
    const certain = entry && confidence && confidence[0] <= 100 ? confidence[0] : null;
    const found = { x, y, lonlat, entry, confidence: certain, region: region?.name ?? null, scores: ranked.sort((a, b) => b.score - a.score) };
    const short = certain === null ? "" : ` · ${percent(certain / 100)}`;
    marker.bindTooltip(element("span", { text: entry ? `${className(entry.name)}${short}` : t("point_nothing") }), { permanent: true, direction: "top", offset: [0, -8] });
    showPoint(found, list.explains && map.run ? () => whyAt(map, ...lonlat) : null);
  } catch (error) {
    if (mine === turn) say(error.message);
  }
}

async function valueAt(key, x, y) {
  const cog = await cogOf(map, key);
  return cog?.origin ? cog.pixel(Math.floor((x - cog.origin.x) / cog.origin.size), Math.floor((cog.origin.y - y) / cog.origin.size)) : null;
}

// -- what a person does ----------------------------------------------------------------------------------------------

function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => Object.assign(document.createElement("option"), { value: key, textContent: text })));
  select.value = value;
}

let written = null;
let resting = 0;
/** Writes the view into the address, once it has come to rest: browsers take their time for it. */
function remember() {
  clearTimeout(resting);
  resting = setTimeout(rememberNow, 150);
}

function rememberNow() {
  const centre = plane?.getCenter();
  const view = { ...state, centre: centre && [centre.lng, centre.lat, plane.getZoom()] };
  written = writeAddress(view);
  try {
    history.replaceState(null, "", written);
  } catch {
    // Browsers refuse when there are too many in a moment: the next one is taken.
  }
}

function wire() {
  const of = (name, crs) => newest(list.maps.filter((one) => one.name === name && (crs === undefined || one.crs === crs)));
  const step = (by_) => {
    const series = seriesOf(list.maps, map.name, map.crs);
    const next = series[series.indexOf(map) + by_];
    if (next) choose(next);
  };
  by("name").addEventListener("change", (event) => { state.region = state.point = null; choose(of(event.target.value)); });
  by("zone").addEventListener("change", (event) => { state.point = null; choose(of(map.name, event.target.value)); });
  by("period").addEventListener("input", (event) => choose(seriesOf(list.maps, map.name, map.crs)[Number(event.target.value)]));
  by("earlier").addEventListener("click", () => step(-1));
  by("later").addEventListener("click", () => step(1));
  by("opacity").addEventListener("input", (event) => { state.opacity = Number(event.target.value); applyShow(); remember(); });
  by("swipe-on").addEventListener("change", (event) => { state.swipe = event.target.checked ? 50 : null; applyShow(); remember(); });
  by("swipe").addEventListener("input", (event) => { state.swipe = Number(event.target.value); applySwipe(); remember(); });
  for (const input of document.querySelectorAll("[name=show]")) input.addEventListener("change", () => { state.show = input.value; applyShow(); remember(); });
  by("print").addEventListener("click", () => window.print());
  by("language").addEventListener("change", (event) => { state.language = event.target.value; rememberNow(); location.reload(); });
  by("map").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target !== by("map")) return;
    const { lng, lat } = plane.getCenter();
    askPoint(lng, lat);
  });
  window.addEventListener("hashchange", () => { if (location.hash !== written) restore(readAddress(location.hash)); });
}

// For tests and the curious: what is shown, and how long tiles took.
globalThis.spexView = { state, get map() { return map; }, get plane() { return plane; }, get layers() { return layers; } };

start().catch((error) => say(String(error?.message ?? error)));
