// Pixels of a file as a window of the screen sees them.

/** Values of a window of the screen, nearest neighbour, from the overview that fits. */
export async function windowOf(cog, left, top, scale, size) {
  const level = cog.levelFor(1 / scale);
  const image = cog.levels[level];
  const across = spans(left, scale, size, image.factor, image.width, image.tileWidth);
  const down = spans(top, scale, size, image.factor, image.height, image.tileHeight);
  const bands = cog.samples >= 3 ? 3 : 1;
  const values = new Uint8Array(size * size * bands);
  if (cog.nodata) values.fill(cog.nodata);
  await Promise.all(down.flatMap((rows) => across.map(async (columns) => {
    const planes = image.planar && bands === 3 ? [0, 1, 2] : [0];
    const tiles = await Promise.all(planes.map((band) => cog.tile(level, columns.tile, rows.tile, band)));
    const inPixel = image.planar ? 1 : image.samples;
    const from = columns.places.map((x) => x * inPixel);
    for (let j = 0; j < rows.places.length; j += 1) {
      const row = rows.places[j] * image.tileWidth * inPixel;
      let to = ((rows.first + j) * size + columns.first) * bands;
      for (let i = 0; i < from.length; i += 1, to += bands) {
        for (let b = 0; b < bands; b += 1) values[to + b] = image.planar ? tiles[b][row + from[i]] : tiles[0][row + from[i] + b];
      }
    }
  })));
  return values;
}

/** Pixels of the screen along one side, by the tile of the image that they fall into: its number, the first of them, and
 * the place of each in the tile. */
function spans(start, scale, size, factor, end, side) {
  const found = [];
  for (let i = 0; i < size; i += 1) {
    const place = Math.floor((start + (i + 0.5) / scale) / factor);
    if (place < 0 || place >= end) continue;
    const tile = Math.floor(place / side);
    if (found.at(-1)?.tile !== tile) found.push({ tile, first: i, places: [] });
    found.at(-1).places.push(place - tile * side);
  }
  return found.map((span) => ({ ...span, places: Int32Array.from(span.places) }));
}
