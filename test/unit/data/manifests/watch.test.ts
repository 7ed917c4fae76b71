import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { type ManifestWatch, maxManifestFileBytes, watchManifests } from "../../../../src/data/manifests/watch.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

let folder: string;
let manifests: ManifestWatch | undefined;
let errors: unknown[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "manifests-"));
  errors = [];
});
afterEach(async () => {
  await manifests?.close();
  manifests = undefined;
  await rm(folder, { recursive: true, force: true });
});

async function start(): Promise<ManifestWatch> {
  manifests = await watchManifests(folder, {
    pool: { name: "pool", group: "inference.networking.k8s.io", namespace: "default" },
    log: { ...silentLogger, error: (fields) => errors.push(fields) },
    watch: { settleMs: 5, pollMs: 20 },
  });
  return manifests;
}

const objective = (name: string, priority: number | string) =>
  `apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {name: ${name}}\nspec: {priority: ${priority}, poolRef: {name: pool}}\n`;

const put = (name: string, text: string) => writeFile(join(folder, name), text);
const priorities = (watch: ManifestWatch) =>
  Object.fromEntries([...watch.objects().objectives].map(([name, { priority }]) => [name, priority]));

/** Looks until the condition holds; fails with the last state after a deadline. */
async function until(state: () => unknown, expected: unknown): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (JSON.stringify(state()) !== JSON.stringify(expected) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  expect(state()).toEqual(expected);
}

describe("a folder of manifests", () => {
  it("is read before the watch is handed out, in the order of the names", async () => {
    await put("b.yaml", objective("twice", 2));
    await put("a.yaml", objective("twice", 1));
    await put("notes.txt", "not: [a manifest");
    const watch = await start();
    expect(priorities(watch)).toEqual({ twice: 1 });
    expect(watch.faults()).toEqual([]);
  });

  it("that does not exist is an error at once", async () => {
    await expect(
      watchManifests(join(folder, "absent"), {
        pool: { name: "", group: "", namespace: "" },
        log: silentLogger,
      }),
    ).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("follows files that are written, added, renamed over and deleted", async () => {
    await put("a.yaml", objective("a", 1));
    const watch = await start();
    await put("a.yaml", objective("a", 2));
    await until(() => priorities(watch), { a: 2 });
    await put("b.yaml", objective("b", 3));
    await until(() => priorities(watch), { a: 2, b: 3 });
    await put("next", objective("a", 4));
    await rename(join(folder, "next"), join(folder, "a.yaml"));
    await until(() => priorities(watch), { a: 4, b: 3 });
    await rm(join(folder, "a.yaml"));
    await until(() => priorities(watch), { b: 3 });
  });

  it("follows a symbolic link that is swapped on the way, as a mounted ConfigMap does", async () => {
    await mkdir(join(folder, "..v1"));
    await mkdir(join(folder, "..v2"));
    await put("..v1/a.yaml", objective("a", 1));
    await put("..v2/a.yaml", objective("a", 2));
    await symlink("..v1", join(folder, "..data"));
    await symlink("..data/a.yaml", join(folder, "a.yaml"));
    const watch = await start();
    expect(priorities(watch)).toEqual({ a: 1 });
    await symlink("..v2", join(folder, "..tmp"));
    await rename(join(folder, "..tmp"), join(folder, "..data"));
    await until(() => priorities(watch), { a: 2 });
  });

  it("keeps what a file last held when it turns bad, says why, and takes other files' changes", async () => {
    await put("a.yaml", objective("a", 1));
    await put("b.yaml", objective("b", 1));
    const watch = await start();
    await put("a.yaml", objective("a", "high"));
    await put("b.yaml", objective("b", 2));
    await until(() => priorities(watch), { a: 1, b: 2 });
    await until(
      () => watch.faults(),
      ['a.yaml: document 1: spec.priority: expected an integer from -2147483648 to 2147483647, found "high"'],
    );
    expect(errors).toHaveLength(1);
    await put("a.yaml", objective("a", 5));
    await until(() => priorities(watch), { a: 5, b: 2 });
    expect(watch.faults()).toEqual([]);
  });

  it("begins without the objects of a bad file and takes them once it is good", async () => {
    await put("a.yaml", "kind: [");
    await put("b.yaml", objective("b", 1));
    const watch = await start();
    expect([priorities(watch), watch.faults().length]).toEqual([{ b: 1 }, 1]);
    await put("a.yaml", objective("a", 1));
    await until(() => priorities(watch), { a: 1, b: 1 });
  });

  it("refuses a file that is too large", async () => {
    await put("a.yaml", `${objective("a", 1)}#${"x".repeat(maxManifestFileBytes)}`);
    const watch = await start();
    expect([priorities(watch), watch.faults()]).toEqual([{}, [`a.yaml: larger than ${maxManifestFileBytes} bytes`]]);
  });

  it("that goes away keeps what it last held, says so, and is read again when it is back", async () => {
    await put("a.yaml", objective("a", 1));
    const watch = await start();
    await rename(folder, `${folder}-gone`);
    await until(() => watch.faults().length, 1);
    expect([priorities(watch), watch.faults()[0]]).toEqual([{ a: 1 }, expect.stringMatching(/cannot read the folder/)]);
    await rename(`${folder}-gone`, folder);
    await until(() => watch.faults(), []);
    await put("a.yaml", objective("a", 2));
    await until(() => priorities(watch), { a: 2 });
  });

  it("is one value until something changes", async () => {
    await put("a.yaml", objective("a", 1));
    const watch = await start();
    const before = watch.objects();
    await put("b.yaml", objective("b", 1));
    await until(() => watch.objects() === before, false);
    expect(watch.objects()).toBe(watch.objects());
    expect(before.objectives.size).toBe(1);
  });

  it("is left alone once it is closed", async () => {
    const closed = await start();
    await closed.close();
    const open = await start();
    await put("a.yaml", objective("a", 1));
    await until(() => priorities(open), { a: 1 });
    // The closed watch looked just as often while it was open.
    await put("a.yaml", objective("a", 2));
    await until(() => priorities(open), { a: 2 });
    expect(priorities(closed)).toEqual({});
  });
});
