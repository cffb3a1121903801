// The table of every head: filter, sort, pages.

const CONDITION = /^([a-z_]+)(<=|>=|<|>|=)(-?[0-9.]+(?:e[+-]?[0-9]+)?)$/;
const TESTS = {
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, ">": (a, b) => a > b, "=": (a, b) => a === b,
};
const records = data.rows.flatMap((row, place) => {
  const heads = Math.max(0, ...row.sides.map((side) => (side ? side.kv.length : 0)));
  return Array.from({ length: heads }, (_, head) => ({ row, place, head }));
});
const grouped = records.some(({ row, head }) => row.sides.some((side) => side && side.kv[head] !== undefined && side.kv[head] !== head));
const order = { id: null, down: false };
let page = 0;

function kvHead({ row, head }) {
  const side = row.sides.find((one) => one && one.kv[head] !== undefined);
  return side ? side.kv[head] : null;
}

function valueOf({ row, head }, key, side) {
  const found = row.sides[side] && row.sides[side].values[key];
  return found === undefined || found === null || found[head] === undefined ? null : found[head];
}

function tableColumns() {
  const group = byId("group").value;
  const keys = data.groups[group] || [byId("figure").value];
  const figures = keys.flatMap((key) => data.sides.map((label, side) => ({
    id: `${key}-${side}`, title: data.columns[key].title + (label ? `, ${label}` : ""), number: true,
    of: (record) => valueOf(record, key, side),
  })));
  return [
    { id: "layer", title: "layer", number: false, of: (record) => record.row.name, by: (record) => record.place },
    { id: "head", title: "head", number: true, of: (record) => record.head },
    ...(grouped ? [{ id: "kv", title: "kv head", number: true, of: kvHead }] : []),
    ...figures,
  ];
}

// A predicate for what was typed, or a sentence that says what is wrong with it.
function filterOf(typed) {
  const tests = [];
  for (const word of typed.trim().split(/\s+/).filter(Boolean)) {
    const found = CONDITION.exec(word);
    if (!found) {
      const part = word.toLowerCase();
      tests.push(({ row }) => row.name.toLowerCase().includes(part));
      continue;
    }
    const [, key, sign, limit] = found;
    const test = (value) => typeof value === "number" && TESTS[sign](value, Number(limit));
    if (key === "head") tests.push((record) => test(record.head));
    else if (key === "kv_head") tests.push((record) => test(kvHead(record)));
    else if (data.columns[key]) tests.push((record) => data.sides.some((_, side) => test(valueOf(record, key, side))));
    else return `No figure is called ${key}.`;
  }
  return (record) => tests.every((test) => test(record));
}

function compared(column) {
  const key = column.by || column.of;
  const rank = (value) => (typeof value === "number" ? value : null);
  return (one, other) => {
    const [a, b] = [rank(key(one)), rank(key(other))];
    if (a === null || b === null) return (a === null) - (b === null);  // those without a number come last
    return order.down ? b - a : a - b;
  };
}

function drawHead(columns) {
  const line = document.createElement("tr");
  for (const column of columns) {
    const cell = element("th", "", { scope: "col", class: column.number ? "number" : "", "data-id": column.id });
    const button = element("button", column.title, { type: "button" });
    button.addEventListener("click", () => {
      order.down = order.id === column.id && !order.down;
      order.id = column.id;
      page = 0;
      drawBody();
    });
    cell.append(button);
    line.append(cell);
  }
  document.querySelector("#every thead").replaceChildren(line);
}

function drawBody() {
  const columns = tableColumns();
  const filter = filterOf(byId("filter").value);
  const wrong = typeof filter === "string";
  byId("filter").setAttribute("aria-invalid", String(wrong));
  const kept = wrong ? [] : records.filter(filter);
  const sorted = columns.find((column) => column.id === order.id);
  if (sorted) kept.sort(compared(sorted));
  for (const cell of document.querySelectorAll("#every thead th")) {
    cell.setAttribute("aria-sort", cell.dataset.id !== order.id ? "none" : order.down ? "descending" : "ascending");
  }
  const size = Number(byId("size").value) || kept.length || 1;
  page = Math.min(page, Math.max(0, Math.ceil(kept.length / size) - 1));
  const first = page * size;
  const some = kept.slice(first, first + size);
  document.querySelector("#every tbody").replaceChildren(...some.map((record) => {
    const line = document.createElement("tr");
    columns.forEach((column, place) => {
      const attributes = { ...(place ? {} : { scope: "row" }), class: column.number ? "number" : "" };
      line.append(element(place ? "td" : "th", shown(column.of(record)), { ...attributes, "data-title": column.title }));
    });
    return line;
  }));
  const range = some.length ? `${first + 1} to ${first + some.length} of ` : "";
  byId("shown").textContent = wrong ? filter : `Heads ${range}${kept.length}${kept.length < records.length ? ` (${records.length} in all)` : ""}.`;
  byId("pages").hidden = some.length === kept.length;
  byId("previous").disabled = page === 0;
  byId("next").disabled = first + size >= kept.length;
}

function drawTable() {
  drawHead(tableColumns());
  drawBody();
}

if (byId("every")) {
  byId("group").value = "Overview";
  byId("group").addEventListener("change", drawTable);
  byId("figure").addEventListener("change", drawTable);
  for (const [id, event] of [["filter", "input"], ["size", "change"]]) {
    byId(id).addEventListener(event, () => {
      page = 0;
      drawBody();
    });
  }
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => {
      page += step;
      drawBody();
    });
  }
  drawTable();
}
