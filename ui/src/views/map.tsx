// Map: who feeds whom, and where is it stuck? Left to right; an edge that stopped is dashed.
import { useMemo } from "preact/hooks";
import { snapshot } from "../feed";
import { byteRate, duration, hertz, millis } from "../format";
import { graphOf, type MapEdge, type MapNode } from "../map/graph";
import { place } from "../map/layout";
import { CopyBar } from "../parts/copy";
import { State } from "../parts/state";
import { href, route, set } from "../route";

/** Sources stand between those who write and read them: their boxes are smaller. */
const WIDTHS: Record<MapNode["kind"], number> = { producer: 140, source: 100, group: 140 };
const BOX_HEIGHT = 54;
const GAP = { x: 76, y: 40 };
const MARGIN = 12;
const WIDEST = 10;
/** A wide map is drawn smaller, as long as it can be read. */
const SCALE_MIN = 0.72;
const TITLE_PX = 7.2;
const DETAIL_PX = 6.2;

interface Drawn {
  node: MapNode;
  x: number;
  y: number;
  width: number;
}

/** Where columns begin: each is as wide as its widest box. */
function columnsOf(nodes: readonly MapNode[], column: (node: MapNode) => number): number[] {
  const widths: number[] = [];
  for (const node of nodes) {
    const at = column(node);
    widths[at] = Math.max(widths[at] ?? 0, WIDTHS[node.kind]);
  }
  let x = MARGIN;
  return Array.from(widths, (width = 0) => {
    const begin = x;
    x += width + GAP.x;
    return begin;
  });
}

export function MapView() {
  const data = snapshot.value;
  const graph = useMemo(() => (data ? graphOf(data) : { nodes: [], edges: [] }), [data]);
  const shape = graph.nodes.map((node) => node.id).join() + graph.edges.map((e) => e.from + e.to).join();
  const places = useMemo(() => new Map(place(graph.nodes, graph.edges).map((at) => [at.id, at])), [shape]);
  if (!graph.nodes.length) {
    return <p class="empty">Nobody is connected, and nothing is declared.</p>;
  }
  const begins = columnsOf(graph.nodes, (node) => places.get(node.id)?.column ?? 0);
  const drawn: Drawn[] = graph.nodes.map((node) => {
    const at = places.get(node.id) ?? { column: 0, row: 0 };
    return {
      node,
      x: begins[at.column] ?? MARGIN,
      y: MARGIN + at.row * (BOX_HEIGHT + GAP.y),
      width: WIDTHS[node.kind],
    };
  });
  const byId = new Map(drawn.map((one) => [one.node.id, one]));
  const width = Math.max(...drawn.map((one) => one.x + one.width)) + MARGIN;
  const height = Math.max(...drawn.map((one) => one.y)) + BOX_HEIGHT + MARGIN;
  const most = Math.max(...graph.edges.map((edge) => edge.nbytesRate), 1);
  const picked = byId.get(route.value.query["node-id"] ?? "");
  return (
    <>
      <section class="panel scroll" tabIndex={0} role="region" aria-label="Map of the flow">
        <svg
          class="map"
          viewBox={`0 0 ${width} ${height}`}
          style={{ maxWidth: `${width}px`, minWidth: `${SCALE_MIN * width}px` }}
          data-testid="map"
        >
          <defs>
            <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" markerUnits="userSpaceOnUse">
              <path d="M0 0 8 4 0 8z" />
            </marker>
          </defs>
          {graph.edges.map((edge) => {
            const [from, to] = [byId.get(edge.from), byId.get(edge.to)];
            if (!from || !to) return null;
            const fans = graph.edges.filter((one) => one.from === edge.from).length > 1;
            return <Edge key={`${edge.from}>${edge.to}`} edge={edge} from={from} to={to} most={most} fans={fans} />;
          })}
          {drawn.map((one) => (
            <Node key={one.node.id} at={one} picked={one === picked} />
          ))}
        </svg>
        <CopyBar command="beamstream map" />
      </section>
      {picked && <Details of={picked.node} edges={graph.edges} names={byId} />}
    </>
  );
}

function Node(props: { at: Drawn; picked: boolean }) {
  const { node, x, y, width } = props.at;
  const letters = (px: number) => Math.floor((width - 18) / px);
  const title = short(node.title ?? node.name, letters(TITLE_PX));
  const detail = short(`${mark(node.state)} ${node.detail || node.state}`, letters(DETAIL_PX));
  const pick = () => set({ "node-id": props.picked ? "" : node.id });
  return (
    <g
      class={`node ${node.kind} ${node.state}${props.picked ? " picked" : ""}`}
      data-name={node.name}
      data-state={node.state}
      transform={`translate(${x} ${y})`}
      role="button"
      tabindex={0}
      aria-label={`${title} ${detail} (${node.kind} ${node.name}, ${node.state})`}
      onClick={pick}
      onKeyDown={(event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pick();
        }
      }}
    >
      <title>{`${node.kind} ${node.name}: ${node.state}. ${node.detail}`}</title>
      <rect width={width} height={BOX_HEIGHT} rx={node.kind === "source" ? 3 : 14} />
      <text x={10} y={22} class="title">
        {title}
      </text>
      <text x={10} y={41} class="detail">
        {detail}
      </text>
    </g>
  );
}

const mark = (state: string) =>
  ({ live: "●", idle: "◐", gone: "◌", missing: "◌", undeclared: "◇" })[state] ?? "";

function short(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** `fans`: others leave the same box, so that its text stands where it arrives. */
function Edge(props: { edge: MapEdge; from: Drawn; to: Drawn; most: number; fans: boolean }) {
  const { edge, from, to } = props;
  const [x0, y0] = [from.x + from.width, from.y + BOX_HEIGHT / 2];
  const [x1, y1] = [to.x, to.y + BOX_HEIGHT / 2];
  const [x, y] = props.fans ? [x1 - GAP.x / 2, y1] : [x0 + GAP.x / 2, y0];
  const bend = Math.max((x1 - x0) / 2, 30);
  const path = `M${x0} ${y0} C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`;
  const width = 1 + (WIDEST - 1) * Math.sqrt(edge.nbytesRate / props.most);
  const moving = edge.rate > 0;
  const quiet = edge.ageS === null ? ["nothing", "yet"] : ["since", duration(edge.ageS)];
  const told = moving ? [hertz(edge.rate), byteRate(edge.nbytesRate), edge.delayMs === null ? "" : millis(edge.delayMs)] : quiet;
  const [label = "", ...second] = told;
  return (
    <g class={`edge ${edge.state}${moving ? "" : " still"}`} data-from={from.node.name} data-to={to.node.name}>
      <title>{`${from.node.name} to ${to.node.name}: ${told.join(" ")}`}</title>
      <path d={path} stroke-width={width} marker-end="url(#tip)" />
      <text x={x} y={y - 9}>
        {label}
      </text>
      {second.filter(Boolean).map((text, line) => (
        <text key={line} x={x} y={y + 16 + 13 * line} class="detail">
          {text}
        </text>
      ))}
    </g>
  );
}

/** What is known of one box, and where to go from it. */
function Details(props: { of: MapNode; edges: readonly MapEdge[]; names: ReadonlyMap<string, Drawn> }) {
  const { of, edges, names } = props;
  const inward = edges.filter((edge) => edge.to === of.id);
  const outward = edges.filter((edge) => edge.from === of.id);
  const row = (edge: MapEdge, other: string) => (
    <li key={other}>
      {names.get(other)?.node.name}: {hertz(edge.rate)}, {byteRate(edge.nbytesRate)}
      {edge.delayMs === null ? "" : `, delay ${millis(edge.delayMs)}`}
    </li>
  );
  return (
    <section class="panel" aria-label={`About ${of.name}`}>
      <h2>
        {of.kind} {of.name} <State of={of.state} />
      </h2>
      <p>{of.detail}</p>
      {inward.length > 0 && (
        <>
          <h3>gets from</h3>
          <ul>{inward.map((edge) => row(edge, edge.from))}</ul>
        </>
      )}
      {outward.length > 0 && (
        <>
          <h3>gives to</h3>
          <ul>{outward.map((edge) => row(edge, edge.to))}</ul>
        </>
      )}
      <p>
        {of.kind === "source" && (
          <>
            <a href={href("live", { beamtime: of.beamtime, source: of.name, stream: "" })}>watch it</a>{" "}
            <a href={href("browse", { beamtime: of.beamtime, source: of.name, stream: "" })}>its streams</a>{" "}
            <a href={href("replay", { beamtime: of.beamtime, source: of.name, stream: "" })}>replay</a>
          </>
        )}
        {of.kind === "group" && <a href={href("groups", { group: of.name })}>its lag</a>}
      </p>
    </section>
  );
}
