import { href } from "../route";

export interface Origin {
  source: string;
  stream: string;
  id: number;
  run: number;
  step: string;
  code: string;
  parameters: Record<string, unknown>;
  /** How many inputs there are; `inputs` has the first of them. */
  count: number;
  inputs: Origin[];
}

/** The chain from a message back to the detector. */
export function Provenance(props: { origin: Origin | null }) {
  const { origin } = props;
  if (!origin || (!origin.run && !origin.inputs.length)) {
    return <p class="soft">Written by a client; nobody has said what it was made of.</p>;
  }
  return (
    <ul class="tree">
      <Branch of={origin} />
    </ul>
  );
}

function Branch(props: { of: Origin }) {
  const { of } = props;
  const path = `${of.source}/${of.stream}[${of.id}]`;
  return (
    <li>
      <a href={href("browse", { source: of.source, stream: of.stream, id: String(of.id) })}>{path}</a>
      {of.run > 0 && (
        <>
          {" "}
          by <b>{of.step}</b>, code <code>{of.code}</code>, {JSON.stringify(of.parameters)} (run {of.run})
        </>
      )}
      {of.inputs.length > 0 && (
        <ul>
          {of.inputs.map((input) => (
            <Branch key={`${input.source}/${input.stream}[${input.id}]`} of={input} />
          ))}
          {of.count > of.inputs.length && <li>… {of.count} inputs in all</li>}
        </ul>
      )}
    </li>
  );
}
