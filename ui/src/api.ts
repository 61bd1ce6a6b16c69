// Questions to the monitor. Paths are relative to the page, so it works behind any prefix.
import { route } from "./route";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

export function apiUrl(path: string, query: Record<string, string | number> = {}): string {
  const url = new URL(`../api/v1/${path}`, document.baseURI);
  const node = route.value.query["node"];
  if (node) url.searchParams.set("node", node);
  for (const [key, value] of Object.entries(query)) url.searchParams.set(key, String(value));
  return url.href;
}

async function answered(response: Response): Promise<Response> {
  if (response.ok) return response;
  let code = "";
  let message = `the monitor answered ${response.status}`;
  let hint = "";
  try {
    const told = (await response.json()) as { code?: string; message?: string; hint?: string };
    code = told.code ?? "";
    message = told.message ?? message;
    hint = told.hint ?? "";
  } catch {
    // Not a document of ours: the status says it.
  }
  throw new ApiError(response.status, code, message, hint);
}

export async function get<T>(
  path: string,
  query: Record<string, string | number> = {},
  signal?: AbortSignal,
): Promise<T> {
  const response = await answered(await fetch(apiUrl(path, query), signal ? { signal } : {}));
  return (await response.json()) as T;
}

export async function getBytes(
  path: string,
  query: Record<string, string | number> = {},
  signal?: AbortSignal,
): Promise<ArrayBuffer> {
  const response = await answered(await fetch(apiUrl(path, query), signal ? { signal } : {}));
  return response.arrayBuffer();
}

export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const response = await answered(
    await fetch(apiUrl(path), {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Beamstream": "1" },
      body: JSON.stringify(body),
    }),
  );
  return (await response.json()) as T;
}
