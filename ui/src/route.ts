// All state of the page is in its address: #/view?key=value. Every panel has an address so.
import { computed, signal } from "@preact/signals";

export type View = "live" | "map" | "groups" | "browse" | "replay" | "health";
export const VIEWS: readonly View[] = ["live", "map", "groups", "browse", "replay", "health"];

export interface Route {
  view: View;
  query: Readonly<Record<string, string>>;
}

export function parse(hash: string): Route {
  const [path = "", text = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const view = VIEWS.find((name) => name === path) ?? "live";
  return { view, query: Object.fromEntries(new URLSearchParams(text)) };
}

export function write(route: Route): string {
  const kept = Object.entries(route.query).filter(([, value]) => value !== "");
  const text = new URLSearchParams(kept).toString();
  return text ? `#/${route.view}?${text}` : `#/${route.view}`;
}

const current = signal<Route>(parse(typeof location === "undefined" ? "" : location.hash));
export const route = computed(() => current.value);

if (typeof window !== "undefined") {
  window.addEventListener("hashchange", () => {
    current.value = parse(location.hash);
  });
}

/** The address of a view, or of this one with other values; "" takes a key away. */
export function href(view: View, query: Record<string, string> = {}): string {
  const kept = { ...shared(), ...query };
  return write({ view, query: kept });
}

/** Change some values of this view's address; `replace` leaves no step back in the history. */
export function set(query: Record<string, string>, replace = true): void {
  const next = write({ view: current.value.view, query: { ...current.value.query, ...query } });
  if (next === location.hash) return;
  if (replace) {
    history.replaceState(null, "", next);
    current.value = parse(next);
  } else {
    location.hash = next;
  }
}

export function go(view: View, query: Record<string, string> = {}): void {
  location.hash = href(view, query);
}

/** What stays when the view changes. */
function shared(): Record<string, string> {
  const { beamtime = "", node = "", kiosk } = current.value.query;
  return { beamtime, node, ...(kiosk === undefined ? {} : { kiosk }) };
}
