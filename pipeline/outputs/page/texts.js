// Words of the page, one file per language; numbers and dates as people of that language write them.

let words = {};
let language = "en";

/** Loads a language: the one that is wanted, else the browser's if it is there, else English. */
export async function loadTexts(wanted, available) {
  const mine = (navigator.languages ?? []).map((tag) => tag.toLowerCase());
  const known = (tag) => available.find((one) => one.toLowerCase() === tag) ?? available.find((one) => one === tag.split("-")[0]);
  language = (wanted && known(wanted.toLowerCase())) || mine.map(known).find(Boolean) || "en";
  words = await read("en");
  if (language !== "en") words = { ...words, ...(await read(language)) };
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  return language;
}

async function read(name) {
  const response = await fetch(`strings/${encodeURIComponent(name)}.json`);
  const found = response.ok ? await response.json() : {};
  return Object.fromEntries(Object.entries(found).filter(([, text]) => typeof text === "string"));
}

/** A text with its `{parts}` filled in. */
export function t(key, parts = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => String(parts[name] ?? ""));
}

/** A class in the language of the page, where it has a word for it. */
export const className = (name) => words[`class:${name}`] ?? name;

export const number = (value, digits = 0) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
/** Small and nearly whole shares with a decimal: 99.6 % is not all. */
export const percent = (share) => `${number(100 * share, (share > 0 && share < 0.1) || (share > 0.99 && share < 1) ? 1 : 0)} %`;
export const hectares = (value) => `${number(value, value < 10 ? 2 : 0)} ha`;
export const languageName = (tag) => new Intl.DisplayNames([tag], { type: "language" }).of(tag) ?? tag;

/** `2026-06-01`, `2026-06-30` as one period. */
export function periodText(start, end) {
  const [from, to] = [new Date(`${start}T00:00:00Z`), new Date(`${end}T00:00:00Z`)];
  if (Number.isNaN(from.getTime()) || Number.isNaN(to.getTime()) || from > to) return [start, end].filter(Boolean).join(" – ");
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeZone: "UTC" }).formatRange(from, to);
}
