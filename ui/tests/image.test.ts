import assert from "node:assert/strict";
import { test } from "node:test";
import { MAP_NAMES, table } from "../src/image/colours";
import { HEAD_NBYTES, levels, readFrame } from "../src/image/frame";

function picture(values: number[], width: number): ArrayBuffer {
  const data = new ArrayBuffer(HEAD_NBYTES + 2 * values.length);
  const head = new DataView(data);
  [..."BSF1"].forEach((letter, at) => head.setUint8(at, letter.charCodeAt(0)));
  head.setUint8(4, 2);
  head.setUint16(6, 4, true);
  head.setUint32(8, values.length / width, true);
  head.setUint32(12, width, true);
  head.setUint32(16, 16, true);
  head.setUint32(20, 16, true);
  head.setBigUint64(24, 7n, true);
  new Uint16Array(data, HEAD_NBYTES).set(values);
  return data;
}

test("a picture is read, and nothing else", () => {
  const frame = readFrame(picture([1, 2, 3, 4], 2));
  assert.ok(frame);
  assert.deepEqual([frame.id, frame.height, frame.width, frame.binning], [7, 2, 2, 4]);
  assert.deepEqual([...frame.pixels], [1, 2, 3, 4]);
  assert.equal(readFrame(new ArrayBuffer(31)), null);
  assert.equal(readFrame(picture([1, 2, 3, 4], 2).slice(0, 34)), null);
});

test("levels leave no empty range", () => {
  const flat = readFrame(picture([5, 5, 5, 5], 2));
  assert.ok(flat);
  for (const mode of ["percentile", "log", "fixed"] as const) {
    const found = levels(flat.pixels, mode, 3, 3, 65_535);
    assert.ok(found.high > found.low);
  }
});

test("colour maps rise in lightness", () => {
  for (const name of MAP_NAMES) {
    const colours = table(name);
    const light = (at: number) =>
      0.2126 * (colours[4 * at] ?? 0) + 0.7152 * (colours[4 * at + 1] ?? 0) + 0.0722 * (colours[4 * at + 2] ?? 0);
    for (let at = 16; at < 256; at += 16) assert.ok(light(at) > light(at - 16), `${name} ${at}`);
  }
});
