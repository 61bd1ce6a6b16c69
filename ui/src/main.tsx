import "uplot/dist/uPlot.min.css";
import "./theme.css";
import { render } from "preact";
import { App } from "./app";
import { start } from "./feed";

const root = document.getElementById("app");
if (root) {
  start();
  render(<App />, root);
}
