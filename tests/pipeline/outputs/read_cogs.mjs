// Reads what it is told of with the page's own reader, for test_view_page.py: JSON in, JSON out.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { openCog } from "./page/cog.js";
import { windowOf } from "./page/window.js";
import { gridOf } from "./page/projection.js";

const tasks = JSON.parse(readFileSync(0, "utf8"));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const bytesOf = (values) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** A level of a file, band after band, row by row. */
async function whole(cog, index) {
  const level = cog.levels[index];
  const bands = [];
  for (let band = 0; band < cog.samples; band += 1) {
    let out;
    for (let row = 0; row < level.down; row += 1) {
      for (let column = 0; column < level.across; column += 1) {
        const tile = await cog.tile(index, column, row, band);
        out ??= new tile.constructor(level.width * level.height);
        const [x0, y0] = [column * level.tileWidth, row * level.tileHeight];
        for (let y = y0; y < Math.min(level.height, y0 + level.tileHeight); y += 1) {
          for (let x = x0; x < Math.min(level.width, x0 + level.tileWidth); x += 1) {
            const from = (y - y0) * level.tileWidth + x - x0;
            out[y * level.width + x] = level.planar ? tile[from] : tile[from * cog.samples + band];
          }
        }
      }
    }
    bands.push(bytesOf(out));
  }
  return sha256(Buffer.concat(bands));
}

async function levels({ url, pixels }) {
  const cog = await openCog(url);
  const found = [];
  for (let i = 0; i < cog.levels.length; i += 1) found.push([cog.levels[i].height, cog.levels[i].width, await whole(cog, i)]);
  return { levels: found, origin: cog.origin, nodata: cog.nodata, pixels: await Promise.all(pixels.map(([x, y]) => cog.pixel(x, y))) };
}

/** A file with bytes changed: read, or refused in words. */
async function damaged({ path, changes }) {
  const bytes = new Uint8Array(readFileSync(path));
  const outcomes = { read: 0, CogError: 0 };
  const others = [];
  for (const change of changes) {
    const broken = bytes.slice(0, change.length ?? bytes.length);
    for (const [at, value] of change.bytes) if (at < broken.length) broken[at] = value;
    globalThis.fetch = async (_, { headers }) => {
      const [, from, to] = /bytes=(\d+)-(\d+)/.exec(headers.Range).map(Number);
      const part = broken.slice(from, to + 1);
      return new Response(part, { status: 206, headers: { "Content-Range": `bytes ${from}-${from + part.length - 1}/${broken.length}` } });
    };
    try {
      const cog = await openCog(`damaged/${change.name}.tif`);
      for (let i = 0; i < cog.levels.length; i += 1) await cog.tile(i, 0, 0);
      outcomes.read += 1;
    } catch (error) {
      if (error.constructor.name === "CogError") outcomes.CogError += 1;
      else others.push(String(error.stack));
    }
  }
  return { outcomes, others };
}

async function refused({ url }) {
  try {
    const cog = await openCog(url);
    await cog.tile(0, 0, 0);
    return { error: null };
  } catch (error) {
    return { error: `${error.constructor.name}: ${error.message}` };
  }
}

/** Milliseconds of each of many windows of the screen, read one after another at random places. */
async function timed({ url, count }) {
  const cog = await openCog(url);
  const times = [];
  for (let i = 0; i < count; i += 1) {
    const [x, y] = [(i * 7919) % (cog.width - 512), (i * 104729) % (cog.height - 512)];
    const started = performance.now();
    await windowOf(cog, x, y, 2 ** -(i % 4), 512);
    times.push(performance.now() - started);
  }
  return { times };
}

async function places({ code, lonlats }) {
  const zone = gridOf(code);
  const forward = lonlats.map(([lon, lat]) => zone.forward(lon, lat));
  return { forward, back: forward.map(([x, y]) => zone.inverse(x, y)) };
}

const answers = [];
for (const { task, ...given } of tasks) answers.push(await { levels, damaged, refused, timed, places }[task](given));
console.log(JSON.stringify(answers));
