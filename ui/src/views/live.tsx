export function LiveView() {
  return <section class="view live" />;
}
