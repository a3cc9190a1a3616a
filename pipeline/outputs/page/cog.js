// Reads Cloud-Optimized GeoTIFFs as they lie on a web server: header, overviews and single tiles by range requests.
//
// What this project writes and no more: tiles, deflate or none, predictor 1 or 2, integers of 8 or 16 bits, classic and
// big files. Everything that a file claims is held against a limit before memory follows it.

export const LIMITS = Object.freeze({
  headBytes: 65536, // first request; header and directories of our files lie here
  directories: 64,
  entries: 1024, // of a directory
  values: 4_000_000, // of an entry
  side: 4_000_000, // pixels
  tileSide: 4096,
  tileBytes: 64 * 2 ** 20, // decoded
  wholeBytes: 64 * 2 ** 20, // a server without ranges: the file is fetched once, up to this size
  cacheBytes: 96 * 2 ** 20, // decoded tiles of all files
});

const TYPE_BYTES = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8 };
const KEPT = new Set([254, 256, 257, 258, 259, 277, 284, 317, 322, 323, 324, 325, 339, 33550, 33922, 42113]);

/** A file that cannot be read; the message names it and says why. */
export class CogError extends Error {}

const nameOf = (url) => String(url).split(/[?#]/)[0].split("/").slice(-2).join("/");

/** Bytes of one address. The version that answered first is the one that is read to the end. */
class ByteSource {
  constructor(url) {
    this.url = url;
    this.name = nameOf(url);
    this.head = null; // the first bytes, or the whole file
    this.size = null;
    this.version = null;
  }

  async open() {
    const answer = await this.ask(0, LIMITS.headBytes);
    this.version = answer.version;
    this.size = answer.size;
    this.head = answer.bytes;
  }

  async read(offset, length) {
    if (!Number.isSafeInteger(offset) || offset < 0 || length < 0 || offset + length > this.size) {
      throw new CogError(`${this.name}: damaged, it points to bytes ${offset} to ${offset + length} of ${this.size}`);
    }
    if (offset + length <= this.head.length) return this.head.subarray(offset, offset + length);
    const answer = await this.ask(offset, length);
    if (answer.version !== this.version || answer.size !== this.size) {
      throw new CogError(`${this.name}: changed while it was read; load the page again`);
    }
    if (answer.whole) {
      this.head = answer.bytes;
      return this.head.subarray(offset, offset + length);
    }
    if (answer.bytes.length !== length) throw new CogError(`${this.name}: the server sent another part than was asked`);
    return answer.bytes;
  }

  async ask(offset, length) {
    let response;
    try {
      // no-store: browsers read one address at a time through their cache, and tiles are kept here
      const range = { Range: `bytes=${offset}-${offset + length - 1}` };
      response = await fetch(this.url, { headers: range, cache: "no-store" });
    } catch (error) {
      throw new CogError(`${this.name}: the server does not answer (${error.message})`);
    }
    const version = response.headers.get("ETag") ?? response.headers.get("Last-Modified");
    if (response.status === 206) {
      const said = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "");
      if (!said || Number(said[1]) !== offset) throw new CogError(`${this.name}: the server sent another part than was asked`);
      return { bytes: await body(response, length, this.name), size: Number(said[3]), version, whole: false };
    }
    if (response.status === 200) {
      const size = Number(response.headers.get("Content-Length") ?? 0);
      if (size > LIMITS.wholeBytes) {
        await response.body?.cancel();
        throw new CogError(`${this.name}: ${Math.round(size / 2 ** 20)} MB, and the server sends no parts of files (HTTP ranges)`);
      }
      const bytes = await body(response, LIMITS.wholeBytes, this.name);
      return { bytes, size: bytes.length, version, whole: true };
    }
    await response.body?.cancel();
    throw new CogError(`${this.name}: the server answers ${response.status}`);
  }
}

/** The bytes of a response, and not one more than allowed. */
async function body(response, limit, name) {
  return gather(response.body.getReader(), limit, () => new CogError(`${name}: the server sends more than was asked`));
}

async function gather(reader, limit, tooMany) {
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw tooMany();
    }
    parts.push(value);
  }
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Opens a file: its header and directories, no pixels. */
export async function openCog(url) {
  const source = new ByteSource(url);
  await source.open();
  const start = await source.read(0, Math.min(16, source.size));
  if (start.length < 8) throw new CogError(`${source.name}: not a TIFF`);
  const mark = String.fromCharCode(start[0], start[1]);
  const little = mark === "II";
  const view = new DataView(start.buffer, start.byteOffset, start.length);
  const magic = view.getUint16(2, little);
  if ((!little && mark !== "MM") || (magic !== 42 && magic !== 43) || (magic === 43 && start.length < 16)) {
    throw new CogError(`${source.name}: not a TIFF`);
  }
  const big = magic === 43;
  const directories = [];
  const seen = new Set();
  let at = big ? number64(view, 8, little, source) : view.getUint32(4, little);
  while (at !== 0) {
    if (seen.has(at) || directories.length >= LIMITS.directories) throw new CogError(`${source.name}: damaged, its directories have no end`);
    seen.add(at);
    const { tags, next } = await readDirectory(source, at, little, big);
    directories.push(tags);
    at = next;
  }
  return new Cog(source, directories, little);
}

function number64(view, at, little, source) {
  const value = view.getBigUint64(at, little);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new CogError(`${source.name}: damaged, a number has no bounds`);
  return Number(value);
}

async function readDirectory(source, at, little, big) {
  const [countBytes, entryBytes, inline] = big ? [8, 20, 8] : [2, 12, 4];
  const first = await source.read(at, countBytes);
  const firstView = new DataView(first.buffer, first.byteOffset, first.length);
  const count = big ? number64(firstView, 0, little, source) : firstView.getUint16(0, little);
  if (count > LIMITS.entries) throw new CogError(`${source.name}: damaged, a directory of ${count} entries`);
  const bytes = await source.read(at + countBytes, count * entryBytes + inline);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const tags = new Map();
  for (let i = 0; i < count; i += 1) {
    const entry = i * entryBytes;
    const tag = view.getUint16(entry, little);
    const type = view.getUint16(entry + 2, little);
    const size = TYPE_BYTES[type];
    if (!KEPT.has(tag) || size === undefined) continue;
    const values = big ? number64(view, entry + 4, little, source) : view.getUint32(entry + 4, little);
    if (values > LIMITS.values) throw new CogError(`${source.name}: damaged, ${values} values of tag ${tag}`);
    const where = entry + (big ? 12 : 8);
    let data = bytes.subarray(where, where + values * size);
    if (values * size > inline) {
      data = await source.read(big ? number64(view, where, little, source) : view.getUint32(where, little), values * size);
    }
    tags.set(tag, valuesOf(data, type, values, little, source));
  }
  const end = count * entryBytes;
  return { tags, next: big ? number64(view, end, little, source) : view.getUint32(end, little) };
}

function valuesOf(data, type, count, little, source) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  if (type === 2) return String.fromCharCode(...data.subarray(0, 64)).split("\0")[0];
  const read = {
    1: (i) => view.getUint8(i), 3: (i) => view.getUint16(2 * i, little), 4: (i) => view.getUint32(4 * i, little),
    12: (i) => view.getFloat64(8 * i, little), 13: (i) => view.getUint32(4 * i, little),
    16: (i) => number64(view, 8 * i, little, source), 18: (i) => number64(view, 8 * i, little, source),
  }[type];
  return read === undefined ? [] : Array.from({ length: count }, (_, i) => read(i));
}

/** One file. `levels` begin with the full image, overviews follow, each smaller than the one before. */
export class Cog {
  constructor(source, directories, little) {
    this.url = source.url;
    this.name = source.name;
    this.source = source;
    this.swap = !little;
    const images = directories.filter((tags) => (first(tags, 254, 0) & 4) === 0); // 4: a mask
    if (images.length === 0) throw new CogError(`${this.name}: holds no image`);
    this.levels = images.map((tags) => levelOf(tags, this.name)).sort((a, b) => b.width * b.height - a.width * a.height);
    const full = this.levels[0];
    ({ width: this.width, height: this.height, samples: this.samples } = full);
    for (const level of this.levels) {
      level.factor = Math.max(1, Math.round(Math.max(full.width, full.height) / Math.max(level.width, level.height)));
      if (level.samples !== full.samples || level.bits !== full.bits) throw new CogError(`${this.name}: its overviews are of another kind`);
    }
    const tags = images[0];
    const nodata = Number.parseFloat(tags.get(42113) ?? "");
    this.nodata = Number.isFinite(nodata) ? nodata : null;
    const [scale, tie] = [tags.get(33550) ?? [], tags.get(33922) ?? []];
    this.origin = tie.length >= 5 && scale.length >= 2 ? { x: tie[3] - tie[0] * scale[0], y: tie[4] + tie[1] * scale[1], size: scale[0] } : null;
  }

  /** The smallest overview that is not coarser than a number of full pixels. */
  levelFor(pixels) {
    let best = 0;
    this.levels.forEach((level, i) => {
      if (level.factor <= pixels * 1.001) best = i;
    });
    return best;
  }

  /** Decoded values of a tile, row by row; samples of a pixel beside each other where the file has them so. */
  async tile(index, column, row, band = 0) {
    const level = this.levels[index];
    if (!level || column < 0 || row < 0 || column >= level.across || row >= level.down) throw new CogError(`${this.name}: no such tile`);
    const plane = level.planar ? band * level.across * level.down : 0;
    const position = plane + row * level.across + column;
    return cached(`${this.url} ${this.source.version} ${index} ${position}`, () => this.load(level, position));
  }

  async load(level, position) {
    const inPixel = level.planar ? 1 : level.samples;
    const values = level.tileWidth * level.tileHeight * inPixel;
    const Kind = level.bits === 8 ? (level.signed ? Int8Array : Uint8Array) : level.signed ? Int16Array : Uint16Array;
    const [offset, count] = [level.offsets[position], level.counts[position]];
    if (!offset || !count) return new Kind(values).fill(this.nodata ?? 0); // sparse: a tile that was never written
    if (count > 2 * LIMITS.tileBytes) throw new CogError(`${this.name}: damaged, a tile of ${count} bytes`);
    const packed = await this.source.read(offset, count);
    const bytes = await unpacked(packed, level.compression, (values * level.bits) / 8, this.name);
    if (level.bits === 16 && this.swap) for (let i = 0; i < bytes.length; i += 2) [bytes[i], bytes[i + 1]] = [bytes[i + 1], bytes[i]];
    const pixels = new Kind(bytes.buffer, bytes.byteOffset, values);
    if (level.predictor === 2) undoDifferences(pixels, level.tileWidth * inPixel, inPixel);
    return pixels;
  }

  /** All samples of one pixel of the full image, `null` outside of it. */
  async pixel(x, y) {
    if (!(x >= 0 && y >= 0 && x < this.width && y < this.height)) return null;
    const level = this.levels[0];
    const [column, row] = [Math.floor(x / level.tileWidth), Math.floor(y / level.tileHeight)];
    const inside = (Math.floor(y) - row * level.tileHeight) * level.tileWidth + Math.floor(x) - column * level.tileWidth;
    if (!level.planar) {
      const tile = await this.tile(0, column, row);
      return Array.from(tile.subarray(inside * level.samples, (inside + 1) * level.samples));
    }
    const bands = Array.from({ length: level.samples }, (_, band) => this.tile(0, column, row, band));
    return (await Promise.all(bands)).map((tile) => tile[inside]);
  }
}

function first(tags, tag, otherwise) {
  const values = tags.get(tag);
  return Array.isArray(values) && values.length > 0 ? values[0] : otherwise;
}

function levelOf(tags, name) {
  const level = {
    width: first(tags, 256, 0), height: first(tags, 257, 0), bits: first(tags, 258, 1), samples: first(tags, 277, 1),
    compression: first(tags, 259, 1), predictor: first(tags, 317, 1), planar: first(tags, 284, 1) === 2,
    tileWidth: first(tags, 322, 0), tileHeight: first(tags, 323, 0), signed: first(tags, 339, 1) === 2,
    offsets: tags.get(324) ?? [], counts: tags.get(325) ?? [],
  };
  if (!(level.width > 0 && level.height > 0 && level.width <= LIMITS.side && level.height <= LIMITS.side)) throw new CogError(`${name}: damaged, an image of ${level.width} x ${level.height} pixels`);
  if (level.tileWidth === 0) throw new CogError(`${name}: has no tiles; it is not a Cloud-Optimized GeoTIFF`);
  if (level.tileWidth > LIMITS.tileSide || !(level.tileHeight > 0) || level.tileHeight > LIMITS.tileSide) throw new CogError(`${name}: tiles of ${level.tileWidth} x ${level.tileHeight} pixels`);
  if (![8, 16].includes(level.bits) || ![1, 2].includes(first(tags, 339, 1))) throw new CogError(`${name}: ${level.bits}-bit values of another kind than integers of 8 or 16 bits`);
  if (![1, 8, 32946].includes(level.compression)) throw new CogError(`${name}: compression ${level.compression}; deflate is read here`);
  if (![1, 2].includes(level.predictor)) throw new CogError(`${name}: predictor ${level.predictor}; 1 and 2 are read here`);
  level.across = Math.ceil(level.width / level.tileWidth);
  level.down = Math.ceil(level.height / level.tileHeight);
  const tiles = level.across * level.down * (level.planar ? level.samples : 1);
  const bytes = (level.tileWidth * level.tileHeight * (level.planar ? 1 : level.samples) * level.bits) / 8;
  if (level.samples < 1 || bytes > LIMITS.tileBytes) throw new CogError(`${name}: ${level.samples} bands in tiles of ${level.tileWidth} x ${level.tileHeight} pixels`);
  if (level.offsets.length !== tiles || level.counts.length !== tiles) throw new CogError(`${name}: damaged, ${level.offsets.length} of ${tiles} tiles`);
  return level;
}

async function unpacked(packed, compression, expected, name) {
  if (compression === 1) {
    if (packed.length !== expected) throw new CogError(`${name}: damaged, a tile of ${packed.length} bytes instead of ${expected}`);
    return packed.slice();
  }
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter(); // not a Blob: that is a round trip to another process of the browser
  const sent = Promise.all([writer.write(packed), writer.close()]);
  sent.catch(() => {}); // told by the reader below
  let bytes;
  try {
    bytes = await gather(readable.getReader(), expected, () => new CogError("more than a tile"));
    await sent; // what follows the end of the data is damage, too
  } catch (error) {
    throw new CogError(`${name}: damaged, a tile cannot be unpacked (${error.message})`);
  }
  if (bytes.length !== expected) throw new CogError(`${name}: damaged, a tile of ${bytes.length} bytes instead of ${expected}`);
  return bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
}

function undoDifferences(pixels, rowLength, stride) {
  for (let start = 0; start < pixels.length; start += rowLength) {
    const end = start + rowLength;
    if (stride === 1) {
      for (let i = start, sum = 0; i < end; i += 1) pixels[i] = sum += pixels[i]; // the array cuts it to its bits
    } else for (let i = start + stride; i < end; i += 1) pixels[i] += pixels[i - stride];
  }
}

// -- decoded tiles, the most recently used last --------------------------------------------------------------------

const kept = new Map();
let keptBytes = 0;

function cached(key, load) {
  const known = kept.get(key);
  if (known) {
    kept.delete(key);
    kept.set(key, known);
    return known.promise;
  }
  const entry = { bytes: 0, promise: load() };
  kept.set(key, entry);
  entry.promise.then(
    (pixels) => {
      if (kept.get(key) !== entry) return;
      entry.bytes = pixels.byteLength;
      keptBytes += entry.bytes;
      for (const [oldest, { bytes }] of kept) {
        if (keptBytes <= LIMITS.cacheBytes) break;
        if (bytes === 0) continue; // on its way
        kept.delete(oldest);
        keptBytes -= bytes;
      }
    },
    () => {
      if (kept.get(key) === entry) kept.delete(key); // it is asked for again the next time
    },
  );
  return entry.promise;
}
