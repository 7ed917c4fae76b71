import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import type { TlsMaterial } from "../../../src/net/grpc/transport.ts";
import { createSelfSigned, loadCertificates } from "../../../src/net/tls.ts";

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
