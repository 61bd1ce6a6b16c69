// Where things stand on the map: columns by role, rows by where their neighbours are. Pure.

export interface Box {
  id: string;
  /** Column, from 0 on; -1: told by the edges. */
  column: number;
}

export interface Arrow {
  from: string;
  to: string;
}

export interface Placed {
  id: string;
  column: number;
  row: number;
}

const ROUNDS = 8;

/** Columns: sources of arrows stand left of their targets; circles are cut where they close. */
export function columns(boxes: readonly Box[], arrows: readonly Arrow[]): Map<string, number> {
  const found = new Map(boxes.map((box) => [box.id, Math.max(box.column, 0)]));
  for (let round = 0; round < boxes.length; round += 1) {
    let moved = false;
    for (const { from, to } of arrows) {
      const [a, b] = [found.get(from), found.get(to)];
      if (a === undefined || b === undefined || a < b || a + 1 >= boxes.length) continue;
      found.set(to, a + 1);
      moved = true;
    }
    if (!moved) break;
  }
  return found;
}

/** What hangs together stands together, the largest part on top: nothing crosses between parts. */
export function place(boxes: readonly Box[], arrows: readonly Arrow[]): Placed[] {
  const placed: Placed[] = [];
  let below = 0;
  for (const part of parts(boxes, arrows)) {
    const ids = new Set(part.map((box) => box.id));
    const inside = arrows.filter((arrow) => ids.has(arrow.from));
    const found = placePart(part, inside);
    placed.push(...found.map((one) => ({ ...one, row: one.row + below })));
    below += Math.max(...found.map((one) => one.row)) + 1;
  }
  return placed;
}

/** Boxes that arrows join, whichever way they point. */
export function parts(boxes: readonly Box[], arrows: readonly Arrow[]): Box[][] {
  const above = new Map<string, string>();
  const root = (id: string): string => {
    let at = id;
    for (let next = above.get(at); next !== undefined; next = above.get(at)) at = next;
    return at;
  };
  for (const { from, to } of arrows) {
    const [a, b] = [root(from), root(to)];
    if (a !== b) above.set(b, a);
  }
  const found = new Map<string, Box[]>();
  for (const box of boxes) {
    const name = root(box.id);
    const known = found.get(name);
    if (known) known.push(box);
    else found.set(name, [box]);
  }
  const first = (part: readonly Box[]) => part.map((box) => box.id).sort()[0] ?? "";
  return [...found.values()].sort((a, b) => b.length - a.length || first(a).localeCompare(first(b)));
}

/** Rows by barycentre: each box goes to the mean row of its neighbours, in turn from both sides. */
function placePart(boxes: readonly Box[], arrows: readonly Arrow[]): Placed[] {
  const column = columns(boxes, arrows);
  const layers: string[][] = [];
  for (const { id } of [...boxes].sort((a, b) => a.id.localeCompare(b.id))) {
    (layers[column.get(id) ?? 0] ??= []).push(id);
  }
  const rows = new Map<string, number>();
  const number = (layer: readonly string[]) => layer.forEach((id, row) => rows.set(id, row));
  layers.forEach((layer) => number(layer ?? []));
  for (let round = 0; round < ROUNDS; round += 1) {
    const order = round % 2 ? [...layers.keys()].reverse() : [...layers.keys()];
    for (const at of order) {
      const layer = layers[at];
      if (!layer) continue;
      const centre = new Map(layer.map((id) => [id, barycentre(id, arrows, rows, round % 2 === 0)]));
      layer.sort((a, b) => (centre.get(a) ?? 0) - (centre.get(b) ?? 0) || a.localeCompare(b));
      number(layer);
    }
  }
  return boxes.map(({ id }) => ({ id, column: column.get(id) ?? 0, row: rows.get(id) ?? 0 }));
}

function barycentre(
  id: string,
  arrows: readonly Arrow[],
  rows: ReadonlyMap<string, number>,
  fromLeft: boolean,
): number {
  const near = arrows
    .filter((arrow) => (fromLeft ? arrow.to : arrow.from) === id)
    .map((arrow) => rows.get(fromLeft ? arrow.from : arrow.to) ?? 0);
  if (!near.length) return rows.get(id) ?? 0;
  return near.reduce((sum, row) => sum + row, 0) / near.length;
}
