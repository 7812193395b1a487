"use strict";
// Small helpers. Text goes in as text, never as HTML: names may hold anything.

/** Return an element; `attributes` with a function become listeners, children may be text. */
function element(tag, attributes, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function show(place, ...children) {
  place.replaceChildren(...children.flat().filter(Boolean));
}

function sizeText(bytes) {
  const sign = bytes < 0 ? "−" : "";
  let size = Math.abs(bytes);
  if (size < 1000) return `${sign}${Math.round(size)} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    size /= 1000;
    if (size < 1000 || unit === "GB") return `${sign}${size.toFixed(size < 100 ? 1 : 0)} ${unit}`;
  }
}

function countText(number) {
  if (number === null || number === undefined) return "–";
  if (Math.abs(number) < 10000) return number.toLocaleString("en");
  return Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(number);
}

function figureText(number) {
  if (number === null || number === undefined) return "–";
  return Math.abs(number) >= 1e5 || (number && Math.abs(number) < 1e-3)
    ? number.toExponential(2)
    : String(Number(number.toPrecision(4)));
}

function shareText(share) {
  return share === null ? "–" : share.toFixed(5);
}

function decibelText(decibels) {
  if (decibels === null || decibels === undefined) return "–";
  return decibels >= 300 ? "equal" : `${decibels.toFixed(1)} dB`;
}

function short(text, length) {
  if (text.length <= length) return text;
  const half = Math.floor((length - 1) / 2);
  return `${text.slice(0, half)}…${text.slice(-half)}`;
}

/** Let the user choose one of `options`, a list of [value, label]; calls `chosen` with it. */
function choice(fieldset, name, options, value, chosen) {
  for (const [key, label] of options) {
    const input = element("input", {
      type: "radio", name, value: key, checked: key === value, change: () => chosen(key),
    });
    fieldset.append(element("label", {}, input, element("span", {}, label)));
  }
}

/** Draw again when the width of `place` changes. */
function drawInto(place, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(place.clientWidth);
    if (now && now !== width) {
      width = now;
      draw(width);
    }
  }).observe(place);
  return () => width && draw(width);
}
