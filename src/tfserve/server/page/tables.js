// A file's rows as lines of JSON.

function cells(text, delimiter) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else quoted = false;
    } else if (character === '"' && cell === "") quoted = true;
    else if (character === delimiter || character === "\n") {
      row.push(cell);
      cell = "";
      if (character === "\n") { rows.push(row); row = []; }
    } else cell += character;
  }
  if (quoted) throw { message: "A double quote is never closed; expected a CSV file" };
  if (cell !== "" || row.length) rows.push([...row, cell]);
  return rows.filter((found) => found.length > 1 || found[0] !== "");
}

// Lines of JSON Lines from a .jsonl file, or from a table with a header. Throws { message }.
export function records(text, name) {
  const body = text.replace(/^\ufeff/, "").replaceAll("\r\n", "\n");
  if (/\.(jsonl|ndjson)$/i.test(name)) {
    const lines = body.replace(/\s+$/, "").split("\n");
    if (!lines.some((line) => line.trim())) throw { message: "The file is empty; expected a record a line" };
    return lines.map((line) => (line.trim() ? line : '""'));  // an empty line at a part's end would be none
  }
  if (/\.json$/i.test(name)) {
    let value;
    try { value = JSON.parse(body); } catch (error) { throw { message: `This is no JSON: ${error.message}` }; }
    const list = Array.isArray(value) ? value : value.data ?? value.inputs ?? [value];
    if (!list.length) throw { message: "The file holds no record" };
    return list.map((record) => JSON.stringify(record));
  }
  const first = body.split("\n", 1)[0];
  const delimiter = ["\t", ";", ","].find((one) => first.includes(one)) ?? ",";
  const [header, ...rows] = cells(body, delimiter);
  const columns = (header ?? []).map((column) => column.trim());
  if (!columns.includes("text") && !columns.includes("words")) {
    throw { message: `Found the columns ${columns.join(", ") || "(none)"}; expected a header with the column text` };
  }
  if (!rows.length) throw { message: "The file has a header and no rows" };
  return rows.map((row) => JSON.stringify(Object.fromEntries(columns.map((column, i) => [column, row[i] ?? ""]))));
}
