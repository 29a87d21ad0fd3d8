// A file's rows as lines of JSON.

// The rows of a CSV table; nothing where a quote is never closed or, in a strict reading, stands where
// no CSV writer would put it.
function quoted(text, delimiter, strict) {
  const rows = [];
  let row = [], cell = "", state = "begin";  // of a cell: begin, plain, inside quotes, closed
  for (let i = 0; i <= text.length; i++) {
    const character = text[i] ?? "\n";
    if (state === "inside" && i < text.length) {
      if (character !== '"') cell += character;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else state = "closed";
    } else if (state === "inside") return undefined;
    else if (character === delimiter || character === "\n") {
      row.push(cell);
      cell = "";
      state = "begin";
      if (character === "\n") { rows.push(row); row = []; }
    } else if (character === '"' && state === "begin") state = "inside";
    else if (strict && (character === '"' || state === "closed")) return undefined;
    else { cell += character; state = "plain"; }
  }
  return rows;
}

// The rows of a table, as the server reads them: in one by tabs quotes may be characters like others.
function cells(text, delimiter) {
  const found = quoted(text, delimiter, delimiter === "\t"), lines = text.split("\n").map((line) => line.split(delimiter));
  if (delimiter === "\t") {
    const rectangular = lines.every((line) => line.length === lines[0].length || line.join("") === "");
    const spans = found?.some((row) => row.some((cell) => /[\t\n]/.test(cell)));
    return !found || (spans && rectangular) ? lines : found;
  }
  if (!found) throw { message: "A double quote is never closed; expected a CSV file" };
  return found;
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
  const [header, ...rows] = cells(body, delimiter).filter((row) => row.length > 1 || row[0] !== "");
  const columns = (header ?? []).map((column) => column.trim());
  if (!columns.includes("text") && !columns.includes("words")) {
    throw { message: `Found the columns ${columns.join(", ") || "(none)"}; expected a header with the column text` };
  }
  if (!rows.length) throw { message: "The file has a header and no rows" };
  const wrong = rows.findIndex((row) => row.length !== columns.length);
  if (wrong >= 0) {
    throw { message: `Row ${wrong + 1} has ${rows[wrong].length} columns; expected ${columns.length}: ${columns.join(", ")}` };
  }
  return rows.map((row) => JSON.stringify(Object.fromEntries(columns.map((column, i) => [column, row[i]]))));
}
