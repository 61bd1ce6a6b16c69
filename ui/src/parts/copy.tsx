import { useState } from "preact/hooks";
import { route, write } from "../route";

/** A button that copies text and says so. */
export function Copy(props: { text: string; children: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(props.text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return (
    <button type="button" class="copy" onClick={copy} title={props.text} data-text={props.text}>
      {done ? "copied" : props.children}
    </button>
  );
}

/** Link, command and Python for what a panel shows. */
export function CopyBar(props: { command?: string; python?: string }) {
  const link = `${location.origin}${location.pathname}${write(route.value)}`;
  return (
    <span class="copybar">
      <Copy text={link}>copy link</Copy>
      {props.command && <Copy text={props.command}>copy command</Copy>}
      {props.python && <Copy text={props.python}>copy Python</Copy>}
    </span>
  );
}
