import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, compact, dtypeName, duration, hertz, millis, whole } from "../src/format";

const plain = (text: string) => text.replace(/\u202f/g, " ");

test("numbers have at most four digits and a unit", () => {
  assert.equal(plain(compact(1_234_567)), "1.23 M");
  assert.equal(plain(compact(999.6)), "1.00 k");
  assert.equal(plain(compact(0)), "0");
  assert.equal(plain(bytes(8_388_608)), "8.39 MB");
  assert.equal(plain(hertz(98.7)), "98.7 Hz");
  assert.equal(plain(whole(184_220)), "184 220");
});

test("dtypes have names", () => {
  assert.deepEqual(["<u2", "|u1", ">f4", "|b1", "uint16", ""].map(dtypeName), [
    "uint16",
    "uint8",
    "float32",
    "bool",
    "uint16",
    "",
  ]);
});

test("times say what they are", () => {
  assert.equal(plain(millis(0.43)), "0.43 ms");
  assert.equal(plain(millis(12_400)), "12.4 s");
  assert.equal(plain(duration(400)), "6 min 40 s");
  assert.equal(plain(duration(90_000)), "25 h 0 min");
  assert.equal(plain(duration(null)), "–");
});
