// Small charts over time, synced by their cursor. Axes begin at zero, gaps stay gaps.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "../format";

export interface Line {
  label: string;
  /** A CSS variable: --line-1 … --line-4. */
  colour: string;
  /** One of each time of the chart; null is a gap. */
  values: readonly (number | null)[];
  bars?: boolean;
}

const SYNC = uPlot.sync("time");

export function Chart(props: {
  title: string;
  times: readonly number[];
  lines: readonly Line[];
  format: (value: number) => string;
  height?: number;
  /** Its x axis is no time. */
  plain?: boolean;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const height = props.height ?? 110;
  const names = props.lines.map((line) => line.label).join("|");
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const made = new uPlot(options(props, element, height), data(props), element);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    resized.observe(element);
    const redraw = () => made.redraw();
    DARK.addEventListener("change", redraw);
    return () => {
      resized.disconnect();
      DARK.removeEventListener("change", redraw);
      made.destroy();
      plot.current = null;
    };
  }, [names, height]);
  useEffect(() => plot.current?.setData(data(props)), [props.times, props.lines]);
  const newest = props.lines.map((line) => `${line.label} ${shown(line, props.format)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        {props.title} <b>{newest}</b>
      </figcaption>
      <div ref={box} role="img" aria-label={`${props.title}: ${newest}`} />
    </figure>
  );
}

function shown(line: Line, format: (value: number) => string): string {
  const last = line.values.at(-1);
  return last === null || last === undefined ? "–" : format(last);
}

function data(props: { times: readonly number[]; lines: readonly Line[] }): uPlot.AlignedData {
  return [[...props.times], ...props.lines.map((line) => [...line.values])] as uPlot.AlignedData;
}

const colours = new Map<string, string>();
const DARK = matchMedia("(prefers-color-scheme: dark)");
DARK.addEventListener("change", () => colours.clear());

/** A colour of the theme as a canvas takes it: variables hold pairs, light and dark. */
function colour(name: string): string {
  const known = colours.get(name);
  if (known) return known;
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  colours.set(name, found);
  return found;
}

function times(_: uPlot, ticks: number[], _axis: number, _space: number, step: number): string[] {
  return ticks.map((tick) => clock(tick, step < 60));
}

function options(
  props: { lines: readonly Line[]; format: (value: number) => string; plain?: boolean },
  element: HTMLElement,
  height: number,
): uPlot.Options {
  const of = (name: string) => () => colour(name);
  const axis = { stroke: of("--soft"), grid: { stroke: of("--rule"), width: 1 }, ticks: { show: false } };
  return {
    width: element.clientWidth || 300,
    height,
    legend: { show: false },
    cursor: {
      drag: { x: false, y: false },
      ...(props.plain ? {} : { sync: { key: SYNC.key } }),
    },
    scales: {
      x: { time: !props.plain },
      y: { range: (_: uPlot, _low: number, high: number) => [0, high > 0 ? high * 1.1 : 1] },
    },
    axes: [
      { ...axis, space: 70, size: 26, ...(props.plain ? {} : { values: times }) },
      { ...axis, size: 64, space: 28, values: (_: uPlot, ticks: number[]) => ticks.map(props.format) },
    ],
    series: [
      {},
      ...props.lines.map((line) => ({
        label: line.label,
        stroke: of(line.colour),
        fill: line.bars ? of(line.colour) : undefined,
        width: 1.5,
        spanGaps: false,
        points: { show: false },
        ...(line.bars && uPlot.paths.bars ? { paths: uPlot.paths.bars({ size: [0.9] }) } : {}),
      })),
    ] as uPlot.Series[],
  };
}
