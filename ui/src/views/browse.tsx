export function BrowseView() {
  return <section class="view browse" />;
}
