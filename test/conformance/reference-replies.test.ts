/**
 * The reference picker's own replies to a table of requests and answers, recorded from it (test/fixtures/reference/replies.json): with its header echo
 * and its plain-text errors switched on, this picker sends the same. What is decided otherwise (docs/compatibility.md) is not in the table.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import type { ProcessingRequest } from "../../src/gen/external_processor.ts";
import {
  connectExtProc,
  type ExtProc,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
  responseTrailers,
} from "./ext-proc-client.ts";
import { type FakeEngines, startFakeEngines } from "./fake-engines.ts";

type Sent = { readonly endOfStream?: boolean; readonly subset?: readonly string[] } & (
  | {
      readonly kind: "requestHeaders" | "responseHeaders";
      readonly headers: Readonly<Record<string, string>>;
      readonly raw?: boolean;
    }
  | { readonly kind: "requestBody" | "responseBody"; readonly body: string }
  | { readonly kind: "responseTrailers" }
);

interface Recorded {
  readonly cases: readonly { readonly name: string; readonly send: readonly Sent[]; readonly replies: unknown }[];
}

const recorded = JSON.parse(
  await readFile(join(import.meta.dirname, "../fixtures/reference/replies.json"), "utf8"),
) as Recorded;
const minted = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

function messageOf(sent: Sent, address: string): ProcessingRequest {
  const subset = sent.subset?.map((entry) => entry.replace("EP", address));
  const options = { endOfStream: sent.endOfStream ?? false, subset };
  switch (sent.kind) {
    case "requestHeaders":
      return requestHeaders(sent.headers, { ...options, raw: sent.raw ?? true });
    case "responseHeaders":
      return responseHeaders(sent.headers, { ...options, raw: sent.raw ?? true });
    case "requestBody":
      return requestBody(sent.body, options);
    case "responseBody":
      return responseBody(sent.body, options);
    case "responseTrailers":
      return responseTrailers;
    default:
      return sent satisfies never;
  }
}

/** As the table writes it: minted ids and the address by their placeholders, without what this picker adds to a refusal. */
function shown(reply: Reply, address: string): unknown {
  const text = JSON.stringify(reply).replaceAll(address, "EP");
  const plain = JSON.parse(text) as { kind: string; set?: Record<string, string>; metadata?: unknown };
  for (const [name, value] of Object.entries(plain.set ?? {})) {
    if (plain.set !== undefined && minted.test(value)) plain.set[name] = "<uuid>";
  }
  if (plain.kind === "immediate") {
    delete plain.set?.["content-type"];
    delete plain.set?.["retry-after"];
  }
  return plain;
}

describe.each(["http2", "grpc-js"])("the reference's replies over %s", (transport) => {
  let engines: FakeEngines;
  let picker: Child<EppPorts>;
  let extProc: ExtProc;
  let address = "";

  beforeAll(async () => {
    engines = await startFakeEngines(1);
    address = engines.engines[0]?.address ?? "";
    picker = await startEppChild([
      `--endpoints=${address}`,
      `--transport=${transport}`,
      "--secure-serving=false",
      "--drain-timeout=0s",
      "--error-format=text",
      "--echo-request-headers",
    ]);
    extProc = connectExtProc(picker.ready.grpcPort, false);
  }, 30_000);

  afterAll(async () => {
    extProc.close();
    await picker.close();
    await engines.close();
  });

  it.each(recorded.cases)("$name", async ({ send, replies }) => {
    const expected = replies as readonly unknown[];
    const messages = send.map((sent) => messageOf(sent, address));
    const got = await extProc.exchange(messages, expected.length);
    expect(got.map((reply) => shown(reply, address))).toEqual(expected);
  });
});
