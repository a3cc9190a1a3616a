// Longitude and latitude from and to the metres of a map's grid: UTM (WGS 84) by Krüger's series to the fourth order,
// below a tenth of a millimetre within a zone; Europe's equal-area grid and Web Mercator, in which joined maps come.

const A = 6378137;
const F = 1 / 298.257223563;
const N = F / (2 - F);
const RADIUS = (A / (1 + N)) * (1 + N ** 2 / 4 + N ** 4 / 64);
const K0 = 0.9996;
const E = Math.sqrt(F * (2 - F));
const ALPHA = [
  N / 2 - (2 * N ** 2) / 3 + (5 * N ** 3) / 16 + (41 * N ** 4) / 180,
  (13 * N ** 2) / 48 - (3 * N ** 3) / 5 + (557 * N ** 4) / 1440,
  (61 * N ** 3) / 240 - (103 * N ** 4) / 140,
  (49561 * N ** 4) / 161280,
];
const BETA = [
  N / 2 - (2 * N ** 2) / 3 + (37 * N ** 3) / 96 - N ** 4 / 360,
  N ** 2 / 48 + N ** 3 / 15 - (437 * N ** 4) / 1440,
  (17 * N ** 3) / 480 - (37 * N ** 4) / 840,
  (4397 * N ** 4) / 161280,
];
const RADIANS = Math.PI / 180;

/** The grid of a code, with its two functions; `null` where the page does not know it. */
export function gridOf(code) {
  if (code === "EPSG:3035") return equalArea(10, 52, 4_321_000, 3_210_000);
  if (code === "EPSG:3857") return MERCATOR;
  return utmZone(code);
}

const MERCATOR = {
  forward: (lon, lat) => [A * lon * RADIANS, A * Math.asinh(Math.tan(lat * RADIANS))],
  inverse: (x, y) => [x / A / RADIANS, Math.atan(Math.sinh(y / A)) / RADIANS],
};

/** Lambert's azimuthal equal-area projection around a place (Snyder 1987, pages 187 to 190; ETRS89 is WGS 84 here). */
function equalArea(lon0, lat0, falseEasting, falseNorthing) {
  const q = (s) => (1 - E * E) * (s / (1 - (E * s) ** 2) + Math.atanh(E * s) / E);
  const whole = q(1);
  const [s0, c0] = [Math.sin(lat0 * RADIANS), Math.cos(lat0 * RADIANS)];
  const authalic = Math.asin(q(s0) / whole);
  const [sb, cb] = [Math.sin(authalic), Math.cos(authalic)];
  const radius = A * Math.sqrt(whole / 2);
  const stretch = (A * c0) / Math.sqrt(1 - (E * s0) ** 2) / (radius * cb);
  return {
    forward: (lon, lat) => {
      const b = Math.asin(q(Math.sin(lat * RADIANS)) / whole);
      const l = (lon - lon0) * RADIANS;
      const k = radius * Math.sqrt(2 / (1 + sb * Math.sin(b) + cb * Math.cos(b) * Math.cos(l)));
      const north = cb * Math.sin(b) - sb * Math.cos(b) * Math.cos(l);
      return [falseEasting + k * stretch * Math.cos(b) * Math.sin(l), falseNorthing + (k / stretch) * north];
    },
    inverse: (easting, northing) => {
      const [x, y] = [(easting - falseEasting) / stretch, (northing - falseNorthing) * stretch];
      const far = Math.hypot(x, y);
      if (far === 0) return [lon0, lat0];
      const c = 2 * Math.asin(far / (2 * radius));
      const b = Math.asin(Math.cos(c) * sb + (y * Math.sin(c) * cb) / far);
      const lon = Math.atan2(x * Math.sin(c), far * cb * Math.cos(c) - y * sb * Math.sin(c));
      let s = Math.sin(b);
      for (let i = 0; i < 8; i += 1) { // Newton: q(s) is that of the place
        s += (whole * Math.sin(b) - q(s)) / ((2 * (1 - E * E)) / (1 - (E * s) ** 2) ** 2);
      }
      return [lon0 + lon / RADIANS, Math.asin(s) / RADIANS];
    },
  };
}

/** The zone of a code such as `EPSG:32632`, with its two functions; `null` where it is no UTM zone of WGS 84. */
export function utmZone(code) {
  const found = /^EPSG:32([67])(\d\d)$/.exec(code ?? "");
  const zone = found ? Number(found[2]) : 0;
  if (zone < 1 || zone > 60) return null;
  const centre = zone * 6 - 183;
  const northing = found[1] === "7" ? 10_000_000 : 0;
  return {
    /** Degrees to [easting, northing], metres. */
    forward: (lon, lat) => {
      const s = Math.sin(lat * RADIANS);
      const t = Math.sinh(Math.atanh(s) - E * Math.atanh(E * s));
      const l = (lon - centre) * RADIANS;
      const [xi, eta] = [Math.atan2(t, Math.cos(l)), Math.atanh(Math.sin(l) / Math.hypot(1, t))];
      let [x, y] = [eta, xi];
      ALPHA.forEach((a, i) => {
        const j = 2 * (i + 1);
        x += a * Math.cos(j * xi) * Math.sinh(j * eta);
        y += a * Math.sin(j * xi) * Math.cosh(j * eta);
      });
      return [500_000 + K0 * RADIUS * x, northing + K0 * RADIUS * y];
    },
    /** Metres to [longitude, latitude], degrees. */
    inverse: (easting, north) => {
      const [xi, eta] = [(north - northing) / (K0 * RADIUS), (easting - 500_000) / (K0 * RADIUS)];
      let [x, e] = [xi, eta];
      BETA.forEach((b, i) => {
        const j = 2 * (i + 1);
        x -= b * Math.sin(j * xi) * Math.cosh(j * eta);
        e -= b * Math.cos(j * xi) * Math.sinh(j * eta);
      });
      const conformal = Math.sin(x) / Math.cosh(e);
      const target = Math.atanh(conformal);
      let s = conformal;
      for (let i = 0; i < 8; i += 1) s = Math.tanh(target + E * Math.atanh(E * s));
      return [centre + Math.atan2(Math.sinh(e), Math.cos(x)) / RADIANS, Math.asin(s) / RADIANS];
    },
  };
}
