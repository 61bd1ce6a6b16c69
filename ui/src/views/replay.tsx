export function ReplayView() {
  return <section class="view replay" />;
}
