// Draws one picture by WebGL2: values go up as they are, levels and colours are the shader's, so
// that changing them costs no round trip. Pixels are never smoothed.
import { table, type MapName } from "./colours";
import type { Frame } from "./frame";

const VERTEX = `#version 300 es
uniform vec4 u_box;
out vec2 v_at;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  v_at = corner;
  gl_Position = vec4(mix(u_box.xy, u_box.zw, corner), 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D u_values;
uniform sampler2D u_map;
uniform vec2 u_levels;
uniform float u_mask;
uniform bool u_log;
in vec2 v_at;
out vec4 colour;
void main() {
  vec2 size = vec2(textureSize(u_values, 0));
  float value = texelFetch(u_values, ivec2(min(v_at * size, size - 1.0)), 0).r;
  if (isnan(value) || isinf(value) || value >= u_mask) {
    float stripe = mod(gl_FragCoord.x + gl_FragCoord.y, 8.0) < 4.0 ? 0.35 : 0.5;
    colour = vec4(vec3(stripe), 1.0);
    return;
  }
  float share = u_log
    ? log(1.0 + max(value - u_levels.x, 0.0)) / log(1.0 + u_levels.y - u_levels.x)
    : (value - u_levels.x) / (u_levels.y - u_levels.x);
  colour = texture(u_map, vec2((clamp(share, 0.0, 1.0) * 255.0 + 0.5) / 256.0, 0.5));
}`;

export interface Look {
  low: number;
  high: number;
  log: boolean;
  map: MapName;
  /** Values from here on are no measurements (gaps, dead pixels). */
  mask: number;
}

/** Where the detector is on the canvas: screen pixels per detector pixel, and its corner. */
export interface Place {
  scale: number;
  x: number;
  y: number;
}

/** A picture and the detector pixels that it shows. */
export interface Layer {
  frame: Frame;
  x0: number;
  y0: number;
  width: number;
  height: number;
}

/** All of a detector. */
export function whole(frame: Frame): Layer {
  return { frame, x0: 0, y0: 0, width: frame.fullWidth, height: frame.fullHeight };
}

export class Painter {
  private readonly gl: WebGL2RenderingContext;
  private readonly program: WebGLProgram;
  private readonly values = new WeakMap<Frame, WebGLTexture>();
  private readonly colours: WebGLTexture;
  private shown: MapName | null = null;

  /** Throws where there is no WebGL2. */
  constructor(private readonly canvas: HTMLCanvasElement) {
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL2, which pictures are drawn with");
    this.gl = gl;
    this.program = link(gl);
    this.colours = texture(gl);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  }

  /** Draw pictures over each other, the last one on top. */
  draw(layers: readonly Layer[], look: Look, place: Place): void {
    const { gl, canvas, program } = this;
    this.colour(look.map);
    const at = (name: string) => gl.getUniformLocation(program, name);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(program);
    gl.uniform1i(at("u_values"), 0);
    gl.uniform1i(at("u_map"), 1);
    gl.uniform2f(at("u_levels"), look.low, look.high);
    gl.uniform1f(at("u_mask"), look.mask);
    gl.uniform1i(at("u_log"), look.log ? 1 : 0);
    const x = (value: number) => (2 * (place.x + value * place.scale)) / canvas.width - 1;
    const y = (value: number) => 1 - (2 * (place.y + value * place.scale)) / canvas.height;
    for (const { frame, x0, y0, width, height } of layers) {
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_2D, this.loaded(frame));
      gl.uniform4f(at("u_box"), x(x0), y(y0), x(x0 + width), y(y0 + height));
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
  }

  /** Give the memory of a picture back that is not drawn any more. */
  drop(frame: Frame): void {
    const texture = this.values.get(frame);
    if (texture) this.gl.deleteTexture(texture);
    this.values.delete(frame);
  }

  private loaded(frame: Frame): WebGLTexture {
    const { gl } = this;
    const known = this.values.get(frame);
    if (known) return known;
    const made = texture(gl);
    const { width, height, pixels } = frame;
    const data = pixels instanceof Float32Array ? pixels : Float32Array.from(pixels);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, width, height, 0, gl.RED, gl.FLOAT, data);
    this.values.set(frame, made);
    return made;
  }

  private colour(map: MapName): void {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.colours);
    if (this.shown !== map) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table(map));
      this.shown = map;
    }
  }
}

function texture(gl: WebGL2RenderingContext): WebGLTexture {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
    gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  }
  for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) {
    gl.texParameteri(gl.TEXTURE_2D, wrap, gl.CLAMP_TO_EDGE);
  }
  return made;
}

function link(gl: WebGL2RenderingContext): WebGLProgram {
  const program = gl.createProgram();
  for (const [kind, text] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(kind);
    if (!shader) throw new Error("the browser makes no shader");
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    throw new Error(`the browser does not draw: ${gl.getProgramInfoLog(program) ?? ""}`);
  }
  return program;
}
