import { useState } from "preact/hooks";
import { route, write } from "../route";

/** Copy without the clipboard's own interface, which browsers give to https and localhost only. */
function copyByHand(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyByHand(text);
  }
}

const SAID_MS = 1500;

/** A button that copies text and says so. */
export function Copy(props: { text: string; children: string }) {
  const [said, setSaid] = useState("");
  const copy = async (event: MouseEvent) => {
    const button = event.currentTarget as HTMLElement;
    setSaid((await copied(props.text)) ? "copied" : "not copied: see its title");
    button.focus();
    setTimeout(() => setSaid(""), SAID_MS);
  };
  return (
    <button type="button" class="copy" onClick={copy} title={props.text} data-text={props.text}>
      {said || props.children}
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
