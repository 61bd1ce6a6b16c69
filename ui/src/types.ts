// What the monitor sends (beamstream.monitor.documents); names and units are the same there.

export type Health = "live" | "idle" | "gone" | "missing" | "undeclared";
export type GroupHealth = "ok" | "slow" | "stuck" | "gone";
export type Trend = "losing" | "steady" | "gaining" | "idle";

export interface Quantiles {
  p50: number | null;
  p99: number | null;
}

export interface NodeState {
  name: string;
  version: string;
  state: "live" | "stale";
  up_s: number;
  cpu: number;
  rss_nbytes: number;
  cache: { nbytes: number; used: number; pinned: number; evicted: number };
  disk: { free: number; nbytes: number; full_in_s: number | null };
  rates: {
    in_messages: number;
    in_nbytes: number;
    out_messages: number;
    out_nbytes: number;
    files: number;
  };
  connections: number;
}

export interface Producer {
  step: string;
  instance: string;
  address: string;
  connected: boolean;
  rate: number;
  nbytes_rate: number;
  age_s: number;
  state: Health;
}

export interface SourceState {
  beamtime: string;
  source: string;
  producers: Producer[];
  streams: number;
  rate: number;
  nbytes_rate: number;
  age_s: number | null;
  count: number;
  nbytes: number;
  last_stream: string;
  last_id: number;
  lost: number;
  state: Health;
}

export interface Member {
  step: string;
  instance: string;
  connected: boolean;
}

export interface EdgeState {
  beamtime: string;
  source: string;
  group: string;
  members: Member[];
  rate: number;
  nbytes_rate: number;
  delivered_ms: Quantiles;
  acked_ms: Quantiles;
  age_s: number | null;
  state: Health;
}

export interface GroupState {
  beamtime: string;
  source: string;
  stream: string;
  group: string;
  lag: number;
  lag_s: number;
  trend: Trend;
  unacked_s: number;
  redelivered: number;
  dead: number;
  members: string[];
  rate: number;
  evict_in_s: number | null;
  state: GroupHealth;
}

export interface StepState {
  pipeline: string;
  step: string;
  replicas: number;
  running: number;
  reads: string[];
  writes: string;
  state: Health;
  version: number;
  beamtime: string;
}

export interface LimitState {
  name: string;
  used: number;
  limit: number;
  unit: string;
}

export interface ErrorState {
  code: string;
  count: number;
  last_s: number;
  text: string;
  hint: string;
}

export interface Snapshot {
  node: NodeState;
  sources: SourceState[];
  edges: EdgeState[];
  groups: GroupState[];
  steps: StepState[];
  limits: LimitState[];
  errors: ErrorState[];
  sentence: string;
}

export interface SnapshotFrame {
  type: "snapshot";
  t: number;
  seq: number;
  node: string;
  stale_s: number;
  data: Snapshot;
}

export interface ErrorFrame {
  type: "error";
  code: string;
  message: string;
  hint: string;
}

export type Role = "viewer" | "operator" | "admin";

export interface Me {
  role: Role;
  beamtimes: string[];
  nodes: string[];
  version: string;
  loopback: boolean;
}
