// Groups: who is late, and what will be lost?
import { useState } from "preact/hooks";
import { ApiError, get, post } from "../api";
import { me } from "../app";
import { snapshot } from "../feed";
import { duration, hertz, millis, whole } from "../format";
import { chartSeconds, line, useSeries } from "../history";
import { Chart } from "../parts/chart";
import { CopyBar } from "../parts/copy";
import { State, TrendMark } from "../parts/state";
import { Table, type Column } from "../parts/table";
import { href, route, set } from "../route";
import type { GroupState } from "../types";

const keyOf = (row: GroupState) => [row.beamtime, row.source, row.stream, row.group].join("\n");
const streamOf = (row: GroupState) => ({ beamtime: row.beamtime, source: row.source, stream: row.stream });

const COLUMNS: readonly Column<GroupState>[] = [
  { key: "group", title: "Group", cell: (row) => row.group, order: (row) => row.group },
  {
    key: "stream",
    title: "Stream",
    cell: (row) => (
      <a href={href("browse", streamOf(row))}>
        {row.source}/{row.stream}
      </a>
    ),
    order: (row) => `${row.source}/${row.stream}`,
  },
  { key: "state", title: "State", cell: (row) => <State of={row.state} />, order: (row) => row.state },
  {
    key: "lag",
    title: "Behind",
    hint: "messages that are not settled",
    cell: (row) => <span data-testid="lag">{whole(row.lag)}</span>,
    order: (row) => row.lag,
    numeric: true,
  },
  {
    key: "lag_s",
    title: "by",
    hint: "since the oldest open message arrived",
    cell: (row) => duration(row.lag ? row.lag_s : 0),
    order: (row) => row.lag_s,
    numeric: true,
  },
  { key: "trend", title: "Trend", cell: (row) => <TrendMark of={row.trend} />, order: (row) => row.trend },
  {
    key: "unacked",
    title: "Unacked",
    hint: "since the oldest message that is handed out and not acknowledged was",
    cell: (row) => (row.unacked_s > 0 ? duration(row.unacked_s) : "–"),
    order: (row) => row.unacked_s,
    numeric: true,
  },
  {
    key: "evict",
    title: "Cache ends in",
    hint: "time until what it lags behind is only on disk, which is slower, or gone",
    cell: (row) => leaving(row),
    order: (row) => row.evict_in_s ?? Infinity,
    numeric: true,
  },
  { key: "rate", title: "Rate", cell: (row) => hertz(row.rate), order: (row) => row.rate, numeric: true },
  {
    key: "again",
    title: "Again",
    hint: "messages that were handed out more than once",
    cell: (row) => whole(row.redelivered),
    order: (row) => row.redelivered,
    numeric: true,
  },
  {
    key: "dead",
    title: "Dead",
    hint: "messages that were given up",
    cell: (row) => whole(row.dead),
    order: (row) => row.dead,
    numeric: true,
  },
  {
    key: "members",
    title: "Members",
    cell: (row) => row.members.length,
    order: (row) => row.members.length,
    numeric: true,
  },
];

function leaving(row: GroupState): string {
  if (!row.lag || row.evict_in_s === null) return "–";
  return row.evict_in_s > 0 ? duration(row.evict_in_s) : "has left it";
}

export function GroupsView() {
  const { group = "", picked = "" } = route.value.query;
  const all = snapshot.value?.groups ?? [];
  const rows = all
    .filter((row) => !group || row.group.includes(group))
    .sort((a, b) => keyOf(a).localeCompare(keyOf(b)));
  const chosen = all.find((row) => keyOf(row) === picked);
  return (
    <>
      <section class="panel">
        <div class="row">
          <label>
            Filter
            <input
              type="search"
              value={group}
              onInput={(event) => set({ group: event.currentTarget.value })}
            />
          </label>
          <CopyBar command="beamstream group ls" />
        </div>
        <Table
          name="groups"
          caption="Groups of readers"
          columns={COLUMNS}
          rows={rows}
          rowKey={keyOf}
          state={(row) => row.state}
          onPick={(row) => set({ picked: keyOf(row) === picked ? "" : keyOf(row) })}
          picked={picked}
          empty={all.length ? "No group has such a name." : "Nobody reads anything."}
        />
      </section>
      {chosen && <Chosen key={picked} of={chosen} />}
    </>
  );
}

function Chosen(props: { of: GroupState }) {
  const { of } = props;
  const series = useSeries(
    { beamtime: of.beamtime, kind: "group", name: `${of.group}\n${of.source}/${of.stream}` },
    chartSeconds.value,
    (data) => {
      const row = data.groups.find((one) => keyOf(one) === keyOf(of));
      return row ? { lag: row.lag, lag_s: row.lag_s } : null;
    },
  );
  const edge = snapshot.value?.edges.find(
    (one) => one.beamtime === of.beamtime && one.source === of.source && one.group === of.group,
  );
  return (
    <section class="panel" aria-label={`Group ${of.group}`}>
      <h2>
        {of.group} in {of.source}/{of.stream}
      </h2>
      <Chart
        title="Behind"
        times={series.times}
        lines={[{ label: "messages", colour: "--line-2", values: line(series, "lag") }]}
        format={whole}
      />
      {edge && (
        <p>
          Delay since arrival: delivered p50 <b data-testid="p50">{millis(edge.delivered_ms.p50)}</b>, p99{" "}
          <b>{millis(edge.delivered_ms.p99)}</b>; acknowledged p50 <b>{millis(edge.acked_ms.p50)}</b>, p99{" "}
          <b>{millis(edge.acked_ms.p99)}</b>.
        </p>
      )}
      <p>Members: {of.members.join(", ") || "nobody is connected"}.</p>
      {me.value && me.value.role !== "viewer" ? <Seek of={of} /> : <p class="soft">Operators can seek here.</p>}
      {of.dead > 0 && <DeadLetters of={of} />}
    </section>
  );
}

interface SeekPreview {
  reopened: number;
  skipped: number;
}

/** Go elsewhere, with a look first at what that does. */
function Seek(props: { of: GroupState }) {
  const { beamtime, source, stream, group } = props.of;
  const [to, setTo] = useState("end");
  const [at, setAt] = useState("1");
  const [preview, setPreview] = useState<SeekPreview | null>(null);
  const [told, setTold] = useState("");
  const ask = async (dryRun: boolean) => {
    try {
      const body = { beamtime, source, stream, group, to, at: Number(at), dry_run: dryRun };
      const found = await post<SeekPreview>("groups/seek", body);
      setPreview(dryRun ? found : null);
      setTold(dryRun ? "" : "Done.");
    } catch (error) {
      setTold(error instanceof ApiError ? `${error.message}. ${error.hint}` : String(error));
    }
  };
  return (
    <div class="row" role="group" aria-label="Seek">
      <label>
        Go to
        <select
          value={to}
          onChange={(event) => {
            setTo(event.currentTarget.value);
            setPreview(null);
          }}
        >
          <option value="begin">the beginning</option>
          <option value="end">the end</option>
          <option value="id">message</option>
        </select>
      </label>
      {to === "id" && (
        <input
          type="number"
          min={1}
          class="short"
          aria-label="Message id"
          value={at}
          onInput={(event) => setAt(event.currentTarget.value)}
        />
      )}
      <button type="button" onClick={() => ask(true)}>
        Preview
      </button>
      {preview && (
        <>
          <span role="status">
            {whole(preview.skipped)} messages would be skipped, {whole(preview.reopened)} read again.
          </span>
          <button type="button" class="primary" onClick={() => ask(false)}>
            Seek
          </button>
        </>
      )}
      {told && <span role="status">{told}</span>}
    </div>
  );
}

interface Dead {
  id: number;
  error: string;
  traceback: string;
}

function DeadLetters(props: { of: GroupState }) {
  const { beamtime, source, stream, group } = props.of;
  const [letters, setLetters] = useState<Dead[] | null>(null);
  const [told, setTold] = useState("");
  const load = () =>
    get<{ letters: Dead[] }>("groups/dead", { beamtime, source, stream, group })
      .then((found) => setLetters(found.letters))
      .catch((error: Error) => setTold(error.message));
  const again = () =>
    post<{ count: number }>("groups/redeliver", { beamtime, source, stream, group })
      .then((found) => setTold(`${found.count} are offered again.`))
      .catch((error: Error) => setTold(error.message));
  return (
    <div>
      <button type="button" onClick={load}>
        Show dead letters
      </button>{" "}
      {me.value && me.value.role !== "viewer" && (
        <button type="button" onClick={again}>
          Offer them again
        </button>
      )}
      {told && <span role="status"> {told}</span>}
      {letters?.map((letter) => (
        <details key={letter.id}>
          <summary>
            message {letter.id}: {letter.error}
          </summary>
          <pre tabIndex={0} role="region" aria-label={`Traceback of message ${letter.id}`}>
            {letter.traceback}
          </pre>
        </details>
      ))}
    </div>
  );
}
