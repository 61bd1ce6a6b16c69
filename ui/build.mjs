// Builds the page into a folder (src/beamstream/monitor/web beside this one, or --out FOLDER):
// index.html and assets whose names hold a digest of their content, with gzip'd copies.
// --tests builds the unit tests instead; `node --test` runs them.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const GZIP_NBYTES_MAX = 80_000;

const common = {
  bundle: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  target: "es2022",
  format: "esm",
  logLevel: "warning",
};

async function buildTests() {
  const tests = readdirSync(join(here, "tests")).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    platform: "node",
    packages: "external",
    outdir: join(here, ".tests"),
    outExtension: { ".js": ".test.mjs" },
    entryPoints: tests.map((name) => ({
      in: join(here, "tests", name),
      out: name.replace(".test.ts", ""),
    })),
  });
}

async function buildPage(out) {
  const result = await build({
    ...common,
    minify: true,
    write: false,
    entryPoints: { app: join(here, "src/main.tsx") },
    outdir: "assets",
    legalComments: "eof",
  });
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, "assets"), { recursive: true });
  const names = {};
  let gzipped = 0;
  for (const file of result.outputFiles) {
    const kind = file.path.endsWith(".css") ? "css" : "js";
    const digest = createHash("sha256").update(file.contents).digest("hex").slice(0, 12);
    names[kind] = `app-${digest}.${kind}`;
    gzipped += put(join(out, "assets", names[kind]), file.contents);
  }
  const html = readFileSync(join(here, "index.html"), "utf8")
    .replace("app.js", names.js)
    .replace("app.css", names.css);
  gzipped += put(join(out, "index.html"), Buffer.from(html));
  if (gzipped > GZIP_NBYTES_MAX) {
    throw new Error(`the page has ${gzipped} bytes gzip'd, ${GZIP_NBYTES_MAX} are allowed`);
  }
  console.log(`page: ${gzipped} bytes gzip'd`);
}

function put(path, contents) {
  const packed = gzipSync(contents, { level: 9 });
  writeFileSync(path, contents);
  writeFileSync(`${path}.gz`, packed);
  return packed.length;
}

if (process.argv.includes("--tests")) {
  await buildTests();
} else {
  const at = process.argv.indexOf("--out");
  await buildPage(at < 0 ? join(here, "../src/beamstream/monitor/web") : process.argv[at + 1]);
}
