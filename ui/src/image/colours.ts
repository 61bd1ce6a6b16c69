// Colour maps as 256 RGB entries, from control points; all of them rise in lightness, so that they
// serve the colour-blind and survive a grey printer.

type Point = readonly [number, number, number];

const VIRIDIS: readonly Point[] = [
  [68, 1, 84],
  [72, 40, 120],
  [62, 74, 137],
  [49, 104, 142],
  [38, 130, 142],
  [31, 158, 137],
  [53, 183, 121],
  [109, 205, 89],
  [180, 222, 44],
  [253, 231, 37],
];

const CIVIDIS: readonly Point[] = [
  [0, 32, 77],
  [0, 49, 111],
  [57, 72, 107],
  [87, 92, 109],
  [112, 113, 115],
  [138, 134, 120],
  [166, 157, 117],
  [196, 181, 108],
  [228, 207, 91],
  [255, 234, 70],
];

const HEAT: readonly Point[] = [
  [0, 0, 4],
  [40, 11, 84],
  [101, 21, 110],
  [159, 42, 99],
  [212, 72, 66],
  [245, 125, 21],
  [250, 193, 39],
  [252, 255, 164],
];

const GREY: readonly Point[] = [
  [0, 0, 0],
  [255, 255, 255],
];

export const MAPS = { viridis: VIRIDIS, cividis: CIVIDIS, heat: HEAT, grey: GREY } as const;
export type MapName = keyof typeof MAPS;
export const MAP_NAMES = Object.keys(MAPS) as MapName[];

export function table(name: MapName): Uint8Array {
  const points = MAPS[name];
  const made = new Uint8Array(256 * 4);
  for (let at = 0; at < 256; at += 1) {
    const place = (at / 255) * (points.length - 1);
    const below = Math.min(Math.floor(place), points.length - 2);
    const share = place - below;
    const [a, b] = [points[below] as Point, points[below + 1] as Point];
    for (let channel = 0; channel < 3; channel += 1) {
      const [x, y] = [a[channel] as number, b[channel] as number];
      made[4 * at + channel] = Math.round(x + share * (y - x));
    }
    made[4 * at + 3] = 255;
  }
  return made;
}
