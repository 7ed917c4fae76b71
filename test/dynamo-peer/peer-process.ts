/** A peer in a process of its own, which can die or stand still as workers do: nothing is taken out of discovery then. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { PeerOptions } from "./peer.ts";
import type { PeerSite, SiteOptions } from "./site.ts";

/** Handed over as text; ids do not fit JSON. */
export interface PeerOrder {
  readonly site: SiteOptions;
  readonly peer: Omit<PeerOptions, "instanceId">;
}

/** What it is told and what it says. */
export interface StoreOrder {
  readonly store: readonly number[];
}
export type PeerWord = { readonly instanceId: string } | { readonly stored: number } | { readonly failure: string };

export interface PeerProcess {
  readonly instanceId: bigint;
  readonly pid: number;
  /** Resolves when its cache holds the tokens. */
  store(tokens: readonly number[]): Promise<void>;
  signal(signal: NodeJS.Signals): void;
  /** SIGKILL; its records stay until they expire. */
  kill(): Promise<void>;
  /** SIGTERM: it takes its records out. */
  close(): Promise<void>;
}

const startTimeoutMs = 20_000;

export async function startPeerProcess(site: PeerSite, peer: PeerOrder["peer"] = {}): Promise<PeerProcess> {
  const order: PeerOrder = { site: site.options, peer };
  const child = fork(join(import.meta.dirname, "main.ts"), [JSON.stringify(order)], {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    // Not those of the test runner.
    execArgv: [],
  });
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const nextWord = async (): Promise<PeerWord> => {
    const [word] = (await Promise.race([
      once(child, "message", { signal: AbortSignal.timeout(startTimeoutMs) }),
      exited.then(() => [{ failure: "the peer ended" }]),
    ])) as [PeerWord];
    return word;
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill("SIGCONT");
    child.kill(signal);
    await exited;
  };
  const word = await nextWord();
  if (!("instanceId" in word)) {
    await end("SIGKILL");
    throw new Error(`no peer: ${JSON.stringify(word)}`);
  }
  return {
    instanceId: BigInt(word.instanceId),
    pid: child.pid ?? 0,
    async store(tokens) {
      const done = nextWord();
      child.send({ store: tokens } satisfies StoreOrder);
      await done;
    },
    signal: (signal) => child.kill(signal),
    kill: () => end("SIGKILL"),
    close: () => end("SIGTERM"),
  };
}
