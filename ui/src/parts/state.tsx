import type { GroupHealth, Health, Trend } from "../types";

const MARKS: Record<Health | GroupHealth, [string, string]> = {
  live: ["●", "good"],
  ok: ["●", "good"],
  idle: ["◐", "warn"],
  slow: ["◐", "warn"],
  gone: ["◌", "warn"],
  missing: ["◌", "bad"],
  undeclared: ["◇", "note"],
  stuck: ["▲", "bad"],
};

/** A state by shape, colour and word. */
export function State(props: { of: Health | GroupHealth; text?: string }) {
  const [mark, kind] = MARKS[props.of];
  return (
    <span class={`state ${kind}`} data-state={props.of}>
      <span aria-hidden="true">{mark}</span> {props.text ?? props.of}
    </span>
  );
}

const ARROWS: Record<Trend, string> = { losing: "↗", gaining: "↘", steady: "→", idle: "·" };

/** Whether a lag grows. */
export function TrendMark(props: { of: Trend }) {
  return (
    <span class={`trend ${props.of}`}>
      <span aria-hidden="true">{ARROWS[props.of]}</span> {props.of === "idle" ? "no lag" : props.of}
    </span>
  );
}
