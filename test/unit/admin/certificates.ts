/** A certificate authority made for a test, and what it signs. */
import { generate } from "selfsigned";

export interface Pair {
  readonly key: string;
  readonly cert: string;
}

const ec = { keyType: "ec", curve: "P-256", algorithm: "sha256" } as const;

export async function createAuthority(): Promise<Pair> {
  const pair = await generate([{ name: "commonName", value: "test authority" }], {
    ...ec,
    extensions: [
      { name: "basicConstraints", cA: true },
      { name: "keyUsage", keyCertSign: true, digitalSignature: true },
    ],
  });
  return { key: pair.private, cert: pair.cert };
}

/** A pair for 127.0.0.1 and for clients. */
export async function signed(authority: Pair, name = "leaf"): Promise<Pair> {
  const pair = await generate([{ name: "commonName", value: name }], {
    ...ec,
    ca: authority,
    extensions: [
      { name: "basicConstraints", cA: false },
      { name: "keyUsage", digitalSignature: true },
      { name: "extKeyUsage", serverAuth: true, clientAuth: true },
      { name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] },
    ],
  });
  return { key: pair.private, cert: pair.cert };
}
