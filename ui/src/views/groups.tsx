export function GroupsView() {
  return <section class="view groups" />;
}
