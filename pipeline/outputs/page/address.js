// The view in the address: after the `#`, so that no server learns of it, and a link shows the same to others.

const LIMIT = 2000;

/** What an address says; only what is well formed. */
export function readAddress(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, "").slice(0, LIMIT));
  const view = {};
  const text = (key) => given.get(key)?.trim() || undefined;
  const numbers = (key, count) => {
    const found = text(key)?.split(",") ?? [];
    const read = found.map((part) => (/^-?\d+(\.\d+)?$/.test(part) ? Number(part) : Number.NaN));
    return read.length === count && read.every(Number.isFinite) ? read : undefined;
  };
  view.folder = text("map");
  view.centre = numbers("c", 3); // easting, northing, zoom
  view.point = numbers("p", 2);
  view.region = text("region");
  view.language = text("lang");
  if (["classes", "confidence"].includes(text("show"))) view.show = text("show");
  const [opacity] = numbers("opacity", 1) ?? [];
  if (opacity >= 0 && opacity <= 100) view.opacity = opacity;
  const [swipe] = numbers("swipe", 1) ?? [];
  if (swipe >= 0 && swipe <= 100) view.swipe = swipe;
  const off = (text("off") ?? "").split(",").filter((code) => /^\d{1,3}$/.test(code)).map(Number);
  if (off.length > 0) view.off = off;
  return view;
}

/** The address of a view. */
export function writeAddress(view) {
  const out = new URLSearchParams();
  const put = (key, value) => {
    if (value !== undefined && value !== null && value !== "") out.set(key, String(value));
  };
  put("map", view.folder);
  put("c", view.centre && [Math.round(view.centre[0]), Math.round(view.centre[1]), view.centre[2]].join(","));
  put("show", view.show === "classes" ? null : view.show);
  put("opacity", view.opacity === 80 ? null : view.opacity);
  put("swipe", view.swipe);
  put("off", [...(view.off ?? [])].sort((a, b) => a - b).join(","));
  put("p", view.point && view.point.map(Math.round).join(","));
  put("region", view.region);
  put("lang", view.language);
  return `#${out}`.replaceAll("%2C", ",").replaceAll("%2F", "/");
}
