/** The endpoints file and how it is followed. */
import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { parseEndpointsFile } from "../../../../src/data/discovery/endpoints-file.ts";
import { FileDiscovery } from "../../../../src/data/discovery/file.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

function faultsOf(text: string): readonly string[] {
  const parsed = parseEndpointsFile(Buffer.from(text));
  return parsed.kind === "faults" ? parsed.faults : [];
}

describe("an endpoints file", () => {
  it("is YAML or JSON, with a default namespace and ports as string or number", () => {
    const yaml = `endpoints:
  - {name: a, address: 10.0.0.1, port: "8000", labels: {role: decode}}
  - name: b
    namespace: prod
    address: "fd00::1"
    port: 9000
`;
    const expected = [
      { namespace: "default", name: "a", address: "10.0.0.1", port: 8000, labels: new Map([["role", "decode"]]) },
      { namespace: "prod", name: "b", address: "fd00::1", port: 9000, labels: new Map() },
    ];
    const json = JSON.stringify({
      endpoints: [
        { name: "a", address: "10.0.0.1", port: "8000", labels: { role: "decode" } },
        { name: "b", namespace: "prod", address: "fd00::1", port: "9000" },
      ],
    });
    expect(parseEndpointsFile(Buffer.from(yaml))).toEqual({ kind: "endpoints", endpoints: expected });
    expect(parseEndpointsFile(Buffer.from(json))).toEqual({ kind: "endpoints", endpoints: expected });
    expect(parseEndpointsFile(Buffer.from("endpoints: []"))).toEqual({ kind: "endpoints", endpoints: [] });
  });

  it.each([
    ["", "the file is empty"],
    ["- a", "expected an object"],
    ["endpoints: {}", "endpoints: expected a list"],
    ["endpoints: [}", "line 1"],
    ["endpoint: []", "endpoint: unknown key"],
    ["endpoints: [1]", "endpoints[0]: expected an object"],
    ["endpoints: [{address: 10.0.0.1, port: '1'}]", "endpoints[0].name: expected"],
    ["endpoints: [{name: 5, address: 10.0.0.1, port: '1'}]", "endpoints[0].name: expected"],
    ["endpoints: [{name: a, address: worker-0, port: '1'}]", "endpoints[0].address: expected"],
    ["endpoints: [{name: a, address: '[fd00::1]', port: '1'}]", "endpoints[0].address: expected"],
    ["endpoints: [{name: a, address: 10.0.0.1}]", "endpoints[0].port: expected"],
    ["endpoints: [{name: a, address: 10.0.0.1, port: 1.5}]", "endpoints[0].port: expected"],
    ["endpoints: [{name: a, address: 10.0.0.1, port: 1, weight: 2}]", "endpoints[0].weight: unknown key"],
    ["endpoints: [{name: a, address: 10.0.0.1, port: 1, labels: {a: 1}}]", "endpoints[0].labels.a: expected a string"],
    [
      "endpoints: [{name: a, address: 10.0.0.1, port: 1}, {name: a, address: 10.0.0.2, port: 1}]",
      "default/a is there twice",
    ],
  ])("is refused when it reads %p", (text, fault) => {
    expect(faultsOf(text).join("; ")).toContain(fault);
  });

  it("is refused when it is longer than 1 MiB or expands without end", () => {
    expect(faultsOf(`endpoints: []\n#${"x".repeat(1024 * 1024)}`)).toEqual(["the file exceeds 1 MiB"]);
    const bomb = ["a0: &a0 [x]"];
    for (let depth = 1; depth < 12; depth++) bomb.push(`a${depth}: &a${depth} [${`*a${depth - 1},`.repeat(12)}]`);
    expect(faultsOf(bomb.join("\n"))).toHaveLength(1);
  });

  it("names all its faults", () => {
    expect(faultsOf("endpoints: [{name: a}, {address: 10.0.0.1, port: 1}]")).toHaveLength(3);
  });
});

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "signalbox-file-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function fileText(...names: readonly string[]): string {
  return JSON.stringify({ endpoints: names.map((name) => ({ name, address: "10.0.0.1", port: "80" })) });
}

function namesIn(store: EndpointStore): string {
  return store
    .snapshot()
    .map((endpoint) => endpoint.name.slice("default/".length))
    .join(",");
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error("the condition did not come true in time");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function follow(
  path: string,
  errors: unknown[] = [],
): Promise<{ store: EndpointStore; discovery: FileDiscovery }> {
  const store = createEndpointStore();
  const log = { ...silentLogger, error: (fields: unknown) => errors.push(fields) };
  const discovery = new FileDiscovery("file-discovery", { path, watchFile: true }, log, { settleMs: 15, pollMs: 60 });
  cleanups.push(() => discovery.close());
  await discovery.start(store);
  return { store, discovery };
}

describe("file discovery", () => {
  it.each([
    ["is absent", undefined],
    ["has a fault", "endpoints: [{name: a}]"],
  ])("does not start when the file %s", async (_case, text) => {
    const path = join(temporaryFolder(), "endpoints.yaml");
    if (text !== undefined) writeFileSync(path, text);
    const store = createEndpointStore();
    const discovery = new FileDiscovery("file-discovery", { path, watchFile: true });
    await expect(discovery.start(store)).rejects.toMatchObject({ code: "DISCOVERY_FAILED" });
    expect(store.isSynced).toBe(false);
    await discovery.close();
  });

  const changes: readonly [string, (path: string, text: string) => void][] = [
    ["written in place", (path, text) => writeFileSync(path, text)],
    [
      "written in place in two steps",
      (path, text) => {
        truncateSync(path);
        writeFileSync(path, text);
      },
    ],
    [
      "renamed over",
      (path, text) => {
        writeFileSync(`${path}.new`, text);
        renameSync(`${path}.new`, path);
      },
    ],
    [
      "deleted and created",
      (path, text) => {
        unlinkSync(path);
        writeFileSync(path, text);
      },
    ],
  ];
  it.each(changes)("follows a file that is %s, again and again", async (_how, change) => {
    const path = join(temporaryFolder(), "endpoints.json");
    writeFileSync(path, fileText("a"));
    const { store } = await follow(path);
    expect(namesIn(store)).toBe("a");
    for (const names of [["a", "b"], ["c"], ["a", "c", "d"]]) {
      change(path, fileText(...names));
      await until(() => namesIn(store) === names.join(","));
    }
  });

  it("follows the link swap of a mounted ConfigMap", async () => {
    const folder = temporaryFolder();
    for (const version of ["v1", "v2"]) {
      mkdirSync(join(folder, version));
      writeFileSync(join(folder, version, "endpoints.json"), fileText(version));
    }
    symlinkSync("v1", join(folder, "..data"));
    symlinkSync(join("..data", "endpoints.json"), join(folder, "endpoints.json"));
    const { store } = await follow(join(folder, "endpoints.json"));
    symlinkSync("v2", join(folder, "..data_tmp"));
    renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
    await until(() => namesIn(store) === "v2");
  });

  it("follows a file that is changed where its link leads", async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, "elsewhere"));
    const target = join(folder, "elsewhere", "real.json");
    writeFileSync(target, fileText("a"));
    symlinkSync(target, join(folder, "endpoints.json"));
    const { store } = await follow(join(folder, "endpoints.json"));
    writeFileSync(target, fileText("b"));
    await until(() => namesIn(store) === "b");
  });

  it.each([
    ["cannot be parsed", "endpoints: [}"],
    ["has one invalid entry", '{"endpoints":[{"name":"z","address":"10.0.0.9","port":"80"},{"name":"bad"}]}'],
    ["is empty", ""],
  ])("keeps the whole last good state when a reload %s, says why, and recovers", async (_case, text) => {
    const path = join(temporaryFolder(), "endpoints.json");
    writeFileSync(path, fileText("a", "b"));
    const errors: unknown[] = [];
    const { store, discovery } = await follow(path, errors);
    const before = store.snapshot();
    writeFileSync(path, text);
    await until(() => discovery.state().faults.length > 0);
    expect(store.snapshot()).toBe(before);
    expect(errors).toHaveLength(1);
    writeFileSync(path, fileText("c"));
    await until(() => namesIn(store) === "c");
    expect(discovery.state()).toMatchObject({ endpoints: 1, loads: 2, faults: [] });
  });

  it("keeps the last good state while the file is gone", async () => {
    const path = join(temporaryFolder(), "endpoints.json");
    writeFileSync(path, fileText("a"));
    const { store, discovery } = await follow(path);
    unlinkSync(path);
    await until(() => discovery.state().faults.length > 0);
    expect(discovery.state().faults).toEqual(["cannot be read: ENOENT"]);
    expect(namesIn(store)).toBe("a");
  });

  it("is not put off by a folder that is never at rest", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "endpoints.json");
    writeFileSync(path, fileText("a"));
    const { store } = await follow(path);
    const noise = setInterval(() => writeFileSync(join(folder, "noise"), String(performance.now())), 2);
    cleanups.push(() => clearInterval(noise));
    writeFileSync(path, fileText("b"));
    await until(() => namesIn(store) === "b");
  });
});
