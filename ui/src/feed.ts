// The one WebSocket of this tab: snapshots at most twice a second, previews of one stream.
// It comes again by itself, pauses while the tab is hidden, and always says how old it is.
import { computed, effect, signal } from "@preact/signals";
import type { ErrorFrame, Snapshot, SnapshotFrame } from "./types";

const RETRY_MS_MAX = 5000;
const STALE_S = 2.5;
const TICK_MS = 250;

export interface PreviewWish {
  beamtime: string;
  source: string;
  stream: string;
  max_px: number;
  hz: number;
}

interface Wish {
  node?: string;
  overview?: { beamtime: string };
  preview?: PreviewWish;
}

export const snapshot = signal<Snapshot | null>(null);
export const feedError = signal<string>("");
export const now = signal(Date.now());
const received = signal(0);
const staleNode = signal(0);
const connected = signal(false);

/** How old the numbers on the page are, seconds. */
export const age = computed(() =>
  received.value ? staleNode.value + Math.max(now.value - received.value, 0) / 1000 : Infinity,
);
export const stale = computed(() => age.value > STALE_S);
export const connection = computed(() => (!connected.value ? "lost" : stale.value ? "stale" : "live"));

const wish = signal<Wish>({});
type PreviewListener = (frame: ArrayBuffer) => void;
let previewListener: PreviewListener | null = null;
let socket: WebSocket | null = null;
let retryMs = 250;

export function watchOverview(node: string, beamtime: string): void {
  wish.value = { ...wish.peek(), node, overview: { beamtime } };
}

/** Watch a stream's newest images; returns what ends it. */
export function watchPreview(asked: PreviewWish, listener: PreviewListener): () => void {
  previewListener = listener;
  wish.value = { ...wish.peek(), preview: asked };
  return () => {
    if (previewListener !== listener) return;
    previewListener = null;
    const { preview: _, ...rest } = wish.peek();
    wish.value = rest;
  };
}

function feedUrl(): string {
  const url = new URL("feed", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

function tell(message: unknown): void {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function open(): void {
  const opened = new WebSocket(feedUrl());
  opened.binaryType = "arraybuffer";
  socket = opened;
  opened.onopen = () => {
    connected.value = true;
    retryMs = 250;
    tell({ watch: wish.value });
    tell({ pause: document.hidden });
  };
  opened.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
    if (typeof event.data !== "string") {
      previewListener?.(event.data);
      return;
    }
    take(JSON.parse(event.data) as SnapshotFrame | ErrorFrame);
  };
  opened.onclose = () => {
    if (socket !== opened) return;
    connected.value = false;
    setTimeout(open, retryMs);
    retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
  };
}

function take(frame: SnapshotFrame | ErrorFrame): void {
  if (frame.type === "error") {
    feedError.value = frame.hint ? `${frame.message} (${frame.hint})` : frame.message;
    return;
  }
  feedError.value = "";
  received.value = Date.now();
  staleNode.value = frame.stale_s;
  snapshot.value = frame.data;
}

export function start(): void {
  open();
  effect(() => tell({ watch: wish.value }));
  document.addEventListener("visibilitychange", () => tell({ pause: document.hidden }));
  setInterval(() => {
    now.value = Date.now();
  }, TICK_MS);
}
