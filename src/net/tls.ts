/** Certificates of our servers: a self-signed pair made at start, or tls.crt and tls.key of a folder. A pair is only handed on when TLS accepts it. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import type { TlsMaterial } from "./grpc/transport.ts";

const certificateFile = "tls.crt";
const keyFile = "tls.key";
const selfSignedDays = 3650;
const dayMs = 24 * 60 * 60 * 1000;

/** What the operator says about TLS besides the pair. */
export interface TlsLimits {
  readonly minVersion?: "TLSv1.2" | "TLSv1.3";
  /** OpenSSL's cipher list. */
  readonly ciphers?: string;
}

/** The files of a certificate cannot be used; the message names them. */
export class CertificateError extends Error {
  readonly code = "BAD_CERTIFICATE";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CertificateError";
  }
}

/** A new EC P-256 pair for localhost, for gateways that encrypt without checking (the reference's default). */
export async function createSelfSigned(limits: TlsLimits = {}): Promise<TlsMaterial> {
  // Loaded here: a server with its own certificate need not pay for it.
  const { generate } = await import("selfsigned");
  const pair = await generate([{ name: "commonName", value: "signalbox" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notAfterDate: new Date(Date.now() + selfSignedDays * dayMs),
    extensions: [
      { name: "basicConstraints", cA: false },
      { name: "keyUsage", digitalSignature: true, keyEncipherment: true },
      { name: "extKeyUsage", serverAuth: true },
      {
        name: "subjectAltName",
        altNames: [
          { type: 2, value: "localhost" },
          { type: 7, ip: "127.0.0.1" },
          { type: 7, ip: "::1" },
        ],
      },
    ],
  });
  return { key: pair.private, cert: pair.cert, ...limits };
}

/** Reads tls.crt and tls.key of a folder. Throws CertificateError when a file is missing or the two are no valid pair. */
export async function loadCertificates(directory: string, limits: TlsLimits = {}): Promise<TlsMaterial> {
  const certPath = join(directory, certificateFile);
  const keyPath = join(directory, keyFile);
  // One after the other, so that the same missing file is named every time.
  const cert = await readText(certPath);
  const key = await readText(keyPath);
  try {
    createSecureContext({ cert });
  } catch (cause) {
    throw new CertificateError(`${certPath} is no PEM certificate: ${reasonOf(cause)}`, { cause });
  }
  try {
    createSecureContext({ cert, key });
  } catch (cause) {
    throw new CertificateError(`${keyPath} is no private key for ${certPath}: ${reasonOf(cause)}`, { cause });
  }
  const material = { key, cert, ...limits };
  try {
    createSecureContext(material);
  } catch (cause) {
    throw new CertificateError(`the TLS version or cipher list is not accepted: ${reasonOf(cause)}`, { cause });
  }
  return material;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new CertificateError(`cannot read ${path}: ${reasonOf(cause)}`, { cause });
  }
}

function reasonOf(cause: unknown): string {
  const { code, message } = cause as { code?: unknown; message?: unknown };
  return String(message ?? code ?? cause);
}
