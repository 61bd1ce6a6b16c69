// One picture on the screen: zoom, pan, value under the cursor, rings.
import { useEffect, useRef, useState } from "preact/hooks";
import { getBytes } from "../api";
import { compact } from "../format";
import { route, set } from "../route";
import { readFrame, type Frame } from "./frame";
import { RINGS_A, ringRadius, spacingAt, type Geometry } from "./geometry";
import { Painter, whole, type Layer, type Look, type Place } from "./painter";

const DETAIL_PX_MAX = 2048;
const DETAIL_DELAY_MS = 200;
const ZOOM_STEP = 1.25;
const ZOOM_MAX = 64;

export interface Where {
  beamtime: string;
  source: string;
  stream: string;
}

interface View {
  /** Times the scale at which all of the detector fits; 1 shows all of it. */
  zoom: number;
  /** The detector pixel in the middle, as a share of each side. */
  cx: number;
  cy: number;
}

const ALL: View = { zoom: 1, cx: 0.5, cy: 0.5 };
const SETTLED_MS = 300;

/** The part that is shown is kept in the address, when it has not changed for a moment. */
function useView(): [View, (view: View) => void] {
  const [view, setView] = useState<View>(() => {
    const { zoom, cx, cy } = route.value.query;
    const number = (text: string | undefined, other: number) => (text && Number.isFinite(+text) ? +text : other);
    return {
      zoom: Math.min(Math.max(number(zoom, 1), 1), ZOOM_MAX),
      cx: clamp(number(cx, ALL.cx)),
      cy: clamp(number(cy, ALL.cy)),
    };
  });
  useEffect(() => {
    const all = view.zoom === 1;
    const kept = (value: number, digits: number) => (all ? "" : value.toFixed(digits));
    const timer = setTimeout(
      () => set({ zoom: kept(view.zoom, 2), cx: kept(view.cx, 4), cy: kept(view.cy, 4) }),
      SETTLED_MS,
    );
    return () => clearTimeout(timer);
  }, [view]);
  return [view, setView];
}

export function Viewer(props: {
  where: Where;
  frame: Frame | null;
  look: Look;
  paused: boolean;
  geometry: Geometry | null;
}) {
  const { frame, look, geometry } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const painter = useRef<Painter | null>(null);
  const [failure, setFailure] = useState("");
  const [view, setView] = useView();
  const [size, setSize] = useState({ width: 1, height: 1 });
  const [pointer, setPointer] = useState<{ x: number; y: number } | null>(null);
  const [detail, setDetail] = useState<Layer | null>(null);
  const drag = useRef<{ x: number; y: number; view: View } | null>(null);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    try {
      painter.current = new Painter(element);
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
    }
    const resized = new ResizeObserver(() => {
      const ratio = devicePixelRatio || 1;
      const width = Math.max(Math.round(element.clientWidth * ratio), 1);
      const height = Math.max(Math.round(element.clientHeight * ratio), 1);
      element.width = width;
      element.height = height;
      setSize({ width, height });
    });
    resized.observe(element);
    return () => resized.disconnect();
  }, []);

  const place = frame ? placed(frame, size, view) : null;
  useDetail(props, view, place, size, setDetail);
  useEffect(() => {
    if (!frame || !place || !painter.current) return;
    const layers = detail && props.paused && detail.frame.id === frame.id ? [whole(frame), detail] : [whole(frame)];
    painter.current.draw(layers, look, place);
  });
  useEffect(() => () => frame ? painter.current?.drop(frame) : undefined, [frame]);

  const zoomAt = (factor: number, x = size.width / 2, y = size.height / 2) => {
    if (!frame || !place) return;
    const zoom = Math.min(Math.max(view.zoom * factor, 1), ZOOM_MAX);
    const [px, py] = [(x - place.x) / place.scale, (y - place.y) / place.scale];
    const scale = (place.scale * zoom) / view.zoom;
    setView({
      zoom,
      cx: clamp((px - (x - size.width / 2) / scale) / frame.fullWidth),
      cy: clamp((py - (y - size.height / 2) / scale) / frame.fullHeight),
    });
  };
  const at = (event: MouseEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const ratio = size.width / Math.max(box.width, 1);
    return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
  };
  const onKey = (event: KeyboardEvent) => {
    const step = 0.1 / view.zoom;
    if (event.key === "+" || event.key === "=") zoomAt(ZOOM_STEP);
    else if (event.key === "-") zoomAt(1 / ZOOM_STEP);
    else if (event.key === "0") setView(ALL);
    else if (event.shiftKey && event.key.startsWith("Arrow")) {
      const dx = event.key === "ArrowLeft" ? -step : event.key === "ArrowRight" ? step : 0;
      const dy = event.key === "ArrowUp" ? -step : event.key === "ArrowDown" ? step : 0;
      setView({ ...view, cx: clamp(view.cx + dx), cy: clamp(view.cy + dy) });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="viewer">
      <div
        class="stage"
        tabIndex={0}
        role="application"
        aria-label="Picture; plus and minus zoom, shift and arrows move"
        onKeyDown={onKey}
        onWheel={(event) => {
          event.preventDefault();
          const { x, y } = at(event);
          zoomAt(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, x, y);
        }}
        onMouseDown={(event) => {
          drag.current = { ...at(event), view };
        }}
        onMouseUp={() => {
          drag.current = null;
        }}
        onMouseLeave={() => {
          drag.current = null;
          setPointer(null);
        }}
        onMouseMove={(event) => {
          const here = at(event);
          setPointer(here);
          const from = drag.current;
          if (!from || !frame || !place) return;
          setView({
            ...from.view,
            cx: clamp(from.view.cx - (here.x - from.x) / place.scale / frame.fullWidth),
            cy: clamp(from.view.cy - (here.y - from.y) / place.scale / frame.fullHeight),
          });
        }}
        onDblClick={() => setView(ALL)}
      >
        <canvas ref={canvas} data-testid="picture" aria-hidden="true" />
        {geometry && place && <Rings geometry={geometry} place={place} size={size} />}
        {failure && <p class="notice">{failure}</p>}
        {!frame && !failure && <p class="empty">No picture yet.</p>}
      </div>
      <Reading frame={frame} place={place} pointer={pointer} detail={detail} geometry={geometry} />
    </div>
  );
}

function clamp(value: number): number {
  return Math.min(Math.max(value, 0), 1);
}

function placed(frame: Frame, size: { width: number; height: number }, view: View): Place {
  const fit = Math.min(size.width / frame.fullWidth, size.height / frame.fullHeight);
  const scale = fit * view.zoom;
  return {
    scale,
    x: size.width / 2 - view.cx * frame.fullWidth * scale,
    y: size.height / 2 - view.cy * frame.fullHeight * scale,
  };
}

/** Fetch the visible part of a paused frame in full resolution, when the preview has less. */
function useDetail(
  props: { where: Where; frame: Frame | null; paused: boolean },
  view: View,
  place: Place | null,
  size: { width: number; height: number },
  setDetail: (layer: Layer | null) => void,
): void {
  const { frame, paused, where } = props;
  useEffect(() => {
    setDetail(null);
    if (!paused || !frame || !place || frame.binning <= 1 || place.scale * frame.binning <= 1) return;
    const x0 = Math.max(Math.floor(-place.x / place.scale), 0);
    const y0 = Math.max(Math.floor(-place.y / place.scale), 0);
    const x1 = Math.min(Math.ceil((size.width - place.x) / place.scale), frame.fullWidth);
    const y1 = Math.min(Math.ceil((size.height - place.y) / place.scale), frame.fullHeight);
    if (x1 <= x0 || y1 <= y0) return;
    const gone = new AbortController();
    const timer = setTimeout(() => {
      const query = { ...where, id: frame.id, x0, y0, x1, y1, max_px: DETAIL_PX_MAX };
      getBytes("frame", query, gone.signal)
        .then((data) => {
          const found = readFrame(data);
          if (found) setDetail({ frame: found, x0, y0, width: x1 - x0, height: y1 - y0 });
        })
        .catch(() => undefined);
    }, DETAIL_DELAY_MS);
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [paused, frame, view.zoom, view.cx, view.cy, size.width, size.height]);
}

function Rings(props: { geometry: Geometry; place: Place; size: { width: number; height: number } }) {
  const { geometry, place, size } = props;
  const x = place.x + geometry.beamX * place.scale;
  const y = place.y + geometry.beamY * place.scale;
  return (
    <svg class="rings" viewBox={`0 0 ${size.width} ${size.height}`} aria-hidden="true">
      {RINGS_A.map((spacing) => {
        const radius = ringRadius(geometry, spacing);
        if (radius === null) return null;
        const shown = radius * place.scale;
        return (
          <g key={spacing}>
            <circle cx={x} cy={y} r={shown} />
            <text x={x} y={y - shown - 4}>
              {spacing} Å
            </text>
          </g>
        );
      })}
    </svg>
  );
}

function Reading(props: {
  frame: Frame | null;
  place: Place | null;
  pointer: { x: number; y: number } | null;
  detail: Layer | null;
  geometry: Geometry | null;
}) {
  const { frame, place, pointer, detail, geometry } = props;
  if (!frame || !place || !pointer) return <p class="reading">Point at a pixel for its value.</p>;
  const x = Math.floor((pointer.x - place.x) / place.scale);
  const y = Math.floor((pointer.y - place.y) / place.scale);
  if (x < 0 || y < 0 || x >= frame.fullWidth || y >= frame.fullHeight) {
    return <p class="reading">Outside of the detector.</p>;
  }
  const [value, block] = valueAt(frame, detail, x, y);
  const spacing = geometry ? `, d ${spacingAt(geometry, x, y).toFixed(2)} Å` : "";
  return (
    <p class="reading" data-testid="reading">
      x {x}, y {y}: <b>{Number.isInteger(value) ? value : compact(value)}</b>
      {block > 1 ? ` (largest of ${block} × ${block})` : ""}
      {spacing}
    </p>
  );
}

function valueAt(frame: Frame, detail: Layer | null, x: number, y: number): [number, number] {
  if (detail && detail.frame.id === frame.id) {
    const { frame: fine, x0, y0, width, height } = detail;
    if (x >= x0 && y >= y0 && x < x0 + width && y < y0 + height) {
      const row = Math.floor((y - y0) / fine.binning);
      const column = Math.floor((x - x0) / fine.binning);
      return [fine.pixels[row * fine.width + column] as number, fine.binning];
    }
  }
  const row = Math.min(Math.floor(y / frame.binning), frame.height - 1);
  const column = Math.min(Math.floor(x / frame.binning), frame.width - 1);
  return [frame.pixels[row * frame.width + column] as number, frame.binning];
}
