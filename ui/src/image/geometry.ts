// Resolution rings: where on the detector light of a d-spacing falls. Bragg's law, flat detector
// across the beam.

export interface Geometry {
  /** Detector pixels. */
  beamX: number;
  beamY: number;
  distanceM: number;
  pixelM: number;
  wavelengthA: number;
}

const NAMES: Record<keyof Geometry, readonly string[]> = {
  beamX: ["beam_center_x", "beam_x"],
  beamY: ["beam_center_y", "beam_y"],
  distanceM: ["detector_distance", "distance_m"],
  pixelM: ["x_pixel_size", "pixel_size", "pixel_m"],
  wavelengthA: ["wavelength", "wavelength_a", "wavelength_angstrom"],
};
/** Row and column in one. */
const CENTRES = ["beam_centre", "beam_center"] as const;
const HC_EV_A = 12_398.42;

/** The geometry that a header tells, by the names of Eiger's and NeXus' fields; null without one. */
export function geometryOf(header: unknown): Geometry | null {
  const flat = new Map<string, number>();
  collect(header, flat, 0);
  const find = (names: readonly string[]) => names.map((name) => flat.get(name)).find((v) => v !== undefined);
  const energy = flat.get("photon_energy") ?? flat.get("energy_ev");
  const found = {
    beamX: find(NAMES.beamX),
    beamY: find(NAMES.beamY),
    distanceM: find(NAMES.distanceM),
    pixelM: find(NAMES.pixelM),
    wavelengthA: find(NAMES.wavelengthA) ?? (energy ? HC_EV_A / energy : undefined),
  };
  const complete = Object.values(found).every((value) => value !== undefined && Number.isFinite(value));
  return complete ? (found as Geometry) : null;
}

function collect(node: unknown, into: Map<string, number>, depth: number): void {
  if (depth > 8 || node === null || typeof node !== "object") return;
  for (const [key, value] of Object.entries(node)) {
    const name = key.toLowerCase();
    if (typeof value === "number" && !into.has(name)) into.set(name, value);
    else if (isCentre(name, value)) {
      into.set("beam_y", value[0]);
      into.set("beam_x", value[1]);
    } else collect(value, into, depth + 1);
  }
}

function isCentre(name: string, value: unknown): value is [number, number] {
  if (!CENTRES.some((one) => one === name) || !Array.isArray(value) || value.length !== 2) return false;
  return value.every((part) => typeof part === "number");
}

/** Radius of the ring of a d-spacing, detector pixels; null where it does not reach the detector. */
export function ringRadius(geometry: Geometry, spacingA: number): number | null {
  const sine = geometry.wavelengthA / (2 * spacingA);
  if (sine <= 0 || sine >= Math.SQRT1_2) return null;
  return (geometry.distanceM * Math.tan(2 * Math.asin(sine))) / geometry.pixelM;
}

/** The d-spacing at a pixel, Å. */
export function spacingAt(geometry: Geometry, x: number, y: number): number {
  const radius = Math.hypot(x - geometry.beamX, y - geometry.beamY) * geometry.pixelM;
  return geometry.wavelengthA / (2 * Math.sin(Math.atan2(radius, geometry.distanceM) / 2));
}

export const RINGS_A = [10, 5, 3, 2, 1.5, 1.2] as const;
