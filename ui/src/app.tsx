// The shell: rail, breadcrumb, one lamp with a sentence, and how fresh this page is.
import { computed, effect, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "./api";
import { age, connection, feedError, snapshot, stale, watchOverview } from "./feed";
import { duration } from "./format";
import { Login, Who, showLogin } from "./parts/login";
import { Shortcuts, showShortcuts } from "./parts/shortcuts";
import { VIEWS, go, href, route, set, type View } from "./route";
import type { Me } from "./types";
import { BrowseView } from "./views/browse";
import { GroupsView } from "./views/groups";
import { HealthView } from "./views/health";
import { LiveView } from "./views/live";
import { MapView } from "./views/map";
import { ReplayView } from "./views/replay";

export const me = signal<Me | null>(null);

/** An error colours the lamp for so long. */
const RECENT_S = 60;

const TITLES: Record<View, string> = {
  live: "Live",
  map: "Map",
  groups: "Groups",
  browse: "Browse",
  replay: "Replay",
  health: "Health",
};

const PAGES: Record<View, () => preact.JSX.Element> = {
  live: LiveView,
  map: MapView,
  groups: GroupsView,
  browse: BrowseView,
  replay: ReplayView,
  health: HealthView,
};

export async function refreshMe(): Promise<void> {
  me.value = await get<Me>("me");
}

const nodeName = computed(() => route.value.query["node"] ?? "");
const beamtime = computed(() => route.value.query["beamtime"] ?? "");
effect(() => watchOverview(nodeName.value, beamtime.value));

export function App() {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => keyed(event);
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  useEffect(() => {
    refreshMe().catch(() => undefined);
  }, [nodeName.value, connection.value === "lost", newBeamtime()]);
  const { view, query } = route.value;
  const Page = PAGES[view];
  useEffect(() => {
    document.title = `${TITLES[view]} – Beamstream`;
  }, [view]);
  return (
    <div
      class={`shell${query["kiosk"] === undefined ? "" : " kiosk"}${stale.value ? " stale" : ""}`}
      style={{ "--age": `"${staleText()}"` }}
    >
      <a class="skip" href={location.hash || "#/live"} onClick={toContent}>
        Skip to the content
      </a>
      <Rail view={view} />
      <Head view={view} />
      <main id="main" tabIndex={-1}>
        {showLogin.value && <Login />}
        {stale.value && snapshot.value && (
          <p class="notice" role="alert" data-testid="stale">
            What is shown is old: {connection.value === "lost" ? "the monitor" : "the node"} does not answer.
          </p>
        )}
        {feedError.value && (
          <p class="notice" role="alert">
            {feedError.value}
          </p>
        )}
        {me.value === null || me.value.loopback || me.value.beamtimes.length > 0 ? <Page /> : <Login />}
      </main>
      <Shortcuts />
    </div>
  );
}

/** A beamtime that has begun since this page asked which there are. */
function newBeamtime(): string {
  const known = me.value?.beamtimes ?? [];
  return snapshot.value?.sources.find((one) => !known.includes(one.beamtime))?.beamtime ?? "";
}

/** The address holds the view, so that a plain link to #main would leave it. */
function toContent(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function staleText(): string {
  return age.value === Infinity ? "no numbers yet" : `stale ${duration(age.value)}`;
}

function Rail(props: { view: View }) {
  return (
    <nav class="rail" aria-label="Views">
      <span class="brand" aria-hidden="true">
        beam<b>stream</b>
      </span>
      <ul>
        {VIEWS.map((view, index) => (
          <li key={view}>
            <a
              href={href(view)}
              aria-current={view === props.view ? "page" : undefined}
              title={`${TITLES[view]} (${index + 1})`}
            >
              {TITLES[view]}
            </a>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function Head(props: { view: View }) {
  const { query } = route.value;
  const parts = [query["source"], query["stream"]].filter((part) => part);
  return (
    <header class="head">
      <h1>
        {TITLES[props.view]}
        {parts.map((part) => (
          <span class="crumb" key={part}>
            {part}
          </span>
        ))}
      </h1>
      <Lamp />
      <NodePicker />
      <BeamtimePicker />
      <Who />
      <Freshness />
    </header>
  );
}

/** One lamp for the whole system, by shape and colour, with a sentence. */
function Lamp() {
  const data = snapshot.value;
  if (!data) return <p class="lamp wait">Waiting for the first numbers …</p>;
  const bad = data.groups.some((group) => group.state === "stuck");
  const recent = data.errors.some((error) => error.last_s < RECENT_S);
  const worried = recent || data.groups.some((group) => group.state === "slow");
  const kind = stale.value || bad ? "bad" : worried ? "warn" : "good";
  return (
    <p class={`lamp ${kind}`} data-testid="lamp">
      {data.sentence}
    </p>
  );
}

function NodePicker() {
  const names = me.value?.nodes ?? [];
  if (names.length < 2) return null;
  return (
    <label class="beamtime">
      Node
      <select
        value={nodeName.value || (names[0] ?? "")}
        onChange={(event) => set({ node: event.currentTarget.value, beamtime: "", source: "", stream: "" })}
      >
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

function BeamtimePicker() {
  const names = me.value?.beamtimes ?? [];
  if (names.length < 2) return <span class="beamtime">{names[0] ?? ""}</span>;
  return (
    <label class="beamtime">
      Beamtime
      <select
        value={beamtime.value}
        onChange={(event) => set({ beamtime: event.currentTarget.value, source: "", stream: "" })}
      >
        <option value="">all</option>
        {names.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

/** Whether this page shows what is, or what was: never silently frozen. */
function Freshness() {
  const state = connection.value;
  return (
    <p class={`fresh ${state}`} role="status" data-testid="freshness" aria-live="off">
      {state === "live" ? "live" : staleText()}
    </p>
  );
}

function keyed(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
  const index = "123456".indexOf(event.key);
  const view = VIEWS[index];
  if (event.key && index >= 0 && view) go(view);
  else if (event.key === "?") showShortcuts.value = !showShortcuts.value;
  else if (event.key === "Escape") showShortcuts.value = false;
  else if (event.key === "/") {
    const search = document.querySelector<HTMLInputElement>("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  }
}
