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
    for (let j = 0; j < rows.places.length; j += 1) {
      const row = rows.places[j] * image.tileWidth * inPixel;
      const to = ((rows.first + j) * size + columns.first) * bands;
      takeRow(values, to, bands, tiles, row, inPixel, columns);
    }
  })));
  return values;
}

/** Copies pixels of a row of tiles: in one piece where the screen shows every pixel as a pixel. */
function takeRow(values, to, bands, tiles, row, inPixel, { places, inOrder }) {
  if (inOrder && bands === inPixel) {
    values.set(tiles[0].subarray(row + places[0] * bands, row + (places[0] + places.length) * bands), to);
  } else if (bands === 1) {
    const [tile] = tiles;
    for (let i = 0; i < places.length; i += 1) values[to + i] = tile[row + places[i] * inPixel];
  } else {
    const [red, green, blue] = tiles.length === 3 ? tiles.map((tile) => [tile, 0]) : [0, 1, 2].map((band) => [tiles[0], band]);
    for (let i = 0, at = to; i < places.length; i += 1, at += 3) {
      const from = row + places[i] * inPixel;
      values[at] = red[0][from + red[1]];
      values[at + 1] = green[0][from + green[1]];
      values[at + 2] = blue[0][from + blue[1]];
    }
  }
}

/** Pixels of the screen along one side, by the tile of the image that they fall into: its number, the first of them, and
 * the place of each in the tile, and whether each follows the one before. */
function spans(start, scale, size, factor, end, side) {
  const found = [];
  for (let i = 0; i < size; i += 1) {
    const place = Math.floor((start + (i + 0.5) / scale) / factor);
    if (place < 0 || place >= end) continue;
    const tile = Math.floor(place / side);
    if (found.at(-1)?.tile !== tile) found.push({ tile, first: i, places: [] });
    found.at(-1).places.push(place - tile * side);
  }
  return found.map(({ tile, first, places }) => {
    const inOrder = places.at(-1) - places[0] === places.length - 1 && places.every((place, i) => place === places[0] + i);
    return { tile, first, places: Int32Array.from(places), inOrder };
  });
}
