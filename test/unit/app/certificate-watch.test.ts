import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { type CertificateWatch, watchCertificates } from "../../../src/app/certificate-watch.ts";
import type { TlsMaterial } from "../../../src/net/grpc/transport.ts";
import { createSelfSigned } from "../../../src/net/tls.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "certificates-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

function write(material: TlsMaterial, folder = directory): void {
  writeFileSync(join(folder, "tls.crt"), material.cert);
  writeFileSync(join(folder, "tls.key"), material.key);
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("watching certificates", () => {
  let watcher: CertificateWatch | undefined;
  let seen: TlsMaterial[];
  let faults: string[];

  beforeEach(() => {
    seen = [];
    faults = [];
  });

  afterEach(async () => {
    await watcher?.close();
    watcher = undefined;
  });

  async function watch(current: TlsMaterial): Promise<void> {
    watcher = await watchCertificates(
      directory,
      (material) => seen.push(material),
      (error) => faults.push((error as Error).message),
      { current, timing: { settleMs: 20, pollMs: 50 } },
    );
  }

  it("hands on a new pair, and neither half of it before the other", async () => {
    const first = await createSelfSigned();
    const second = await createSelfSigned();
    write(first);
    await watch(first);
    writeFileSync(join(directory, "tls.crt"), second.cert);
    await until("the fault", () => faults.length === 1);
    expect(seen).toEqual([]);
    writeFileSync(join(directory, "tls.key"), second.key);
    await until("the new pair", () => seen.length === 1);
    expect(seen).toEqual([second]);
    expect(faults).toEqual([expect.stringMatching(/tls\.key is no private key/)]);
  });

  it("follows the symbolic links that Kubernetes swaps", async () => {
    const pairs = [await createSelfSigned(), await createSelfSigned(), await createSelfSigned()];
    const publish = (index: number): void => {
      const version = `..version-${index}`;
      mkdirSync(join(directory, version));
      write(pairs[index] as TlsMaterial, join(directory, version));
      symlinkSync(version, join(directory, "..data_tmp"));
      renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
      if (index > 0) rmSync(join(directory, `..version-${index - 1}`), { recursive: true });
    };
    publish(0);
    symlinkSync("..data/tls.crt", join(directory, "tls.crt"));
    symlinkSync("..data/tls.key", join(directory, "tls.key"));
    await watch(pairs[0] as TlsMaterial);
    publish(1);
    await until("the second pair", () => seen.length === 1);
    publish(2);
    await until("the third pair", () => seen.length === 2);
    expect(seen).toEqual(pairs.slice(1));
  });

  it("sees what changed between the first load and its start", async () => {
    const loaded = await createSelfSigned();
    const written = await createSelfSigned();
    write(written);
    await watch(loaded);
    await until("the pair", () => seen.length === 1);
    expect(seen).toEqual([written]);
  });

  it("finds a folder again that was away", async () => {
    const first = await createSelfSigned();
    const second = await createSelfSigned();
    write(first);
    await watch(first);
    rmSync(directory, { recursive: true });
    await until("the fault", () => faults.length >= 1);
    mkdirSync(directory);
    write(second);
    await until("the new pair", () => seen.length === 1);
    expect(seen).toEqual([second]);
  });

  it("says nothing after it was closed", async () => {
    const first = await createSelfSigned();
    write(first);
    await watch(first);
    await watcher?.close();
    const later: TlsMaterial[] = [];
    const timing = { settleMs: 20, pollMs: 50 };
    watcher = await watchCertificates(
      directory,
      (material) => later.push(material),
      () => {},
      { current: first, timing },
    );
    write(await createSelfSigned());
    await until("the watcher beside it", () => later.length === 1);
    expect(seen).toEqual([]);
    expect(faults).toEqual([]);
  });
});
