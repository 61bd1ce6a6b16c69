import { signal } from "@preact/signals";

export const showShortcuts = signal(false);

const KEYS: readonly [string, string][] = [
  ["1 … 6", "the six views"],
  ["/", "search or filter"],
  ["space", "pause and go on (Live)"],
  ["← →", "step through frames (Live)"],
  ["+ −", "zoom (Live)"],
  ["?", "this list"],
];

export function Shortcuts() {
  if (!showShortcuts.value) return null;
  return (
    <div class="shortcuts" role="dialog" aria-label="Keys">
      <dl>
        {KEYS.map(([key, does]) => (
          <>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{does}</dd>
          </>
        ))}
      </dl>
    </div>
  );
}
