/** Several pickers over the same endpoints, as replicas of one or each for itself, and a gateway's side of their requests. */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Child, type EppPorts, startEppChild } from "../../../src/app/child.ts";
import {
  type Conversation,
  connectExtProc,
  type ExtProc,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "../../conformance/ext-proc-client.ts";
import { freePorts } from "../../dynamo/ports.ts";
import { eventually } from "../../stack.ts";

export interface ReplicaState {
  readonly id: string;
  readonly head: number;
  readonly peers: readonly {
    readonly peer: string | null;
    readonly state: string;
    readonly read: number | null;
    readonly hasKnown: boolean;
    readonly error: string | null;
  }[];
  readonly counters: Readonly<Record<string, number>>;
}

interface ShownEndpoint {
  readonly address: string;
  readonly load: { readonly requests: number; readonly tokens: number };
}

export interface Replica {
  readonly child: Child<EppPorts>;
  readonly extProc: ExtProc;
  readonly peerPort: number;
  debug<Answer>(path: string): Promise<Answer>;
  /** By address. */
  loads(): Promise<ReadonlyMap<string, ShownEndpoint["load"]>>;
  close(): Promise<void>;
}

/** Where a request went, and how to end it. */
export interface Placed {
  readonly endpoint: string;
  /** With an answer. */
  answer(): void;
  /** As a client that leaves before there is one. */
  leave(): void;
}

export interface Replicas {
  readonly all: Replica[];
  /** Ends the process at once, without a word to anybody. */
  kill(index: number): Promise<void>;
  /** On the ports of the one that was killed. */
  restart(index: number): Promise<void>;
  /** Every one of them has heard everything that the others have said, and shows so many requests in flight. */
  settled(requests: number): Promise<void>;
  close(): Promise<void>;
}

export interface ReplicasOptions {
  readonly count: number;
  readonly isSynced: boolean;
  readonly endpoints: readonly string[];
  /** Text of the configuration. */
  readonly config: string;
  /** Files beside it. */
  readonly files?: readonly string[];
  readonly args?: readonly string[];
}

export async function startReplicas(options: ReplicasOptions): Promise<Replicas> {
  const folder = mkdtempSync(join(tmpdir(), "signalbox-replicas-"));
  const configFile = join(folder, "config.yaml");
  writeFileSync(configFile, options.config);
  for (const file of options.files ?? []) copyFileSync(file, join(folder, file.slice(file.lastIndexOf("/") + 1)));
  const firstPort = await freePorts(options.count);
  const peers = Array.from({ length: options.count }, (_, index) => `127.0.0.1:${firstPort + index}`).join(",");
  const startOne = async (index: number): Promise<Replica> => {
    const peerPort = firstPort + index;
    const child = await startEppChild([
      "--secure-serving=false",
      "--drain-timeout=0s",
      "--drain-grace=1s",
      `--config-file=${configFile}`,
      `--endpoints=${options.endpoints.join(",")}`,
      ...(options.isSynced ? [`--peers=${peers}`, `--peer-port=${peerPort}`] : []),
      ...(options.args ?? []),
    ]);
    const extProc = connectExtProc(child.ready.grpcPort, false);
    const debug = async <Answer>(path: string): Promise<Answer> =>
      (await (await fetch(`http://127.0.0.1:${child.ready.metricsPort}${path}`)).json()) as Answer;
    return {
      child,
      extProc,
      peerPort,
      debug,
      async loads() {
        return new Map((await debug<ShownEndpoint[]>("/debug/endpoints")).map(({ address, load }) => [address, load]));
      },
      async close() {
        extProc.close();
        await child.close();
      },
    };
  };
  const all: Replica[] = [];
  const running = new Set<number>();
  const close = async (): Promise<void> => {
    for (const replica of all) await replica.close();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    for (const replica of await Promise.all(Array.from({ length: options.count }, (_, index) => startOne(index)))) {
      running.add(all.length);
      all.push(replica);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const living = (): Replica[] => all.filter((_, index) => running.has(index));
  return {
    all,
    async kill(index) {
      running.delete(index);
      const replica = all[index] as Replica;
      replica.extProc.close();
      replica.child.signal("SIGKILL");
      await replica.child.exited;
    },
    async restart(index) {
      all[index] = await startOne(index);
      running.add(index);
    },
    async settled(requests) {
      await eventually(
        `${requests} requests in flight`,
        async () => {
          if (options.isSynced && !(await areSynced(living()))) return false;
          const shown = await Promise.all(living().map(totalOf));
          if (options.isSynced) return shown.every((total) => total === requests);
          return shown.reduce((sum, total) => sum + total, 0) === requests;
        },
        20_000,
      );
    },
    close,
  };
}

async function totalOf(replica: Replica): Promise<number> {
  let total = 0;
  for (const { requests } of (await replica.loads()).values()) total += requests;
  return total;
}

async function areSynced(replicas: readonly Replica[]): Promise<boolean> {
  const states = await Promise.all(replicas.map((replica) => replica.debug<ReplicaState>("/debug/peers")));
  return states.every((state) =>
    states.every(({ id, head }) => {
      if (id === state.id) return true;
      const heard = state.peers.find(({ peer }) => peer === id);
      return heard !== undefined && heard.state === "heard" && heard.hasKnown && heard.read === head;
    }),
  );
}

/** Sends the headers and the body of a completion, and leaves it in flight. */
export async function place({ extProc }: Replica, prompt: string): Promise<Placed> {
  const conversation: Conversation = extProc.open();
  const text = JSON.stringify({ model: "m", prompt, max_tokens: 1 });
  const headers = { ":path": "/v1/completions", ":method": "POST", "content-type": "application/json" };
  conversation.send(requestHeaders(headers), requestBody(text));
  const [reply] = await conversation.replied(1);
  if (reply?.kind !== "requestHeaders") throw new Error(`not placed: ${JSON.stringify(reply)}`);
  const endpoint = reply.set["x-gateway-destination-endpoint"];
  if (endpoint === undefined) throw new Error(`no destination: ${JSON.stringify(reply)}`);
  return {
    endpoint,
    answer() {
      conversation.send(responseHeaders({ ":status": "200" }), responseBody("{}", { endOfStream: true }));
      conversation.halfClose();
    },
    leave: () => conversation.cancel(),
  };
}
