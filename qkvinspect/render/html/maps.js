// Heat maps: layers down, heads across.

const DIVERGING = [[0, "#053061"], [0.125, "#2f79b5"], [0.25, "#6bacd1"], [0.375, "#c0dceb"], [0.5, "#f7f7f7"],
  [0.625, "#fad4c0"], [0.75, "#e58267"], [0.875, "#b1182b"], [1, "#67001f"]];
const WIDE = 30;  // a scale is logarithmic where the greatest value is so many times the least
const cellText = byId("cell");

function valuesOf(key, side) {
  return data.rows.map((row) => (row.sides[side] ? row.sides[side].values[key] || row.sides[side].kv.map(() => null) : []));
}

function subtracted(key) {
  const [first, second] = [valuesOf(key, 0), valuesOf(key, 1)];
  return first.map((row, y) => {
    const other = second[y];
    const both = typeof row[0] !== "undefined" && other.length === row.length;
    return both ? row.map((a, x) => (typeof a === "number" && typeof other[x] === "number" ? other[x] - a : null)) : [];
  });
}

function scaleOf(panels, kind) {
  const known = panels.flat(2).filter((value) => typeof value === "number");
  let [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (!known.length) [low, high] = [0, 1];
  if (kind === "share") return { low: 0, high: 1, colours: "Cividis" };
  if (kind === "cosine") return { low: -1, high: 1, colours: DIVERGING };
  if (kind === "difference") {
    const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return { low: -most, high: most, colours: DIVERGING };
  }
  const log = 0 < WIDE * low && WIDE * low < high;
  if (low === high) [low, high] = low < 0 ? [low - 1, high + 1] : [0, high || 1];
  return { low, high, log, colours: "Cividis" };
}

function logTicks({ low, high }) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const step of [1, 2, 5]) ticks.push(step * 10 ** power);
  }
  const within = ticks.filter((tick) => tick >= low && tick <= high);
  return within.length > 8 ? within.filter((tick) => Number.isInteger(Math.round(Math.log10(tick) * 1e9) / 1e9)) : within;
}

function hoverOf(panel, column, y, x) {
  const row = data.rows[y];
  const layer = row.sides[panel.side || 0] || row.sides[1];
  const value = panel.values[y][x];
  const partner = layer && layer.partners && layer.partners[column.key];
  const like = !panel.difference && partner && partner[x] !== null ? ` (head ${partner[x]})` : "";
  const said = typeof value === "number" || typeof value === "string" ? shown(value) + like : "no value";
  const grouped = layer && layer.kv[x] !== x ? `, kv head ${layer.kv[x]}` : "";
  return [shortened(layer.name, 80), `head ${x}${grouped}`, `${panel.difference ? "B − A of " : ""}${column.title}: ${said}`];
}

// Which heads have their number below them: as many as there is room for.
function everyHead(heads, width) {
  return [1, 2, 4, 8, 16, 32].find((step) => (heads / step) * 22 <= Math.max(width, 60)) || 64;
}

function drawMap(div, panel, column, scale) {
  const heads = Math.max(1, ...panel.values.map((row) => row.length));
  const wide = data.rows.map((_, y) => Array.from({ length: heads }, (__, x) => panel.values[y][x]));
  const turn = scale.log ? Math.log10 : (value) => value;
  const colours = wide.map((row) => row.map((value) => (typeof value === "number" ? turn(value) : null)));
  const lost = wide.map((row) => row.map((value) => (value === undefined || typeof value === "number" ? null : 0)));
  const words = wide.map((row, y) => row.map((value, x) => (value === undefined ? "" : hoverOf(panel, column, y, x).map(plain).join("<br>"))));
  const ticks = scale.log ? logTicks(scale) : null;
  const common = { type: "heatmap", xgap: 1, ygap: 1, hoverongaps: false, text: words, hovertemplate: "%{text}<extra></extra>" };
  const look = base();
  const room = div.parentElement.clientWidth || 600;
  const tall = Math.max(14, Math.min(30, 420 / data.rows.length));
  const every = Math.max(1, Math.ceil(14 / tall), Math.ceil(data.rows.length / 150));
  const named = data.rows.map((_, y) => y).filter((y) => y % every === 0);
  const height = Math.max(150, 70 + tall * data.rows.length);
  const bar = {
    thickness: 14, outlinewidth: 0, tickfont: { color: colour("text") }, len: 1, ypad: 0,
    ...(ticks ? { tickvals: ticks.map(Math.log10), ticktext: ticks.map(shown) } : {}),
  };
  Plotly.react(div, [
    { ...common, z: lost, colorscale: [[0, colour("lost")], [1, colour("lost")]], showscale: false },
    { ...common, z: colours, zmin: turn(scale.low), zmax: turn(scale.high), colorscale: scale.colours, colorbar: bar },
  ], {
    ...look,
    width: Math.min(room, 260 + 46 * heads),
    height,
    margin: { t: 8, r: 8, b: 46, l: 30 },
    xaxis: { ...look.axis, title: { text: "head" }, dtick: everyHead(heads, Math.min(room, 260 + 46 * heads) - 200), tick0: 0, tickangle: 0, showgrid: false, range: [-0.5, heads - 0.5] },
    yaxis: {
      ...look.axis, automargin: true, showgrid: false, range: [data.rows.length - 0.5, -0.5],
      tickvals: named, ticktext: named.map((y) => plain(data.rows[y].label)),
    },
  }, CONFIG);
}

function captionOf(label, column, scale) {
  const named = column.title.includes(column.unit);
  const unit = [named ? "" : column.unit, scale.log ? "logarithmic scale" : ""].filter(Boolean).join(", ");
  return `${label ? `${label}: ` : ""}${column.title}${unit ? ` (${unit})` : ""}`;
}

function panelsOf(key) {
  if (byId("view") && byId("view").value === "difference" && !data.columns[key].between) return [{ values: subtracted(key), difference: true }];
  if (data.columns[key].between) return [{ values: valuesOf(key, 1), side: 1, between: true }];
  return data.sides.map((_, side) => ({ values: valuesOf(key, side), side }));
}

function drawMaps() {
  cellText.textContent = "";
  const key = byId("figure").value;
  const column = { key, ...data.columns[key] };
  if (byId("view")) byId("view").disabled = Boolean(column.between);
  const panels = panelsOf(key);
  const scale = scaleOf(panels.map((panel) => panel.values), panels[0].difference ? "difference" : column.scale);
  data.sides.forEach((label, number) => {
    const div = byId(`map-${number}`);
    const panel = panels[number];
    div.parentElement.hidden = !panel;
    if (!panel) return;
    byId(`caption-${number}`).textContent = captionOf(panel.difference ? "B − A" : panel.between ? "B against A" : label, column, scale);
    drawMap(div, panel, column, scale);
    div.onkeydown = (event) => move(event, div, panel, column);
  });
}

function mark(div) {
  const [y, x] = div.cursor || [];
  const line = { color: colour("mark"), width: 3 };
  const box = { type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line };
  Plotly.relayout(div, { shapes: div.cursor ? [box] : [] });
}

// The arrow keys go from cell to cell; what hovering would show is said.
function move(event, div, panel, column) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const [y, x] = div.cursor ? [div.cursor[0] + step[0], div.cursor[1] + step[1]] : [0, 0];
  if (!panel.values[y] || panel.values[y][x] === undefined) return;
  div.cursor = [y, x];
  mark(div);
  cellText.textContent = hoverOf(panel, column, y, x).join(", ");
}

if (byId("figure")) {
  byId("place").textContent = data.place ? `Layers: ${data.place}` : "";
  for (const select of [byId("figure"), byId("view")]) {
    if (select) select.addEventListener("change", drawMaps);
  }
  data.sides.forEach((_, number) => {
    byId(`map-${number}`).addEventListener("blur", (event) => {
      event.target.cursor = null;
      mark(event.target);
    });
  });
  drawings.push(drawMaps);
  drawMaps();
}
