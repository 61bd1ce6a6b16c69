import assert from "node:assert/strict";
import { test } from "node:test";
import { columns, parts, place } from "../src/map/layout";

const box = (id: string, column = -1) => ({ id, column });

test("what feeds stands left of what is fed", () => {
  const arrows = [
    { from: "a", to: "b" },
    { from: "b", to: "c" },
    { from: "a", to: "c" },
  ];
  const found = columns([box("c"), box("a"), box("b")], arrows);
  assert.deepEqual([found.get("a"), found.get("b"), found.get("c")], [0, 1, 2]);
});

test("a circle ends", () => {
  const arrows = [
    { from: "a", to: "b" },
    { from: "b", to: "a" },
  ];
  assert.equal(columns([box("a"), box("b")], arrows).size, 2);
});

test("what does not hang together has rows of its own", () => {
  const arrows = [
    { from: "p1", to: "s1" },
    { from: "p2", to: "s2" },
    { from: "p2", to: "s3" },
  ];
  const boxes = ["s1", "p1", "s3", "p2", "s2"].map((id) => box(id));
  assert.deepEqual(
    parts(boxes, arrows).map((part) => part.map((one) => one.id).sort()),
    [
      ["p2", "s2", "s3"],
      ["p1", "s1"],
    ],
  );
  const row = new Map(place(boxes, arrows).map((one) => [one.id, one.row]));
  assert.deepEqual([row.get("p1"), row.get("s1")], [2, 2]);
});

test("neighbours stand side by side: arrows do not cross without need", () => {
  const boxes = ["p1", "p2", "q1", "q2"].map((id) => box(id));
  const arrows = [
    { from: "p1", to: "q2" },
    { from: "p2", to: "q1" },
  ];
  const row = new Map(place(boxes, arrows).map((one) => [one.id, one.row]));
  const sign = (a: string, b: string) => Math.sign((row.get(a) ?? 0) - (row.get(b) ?? 0));
  assert.equal(sign("p1", "p2"), sign("q2", "q1"));
});
