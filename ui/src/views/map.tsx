export function MapView() {
  return <section class="view map" />;
}
