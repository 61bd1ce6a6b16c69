/** Metadata as they are; long ones scroll, by keys too. */
export function Json(props: { name: string; of: unknown }) {
  return (
    <pre tabIndex={0} role="region" aria-label={props.name}>
      {JSON.stringify(props.of, null, 2)}
    </pre>
  );
}
