// Pictures from the monitor: a head of 32 bytes, then pixels in rows. Little endian.
//
//   0 "BSF1"  4 dtype  5 reserved  6 binning u16  8 height u32  12 width u32
//   16 full height u32  20 full width u32  24 id u64

export const HEAD_NBYTES = 32;
const MAGIC = 0x31465342;

const TYPES = [
  Uint8Array,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
] as const;

export type Pixels = InstanceType<(typeof TYPES)[number]>;

export interface Frame {
  id: number;
  height: number;
  width: number;
  fullHeight: number;
  fullWidth: number;
  /** Pixels of the detector behind one of these, along each side. */
  binning: number;
  pixels: Pixels;
}

/** Read a picture; null when it is none. */
export function readFrame(data: ArrayBuffer): Frame | null {
  if (data.byteLength < HEAD_NBYTES) return null;
  const head = new DataView(data);
  if (head.getUint32(0, true) !== MAGIC) return null;
  const make = TYPES[head.getUint8(4)];
  const height = head.getUint32(8, true);
  const width = head.getUint32(12, true);
  if (!make || HEAD_NBYTES + height * width * make.BYTES_PER_ELEMENT > data.byteLength) return null;
  return {
    id: Number(head.getBigUint64(24, true)),
    height,
    width,
    fullHeight: head.getUint32(16, true),
    fullWidth: head.getUint32(20, true),
    binning: Math.max(head.getUint16(6, true), 1),
    pixels: new make(data, HEAD_NBYTES, height * width),
  };
}

/** Detectors mark what is no measurement with the largest value of an unsigned dtype. */
export function maskOf(pixels: Pixels): number {
  if (pixels instanceof Uint16Array) return 65_535;
  if (pixels instanceof Uint32Array) return 4_294_967_295;
  return Infinity;
}

/** Values below which shares of the measured pixels are; of some ten thousand of them. */
export function percentiles(pixels: Pixels, shares: readonly number[], mask: number): number[] {
  const step = Math.max(1, Math.floor(pixels.length / 20_000));
  const sample: number[] = [];
  for (let at = 0; at < pixels.length; at += step) {
    const value = pixels[at] as number;
    if (Number.isFinite(value) && value < mask) sample.push(value);
  }
  if (!sample.length) return shares.map(() => 0);
  sample.sort((a, b) => a - b);
  return shares.map((share) => sample[Math.round(share * (sample.length - 1))] as number);
}

export type LevelMode = "percentile" | "fixed" | "log";

/** What is drawn black and white. */
export function levels(
  pixels: Pixels,
  mode: LevelMode,
  low: number,
  high: number,
  mask: number,
): { low: number; high: number } {
  if (mode === "fixed") return { low, high: Math.max(high, low + 1e-9) };
  const [bottom = 0, top = 1] = percentiles(pixels, mode === "log" ? [0.01, 0.9995] : [0.01, 0.999], mask);
  return { low: bottom, high: top > bottom ? top : bottom + 1 };
}
