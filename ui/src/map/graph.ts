// What the map shows: producers, sources, groups and steps, from what is declared and what is seen.
import type { EdgeState, Health, Producer, Snapshot } from "../types";
import type { Arrow, Box } from "./layout";

export interface MapNode extends Box {
  kind: "producer" | "source" | "group";
  name: string;
  /** Shown in place of the name. */
  title?: string;
  detail: string;
  state: Health;
  beamtime: string;
}

export interface MapEdge extends Arrow {
  rate: number;
  nbytesRate: number;
  /** p50 of the delay from arrival to delivery, ms. */
  delayMs: number | null;
  ageS: number | null;
  state: Health;
}

export interface MapGraph {
  nodes: MapNode[];
  edges: MapEdge[];
}

const APART_MAX = 6;
/** Sources in which the framework keeps what is no data. */
const OURS: ReadonlySet<string> = new Set(["parameters", "pipelines", "notes"]);

const id = (kind: string, beamtime: string, name: string) => `${kind}\n${beamtime}\n${name}`;

export function graphOf(data: Snapshot): MapGraph {
  const nodes = new Map<string, MapNode>();
  const edges = new Map<string, MapEdge>();
  const add = (node: Omit<MapNode, "column">) => {
    if (!nodes.has(node.id)) nodes.set(node.id, { ...node, column: -1 });
  };
  const join = (edge: MapEdge) => {
    const key = `${edge.from}\t${edge.to}`;
    const known = edges.get(key);
    edges.set(key, known ? merged(known, edge) : edge);
  };
  for (const source of data.sources) {
    if (OURS.has(source.source)) continue;
    const to = id("source", source.beamtime, source.source);
    add({
      id: to,
      kind: "source",
      name: source.source,
      detail: source.streams === 1 ? "1 stream" : `${source.streams} streams`,
      state: source.state,
      beamtime: source.beamtime,
    });
    for (const producer of collapsed(source.producers)) {
      // A worker that writes is drawn as the group as which it reads.
      const step = data.steps.find(
        (one) => one.beamtime === source.beamtime && stepId(one) === producer.step && one.writes === source.source,
      );
      const reader = data.edges.some(
        (edge) => edge.beamtime === source.beamtime && edge.group === producer.step,
      );
      const kind = step || reader ? "group" : "producer";
      const name = kind === "group" ? producer.step : producer.step || producer.instance || "unnamed";
      const from = id(kind, source.beamtime, kind === "group" ? name : `${name}\n${producer.instance}`);
      add({
        id: from,
        kind,
        name,
        detail: kind === "producer" ? shortInstance(producer.instance) || producer.address : "",
        state: producer.state,
        beamtime: source.beamtime,
      });
      join({
        from,
        to,
        rate: producer.rate,
        nbytesRate: producer.nbytes_rate,
        delayMs: null,
        ageS: producer.age_s,
        state: producer.state,
      });
    }
  }
  for (const edge of data.edges) if (!OURS.has(edge.source)) addReader(edge, add, join);
  for (const step of data.steps) {
    const name = stepId(step);
    const { beamtime } = step;
    const to = id("group", beamtime, name);
    nodes.set(to, {
      id: to,
      kind: "group",
      name,
      title: step.step,
      detail: `${step.pipeline} · ${step.running} of ${step.replicas}`,
      state: step.state,
      beamtime,
      column: -1,
    });
    const quiet = { rate: 0, nbytesRate: 0, delayMs: null, ageS: null };
    for (const read of step.reads) {
      const from = id("source", beamtime, read.split("/")[0] ?? read);
      add({ id: from, kind: "source", name: read, detail: "nobody writes it", state: "missing", beamtime });
      if (!edges.has(`${from}\t${to}`)) join({ ...quiet, from, to, state: "missing" });
    }
    if (step.writes) {
      const out = id("source", beamtime, step.writes);
      add({ id: out, kind: "source", name: step.writes, detail: "nothing yet", state: "missing", beamtime });
      if (!edges.has(`${to}\t${out}`)) join({ ...quiet, from: to, to: out, state: "missing" });
    }
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()] };
}

/** Producers of one step that would fill the map are drawn as one. */
function collapsed(producers: readonly Producer[]): Producer[] {
  const bySteps = new Map<string, Producer[]>();
  for (const producer of producers) {
    const known = bySteps.get(producer.step);
    if (known) known.push(producer);
    else bySteps.set(producer.step, [producer]);
  }
  return [...bySteps.values()].flatMap((found) => (found.length > APART_MAX ? [together(found)] : found));
}

function together(found: readonly Producer[]): Producer {
  const live = found.filter((one) => one.state === "live").length;
  const sum = (of: (one: Producer) => number) => found.reduce((total, one) => total + of(one), 0);
  return {
    step: found[0]?.step ?? "",
    instance: `${live} of ${found.length} live`,
    address: "",
    connected: found.some((one) => one.connected),
    rate: sum((one) => one.rate),
    nbytes_rate: sum((one) => one.nbytes_rate),
    age_s: Math.min(...found.map((one) => one.age_s)),
    state: live === found.length ? "live" : "idle",
  };
}

/** ASAPO's clients name themselves HOST_PROCESS_…; what is the same for all of them says little. */
function shortInstance(instance: string): string {
  return instance === "auto" ? "" : instance;
}

export function stepId(step: { pipeline: string; step: string }): string {
  return step.pipeline ? `${step.pipeline}.${step.step}` : step.step;
}

function addReader(
  edge: EdgeState,
  add: (node: Omit<MapNode, "column">) => void,
  join: (edge: MapEdge) => void,
): void {
  const from = id("source", edge.beamtime, edge.source);
  const to = id("group", edge.beamtime, edge.group);
  const there = edge.members.filter((member) => member.connected).length;
  add({
    id: from,
    kind: "source",
    name: edge.source,
    detail: "",
    state: "idle",
    beamtime: edge.beamtime,
  });
  add({
    id: to,
    kind: "group",
    name: edge.group,
    detail: there === 1 ? (edge.members[0]?.instance ?? "") : `${there} members`,
    state: edge.state,
    beamtime: edge.beamtime,
  });
  join({
    from,
    to,
    rate: edge.rate,
    nbytesRate: edge.nbytes_rate,
    delayMs: edge.delivered_ms.p50,
    ageS: edge.age_s,
    state: edge.state,
  });
}

function merged(a: MapEdge, b: MapEdge): MapEdge {
  const newest = (a.ageS ?? Infinity) <= (b.ageS ?? Infinity) ? a : b;
  const delays = [a.delayMs, b.delayMs].filter((delay) => delay !== null);
  return {
    ...newest,
    rate: a.rate + b.rate,
    nbytesRate: a.nbytesRate + b.nbytesRate,
    delayMs: delays.length ? Math.max(...delays) : null,
  };
}
