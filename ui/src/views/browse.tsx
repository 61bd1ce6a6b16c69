// Browse: where is the frame with X?
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, getBytes, post } from "../api";
import { me } from "../app";
import { snapshot } from "../feed";
import { bytes, dtypeName, moment, whole } from "../format";
import { levels, maskOf, readFrame, type Frame } from "../image/frame";
import { table } from "../image/colours";
import { CopyBar } from "../parts/copy";
import { Json } from "../parts/document";
import { Provenance, type Origin } from "../parts/provenance";
import { Table, type Column } from "../parts/table";
import { href, route, set } from "../route";

interface StreamRow {
  beamtime: string;
  source: string;
  stream: string;
  count: number;
  /** null: not measured yet. */
  nbytes: number | null;
  max_id: number;
  last_id: number;
  created_ns: number;
  last_ns: number;
  /** Of 100 stretches of ids: the share that is there. */
  strip: number[];
  comment: string;
  tags: string[];
}

interface MessageRow {
  id: number;
  size: number;
  timestamp_ns: number;
  name: string;
  meta: Record<string, unknown>;
}

const PAGE = 100;

/** Ask again when what is asked changes; keep the last answer meanwhile. */
function useAnswer<T>(path: string, query: Record<string, string | number> | null): [T | null, string] {
  const [answer, setAnswer] = useState<T | null>(null);
  const [error, setError] = useState("");
  const key = query && JSON.stringify(query);
  useEffect(() => {
    if (!query) {
      setAnswer(null);
      return;
    }
    const gone = new AbortController();
    get<T>(path, query, gone.signal)
      .then((found) => {
        setAnswer(found);
        setError("");
      })
      .catch((failure: unknown) => {
        if (gone.signal.aborted) return;
        setError(failure instanceof ApiError ? `${failure.message} ${failure.hint}` : String(failure));
      });
    return () => gone.abort();
  }, [path, key]);
  return [answer, error];
}

function beamtimeOf(query: Readonly<Record<string, string>>): string {
  return query["beamtime"] || me.value?.beamtimes[0] || "";
}

export function BrowseView() {
  const { query } = route.value;
  const beamtime = beamtimeOf(query);
  if (!beamtime) return <p class="empty">There is no beamtime yet.</p>;
  const { source = "", stream = "", id = "", q = "" } = query;
  return (
    <>
      <SearchBar />
      {q && <Hits beamtime={beamtime} source={source} stream={stream} query={q} />}
      {id && stream && <MessagePanel where={{ beamtime, source, stream }} id={id} />}
      {stream ? <StreamPanel beamtime={beamtime} source={source} stream={stream} /> : <Streams beamtime={beamtime} />}
    </>
  );
}

function SearchBar() {
  const { source = "", stream = "", q = "" } = route.value.query;
  const [text, setText] = useState(q);
  const scope = stream ? `${source}/${stream}` : source ? `${source}/*` : "all streams";
  return (
    <form
      class="panel row"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        set({ q: text }, false);
      }}
    >
      <label class="wide">
        Search the metadata of {scope}
        <input
          type="search"
          placeholder="meta.run = 7 AND meta.exposure_s > 0.1"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Find</button>
      {q && (
        <button type="button" onClick={() => set({ q: "" })}>
          Clear
        </button>
      )}
    </form>
  );
}

interface Found {
  hits: { source: string; stream: string; id: number; size: number; meta: Record<string, unknown> }[];
  looked: string;
  more: boolean;
}

function Hits(props: { beamtime: string; source: string; stream: string; query: string }) {
  const { beamtime, source, stream, query } = props;
  const [found, error] = useAnswer<Found>("search", { beamtime, source, stream, query, limit: PAGE });
  return (
    <section class="panel" aria-label="Found">
      <h2>Found</h2>
      {error && <p role="alert">{error}</p>}
      {found && (
        <>
          <p role="status">
            {whole(found.hits.length)} {found.more ? "and more" : "in all"}. {found.looked}
          </p>
          <Table
            name="hits"
            caption="Messages that match"
            columns={[
              { key: "where", title: "Message", cell: (hit) => `${hit.source}/${hit.stream}[${hit.id}]` },
              { key: "size", title: "Size", cell: (hit) => bytes(hit.size), numeric: true },
              { key: "meta", title: "Metadata", cell: (hit) => <code class="brief">{brief(hit.meta)}</code> },
            ]}
            rows={found.hits}
            rowKey={(hit) => `${hit.source}/${hit.stream}[${hit.id}]`}
            onPick={(hit) => set({ source: hit.source, stream: hit.stream, id: String(hit.id) }, false)}
            empty="No message matches."
          />
        </>
      )}
      <CopyBar command={`beamstream find '${source || "*"}/${stream || "*"}' '${query}'`} />
    </section>
  );
}

function brief(meta: Record<string, unknown>): string {
  const text = JSON.stringify(meta);
  return text.length > 160 ? `${text.slice(0, 159)}…` : text;
}

function Streams(props: { beamtime: string }) {
  const { source = "", pattern = "*", after = "" } = route.value.query;
  const [unmeasured, setUnmeasured] = useState(false);
  // Asked again as the flow goes on, but not with every snapshot.
  const beat = Math.floor((snapshot.value?.node.up_s ?? 0) / (unmeasured ? 1 : 5));
  const [found, error] = useAnswer<{ rows: StreamRow[]; more: string }>("streams", {
    beamtime: props.beamtime,
    source,
    pattern,
    after,
    limit: PAGE,
    beat,
  });
  useEffect(() => setUnmeasured(found?.rows.some((row) => row.nbytes === null) ?? false), [found]);
  const sources = (snapshot.value?.sources ?? []).filter((one) => one.beamtime === props.beamtime);
  const columns: Column<StreamRow>[] = [
    {
      key: "thumb",
      title: "Last",
      cell: (row) => <Thumbnail beamtime={row.beamtime} source={row.source} stream={row.stream} some={row.count > 0} />,
    },
    {
      key: "stream",
      title: "Stream",
      cell: (row) => (
        <a href={href("browse", { beamtime: row.beamtime, source: row.source, stream: row.stream })}>
          {row.source}/{row.stream}
        </a>
      ),
      order: (row) => `${row.source}/${row.stream}`,
    },
    { key: "count", title: "Messages", cell: (row) => whole(row.count), order: (row) => row.count, numeric: true },
    { key: "size", title: "Size", cell: (row) => bytes(row.nbytes), order: (row) => row.nbytes ?? -1, numeric: true },
    { key: "strip", title: "Complete", cell: (row) => <Strip cells={row.strip} last={Math.max(row.max_id, row.last_id)} /> },
    { key: "began", title: "Began", cell: (row) => moment(row.created_ns), order: (row) => row.created_ns },
    { key: "last", title: "Newest", cell: (row) => later(row), order: (row) => row.last_ns },
    { key: "end", title: "Finished", cell: (row) => (row.last_id >= 0 ? `at ${whole(row.last_id)}` : "–") },
    { key: "comment", title: "Comment", cell: (row) => <span class="comment">{row.comment}</span> },
    { key: "tags", title: "Tags", cell: (row) => row.tags.join(", ") },
  ];
  return (
    <section class="panel">
      <div class="row">
        <label>
          Source
          <select value={source} onChange={(event) => set({ source: event.currentTarget.value, after: "" })}>
            <option value="">all</option>
            {sources.map((one) => (
              <option key={one.source}>{one.source}</option>
            ))}
          </select>
        </label>
        <label>
          Streams
          <input
            type="text"
            value={pattern}
            onChange={(event) => set({ pattern: event.currentTarget.value || "*", after: "" })}
          />
        </label>
        <CopyBar command={`beamstream stream ls '${source || "*"}/${pattern}'`} />
      </div>
      {error && <p role="alert">{error}</p>}
      <Table
        name="streams"
        caption="Streams"
        columns={columns}
        rows={found?.rows ?? []}
        rowKey={(row) => `${row.source}/${row.stream}`}
        empty={found ? "No stream has such a name." : "…"}
      />
      {found?.more && (
        <button type="button" onClick={() => set({ after: found.more }, false)}>
          More
        </button>
      )}
    </section>
  );
}

/** When its newest message came: the day only where it is another one. */
function later(row: StreamRow): string {
  const [began, last] = [moment(row.created_ns), moment(row.last_ns)];
  return last.slice(0, 10) === began.slice(0, 10) ? last.slice(11) : last;
}

/** Which ids are there: a gap is a gap. */
function Strip(props: { cells: readonly number[]; last: number }) {
  const missing = props.cells.filter((share) => share < 1).length;
  const label = missing ? `ids are missing in ${missing} of ${props.cells.length} stretches` : "all ids are there";
  return (
    <svg class="strip" viewBox="0 0 100 10" role="img" aria-label={label} preserveAspectRatio="none">
      <title>{`${label} (of ${whole(props.last)})`}</title>
      {props.cells.map((share, at) => {
        const width = 100 / props.cells.length;
        return (
          <rect
            key={at}
            x={at * width}
            y={10 - 10 * share}
            width={width}
            height={10 * share}
          />
        );
      })}
    </svg>
  );
}

const THUMB_PX = 64;
/** The newest message, as an id. */
const LAST = -1;

function Thumbnail(props: { beamtime: string; source: string; stream: string; some: boolean }) {
  const { beamtime, source, stream, some } = props;
  const [frame, setFrame] = useState<Frame | null>(null);
  const place = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const element = place.current;
    if (!some || !element) return;
    const gone = new AbortController();
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      getBytes("frame", { beamtime, source, stream, id: LAST, max_px: THUMB_PX }, gone.signal)
        .then((data) => setFrame(readFrame(data)))
        .catch(() => undefined);
    });
    seen.observe(element);
    return () => {
      seen.disconnect();
      gone.abort();
    };
    // One picture for each stream: not a new one with each message.
  }, [beamtime, source, stream, some]);
  return (
    <span ref={place} class="thumb-place">
      {frame && <Small frame={frame} />}
    </span>
  );
}

/** A small picture on a plain canvas: pages of them would use up a browser's WebGL contexts. */
function Small(props: { frame: Frame | null }) {
  const draw = (canvas: HTMLCanvasElement | null) => {
    const { frame } = props;
    const context = canvas?.getContext("2d");
    if (!canvas || !context || !frame || frame.fullHeight === 1) return;
    canvas.width = frame.width;
    canvas.height = frame.height;
    const colours = table("viridis");
    const mask = maskOf(frame.pixels);
    const { low, high } = levels(frame.pixels, "percentile", 0, 0, mask);
    const image = context.createImageData(frame.width, frame.height);
    for (let at = 0; at < frame.pixels.length; at += 1) {
      const value = frame.pixels[at] as number;
      if (!(value < mask)) continue;
      const share = (value - low) / (high - low);
      const entry = 4 * Math.round(255 * Math.min(Math.max(share, 0), 1));
      image.data.set(colours.subarray(entry, entry + 4), 4 * at);
    }
    context.putImageData(image, 0, 0);
  };
  return <canvas class="thumb" ref={draw} width={1} height={1} aria-hidden="true" />;
}

interface StreamAbout {
  row: StreamRow;
  header: Record<string, unknown> | null;
  header_version: number;
  gaps: [number, number][];
  gaps_more: boolean;
}

function StreamPanel(props: { beamtime: string; source: string; stream: string }) {
  const { beamtime, source, stream } = props;
  const [about, error] = useAnswer<StreamAbout>("stream", { beamtime, source, stream });
  const { from = "" } = route.value.query;
  const last = about?.row.max_id ?? 0;
  const lo = from ? Math.max(Number(from), 1) : Math.max(last - PAGE + 1, 1);
  const [page] = useAnswer<{ rows: MessageRow[] }>(
    "messages",
    about ? { beamtime, source, stream, lo, hi: lo + PAGE, limit: PAGE } : null,
  );
  const path = `${source}/${stream}`;
  if (error) {
    return (
      <p class="notice" role="alert">
        {error}
      </p>
    );
  }
  if (!about) return <p class="empty">…</p>;
  return (
    <section class="panel" aria-label={`Stream ${path}`}>
      <h2>{path}</h2>
      <p>
        {whole(about.row.count)} messages, {bytes(about.row.nbytes)}, from {moment(about.row.created_ns)} to{" "}
        {moment(about.row.last_ns)}. <Strip cells={about.row.strip} last={Math.max(last, about.row.last_id)} />
      </p>
      {about.gaps.length > 0 && (
        <p>
          Missing: {about.gaps.map(([a, b]) => (b === a + 1 ? `${a}` : `${a} … ${b - 1}`)).join(", ")}
          {about.gaps_more ? " …" : ""}
        </p>
      )}
      <Note about={about.row} />
      {about.header && (
        <details>
          <summary>Header, version {about.header_version}</summary>
          <Json name="Header" of={about.header} />
        </details>
      )}
      <p>
        <a href={href("live", { source, stream })}>watch</a>{" "}
        <a href={href("replay", { source, stream })}>replay</a>{" "}
        <a href={href("browse", { source, stream: "" })}>other streams</a>{" "}
        <CopyBar
          command={`beamstream stream info '${path}'`}
          python={`import beamstream as bs\nstream = bs.connect().stream(${JSON.stringify(path)})`}
        />
      </p>
      <div class="row">
        <button type="button" disabled={lo <= 1} onClick={() => set({ from: String(Math.max(lo - PAGE, 1)) })}>
          Earlier
        </button>
        <button type="button" disabled={lo + PAGE > last} onClick={() => set({ from: String(lo + PAGE) })}>
          Later
        </button>
        <span>
          ids {whole(lo)} … {whole(Math.min(lo + PAGE - 1, last))} of {whole(last)}
        </span>
      </div>
      <Table
        name="messages"
        caption="Messages"
        columns={[
          { key: "id", title: "Id", cell: (row) => row.id, numeric: true },
          { key: "size", title: "Size", cell: (row) => bytes(row.size), numeric: true },
          { key: "time", title: "Arrived", cell: (row) => moment(row.timestamp_ns) },
          { key: "name", title: "Name", cell: (row) => <span class="wrap">{row.name}</span> },
          { key: "meta", title: "Metadata", cell: (row) => <code class="brief">{brief(row.meta)}</code> },
        ]}
        rows={page?.rows.toReversed() ?? []}
        rowKey={(row) => String(row.id)}
        onPick={(row) => set({ id: String(row.id) }, false)}
        picked={route.value.query["id"] ?? ""}
        empty="No message is there."
      />
    </section>
  );
}

/** Comment and tags of a stream, for operators to write. */
function Note(props: { about: StreamRow }) {
  const { beamtime, source, stream } = props.about;
  const [comment, setComment] = useState(props.about.comment);
  const [tags, setTags] = useState(props.about.tags.join(", "));
  const [told, setTold] = useState("");
  if (!me.value || me.value.role === "viewer") {
    return props.about.comment ? <p>{props.about.comment}</p> : null;
  }
  const save = (event: Event) => {
    event.preventDefault();
    const list = tags.split(",").map((tag) => tag.trim());
    post("streams/note", { beamtime, source, stream, comment, tags: list.filter(Boolean) })
      .then(() => setTold("Saved."))
      .catch((error: Error) => setTold(error.message));
  };
  return (
    <form class="row" onSubmit={save}>
      <label class="wide">
        Comment
        <input type="text" value={comment} onInput={(event) => setComment(event.currentTarget.value)} />
      </label>
      <label>
        Tags
        <input type="text" value={tags} onInput={(event) => setTags(event.currentTarget.value)} />
      </label>
      <button type="submit">Save</button>
      {told && <span role="status">{told}</span>}
    </form>
  );
}

interface MessageAbout extends MessageRow {
  digest: string;
  dtype: string;
  shape: number[];
  level: string;
  origin: Origin | null;
}

function MessagePanel(props: { where: { beamtime: string; source: string; stream: string }; id: string }) {
  const { where, id } = props;
  const [about, error] = useAnswer<MessageAbout>("message", { ...where, id });
  const [frame, setFrame] = useState<Frame | null>(null);
  const [blind, setBlind] = useState("");
  useEffect(() => {
    const gone = new AbortController();
    setFrame(null);
    setBlind("");
    getBytes("frame", { ...where, id, max_px: 512 }, gone.signal)
      .then((data) => setFrame(readFrame(data)))
      .catch((failure: unknown) => setBlind(failure instanceof ApiError ? failure.message : ""));
    return () => gone.abort();
  }, [where.beamtime, where.source, where.stream, id]);
  const path = `${where.source}/${where.stream}`;
  if (error) {
    return (
      <p class="notice" role="alert">
        {error}
      </p>
    );
  }
  if (!about) return <p class="empty">…</p>;
  return (
    <section class="panel message" aria-label={`Message ${id}`}>
      <h2>
        {path}[{id}]
      </h2>
      {frame && <Small frame={frame} />}
      {blind && <p class="soft">No picture: {blind}.</p>}
      <dl class="facts">
        <dt>Size</dt>
        <dd>
          {bytes(about.size)}
          {about.dtype ? `, ${dtypeName(about.dtype)} ${about.shape.join(" × ")}` : ""}
        </dd>
        <dt>Arrived</dt>
        <dd>{moment(about.timestamp_ns)}</dd>
        <dt>Digest</dt>
        <dd>
          <code>{about.digest}</code>
        </dd>
        {about.name && (
          <>
            <dt>Name</dt>
            <dd class="wrap">{about.name}</dd>
          </>
        )}
      </dl>
      <h3>Metadata</h3>
      <Json name="Metadata" of={about.meta} />
      <h3>Made of</h3>
      <Provenance origin={about.origin} />
      <CopyBar
        command={`beamstream get '${path}[${id}]' -o frame.npy`}
        python={`import beamstream as bs\nmessage = bs.connect().stream(${JSON.stringify(path)})[${id}]`}
      />
    </section>
  );
}
