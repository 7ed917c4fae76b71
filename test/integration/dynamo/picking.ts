/**
 * The running picker before Dynamo peers: asked over ext_proc as a gateway in full duplex asks, and looked into through its debug pages. What a
 * frontend would answer is said by the test, since peers serve nothing.
 */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { type Child, type EppPorts, startEppChild } from "../../../src/app/child.ts";
import {
  type Conversation,
  connectExtProc,
  type ExtProc,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "../../conformance/ext-proc-client.ts";
import { peerModel } from "../../dynamo-peer/card.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";

export interface PickingOptions {
  readonly transport?: "http2" | "grpc-js";
  readonly args?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Parameters of dynamo-discovery and of dynamo-prefill-router. */
  readonly discovery?: Readonly<Record<string, unknown>>;
  readonly router?: Readonly<Record<string, unknown>>;
  /** False: ready or not, it is there when this resolves. */
  readonly awaitReady?: boolean;
}

export interface Ask {
  readonly tokens?: readonly number[];
  /** Replaces the whole body. */
  readonly body?: Readonly<Record<string, unknown>>;
  readonly rawBody?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly model?: string;
}

type HeadersReply = Extract<Reply, { readonly kind: "requestHeaders" | "responseHeaders" }>;
type Refusal = Extract<Reply, { readonly kind: "immediate" }>;

/** A request that was sent on; whoever asked ends it by one of the three. */
export interface Sent {
  readonly kind: "sent";
  readonly reply: HeadersReply;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Ids of the workers it is bound to; prefill undefined where there is none. */
  readonly decode: string | undefined;
  readonly prefill: string | undefined;
  /** The frontend's whole answer passes. */
  answered(status?: number): Promise<void>;
  /** Headers and first byte of the answer have passed; the rest has not. */
  began(): Promise<void>;
  /** The client has left. */
  cancel(): void;
}

export type Asked = Sent | { readonly kind: "refused"; readonly refusal: Refusal };

/** A request that waits in the picker's queue, or will be answered in a moment. */
export interface Pending {
  readonly outcome: Promise<Asked>;
  cancel(): void;
}

export interface LoadView {
  readonly workerId: string;
  readonly activeRequests: number;
  readonly activePrefillTokens: number;
  readonly activeDecodeBlocks: number;
}

export interface SetView {
  readonly set: string;
  readonly isReady: boolean;
  readonly suspects: readonly string[];
  readonly index: { readonly heldBlocks: number } | null;
  readonly router: {
    readonly topology: string;
    readonly bookings: number;
    readonly loads: Readonly<Record<"prefill" | "decode", readonly LoadView[]>>;
    readonly queue: readonly { readonly requests: number }[];
    readonly sessions: { readonly prefill: number; readonly decode: number };
    readonly counters: Readonly<Record<string, number>>;
    readonly workers: readonly unknown[];
  };
  readonly sharedCache: {
    readonly stages: Readonly<
      Record<
        "prefill" | "decode",
        { readonly state: string; readonly reason: string | null; readonly pages: number; readonly sequence: number }
      >
    >;
    readonly counters: Readonly<Record<string, number>>;
  } | null;
  readonly events: Readonly<Record<string, unknown>> & {
    readonly sources: readonly { readonly state: string; readonly cursor: number; readonly isDegraded: boolean }[];
  };
}

export interface DiscoveryView {
  readonly isStale: boolean;
  readonly malformedRecords: number;
  readonly faults: readonly unknown[];
  readonly sets: readonly {
    readonly key: string;
    readonly namespace: string;
    readonly state: string;
    readonly reason: string;
    readonly topology: string;
    readonly files: unknown;
    readonly workers: readonly { readonly id: string; readonly role: string }[];
    readonly rejected: readonly unknown[];
  }[];
}

export interface Match {
  readonly workerId: string;
  readonly dpRank: number;
  readonly deviceBlocks: number;
}

export interface Picking {
  readonly child: Child<EppPorts>;
  readonly frontend: string;
  readonly extProc: ExtProc;
  ask(ask?: Ask): Promise<Asked>;
  /** Asks and waits for the plan; fails when it is refused. */
  plan(ask?: Ask): Promise<Sent>;
  /** Asks again until the answer is one that `wanted` accepts. All that is planned is cancelled. */
  planUntil(what: string, ask: Ask, wanted: (asked: Asked) => boolean, deadlineMs?: number): Promise<Asked>;
  begin(ask?: Ask): Pending;
  /** Where a prompt of these tokens goes now, and how many of its blocks are known to be there. Nothing stays booked. */
  matchOf(tokens: readonly number[]): Promise<Match>;
  readonly isReady: () => Promise<boolean>;
  sets(): Promise<readonly SetView[]>;
  /** The only set there is. */
  set(): Promise<SetView>;
  discovery(): Promise<DiscoveryView>;
  /** Decimal ids of every worker in discovery, sorted. */
  workers(): Promise<readonly string[]>;
  debug<Answer>(path: string): Promise<Answer>;
  /** Lines of the metrics page that begin so. */
  metrics(prefix: string): Promise<readonly string[]>;
  /** On the same ports. */
  restart(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  /** Nothing is booked, queued or counted; fails when that does not come to be or a booking was ended by age. What has ended holds nothing. */
  idle(): Promise<void>;
  close(): Promise<void>;
}

export const frontendAddress = "127.0.0.1:8899";
const startWithinMs = 60_000;
const readyWithinMs = 20_000;
const fullDuplex = { requestBodyMode: 4, responseBodyMode: 4, sendBodyWithoutWaitingForHeaderResponse: false } as const;

export async function startPicking(
  site: Pick<PeerSite, "environment">,
  options: PickingOptions = {},
): Promise<Picking> {
  const scratch = mkdtempSync(join(tmpdir(), "signalbox-picking-"));
  const file = join(scratch, "epp.yaml");
  writeFileSync(file, stringify(configOf(options)));
  const args = [
    `--config-file=${file}`,
    `--transport=${options.transport ?? "http2"}`,
    "--secure-serving=false",
    "--drain-timeout=0s",
    "--drain-grace=1s",
    ...(options.args ?? []),
  ];
  const environment = { ...site.environment, ...options.environment };
  const removeScratch = (): void => rmSync(scratch, { recursive: true, force: true });
  let child: Child<EppPorts>;
  try {
    child = await startEppChild(args, { environment, timeoutMs: startWithinMs });
  } catch (error) {
    removeScratch();
    throw error;
  }
  const ports = child.ready;
  let extProc = connectExtProc(ports.grpcPort, false);
  const base = `http://127.0.0.1:${ports.metricsPort}`;
  const debug = async <Answer>(path: string): Promise<Answer> =>
    (await (await fetch(`${base}/debug/${path}`)).json()) as Answer;
  const state = async (): Promise<Readonly<Record<string, unknown>>> => debug("plugins/state");
  const sets = async (): Promise<readonly SetView[]> =>
    ((await state())["dynamo-prefill-router"] as { readonly sets?: readonly SetView[] } | undefined)?.sets ?? [];
  const discovery = async (): Promise<DiscoveryView> => (await state())["dynamo-discovery"] as DiscoveryView;
  const isReady = async (): Promise<boolean> => (await fetch(`${base}/readyz`)).ok;
  const begin = (ask: Ask = {}): Pending => {
    const conversation = extProc.open();
    return { outcome: outcomeOf(conversation, ask), cancel: () => conversation.cancel() };
  };
  const ask = (what: Ask = {}): Promise<Asked> => begin(what).outcome;
  const close = async (): Promise<void> => {
    extProc.close();
    await child.close();
    removeScratch();
  };
  try {
    if (options.awaitReady !== false) await eventually("the picker is ready", isReady, readyWithinMs);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    get child() {
      return child;
    },
    frontend: frontendAddress,
    get extProc() {
      return extProc;
    },
    ask,
    begin,
    async plan(what = {}) {
      const asked = await ask(what);
      if (asked.kind === "sent") return asked;
      const { status, body } = asked.refusal;
      const errors = child.lines.filter((line) => line.includes('"level":"error"'));
      throw new Error(`refused with ${status}: ${body}\n${errors.slice(-3).join("\n")}`);
    },
    async planUntil(what, request, wanted, deadlineMs) {
      let last: Asked | undefined;
      return await eventually(
        what,
        async () => {
          last = await ask(request);
          if (last.kind === "sent") last.cancel();
          return wanted(last) ? last : undefined;
        },
        deadlineMs,
      ).catch((error: unknown) => {
        throw new Error(`${what}: not so, but ${JSON.stringify(last)}`, { cause: error });
      });
    },
    async matchOf(tokens) {
      const requestId = randomUUID();
      const asked = await ask({ tokens, headers: { "x-request-id": requestId } });
      if (asked.kind === "refused") throw new Error(`refused: ${JSON.stringify(asked.refusal)}`);
      asked.cancel();
      const [decision] = await debug<readonly Decision[]>(`decisions/${requestId}`);
      const leg = decision?.plan.prefill ?? decision?.plan.decode;
      if (leg === undefined) throw new Error(`no decision about ${requestId}`);
      const { workerId, dpRank, deviceBlocks } = leg;
      return { workerId, dpRank, deviceBlocks };
    },
    isReady,
    sets,
    async set() {
      const [only, ...others] = await sets();
      if (only === undefined || others.length > 0) throw new Error(`${others.length + (only ? 1 : 0)} sets`);
      return only;
    },
    discovery,
    async workers() {
      return (await discovery()).sets.flatMap((set) => set.workers.map(({ id }) => id)).sort();
    },
    debug,
    async metrics(prefix) {
      const page = await (await fetch(`${base}/metrics`)).text();
      return page.split("\n").filter((line) => line.startsWith(prefix));
    },
    async restart(signal = "SIGTERM") {
      extProc.close();
      child.signal(signal);
      await child.close();
      child = await startEppChild(
        [
          ...args,
          `--grpc-port=${ports.grpcPort}`,
          `--grpc-health-port=${ports.healthPort}`,
          `--metrics-port=${ports.metricsPort}`,
        ],
        { environment, timeoutMs: startWithinMs },
      );
      extProc = connectExtProc(ports.grpcPort, false);
      await eventually("the picker is ready again", isReady, readyWithinMs);
    },
    async idle() {
      if (await hasEnded(child)) return;
      let left: readonly string[] = [];
      await eventually("nothing is booked", async () => {
        left = (await sets()).flatMap(leftOver);
        return left.length === 0;
      }).catch((error: unknown) => {
        throw new Error(`bookings are left: ${left.join("; ")}`, { cause: error });
      });
    },
    close,
  };
}

async function hasEnded({ exited }: Child<EppPorts>): Promise<boolean> {
  return await Promise.race([
    exited.then(() => true),
    new Promise<false>((resolve) => setImmediate(() => resolve(false))),
  ]);
}

/** Of the decision log. */
interface Decision {
  readonly plan: { readonly prefill?: Match; readonly decode: Match };
}

function configOf({ discovery, router }: PickingOptions): unknown {
  return {
    apiVersion: "llm-d.ai/v1alpha1",
    kind: "EndpointPickerConfig",
    plugins: [
      { type: "dynamo-discovery", parameters: { frontend: frontendAddress, namespace: "ns", ...discovery } },
      { type: "dynamo-prefill-router", parameters: { ...router } },
    ],
    schedulingProfiles: [{ name: "decode", plugins: [] }],
    dataLayer: { injectDefaults: false, discovery: { pluginRef: "dynamo-discovery" } },
  };
}

async function outcomeOf(conversation: Conversation, ask: Ask): Promise<Asked> {
  const { tokens = [1, 2, 3], model = peerModel, path = "/v1/completions" } = ask;
  const body = ask.rawBody ?? JSON.stringify(ask.body ?? { model, prompt: tokens, max_tokens: 4 });
  conversation.send(
    requestHeaders(
      { ":method": "POST", ":path": path, "content-type": "application/json", ...ask.headers },
      { protocolConfig: fullDuplex },
    ),
    requestBody(body),
  );
  const [first] = await conversation.replied(1);
  if (first?.kind === "immediate") {
    conversation.cancel();
    return { kind: "refused", refusal: first };
  }
  if (first?.kind !== "requestHeaders") {
    throw new Error(`neither sent nor refused: ${JSON.stringify(first)}, status ${conversation.status}`);
  }
  let count = 1;
  let text = "";
  for (let isWhole = false; !isWhole; ) {
    const replies = await conversation.replied(count + 1);
    const reply = replies[count];
    if (reply?.kind !== "requestBody") throw new Error(`no body but ${JSON.stringify(reply)}`);
    text += reply.body;
    isWhole = reply.endOfStream;
    count++;
  }
  const { set } = first;
  return {
    kind: "sent",
    reply: first,
    headers: set,
    body: text,
    decode: set["x-dynamo-worker-instance-id"],
    prefill: set["x-dynamo-prefill-instance-id"],
    async answered(status = 200) {
      conversation.send(
        responseHeaders({ ":status": String(status), "content-type": "application/json" }),
        responseBody('{"choices":[]}', { endOfStream: true }),
      );
      await conversation.replied(count + 2);
      conversation.halfClose();
      await conversation.ended();
    },
    async began() {
      conversation.send(
        responseHeaders({ ":status": "200", "content-type": "text/event-stream" }),
        responseBody("data: {}\n\n"),
      );
      await conversation.replied(count + 2);
    },
    cancel: () => conversation.cancel(),
  };
}

/** What an idle set must not have. */
function leftOver({ set, router }: SetView): string[] {
  const left: string[] = [];
  if (router.bookings !== 0) left.push(`${set}: ${router.bookings} bookings`);
  if (router.counters["reaped"] !== 0) left.push(`${set}: ${router.counters["reaped"]} ended by age`);
  for (const { requests } of router.queue) if (requests !== 0) left.push(`${set}: ${requests} in the queue`);
  for (const load of [...router.loads.prefill, ...router.loads.decode]) {
    if (load.activeRequests + load.activePrefillTokens + load.activeDecodeBlocks > 0)
      left.push(`${set}: ${JSON.stringify(load)}`);
  }
  return left;
}
