export function HealthView() {
  return <section class="view health" />;
}
