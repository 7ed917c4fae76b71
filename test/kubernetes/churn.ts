/**
 * Pods that come, go, become ready and cease to be, one after the other, and what follows for requests: an address is wrong for a request that
 * began when its pod had long been gone.
 */

import { readServingPod } from "../../src/data/discovery/kubernetes/pod.ts";
import { ListWatch } from "../../src/net/kubernetes/list-watch.ts";
import type { ControlPlane } from "./control-plane.ts";
import type { PoolNamespace } from "./pool-namespace.ts";
import { podAddress } from "./stored-pods.ts";

export interface ChurnOptions {
  readonly plane: ControlPlane;
  readonly place: PoolNamespace;
  readonly labels: Readonly<Record<string, string>>;
  readonly pods: number;
  /** Addresses beyond those of the pods, for pods that are made anew. */
  readonly spareAddresses: number;
  /** Changes under way at once. */
  readonly lanes: number;
}

export interface Churn {
  /** Pods that have been changed at least once, and changes. */
  readonly touched: number;
  readonly changes: number;
  /** Addresses of the pods that serve now. */
  serving(): readonly string[];
  /**
   * How long the pod of the address had been gone, as another watcher of the API server knew, when a request began that it answered before it was
   * back; 0 where it was not.
   */
  goneForMs(address: string, startedAtMs: number, endedAtMs: number): number;
  /** Resolves when what is under way is done. */
  stop(): Promise<void>;
  close(): Promise<void>;
}

/** So many are not ready at a time. */
const restingInLane = 25;

interface Absence {
  readonly fromMs: number;
  untilMs: number;
}

export async function startChurn(options: ChurnOptions): Promise<Churn> {
  const { place, labels, pods, spareAddresses, lanes } = options;
  const absences = new Map<string, Absence[]>();
  const addressOf = Array.from({ length: pods }, (_, index) => podAddress(index));
  const isReady = Array.from({ length: pods }, () => true);
  const spare = Array.from({ length: spareAddresses }, (_, index) => podAddress(pods + index));
  for (const address of spare)
    absences.set(address, [{ fromMs: performance.now(), untilMs: Number.POSITIVE_INFINITY }]);
  const witness = await startWitness(options);
  const touched = new Set<number>();
  let changes = 0;
  let isStopped = false;

  const gone = async (index: number): Promise<void> => {
    const address = addressOf[index] ?? "";
    isReady[index] = false;
    await witness.lost(address);
    const known = absences.get(address) ?? [];
    known.push({ fromMs: performance.now(), untilMs: Number.POSITIVE_INFINITY });
    absences.set(address, known);
  };
  const back = (index: number): void => {
    const last = absences.get(addressOf[index] ?? "")?.at(-1);
    if (last !== undefined) last.untilMs = performance.now();
    isReady[index] = true;
  };
  const unready = async (index: number): Promise<void> => {
    await place.setStatus(`engine-${index}`, { ips: [addressOf[index] ?? ""], ready: false });
    await gone(index);
  };
  const ready = async (index: number): Promise<void> => {
    back(index);
    await place.setStatus(`engine-${index}`, { ips: [addressOf[index] ?? ""], ready: true });
  };
  const replace = async (index: number): Promise<void> => {
    await place.deletePod(`engine-${index}`);
    await gone(index);
    // Another pod takes the name, and an address that another has left.
    const left = addressOf[index] ?? "";
    spare.push(left);
    addressOf[index] = spare.shift() ?? left;
    back(index);
    await place.createPod(`engine-${index}`, { labels, ips: [addressOf[index] ?? ""] });
  };
  /** A lane's pods are its own: no two changes of one pod at once. */
  const lane = async (own: number): Promise<void> => {
    const resting: number[] = [];
    for (let index = own; !isStopped; index = index + lanes < pods ? index + lanes : own) {
      const first = resting.length < restingInLane ? undefined : resting.shift();
      if (first !== undefined) await ready(first);
      if (changes % 3 === 0) await replace(index);
      else {
        await unready(index);
        resting.push(index);
      }
      changes += first === undefined ? 1 : 2;
      touched.add(index);
    }
  };
  const running = Promise.all(Array.from({ length: lanes }, (_, own) => lane(own)));
  running.catch(() => {});
  return {
    get touched() {
      return touched.size;
    },
    get changes() {
      return changes;
    },
    serving: () => addressOf.filter((_, index) => isReady[index]),
    goneForMs(address, startedAtMs, endedAtMs) {
      const absence = absences.get(address)?.find(({ fromMs, untilMs }) => fromMs < startedAtMs && endedAtMs < untilMs);
      return absence === undefined ? 0 : startedAtMs - absence.fromMs;
    },
    async stop() {
      isStopped = true;
      await running;
    },
    async close() {
      isStopped = true;
      await running.catch(() => {});
      await witness.close();
    },
  };

  /** A watcher beside the picker: what is late for both is the API server's doing, or the machine's. */
  async function startWitness({ plane: { api } }: Pick<ChurnOptions, "plane">) {
    const seen = new Map<string, string>();
    const waiting = new Map<string, () => void>();
    const lost = (key: string): void => {
      const address = seen.get(key) ?? "";
      seen.delete(key);
      waiting.get(address)?.();
    };
    const watch = new ListWatch<string>({
      api,
      path: `/api/v1/namespaces/${place.namespace}/pods`,
      read: (object) => readServingPod(object)?.address,
      listener: {
        replaced(items) {
          for (const key of seen.keys()) if (!items.has(key)) lost(key);
          for (const [key, address] of items) seen.set(key, address);
        },
        put: (key, address) => seen.set(key, address),
        removed: lost,
      },
    });
    await watch.start();
    const isSeen = (address: string): boolean => [...seen.values()].includes(address);
    return {
      async lost(address: string): Promise<void> {
        if (!isSeen(address)) return;
        await new Promise<void>((resolve) => waiting.set(address, resolve));
        waiting.delete(address);
      },
      close: () => watch.close(),
    };
  }
}
