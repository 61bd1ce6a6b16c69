// Replay: run my analysis again on that part.
import { useEffect, useState } from "preact/hooks";
import { ApiError, get, post } from "../api";
import { me } from "../app";
import { snapshot } from "../feed";
import { bytes, duration, hertz, percent, whole } from "../format";
import { stepId } from "../map/graph";
import { CopyBar } from "../parts/copy";
import { Table, type Column } from "../parts/table";
import { route, set } from "../route";

interface Plan {
  count: number;
  nbytes: number;
  cached: number;
  files: number;
  log: number;
  gone: number;
  target: string;
  seconds: number | null;
  warnings: string[];
}

interface Job {
  id: string;
  address: string;
  target: string;
  state: "running" | "done" | "failed" | "cancelled";
  done: number;
  total: number;
  rate: number;
  left_s: number | null;
  error: string;
}

const BEAT_MS = 1000;

function message(error: unknown): string {
  return error instanceof ApiError ? `${error.message}. ${error.hint}` : String(error);
}

export function ReplayView() {
  const { query } = route.value;
  const sources = snapshot.value?.sources ?? [];
  const steps = snapshot.value?.steps ?? [];
  const beamtime = query["beamtime"] || me.value?.beamtimes[0] || "";
  const first = sources.find((one) => !steps.some((step) => step.writes === one.source)) ?? sources[0];
  const source = query["source"] || first?.source || "";
  const known = sources.find((one) => one.source === source);
  const stream = query["stream"] || known?.last_stream || "";
  const { lo = "", hi = "", to = "stream:", rate = "original" } = query;
  const [plan, setPlan] = useState<Plan | null>(null);
  const [told, setTold] = useState("");
  const range = lo || hi ? `[${lo}:${hi}]` : "";
  const address = `${source}/${stream}${range}`;
  const asked = { beamtime, source, stream, range, to, rate };
  const key = JSON.stringify(asked);
  useEffect(() => setPlan(null), [key]);
  const viewer = !me.value || me.value.role === "viewer";
  const preview = () =>
    post<Plan>("replays", { ...asked, dry_run: true })
      .then((found) => {
        setPlan(found);
        setTold("");
      })
      .catch((error: unknown) => setTold(message(error)));
  const start = () =>
    post<Job>("replays", { ...asked, dry_run: false })
      .then(() => {
        setPlan(null);
        setTold("Started.");
      })
      .catch((error: unknown) => setTold(message(error)));
  const groups = [...new Set((snapshot.value?.groups ?? []).filter((g) => g.source === source).map((g) => g.group))];
  return (
    <>
      <section class="panel">
        <h2>What, and where to</h2>
        <div class="row">
          <label>
            Source
            <select value={source} onChange={(event) => set({ source: event.currentTarget.value, stream: "" })}>
              {sources.map((one) => (
                <option key={one.source}>{one.source}</option>
              ))}
            </select>
          </label>
          <Field name="Stream" value={stream} change={(value) => set({ stream: value })} />
          <Field name="from id" value={lo} change={(value) => set({ lo: value })} short />
          <Field name="up to" value={hi} change={(value) => set({ hi: value })} short />
          <label>
            To
            <select value={to} onChange={(event) => set({ to: event.currentTarget.value })}>
              <option value="stream:">a new stream of the source</option>
              {steps.map((step) => (
                <option key={stepId(step)} value={`step:${stepId(step)}`}>
                  step {stepId(step)}
                </option>
              ))}
              {groups.map((group) => (
                <option key={group} value={`group:${group}`}>
                  group {group}, again
                </option>
              ))}
            </select>
          </label>
          <label>
            Rate
            <input
              type="text"
              class="short"
              list="rates"
              value={rate}
              onChange={(event) => set({ rate: event.currentTarget.value })}
            />
            <datalist id="rates">
              <option value="original" />
              <option value="original*2" />
              <option value="100" />
              <option value="max" />
            </datalist>
          </label>
          <button type="button" onClick={preview} disabled={viewer}>
            Preview
          </button>
          {viewer && <span class="soft">Operators preview and start replays: log in.</span>}
        </div>
        {plan && <Preview of={plan} start={start} />}
        {told && <p role="status">{told}</p>}
        <CopyBar command={`beamstream replay '${address}' --to ${to} --rate ${rate}`} />
      </section>
      <Jobs />
    </>
  );
}

function Field(props: { name: string; value: string; change: (value: string) => void; short?: boolean }) {
  return (
    <label>
      {props.name}
      <input
        type="text"
        class={props.short ? "short" : undefined}
        value={props.value}
        onChange={(event) => props.change(event.currentTarget.value)}
      />
    </label>
  );
}

function Preview(props: { of: Plan; start: () => void }) {
  const { of } = props;
  const places = [
    of.cached && `${whole(of.cached)} from the cache`,
    of.files && `${whole(of.files)} from files`,
    of.log && `${whole(of.log)} from the log`,
    of.gone && `${whole(of.gone)} are gone`,
  ].filter(Boolean);
  return (
    <div data-testid="plan">
      <p>
        {whole(of.count)} messages, {bytes(of.nbytes)} ({places.join(", ") || "nothing"}) into {of.target}
        {of.seconds === null ? "" : `, about ${duration(of.seconds)}`}.
      </p>
      {of.warnings.map((warning) => (
        <p class="notice" key={warning}>
          {warning}
        </p>
      ))}
      <button type="button" class="primary" disabled={!of.count} onClick={props.start}>
        Start
      </button>
    </div>
  );
}

function Jobs() {
  const [jobs, setJobs] = useState<Job[]>([]);
  useEffect(() => {
    const load = () => {
      if (document.hidden) return;
      get<{ jobs: Job[] }>("replays")
        .then((found) => setJobs(found.jobs))
        .catch(() => undefined);
    };
    load();
    const timer = setInterval(load, BEAT_MS);
    return () => clearInterval(timer);
  }, []);
  const cancel = (id: string) => post(`replays/${encodeURIComponent(id)}/cancel`).catch(() => undefined);
  const columns: Column<Job>[] = [
    { key: "what", title: "What", cell: (job) => job.address },
    { key: "to", title: "Into", cell: (job) => job.target },
    { key: "state", title: "State", cell: (job) => <span data-state={job.state}>{job.state}</span> },
    {
      key: "progress",
      title: "Progress",
      cell: (job) => (
        <>
          <progress max={Math.max(job.total, 1)} value={job.done} aria-label={`progress of ${job.address}`} />{" "}
          {percent(job.done / Math.max(job.total, 1))}, {whole(job.done)} of {whole(job.total)}
        </>
      ),
    },
    { key: "rate", title: "Rate", cell: (job) => hertz(job.rate), numeric: true },
    { key: "left", title: "Left", cell: (job) => (job.state === "running" ? duration(job.left_s) : "–"), numeric: true },
    {
      key: "cancel",
      title: "",
      cell: (job) =>
        job.state === "running" ? (
          <button type="button" onClick={() => cancel(job.id)}>
            Cancel
          </button>
        ) : (
          <span class="wrap">{job.error}</span>
        ),
    },
  ];
  return (
    <section class="panel">
      <h2>Replays</h2>
      <Table
        name="replays"
        caption="Replays that run and ran"
        columns={columns}
        rows={jobs}
        rowKey={(job) => job.id}
        empty="None was started from here."
      />
    </section>
  );
}
