"use strict";
// Shared by all pages, the router's dashboard included: elements, and light or dark colours.

const find = id => document.getElementById(id);
const address = () => new URLSearchParams(location.hash.slice(1));
const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** A new element. properties: those of the element; `data` is its dataset, `style` an object of CSS properties. */
function element(tag, properties = {}, ...children) {
  const { data, style, ...plain } = properties, made = Object.assign(document.createElement(tag), plain);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(style ?? {})) made.style.setProperty(name, value);
  made.append(...children);
  return made;
}

function theme() { return document.documentElement.style.colorScheme || (systemDark.matches ? "dark" : "light"); }

/** Take the colours of "dark" or "light"; of the reader's system for any other name. Listeners hear of it as `theme`. */
function setTheme(name) {
  document.documentElement.style.colorScheme = ["dark", "light"].includes(name) ? name : "";
  find("theme").textContent = theme() === "dark" ? "Light colours" : "Dark colours";
  dispatchEvent(new Event("theme"));
}

function storedTheme() {
  try { return localStorage.getItem("vidur-theme"); } catch { return null; }
}

function switchTheme() {
  setTheme(theme() === "dark" ? "light" : "dark");
  try { localStorage.setItem("vidur-theme", theme()); } catch { /* without storage the page keeps its theme while it is open */ }
}

document.querySelector(".top").append(element("span", { className: "tools" },
  element("button", { id: "theme", className: "button", type: "button", onclick: switchTheme })));
systemDark.addEventListener("change", () => setTheme(document.documentElement.style.colorScheme));
setTheme(address().get("theme") ?? storedTheme());
