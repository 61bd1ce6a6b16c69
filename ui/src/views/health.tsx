// Health: is it my network, my disk, my code or the server? Use, limits, errors.
import { snapshot } from "../feed";
import { byteRate, bytes, compact, duration, hertz, percent, whole } from "../format";
import { chartSeconds, line, useSeries } from "../history";
import { Chart } from "../parts/chart";
import { CopyBar } from "../parts/copy";
import { State } from "../parts/state";
import { Table, type Column } from "../parts/table";
import type { ErrorState, LimitState } from "../types";

const LIMITS: readonly Column<LimitState>[] = [
  { key: "name", title: "Limit", cell: (row) => row.name, order: (row) => row.name },
  {
    key: "share",
    title: "Used",
    cell: (row) => <Bar share={row.limit ? row.used / row.limit : 0} label={row.name} />,
    order: (row) => (row.limit ? row.used / row.limit : 0),
  },
  { key: "used", title: "Now", cell: (row) => amount(row.used, row.unit), numeric: true },
  { key: "limit", title: "At most", cell: (row) => amount(row.limit, row.unit), numeric: true },
];

const ERRORS: readonly Column<ErrorState>[] = [
  { key: "code", title: "Code", cell: (row) => <code>{row.code}</code>, order: (row) => row.code },
  { key: "count", title: "How often", cell: (row) => whole(row.count), order: (row) => row.count, numeric: true },
  { key: "last", title: "Last", cell: (row) => `${duration(row.last_s)} ago`, order: (row) => row.last_s, numeric: true },
  { key: "text", title: "What", cell: (row) => <span class="wrap">{row.text}</span> },
  { key: "hint", title: "What to do", cell: (row) => <span class="wrap">{row.hint}</span> },
];

function amount(value: number, unit: string): string {
  return unit === "B" ? bytes(value) : `${compact(value)} ${unit}`.trim();
}

function Bar(props: { share: number; label: string }) {
  const share = Math.min(Math.max(props.share, 0), 1);
  const kind = share > 0.9 ? "bad" : share > 0.7 ? "warn" : "good";
  return (
    <span class="barred">
      <meter
        class={kind}
        min={0}
        max={1}
        low={0.7}
        high={0.9}
        optimum={0}
        value={share}
        aria-label={`${props.label} used`}
      />{" "}
      {percent(share)}
    </span>
  );
}

export function HealthView() {
  const data = snapshot.value;
  const series = useSeries({ kind: "node", name: "" }, chartSeconds.value, (found) => ({
    in_messages: found.node.rates.in_messages,
    out_messages: found.node.rates.out_messages,
    in_nbytes: found.node.rates.in_nbytes,
    files: found.node.rates.files,
    cpu: found.node.cpu,
  }));
  if (!data) return <p class="empty">Waiting for the first numbers …</p>;
  const { node } = data;
  return (
    <div class="health">
      <div>
        <section class="panel">
          <h2>
            Node {node.name} <State of={node.state === "live" ? "live" : "gone"} text={node.state} />
          </h2>
          <dl class="facts">
            <dt>Version</dt>
            <dd>{node.version}</dd>
            <dt>Up for</dt>
            <dd>{duration(node.up_s)}</dd>
            <dt>Processor</dt>
            <dd>{percent(node.cpu)} of a core</dd>
            <dt>Memory</dt>
            <dd>{bytes(node.rss_nbytes)}</dd>
            <dt>Connections</dt>
            <dd>{whole(node.connections)}</dd>
            <dt>Cache</dt>
            <dd>
              <Bar share={node.cache.used / Math.max(node.cache.nbytes, 1)} label="cache" /> of{" "}
              {bytes(node.cache.nbytes)}, {bytes(node.cache.pinned)} in use
            </dd>
            <dt>Disk</dt>
            <dd>
              {bytes(node.disk.free)} free of {bytes(node.disk.nbytes)}
              {node.disk.full_in_s === null ? "" : `, full in ${duration(node.disk.full_in_s)}`}
            </dd>
          </dl>
          <CopyBar command="beamstream doctor" />
        </section>
        <section class="panel">
          <h2>Errors since the node was started</h2>
          <Table
            name="errors"
            caption="Errors by code"
            columns={ERRORS}
            rows={data.errors}
            rowKey={(row) => row.code}
            empty="None."
          />
        </section>
      </div>
      <div>
        <section class="panel charts">
          <h2>Last {chartSeconds.value / 60} min</h2>
          <Chart
            title="Messages"
            times={series.times}
            lines={[
              { label: "in", colour: "--line-1", values: line(series, "in_messages") },
              { label: "out", colour: "--line-2", values: line(series, "out_messages") },
            ]}
            format={hertz}
          />
          <Chart
            title="Bytes in"
            times={series.times}
            lines={[{ label: "rate", colour: "--line-3", values: line(series, "in_nbytes") }]}
            format={byteRate}
          />
          <Chart
            title="Files"
            times={series.times}
            lines={[{ label: "rate", colour: "--line-4", values: line(series, "files") }]}
            format={hertz}
          />
        </section>
        <section class="panel">
          <h2>Limits</h2>
          <Table
            name="limits"
            caption="Limits and how much of each is used"
            columns={LIMITS}
            rows={data.limits}
            rowKey={(row) => row.name}
            empty="None is told."
          />
          <p>
            <a href="../metrics">Metrics for Prometheus</a> · <a href="../api/docs">API</a>
          </p>
        </section>
      </div>
    </div>
  );
}
