"use strict";
// What all parts of the page use.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const drawings = [];  // functions that draw again: for another theme, size or figure

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Plotly reads a few HTML tags in its labels; a name holds none.
function plain(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function shortened(text, longest) {
  const half = Math.floor((longest - 1) / 2);
  return text.length <= longest ? text : `${text.slice(0, half)}…${text.slice(-half)}`;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" ? String(Number(value.toPrecision(5))) : value;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function base() {
  const axis = { gridcolor: colour("line"), zeroline: false, fixedrange: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("muted"), font: { color: colour("text") }, align: "left" },
    dragmode: false,
    axis,
  };
}

const CONFIG = { displayModeBar: false, typesetMath: false, showTips: false };

function drawAll() {
  for (const draw of drawings) draw();
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
window.addEventListener("resize", drawAll);
window.addEventListener("beforeprint", () => {
  document.documentElement.classList.add("paper");
  drawAll();
});
window.addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  drawAll();
});
