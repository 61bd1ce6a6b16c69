// Tables: sortable by their heads, ordered in the address of the page, numbers aligned.
import type { ComponentChildren } from "preact";
import { route, set } from "../route";

export interface Column<Row> {
  key: string;
  title: string;
  /** What a cell shows. */
  cell: (row: Row) => ComponentChildren;
  /** What it is sorted by; without it the column cannot be sorted by. */
  order?: (row: Row) => number | string;
  numeric?: boolean;
  hint?: string;
}

/** Drawing more than that twice a second is work that nobody reads. */
const ROWS_MAX = 200;

export function Table<Row>(props: {
  name: string;
  caption: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => string;
  state?: (row: Row) => string;
  onPick?: (row: Row) => void;
  picked?: string;
  empty: string;
}) {
  const asked = route.value.query[`sort-${props.name}`] ?? "";
  const down = asked.startsWith("-");
  const by = props.columns.find((column) => column.key === asked.replace(/^-/, ""));
  const all = by?.order ? sorted(props.rows, by.order, down) : props.rows;
  const rows = all.slice(0, ROWS_MAX);
  const sortBy = (key: string) =>
    set({ [`sort-${props.name}`]: asked === key ? `-${key}` : asked === `-${key}` ? "" : key });
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.caption}>
      <table data-testid={`table-${props.name}`}>
        <caption class="hidden">{props.caption}</caption>
        <thead>
          <tr>
            {props.columns.map((column) => (
              <th
                key={column.key}
                scope="col"
                class={column.numeric ? "number" : undefined}
                title={column.hint}
                aria-sort={by === column ? (down ? "descending" : "ascending") : undefined}
              >
                {column.order ? (
                  <button type="button" onClick={() => sortBy(column.key)}>
                    {column.title}
                  </button>
                ) : (
                  column.title
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const key = props.rowKey(row);
            const pick = props.onPick;
            return (
              <tr
                key={key}
                data-key={key}
                class={[props.state?.(row), pick && "pick", props.picked === key && "picked"]
                  .filter(Boolean)
                  .join(" ")}
                onClick={pick && (() => pick(row))}
              >
                {props.columns.map((column, at) => (
                  <td key={column.key} class={column.numeric ? "number" : undefined}>
                    {pick && at === 0 ? (
                      <button type="button" class="link" aria-pressed={props.picked === key}>
                        {column.cell(row)}
                      </button>
                    ) : (
                      column.cell(row)
                    )}
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
      {props.rows.length === 0 && <p class="empty">{props.empty}</p>}
      {all.length > rows.length && (
        <p class="soft">{all.length - rows.length} more are not shown: filter, or sort by another column.</p>
      )}
    </div>
  );
}

export function sorted<Row>(
  rows: readonly Row[],
  order: (row: Row) => number | string,
  down: boolean,
): Row[] {
  const sign = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [order(a), order(b)];
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
  });
}
