// Numbers for people: always with a unit, at most four digits, never two meanings.

const SI = ["", "k", "M", "G", "T", "P"];
const THIN = "\u202f";

/** 1234567 -> "1.23 M". */
export function compact(value: number): string {
  if (!Number.isFinite(value)) return "–";
  let exponent = 0;
  let rest = Math.abs(value);
  while (rest >= 999.5 && exponent < SI.length - 1) {
    rest /= 1000;
    exponent += 1;
  }
  const digits = exponent === 0 && Number.isInteger(value) ? 0 : rest < 9.995 ? 2 : rest < 99.95 ? 1 : 0;
  const text = (Math.sign(value) * rest).toFixed(digits);
  return exponent ? `${text}${THIN}${SI[exponent]}` : text;
}

/** 184220 -> "184 220". */
export function whole(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, THIN);
}

/** Bytes: 8388608 -> "8.39 MB". */
export function bytes(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = compact(value);
  return /[kMGTP]$/.test(text) ? `${text}B` : `${text}${THIN}B`;
}

export function byteRate(value: number | null): string {
  return value === null ? "–" : `${bytes(value)}/s`;
}

export function hertz(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = compact(Math.round(value * 100) / 100);
  return /[kMGTP]$/.test(text) ? `${text}Hz` : `${text}${THIN}Hz`;
}

/** Milliseconds: 0.43 -> "0.43 ms", 12400 -> "12.4 s". */
export function millis(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value < 1000) return `${value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0)}${THIN}ms`;
  return duration(value / 1000);
}

/** Seconds: 0.04 -> "0.04 s", 400 -> "6 min 40 s", 90000 -> "25 h 0 min". */
export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 9.995) return `${seconds.toFixed(2)}${THIN}s`;
  if (seconds < 99.95) return `${seconds.toFixed(1)}${THIN}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}${THIN}min ${Math.floor(seconds % 60)}${THIN}s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 72) return `${hours}${THIN}h ${minutes % 60}${THIN}min`;
  return `${Math.floor(hours / 24)}${THIN}d ${hours % 24}${THIN}h`;
}

/** Nanoseconds since 1970 UTC -> "2026-11-22 12:31:07" of this machine. */
export function moment(ns: number): string {
  if (!ns) return "–";
  const date = new Date(ns / 1e6);
  const two = (n: number) => n.toString().padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}${THIN}%`;
}

const KINDS: Record<string, string> = { u: "uint", i: "int", f: "float", c: "complex", b: "bool" };

/** A dtype as numpy calls it in words: "<u2" -> "uint16". */
export function dtypeName(dtype: string): string {
  const found = /^[<>|=]?([a-z])(\d+)$/.exec(dtype);
  const kind = found && KINDS[found[1] ?? ""];
  if (!found || !kind) return dtype;
  return kind === "bool" ? kind : `${kind}${8 * Number(found[2])}`;
}

/** Seconds since 1970 UTC -> "12:31" or "12:31:07" of this machine. */
export function clock(seconds: number, withSeconds: boolean): string {
  const text = moment(seconds * 1e9).slice(11);
  return withSeconds ? text : text.slice(0, 5);
}
