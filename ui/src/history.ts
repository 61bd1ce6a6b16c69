// Minutes of the past for charts: fetched once from the monitor, then continued from the feed.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { get } from "./api";
import { snapshot } from "./feed";
import type { Snapshot } from "./types";

export interface Series {
  times: number[];
  values: Record<string, (number | null)[]>;
}

const EMPTY: Series = { times: [], values: {} };
const POINTS_MAX = 1200;

/** A series of the last `seconds`; `pick` takes its newest values out of a snapshot. */
export function useSeries(
  query: Record<string, string>,
  seconds: number,
  pick: (data: Snapshot) => Record<string, number | null> | null,
): Series {
  const [series, setSeries] = useState<Series>(EMPTY);
  const key = JSON.stringify(query);
  useEffect(() => {
    const gone = new AbortController();
    setSeries(EMPTY);
    get<Series>("history", { ...query, seconds }, gone.signal)
      .then((found) => setSeries(found))
      .catch(() => undefined);
    return () => gone.abort();
  }, [key, seconds]);
  const data = snapshot.value;
  useEffect(() => {
    const newest = data && pick(data);
    if (!newest) return;
    setSeries((before) => appended(before, Date.now() / 1000, newest, seconds));
  }, [data]);
  return series;
}

export function appended(
  before: Series,
  at: number,
  newest: Record<string, number | null>,
  seconds: number,
): Series {
  const first = Math.max(
    before.times.findIndex((time) => time >= at - seconds),
    before.times.length - POINTS_MAX,
    0,
  );
  const times = [...before.times.slice(first), at];
  const values: Series["values"] = {};
  for (const name of new Set([...Object.keys(before.values), ...Object.keys(newest)])) {
    const old = before.values[name] ?? before.times.map(() => null);
    values[name] = [...old.slice(first), newest[name] ?? null];
  }
  return { times, values };
}

/** Values of a series, for a chart. */
export function line(series: Series, name: string): (number | null)[] {
  return series.values[name] ?? series.times.map(() => null);
}

export const chartSeconds = signal(300);
