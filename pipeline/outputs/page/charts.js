// Areas as plain SVG, each beside a table that says the same in numbers.

import { className, hectares, percent, t } from "./texts.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, BAR, GAP] = [320, 150, 6];

/** An element with text, never markup: names and texts come from outside. */
export function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A swatch of a class's colour. */
export function swatch(color) {
  const made = element("span", { class: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = color;
  return made;
}

/** Classes of one period: a bar each, the largest first. `classes`: `{name, color, area_ha, share}`. */
export function classTable(classes) {
  const rows = classes.filter((c) => c.area_ha > 0).sort((a, b) => b.area_ha - a.area_ha);
  const most = Math.max(...rows.map((c) => c.share), 1e-9);
  return element("table", { class: "areas" },
    element("thead", {}, element("tr", {},
      element("th", { scope: "col", text: t("class") }), element("th", { scope: "col", text: t("area_column") }),
      element("th", { scope: "col", text: t("share") }), element("td", {}))),
    element("tbody", {}, ...rows.map((c) => {
      const bar = element("span", { class: "bar" });
      bar.style.backgroundColor = c.color;
      bar.style.width = `${Math.max(1, (100 * c.share) / most)}%`;
      return element("tr", {},
        element("th", { scope: "row" }, swatch(c.color), ` ${className(c.name)}`),
        element("td", { text: hectares(c.area_ha) }), element("td", { text: percent(c.share) }),
        element("td", { class: "bars", "aria-hidden": "true" }, bar));
    })));
}

/** Shares of the classes, a column per period. `periods`: `{label, short, classes}`; `now`: the one that is shown. */
export function periodChart(periods, now, choose) {
  const column = Math.min(64, WIDTH / periods.length);
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${BAR + 20}`, class: "periods", role: "group", "aria-label": t("chart") });
  periods.forEach((period, i) => {
    const names = period.classes.filter((c) => c.share >= 0.005).map((c) => `${className(c.name)} ${percent(c.share)}`);
    const group = drawn("g", { role: "button", tabindex: "0", "aria-pressed": String(i === now), "aria-label": `${period.label}: ${names.join(", ")}` });
    let bottom = BAR;
    for (const c of period.classes) {
      const height = c.share * BAR;
      bottom -= height;
      const block = drawn("rect", { x: i * column, y: bottom, width: Math.max(1, column - GAP), height, fill: c.color });
      block.append(drawn("title", {}, `${period.label}, ${className(c.name)}: ${hectares(c.area_ha)} (${percent(c.share)})`));
      group.append(block);
    }
    if (i === now) group.append(drawn("rect", { x: i * column, y: 0.75, width: Math.max(1, column - GAP), height: BAR - 1, class: "now" }));
    if (column > 30) group.append(drawn("text", { x: i * column + (column - GAP) / 2, y: BAR + 14 }, period.short));
    group.addEventListener("click", () => choose(i));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(i);
    });
    picture.append(group);
  });
  return picture;
}
