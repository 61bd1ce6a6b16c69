// Live: is data arriving, and does it look right?
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, getBytes } from "../api";
import { age, snapshot, watchPreview } from "../feed";
import { byteRate, duration, hertz, millis, whole } from "../format";
import { chartSeconds, line, useSeries } from "../history";
import { levels, maskOf, readFrame, type Frame, type LevelMode } from "../image/frame";
import { MAP_NAMES, type MapName } from "../image/colours";
import { geometryOf, type Geometry } from "../image/geometry";
import type { Look } from "../image/painter";
import { Viewer } from "../image/viewer";
import { Chart } from "../parts/chart";
import { CopyBar } from "../parts/copy";
import { State } from "../parts/state";
import { href, route, set } from "../route";
import type { SourceState } from "../types";

const KEPT = 40;
const KEPT_NBYTES = 24 * 2 ** 20;
const PREVIEW_PX = 512;
const PREVIEW_HZ = 5;
const MODES: readonly LevelMode[] = ["percentile", "log", "fixed"];

export function LiveView() {
  const sources = snapshot.value?.sources ?? [];
  const { source = "", beamtime = "", at = "", of = "" } = route.value.query;
  const stream = route.value.query["stream"] || (at && of);
  const here = sources.filter((one) => !beamtime || one.beamtime === beamtime);
  const chosen = source ? here.find((one) => one.source === source) : busiest(here);
  if (!chosen) {
    const text = source ? `Source ${source} has not sent anything.` : "No source has sent anything yet.";
    return (
      <p class="empty">
        {snapshot.value ? text : "Waiting for the first numbers …"}{" "}
        {snapshot.value && source && <a href={href("live", { source: "" })}>Look at what does.</a>}
      </p>
    );
  }
  return <Watched key={`${chosen.beamtime}/${chosen.source}`} of={chosen} all={sources} stream={stream} />;
}

function busiest(sources: readonly SourceState[]): SourceState | undefined {
  return [...sources].sort((a, b) => b.nbytes_rate - a.nbytes_rate || b.count - a.count)[0];
}

function Watched(props: { of: SourceState; all: readonly SourceState[]; stream: string }) {
  const { of } = props;
  const stream = props.stream || of.last_stream;
  const where = { beamtime: of.beamtime, source: of.source, stream };
  const film = useFilm(where);
  const header = useHeader(where);
  const geometry = useMemo(() => geometryOf(header), [header]);
  const curve = film.frame !== null && film.frame.fullHeight === 1;
  return (
    <div class="watched">
      <section class="panel picture">
        <Choice of={of} all={props.all} stream={stream} />
        {curve && film.frame ? (
          <>
            <Curve frame={film.frame} />
            <Footer of={of} film={film} stream={stream} />
            <Film film={film} />
          </>
        ) : (
          <Pictured where={where} film={film} geometry={geometry}>
            <Footer of={of} film={film} stream={stream} />
            <Film film={film} />
          </Pictured>
        )}
        <CopyBar
          command={`beamstream watch '${of.source}/${stream}'`}
          python={`import beamstream as bs\nhub = bs.connect()\nframe = hub.stream(${JSON.stringify(`${of.source}/${stream}`)})[-1].array()`}
        />
      </section>
      <Charts of={of} />
    </div>
  );
}

interface FilmState {
  frame: Frame | null;
  paused: boolean;
  shownHz: number;
  back: number;
  kept: number;
  pause(on: boolean): void;
  step(by: number): void;
}

/** The last pictures, and which of them is shown. */
function useFilm(where: { beamtime: string; source: string; stream: string }): FilmState {
  const frames = useRef<Frame[]>([]);
  const arrivals = useRef<number[]>([]);
  const [, redraw] = useState(0);
  const [back, setBack] = useState(0);
  const [paused, setPaused] = useState(route.value.query["at"] !== undefined);
  const held = useRef(false);
  held.current = paused;
  const backNow = useRef(0);
  backNow.current = back;
  useEffect(() => {
    frames.current = [];
    setBack(0);
    setPaused(Boolean(route.value.query["at"]) && route.value.query["of"] === where.stream);
    return reopened(where, (frame) => {
      if (frame) frames.current = [frame];
      else setPaused(false);
      redraw((count) => count + 1);
    });
  }, [where.beamtime, where.source, where.stream]);
  useEffect(() => {
    return watchPreview({ ...where, max_px: PREVIEW_PX, hz: PREVIEW_HZ }, (data) => {
      const frame = readFrame(data);
      if (!frame || held.current) return;
      frames.current = kept([...frames.current, frame]);
      arrivals.current = [...arrivals.current, Date.now()].slice(-10);
      redraw((count) => count + 1);
    });
  }, [where.beamtime, where.source, where.stream]);
  const keep = (steps: number) => {
    const shown = frames.current.at(-1 - steps);
    if (shown) set({ at: String(shown.id), of: where.stream });
  };
  const pause = (on: boolean) => {
    setPaused(on);
    if (on) keep(backNow.current);
    else {
      setBack(0);
      set({ at: "", of: "" });
    }
  };
  const step = (by: number) => {
    const steps = Math.min(Math.max(backNow.current - by, 0), Math.max(frames.current.length - 1, 0));
    setPaused(true);
    setBack(steps);
    backNow.current = steps;
    keep(steps);
  };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (/^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test((event.target as HTMLElement).tagName)) return;
      if (event.shiftKey) return;
      if (event.key === " ") pause(!held.current);
      else if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [where.beamtime, where.source, where.stream]);
  const times = arrivals.current.filter((time) => time > Date.now() - 3000);
  const first = times[0];
  const shownHz = first && times.length > 1 ? ((times.length - 1) * 1000) / (Date.now() - first) : 0;
  const frame = frames.current.at(-1 - back) ?? null;
  return { frame, paused, shownHz, back, kept: frames.current.length, pause, step };
}

/** The frame that the address names: who sends a link to a paused picture means that one. */
function reopened(
  where: { beamtime: string; source: string; stream: string },
  take: (frame: Frame | null) => void,
): (() => void) | undefined {
  const { at, of } = route.value.query;
  if (!at || of !== where.stream) return undefined;
  const gone = new AbortController();
  getBytes("frame", { ...where, id: at, max_px: PREVIEW_PX }, gone.signal)
    .then((data) => take(readFrame(data)))
    .catch(() => {
      if (!gone.signal.aborted) take(null);
    });
  return () => gone.abort();
}

/** The newest of them that memory is given to. */
export function kept(frames: readonly Frame[]): Frame[] {
  let nbytes = 0;
  const from = frames.findLastIndex((frame, at) => {
    nbytes += frame.pixels.byteLength;
    return nbytes > KEPT_NBYTES || frames.length - at > KEPT;
  });
  return frames.slice(Math.min(from + 1, frames.length - 1));
}

function useHeader(where: { beamtime: string; source: string; stream: string }): unknown {
  const [header, setHeader] = useState<unknown>(null);
  useEffect(() => {
    const gone = new AbortController();
    setHeader(null);
    get<{ header: unknown }>("stream", where, gone.signal)
      .then((found) => setHeader(found.header))
      .catch(() => undefined);
    return () => gone.abort();
  }, [where.beamtime, where.source, where.stream]);
  return header;
}

function Choice(props: { of: SourceState; all: readonly SourceState[]; stream: string }) {
  const several = new Set(props.all.map((one) => one.beamtime)).size > 1;
  const apart = (one: SourceState) => (several ? { beamtime: one.beamtime } : {});
  return (
    <div class="row">
      <label>
        Source
        <select
          value={props.all.indexOf(props.of)}
          onChange={(event) => {
            const one = props.all[Number(event.currentTarget.value)];
            if (one) set({ ...apart(one), source: one.source, stream: "", at: "", of: "" }, false);
          }}
        >
          {props.all.map((one, at) => (
            <option key={`${one.beamtime}/${one.source}`} value={at}>
              {several ? `${one.beamtime}: ${one.source}` : one.source}
            </option>
          ))}
        </select>
      </label>
      <label>
        Stream
        <input
          type="text"
          value={props.stream}
          onChange={(event) => set({ source: props.of.source, stream: event.currentTarget.value, at: "", of: "" })}
        />
      </label>
      {route.value.query["stream"] && (
        <button type="button" onClick={() => set({ stream: "", at: "", of: "" })}>
          follow the newest
        </button>
      )}
    </div>
  );
}

function Pictured(props: {
  where: { beamtime: string; source: string; stream: string };
  film: FilmState;
  geometry: Geometry | null;
  children: ComponentChildren;
}) {
  const { film } = props;
  const { query } = route.value;
  const mode = MODES.find((one) => one === query["levels"]) ?? "percentile";
  const map = MAP_NAMES.find((one) => one === query["map"]) ?? "viridis";
  const unmasked = film.frame ? maskOf(film.frame.pixels) : Infinity;
  const mask = query["mask"] === undefined ? unmasked : Number(query["mask"]);
  const look = useMemo<Look>(() => {
    if (!film.frame) return { low: 0, high: 1, log: false, map, mask: Infinity };
    const [low, high] = [Number(query["low"] ?? 0), Number(query["high"] ?? 100)];
    return { ...levels(film.frame.pixels, mode, low, high, mask), log: mode === "log", map, mask };
  }, [film.frame, mode, map, mask, query["low"], query["high"]]);
  const rings = query["rings"] === "off" ? null : props.geometry;
  return (
    <>
      <Viewer
        where={props.where}
        frame={film.frame}
        look={look}
        paused={film.paused}
        geometry={rings}
      />
      {props.children}
      <Levels mode={mode} map={map} look={look} geometry={props.geometry} />
    </>
  );
}

function Levels(props: { mode: LevelMode; map: MapName; look: Look; geometry: Geometry | null }) {
  const { mode, look } = props;
  const number = (key: "low" | "high", value: number) => (
    <label>
      {key}
      <input
        type="number"
        class="short"
        value={Math.round(value * 100) / 100}
        onChange={(event) => set({ levels: "fixed", [key]: event.currentTarget.value })}
      />
    </label>
  );
  return (
    <div class="row">
      <label>
        Levels
        <select
          value={mode}
          onChange={(event) =>
            set({
              levels: event.currentTarget.value,
              low: String(Math.round(look.low)),
              high: String(Math.round(look.high)),
            })
          }
        >
          {MODES.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </label>
      {number("low", look.low)}
      {number("high", look.high)}
      <label>
        Colours
        <select value={props.map} onChange={(event) => set({ map: event.currentTarget.value })}>
          {MAP_NAMES.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </label>
      <label title="Values from here on are no measurements; they are drawn as stripes">
        Mask from
        <input
          type="text"
          class="short"
          value={Number.isFinite(look.mask) ? String(look.mask) : ""}
          placeholder="none"
          onChange={(event) => set({ mask: event.currentTarget.value || "Infinity" })}
        />
      </label>
      {props.geometry && (
        <label>
          <input
            type="checkbox"
            checked={route.value.query["rings"] !== "off"}
            onChange={(event) => set({ rings: event.currentTarget.checked ? "" : "off" })}
          />
          rings
        </label>
      )}
    </div>
  );
}

function Curve(props: { frame: Frame }) {
  const { frame } = props;
  const times = useMemo(() => Array.from(frame.pixels, (_, at) => at * frame.binning), [frame]);
  const values = useMemo(() => Array.from(frame.pixels, Number), [frame]);
  return (
    <Chart
      title={`Message ${frame.id}`}
      times={times}
      lines={[{ label: "value", colour: "--line-1", values }]}
      format={(value) => whole(value)}
      height={320}
      plain
    />
  );
}

function Film(props: { film: FilmState }) {
  const { film } = props;
  return (
    <div class="row" role="group" aria-label="Film">
      <button type="button" onClick={() => film.step(-1)} disabled={film.back >= film.kept - 1}>
        ◀ <span class="hidden">one back</span>
      </button>
      <button type="button" class="primary" onClick={() => film.pause(!film.paused)} data-testid="pause">
        {film.paused ? "Go on" : "Pause"}
      </button>
      <button type="button" onClick={() => film.step(1)} disabled={!film.back}>
        ▶ <span class="hidden">one forward</span>
      </button>
      {film.paused && (
        <span role="status">
          paused{film.back ? `, ${film.back} back` : ""} of {film.kept} kept
        </span>
      )}
    </div>
  );
}

/** What people trust: how old the newest frame is, its number, and how fast they come. */
function Footer(props: { of: SourceState; film: FilmState; stream: string }) {
  const { of, film } = props;
  const old = of.age_s === null ? null : of.age_s + age.value;
  return (
    <p class="footer" data-testid="footer">
      age <b data-testid="age">{duration(old)}</b> · frame{" "}
      <b data-testid="frame">{film.frame ? whole(film.frame.id) : whole(of.last_id)}</b> ·{" "}
      <b data-testid="rate">{hertz(of.rate)}</b> · shown <span data-testid="shown">{hertz(film.shownHz)}</span> · <State of={of.state} />
    </p>
  );
}

function Charts(props: { of: SourceState }) {
  const { of } = props;
  const series = useSeries(
    { beamtime: of.beamtime, kind: "source", name: of.source },
    chartSeconds.value,
    (data) => {
      const one = data.sources.find((s) => s.source === of.source && s.beamtime === of.beamtime);
      if (!one) return null;
      const edges = data.edges.filter((e) => e.source === of.source && e.beamtime === of.beamtime);
      const worst = (key: "p50" | "p99") =>
        edges.reduce<number | null>((most, edge) => {
          const value = edge.delivered_ms[key];
          return value === null ? most : Math.max(most ?? 0, value);
        }, null);
      return {
        rate: one.rate,
        nbytes_rate: one.nbytes_rate,
        p50: worst("p50"),
        p99: worst("p99"),
        lost: one.lost,
      };
    },
  );
  const losses = line(series, "lost").map((value, at, all) => {
    const before = all[at - 1];
    return value === null || before === null || before === undefined ? null : Math.max(value - before, 0);
  });
  return (
    <section class="panel charts">
      <h2>Last {chartSeconds.value / 60} min</h2>
      <Chart
        title="Frames"
        times={series.times}
        lines={[{ label: "rate", colour: "--line-1", values: line(series, "rate") }]}
        format={hertz}
      />
      <Chart
        title="Bytes"
        times={series.times}
        lines={[{ label: "rate", colour: "--line-3", values: line(series, "nbytes_rate") }]}
        format={byteRate}
      />
      <Chart
        title="Delay to the slowest group"
        times={series.times}
        lines={[
          { label: "p50", colour: "--line-1", values: line(series, "p50") },
          { label: "p99", colour: "--line-2", values: line(series, "p99") },
        ]}
        format={millis}
      />
      {losses.some((value) => value) && (
        <Chart
          title="Losses"
          times={series.times}
          lines={[{ label: "lost", colour: "--line-2", values: losses, bars: true }]}
          format={whole}
        />
      )}
    </section>
  );
}
