import { X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import type { TlsMaterial } from "../../../src/net/grpc/transport.ts";
import { createSelfSigned, loadCertificates } from "../../../src/net/tls.ts";
import { type CertificateWatcher, watchCertificates } from "../../../src/net/tls-watch.ts";

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
  const deadlineMs = performance.now() + 4_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("a self-signed pair", () => {
  it("is an EC P-256 certificate for localhost that TLS accepts", async () => {
    const pair = await createSelfSigned({ minVersion: "TLSv1.3" });
    const certificate = new X509Certificate(pair.cert);
    expect(certificate.publicKey.asymmetricKeyDetails?.namedCurve).toBe("prime256v1");
    expect(certificate.checkHost("localhost")).toBe("localhost");
    expect(certificate.checkIP("127.0.0.1")).toBe("127.0.0.1");
    expect(certificate.ca).toBe(false);
    expect(pair.minVersion).toBe("TLSv1.3");
    expect(() => createSecureContext(pair)).not.toThrow();
  });

  it("is a new one each time", async () => {
    expect((await createSelfSigned()).key).not.toBe((await createSelfSigned()).key);
  });
});

describe("loading certificates", () => {
  it("reads tls.crt and tls.key", async () => {
    const pair = await createSelfSigned();
    write(pair);
    expect(await loadCertificates(directory, { minVersion: "TLSv1.3" })).toEqual({ ...pair, minVersion: "TLSv1.3" });
  });

  it.each([
    ["a missing certificate", () => rmSync(join(directory, "tls.crt")), /cannot read .*tls\.crt: ENOENT/],
    ["a missing key", () => rmSync(join(directory, "tls.key")), /cannot read .*tls\.key: ENOENT/],
    [
      "a certificate that is none",
      () => writeFileSync(join(directory, "tls.crt"), "x"),
      /tls\.crt is no PEM certificate/,
    ],
    [
      "a key that is none",
      () => writeFileSync(join(directory, "tls.key"), "x"),
      /tls\.key is no private key for .*tls\.crt/,
    ],
  ])("names the file of %s", async (_name, spoil, message) => {
    write(await createSelfSigned());
    spoil();
    await expect(loadCertificates(directory)).rejects.toMatchObject({
      name: "CertificateError",
      message: expect.stringMatching(message),
    });
  });

  it("refuses a key of another certificate", async () => {
    write({ ...(await createSelfSigned()), key: (await createSelfSigned()).key });
    await expect(loadCertificates(directory)).rejects.toMatchObject({ code: "BAD_CERTIFICATE" });
  });

  it("refuses a cipher list that TLS does not know", async () => {
    write(await createSelfSigned());
    await expect(loadCertificates(directory, { ciphers: "NO-SUCH-CIPHER" })).rejects.toMatchObject({
      message: expect.stringMatching(/cipher list is not accepted/),
    });
  });
});

describe("watching certificates", () => {
  let watcher: CertificateWatcher | undefined;
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

  function watch(current: TlsMaterial, pollIntervalMs?: number): void {
    watcher = watchCertificates(
      directory,
      (material) => seen.push(material),
      (error) => faults.push((error as Error).message),
      { current, ...(pollIntervalMs === undefined ? {} : { pollIntervalMs }) },
    );
  }

  it("hands on a new pair, and neither half of it before the other", async () => {
    const first = await createSelfSigned();
    const second = await createSelfSigned();
    write(first);
    watch(first);
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
    watch(pairs[0] as TlsMaterial);
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
    watch(loaded);
    await until("the pair", () => seen.length === 1);
    expect(seen).toEqual([written]);
  });

  it("finds a folder again that was away", async () => {
    const first = await createSelfSigned();
    const second = await createSelfSigned();
    write(first);
    watch(first, 20);
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
    watch(first, 10);
    await watcher?.close();
    write(await createSelfSigned());
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(seen).toEqual([]);
    expect(faults).toEqual([]);
  });
});
