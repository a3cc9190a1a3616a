// What stands beside the map: legend, the point, sub-regions, charts, credits.

import { classTable, element, periodChart, swatch } from "./charts.js";
import { confidenceColour } from "./layers.js";
import { className, hectares, number, percent, periodText, t } from "./texts.js";

const by = (id) => document.getElementById(id);

/** Classes with a box each to switch it off, or the scale of the confidence. */
export function showLegend(map, show, hidden, toggle) {
  if (show === "confidence") {
    const scale = element("div", { class: "scale", "aria-hidden": "true" });
    const stops = [0, 25, 50, 75, 100].map((p) => `rgb(${confidenceColour(p).join(",")}) ${p}%`);
    scale.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
    const ends = element("div", { class: "row ends" }, element("span", { text: percent(0) }), element("span", { text: percent(1) }));
    by("legend").replaceChildren(scale, ends, element("p", { class: "soft", text: t("confidence_means") }));
    return;
  }
  const total = map.classes.reduce((sum, c) => sum + (c.count ?? 0), 0);
  const rows = map.classes.map((c) => {
    const box = element("input", { type: "checkbox", value: c.code });
    box.checked = !hidden.has(c.code);
    box.addEventListener("change", () => toggle(c.code, box.checked));
    const share = total > 0 ? element("span", { class: "soft", text: percent((c.count ?? 0) / total) }) : null;
    return element("label", { class: "class" }, box, swatch(c.color), element("span", { text: className(c.name) }), share);
  });
  const all = element("button", { type: "button", text: t("all_classes") });
  all.addEventListener("click", () => toggle(null, hidden.size > 0));
  by("legend").replaceChildren(element("fieldset", {}, element("legend", { text: t("legend") }), ...rows), all);
}

/** The pixel that was asked for; `found` is `null` while it is read. */
export function showPoint(found, why) {
  const box = by("point");
  if (!found) return box.replaceChildren(element("p", { class: "soft", text: t("point_reading") }));
  const place = found.lonlat ? `${number(found.lonlat[1], 5)}, ${number(found.lonlat[0], 5)}` : `${number(found.x)}, ${number(found.y)}`;
  const lines = [];
  if (found.entry) {
    lines.push(element("p", { class: "answer" }, swatch(found.entry.color), element("strong", { text: className(found.entry.name) }),
      found.confidence === null ? null : ` · ${t("confidence_of", { percent: percent(found.confidence / 100) })}`));
  } else lines.push(element("p", { class: "answer", text: t("point_empty") }));
  lines.push(element("p", { class: "soft", text: found.region ? `${found.region} · ${place}` : place }));
  if (found.scores.length > 0) {
    const rows = found.scores.map(({ entry, score }) => {
      const bar = element("span", { class: "bar" });
      bar.style.backgroundColor = entry.color;
      bar.style.width = `${score}%`;
      return element("tr", {}, element("th", { scope: "row" }, swatch(entry.color), ` ${className(entry.name)}`),
        element("td", { text: percent(score / 100) }), element("td", { class: "bars", "aria-hidden": "true" }, bar));
    });
    lines.push(element("table", { class: "areas" }, element("caption", { text: t("scores") }), element("tbody", {}, ...rows)));
  }
  if (why && found.entry && found.lonlat) {
    const button = element("button", { type: "button", text: t("why") });
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = t("why_reading");
      const answer = await why(found).catch((error) => ({ error: error.message }));
      button.replaceWith(answer.text ? element("pre", { tabindex: "0", text: answer.text }) : element("p", { class: "warn", text: t("why_not", { reason: answer.error }) }));
    });
    lines.push(button);
  }
  return box.replaceChildren(...lines);
}

/** Buttons of the sub-regions, and the text of the one that is open. */
export function showRegions(map, regions, open, choose) {
  by("regions").replaceChildren(...(regions.length === 0 ? [element("p", { class: "soft", text: t("regions_none") })] : regions.map((region) => {
    const button = element("button", { type: "button", "aria-expanded": String(region.id === open), "aria-controls": "region", text: region.name });
    button.addEventListener("click", () => choose(region.id === open ? null : region.id));
    return button;
  })));
  const region = regions.find((one) => one.id === open);
  by("region").replaceChildren(...(region ? [
    element("h3", { text: region.name, tabindex: "-1" }),
    element("p", { lang: "en", text: region.text }),
    element("p", { class: "soft", text: t("region_facts", { area: hectares(region.area_ha), observed: percent(region.observed_share) }) }),
  ] : []));
}

/** Areas of the open sub-region, or of the whole map, in all periods. */
export function showCharts(title, periods, now, choose) {
  const chart = by("chart");
  const parts = [element("h3", { text: title })];
  if (periods.filter((p) => p.classes.length > 0).length > 1) parts.push(periodChart(periods, now, choose));
  if (periods[now]?.classes.length > 0) parts.push(classTable(periods[now].classes));
  else parts.push(element("p", { class: "soft", text: t("chart_none") }));
  chart.replaceChildren(...parts);
}

/** Classes with areas, in the order of the legend: of a sub-region, or of the whole map by its counts of pixels. */
export function areasOf(map, region, pixelHectares) {
  const counted = region ? region.classes : map.classes.map((c) => ({ code: c.code, area_ha: (c.count ?? 0) * pixelHectares }));
  const total = counted.reduce((sum, c) => sum + c.area_ha, 0);
  return map.classes.flatMap((entry) => {
    const found = counted.find((c) => c.code === entry.code);
    return found && total > 0 ? [{ name: entry.name, color: entry.color, area_ha: found.area_ha, share: found.area_ha / total }] : [];
  });
}

/** Who made it of what, under which terms, and how good it was found to be. */
export function showCredits(map) {
  const years = [...new Set([map.start.slice(0, 4), map.end.slice(0, 4)])].join("–");
  const lines = [t("credit_data", { years })];
  if (map.providers.length > 0) lines.push(t("credit_by", { names: map.providers.join(", ") }));
  if (map.citation) lines.push(map.citation);
  if (map.license) lines.push(t("credit_license", { license: map.license }));
  if (map.observed !== null) lines.push(t("observed", { share: percent(map.observed) }));
  if (map.confidence !== null) lines.push(t("mean_confidence", { share: percent(map.confidence) }));
  if (map.accuracy) lines.push(t("accuracy", { share: percent(map.accuracy.overall), reference: map.accuracy.reference }));
  lines.push(t("credit_library"));
  by("credits").replaceChildren(...lines.map((text) => element("p", { text })));
}

export const labelOf = (map) => periodText(map.start, map.end);
