/**
 * How two replicas know each other: a secret that only they have (TLS with a pre-shared key, RFC 5489: both sides prove it, and what they say is
 * encrypted), or nothing, on a network that nobody else reaches. A file may hold several secrets, so that one follows the other without a gap.
 */
import { hkdfSync } from "node:crypto";
import type { ConnectionOptions, TlsOptions as ServerTls } from "node:tls";

/** Fresh keys for each connection, so that a secret that leaks later opens nothing that was said before. */
const ciphers = "ECDHE-PSK-CHACHA20-POLY1305";
/** Pre-shared keys of Node are those of TLS 1.2. */
const version = { minVersion: "TLSv1.2", maxVersion: "TLSv1.2" } as const;
const shortestSecret = 16;

interface Key {
  /** Says which of several keys is meant, and nothing about it. */
  readonly identity: string;
  readonly bytes: Buffer;
}

/** The file of the secret holds none that could be used. */
export class PeerSecretError extends Error {
  readonly code = "BAD_PEER_SECRET";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "PeerSecretError";
  }
}

/** The secrets of one file, replaced whenever the file changes. The first is used to call; any of them to answer. */
export class PeerSecret {
  #keys: readonly Key[];

  /** Throws PeerSecretError. */
  constructor(text: string) {
    this.#keys = keysOf(text);
  }

  /** Throws PeerSecretError, and keeps what it has. */
  replace(text: string): void {
    this.#keys = keysOf(text);
  }

  serverOptions(): ServerTls {
    return {
      ciphers,
      ...version,
      pskCallback: (_socket: unknown, identity: string) =>
        this.#keys.find((key) => key.identity === identity)?.bytes ?? null,
    };
  }

  clientOptions(): ConnectionOptions {
    return {
      ciphers,
      ...version,
      // Without certificates there is no name to check: the key is the proof.
      checkServerIdentity: () => undefined,
      pskCallback: () => {
        const [key] = this.#keys;
        return key === undefined ? null : { psk: key.bytes, identity: key.identity };
      },
    };
  }
}

function keysOf(text: string): readonly Key[] {
  const secrets = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (secrets.length === 0) throw new PeerSecretError("there is no secret in it");
  const short = secrets.find((secret) => secret.length < shortestSecret);
  if (short !== undefined) throw new PeerSecretError(`a secret has at least ${shortestSecret} characters`);
  return secrets.map((secret) => ({
    identity: derived(secret, "signalbox peer identity", 8).toString("hex"),
    bytes: derived(secret, "signalbox peer key", 32),
  }));
}

function derived(secret: string, purpose: string, length: number): Buffer {
  return Buffer.from(hkdfSync("sha256", secret, "", purpose, length));
}
